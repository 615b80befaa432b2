"""What limits need of the store: sums of past hours, facts of rooms that are alive, sessions that are open. Blocking.

All SQL is constant.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pipeline.audit.store import MOST_ROOMS, AuditStore, timestamp
from pipeline.limits.quantity_store import LimitQuantityStore
from pipeline.metering.limits import CONCURRENT, Limits, Standing, period
from pipeline.metering.meters import Meters
from pipeline.metering.session import Facts, RoomKey
from pipeline.metering.usage import CellKey
from pipeline.rows import UsageQuery

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: Sessions of one read of facts: bounds memory, and for how long whoever joins them does nothing else.
READ_SESSIONS: Final = 20_000
#: More projects than this are read as all projects are: a question for each would take longer.
_MOST_QUESTIONS: Final = 20

_OPEN: Final = """
SELECT project, kind, count()
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {as_of:DateTime64(3, 'UTC')}, project = {project:String})
WHERE started_at < {as_of:DateTime64(3, 'UTC')} AND ended_at > {as_of:DateTime64(3, 'UTC')}
GROUP BY project, kind
"""


class LimitStore:
    """The store, as limits see it. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store", meters: Meters, limits: Limits, orphan_after_ms: int) -> None:
        """Wrap an open store."""
        self._store = store
        self._audit = AuditStore(store)
        self._quantities = LimitQuantityStore(store)
        self._meters = meters
        self._measures = {"session" if limit.per == "now" else meters[limit.meter].measures for limit in limits.all()}
        self._limits = limits
        self._orphan_after_ms = orphan_after_ms
        names = limits.names()
        self._questions = [""] if names is None or len(names) > _MOST_QUESTIONS else sorted(names)

    def progress(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return, by partition, the offset to process next and the newest broker time processed, in ms."""
        return self._store.progress(topic)

    def increments(self, as_of_ms: int, to_ms: int | None = None) -> dict[CellKey, int]:
        """Return the increments of every hour before `to_ms` of the periods that a moment lies in."""
        from_ms = min(
            (period(limit.per, as_of_ms)[0] for limit in self._limits.all() if limit.per != "now"), default=as_of_ms
        )
        is_any = from_ms < (as_of_ms if to_ms is None else to_ms)
        return self.increments_since(from_ms, as_of_ms, to_ms) if is_any else {}

    def increments_since(self, from_ms: int, as_of_ms: int, to_ms: int | None = None) -> dict[CellKey, int]:
        """Return the increments of every hour in [from_ms, to_ms) of the projects that have limits."""
        found: dict[CellKey, int] = {}
        for project in self._questions:
            query = UsageQuery(
                as_of_ms=as_of_ms,
                from_ms=from_ms,
                to_ms=to_ms,
                project=project or None,
                orphan_after_ms=self._orphan_after_ms,
            )
            found |= {key: cell.increments for key, cell in self._store.usage(query)}
        return found

    def alive(self, since_ms: int, from_ms: int) -> Iterator[Facts]:
        """Yield, some at a time, what matters from `from_ms` on; servers' first.

        That is rooms of which anything was seen since a moment, usage events of the hours from there on, all numbers.
        """
        yield Facts(restarts_ms=self._audit.restarts())
        latest_ms = max(1, since_ms)
        for project in self._questions:
            for part in self._audit.ranges(READ_SESSIONS, 1_000_000) if self._measures & {"session", "counter"} else ():
                facts = self._audit.facts_in(part, latest_ms, project)
                if "counter" in self._measures:
                    facts.quantities = self._quantities.bytes_in(part, latest_ms, project)
                yield facts
            if "discrete" in self._measures:
                for quantities in self._quantities.events(from_ms, project):
                    yield Facts(quantities=quantities)
            if "rental" in self._measures:
                yield Facts(quantities=self._quantities.numbers(project))

    def older_reports(self, from_ms: int) -> Facts:
        """Return what usage events of the hours from one on have reported before it: only the increase counts (R14)."""
        found = Facts()
        for project in self._questions if "discrete" in self._measures else ():
            found.quantities.join(self._quantities.older_reports(from_ms, project))
        return found

    def rooms(self, keys: list[RoomKey]) -> list[Facts]:
        """Return the facts of rooms, some at a time."""
        found = []
        for first in range(0, len(keys), MOST_ROOMS):
            facts = self._audit.facts_of(keys[first : first + MOST_ROOMS])
            if "counter" in self._measures:
                facts.quantities = self._quantities.bytes_of(keys[first : first + MOST_ROOMS])
            found.append(facts)
        return found

    def standings(self, as_of_ms: int, project: str | None = None) -> list[Standing]:
        """Return how the limits of every project that has any or used anything stand, computed from what is stored."""
        cells = self.increments(as_of_ms)
        opened: dict[tuple[str, str], int] = {}
        for asked in self._questions:
            rows = self._store.query(
                _OPEN, as_of=timestamp(as_of_ms), orphan_after_ms=self._orphan_after_ms, project=asked
            )
            opened |= {(name, f"{CONCURRENT}{kind}"): count for name, kind, count in rows}
        names = {key[0] for key in cells} | {key[0] for key in opened} | (self._limits.names() or frozenset())
        found = []
        for name in sorted(names if project is None else {project}):
            for limit in self._limits.of(name):
                begin_ms, end_ms = period(limit.per, as_of_ms)
                quantity = opened.get((name, limit.meter), 0) if limit.per == "now" else 0
                quantity += sum(
                    count * self._meters[meter].increment
                    for (owner, meter, hour_ms), count in cells.items()
                    if (owner, meter) == (name, limit.meter) and begin_ms <= hour_ms < end_ms
                )
                found.append(Standing(name, limit, begin_ms, end_ms, quantity))
        return found
