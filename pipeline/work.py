"""What a batch of records comes to, worked out in stretches that a processor's cache holds.

The events of a large batch, with all they are made of, are tens of megabytes: turned into columns only at its end,
each would come from memory twice. Columns take a fifth, and a large insert is as cheap as ever.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import pyarrow as pa

from pipeline.deadletters.breaker import Counts, count_by_project
from pipeline.rows import TABLES, Batch
from pipeline.tracker import ChangelogEntry, Changes, DeadLetter, Record, Tracker

#: Records of one stretch: with their events and columns, about a megabyte.
STRETCH_RECORDS: Final = 1_000


@dataclass(slots=True)
class Work:
    """Rows for the store, entries for the changelog, dead letters; and what was counted on the way.

    A session touched in two stretches has two rows and two entries, the later one with all that the earlier says.
    """

    rows: dict[str, list[pa.Table]] = field(default_factory=dict)
    changelog: defaultdict[int, list[ChangelogEntry]] = field(default_factory=lambda: defaultdict(list))
    dead_letters: list[DeadLetter] = field(default_factory=list)
    counts: Counts = field(default_factory=lambda: Counts(Counter(), Counter()))
    dispositions: Counter[str] = field(default_factory=Counter)
    broker_time_ms: int = 0

    def add(self, changes: Changes) -> None:
        """Add what a further stretch changed."""
        batch = Batch(changes.sessions, changes.rooms, changes.restarts, changes.events, changes.quantities)
        for name, table in batch.tables():
            self.rows.setdefault(name, []).append(table)
        for number, entries in changes.changelog.items():
            self.changelog[number] += entries
        self.dead_letters += changes.dead_letters
        counts = count_by_project(changes)
        self.counts.accepted.update(counts.accepted)
        self.counts.dead.update(counts.dead)
        self.dispositions.update(raw.disposition for raw in changes.events)
        self.broker_time_ms = changes.events[-1].broker_time_ms

    def tables(self) -> list[tuple[str, pa.Table]]:
        """Return the tables to insert into, with their rows, in the order in which to insert them."""
        return [(name, pa.concat_tables(self.rows[name])) for name in TABLES if name in self.rows]


def work_out(tracker: Tracker, records: Iterable[Record]) -> Work:
    """Join records, of any partitions, in their order."""
    work, rest = Work(), iter(records)
    while stretch := list(islice(rest, STRETCH_RECORDS)):
        work.add(tracker.apply(stretch))
    return work
