"""What a store bills against what the rules ask for: session by session and hour by hour, and record by record."""

import asyncio
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.kafka import end_offsets
from pipeline.metering.units import MS_PER_MINUTE
from pipeline.metering.usage import increments_by_hour
from pipeline.rows import SessionQuery, UsageQuery
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.faults.feed import Document
from tests.oracle import METERS_OF_KIND, oracle, oracle_lines
from tests.sql_oracle import Line, digest

_STORED: Final = """
SELECT partition, count(), uniqExact(offset), max(offset)
FROM events FINAL WHERE topic = {topic:String} GROUP BY partition
"""


@dataclass(frozen=True, slots=True)
class Compared:
    """What came out: records and sessions looked at, and what is wrong with them; `digest` knows no order.

    `wrong` counts minutes by which a session's hour on a meter of time is off, in either direction, and increments by
    which a project's hour on any meter is.
    `lost` are records of the topic that the store does not have, `doubled` those that are there twice, in the topic or
    in the store.
    """

    events: int
    sessions: int
    wrong: int
    lost: int
    doubled: int
    digest: tuple[int, int]


def compare(
    settings: Settings, dsn: str, events: Iterable[Document], records: int, as_of_ms: int | None = None
) -> Compared:
    """Compare the store at an address with the oracle over the events that were sent, as so many records.

    As of now, or of another moment: digests are equal only as of the same one, for open sessions grow.
    """
    events = list(events)
    as_of_ms = now_ms() if as_of_ms is None else as_of_ms
    due = oracle_lines(events, as_of_ms)
    with closing(Store.open(dsn, settings.database)) as store:
        billed = lines(store, as_of_ms)
        cells = {key: tuple(cell) for key, cell in store.usage(UsageQuery(as_of_ms=as_of_ms))}
        kept = {row[0]: row[1:] for row in store.query(_STORED, topic=topics(settings).lifecycle.name)}
    due_cells = oracle(events, as_of_ms)
    wrong = sum(_off(billed.get(key, (0, 0)), due.get(key, (0, 0))) for key in billed.keys() | due.keys())
    wrong += sum(
        _off(cells.get(key, (0, 0, 0)), due_cells.get(key, (0, 0, 0))) for key in cells.keys() | due_cells.keys()
    )
    sent = asyncio.run(end_offsets(settings.kafka, topics(settings).lifecycle.name))
    lost = sum(abs(end - kept.get(partition, (0, 0, 0))[1]) for partition, end in sent.items())
    doubled = sum(rows - distinct for rows, distinct, _ in kept.values()) + sum(sent.values()) - records
    return Compared(
        events=records,
        sessions=len({(project, room, session) for project, _, room, session, _ in due}),
        wrong=wrong,
        lost=lost + max(0, -doubled),
        doubled=max(0, doubled),
        digest=digest(Line(*key, *minutes) for key, minutes in billed.items()),
    )


def lines(store: Store, as_of_ms: int) -> dict[tuple[str, str, str, str, int], tuple[int, int]]:
    """Return (minutes, minutes while open) by project, meter, room, session and hour, by what the store tells."""
    return {
        (row.project, meter, row.room, row.session, hour_ms): (minutes, minutes if row.is_open else 0)
        for row in store.sessions(SessionQuery(as_of_ms=as_of_ms, limit=100_000_000))
        if row.started_at_ms < as_of_ms
        for hour_ms, minutes in increments_by_hour(row.started_at_ms, min(row.ended_at_ms, as_of_ms), MS_PER_MINUTE)
        for meter in _meters(row.kind, row.number) or [""]
    }


def _meters(kind: str, number: str) -> list[str]:
    return [meter for meter, needs_number in METERS_OF_KIND.get(kind, []) if number or not needs_number]


def _off(billed: tuple[int, ...], due: tuple[int, ...]) -> int:
    return sum(abs(one - other) for one, other in zip(billed, due, strict=True))
