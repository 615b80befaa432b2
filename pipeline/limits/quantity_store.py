"""What limits need of the store about bytes, usage events and numbers (R13 to R15). Blocking. All SQL is constant."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.audit.store import IN_RANGE, NAMED, Range, in_range, named, timestamp
from pipeline.metering.quantities import Held, Quantities, Recorded, Transferred
from pipeline.metering.session import RoomKey

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: Usage events of one read: bounds memory, and for how long whoever joins them does nothing else.
_READ_EVENTS: Final = 50_000

_BYTES: Final = """
SELECT project, room, session, toUnixTimestamp64Milli(hour) AS hour_ms, max(bytes_in), max(bytes_out)
FROM counter_facts WHERE"""
_BY_HOUR: Final = "GROUP BY project, room, session, hour"
_BYTES_IN_RANGE: Final = f"{_BYTES} {IN_RANGE} {_BY_HOUR}"
_BYTES_NAMED: Final = f"{_BYTES} {NAMED} {_BY_HOUR}"
_EVENTS: Final = """
SELECT project, source, id, meter, toUnixTimestamp64Milli(hour) AS hour_ms, max(quantity)
FROM discrete_facts
WHERE hour >= {from:DateTime64(3, 'UTC')} AND ({project:String} = '' OR project = {project:String})
    AND cityHash64(id) % {parts:UInt64} = {part:UInt64}
GROUP BY project, source, id, meter, hour
"""
_COUNT: Final = """
SELECT count() FROM discrete_facts
WHERE hour >= {from:DateTime64(3, 'UTC')} AND ({project:String} = '' OR project = {project:String})
"""
_OLDER_REPORTS: Final = """
SELECT project, source, id, meter, toUnixTimestamp64Milli(hour) AS hour_ms, max(quantity)
FROM discrete_facts
WHERE hour < {from:DateTime64(3, 'UTC')} AND (project, source, id) IN (
    SELECT project, source, id FROM discrete_facts
    WHERE hour >= {from:DateTime64(3, 'UTC')} AND ({project:String} = '' OR project = {project:String}))
GROUP BY project, source, id, meter, hour
"""
_NUMBERS: Final = """
SELECT
    project, number, arrayMap(at -> toUnixTimestamp64Milli(at), groupUniqArrayArray(acquired)),
    arrayMap(at -> toUnixTimestamp64Milli(at), groupUniqArrayArray(released))
FROM number_facts WHERE {project:String} = '' OR project = {project:String}
GROUP BY project, number
"""


class LimitQuantityStore:
    """The store, as limits of what is reported see it. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store") -> None:
        """Wrap an open store."""
        self._store = store

    def bytes_in(self, part: Range, latest_ms: int, project: str) -> Quantities:
        """Return the bytes reported in the rooms of a range in which something happened since a moment."""
        return _bytes(self._store.query(_BYTES_IN_RANGE, **in_range(part, latest_ms, project)))

    def bytes_of(self, rooms: Sequence[RoomKey]) -> Quantities:
        """Return the bytes reported in at most MOST_ROOMS rooms."""
        return _bytes(self._store.query(_BYTES_NAMED, **named(rooms)))

    def events(self, from_ms: int, project: str) -> Iterator[Quantities]:
        """Yield, some at a time, the usage events reported in the hours from one on; '' is every project."""
        asked = {"from": timestamp(from_ms), "project": project}
        [(count,)] = self._store.query(_COUNT, **asked)
        parts = count // _READ_EVENTS + 1
        for part in range(parts):
            yield _events(self._store.query(_EVENTS, **asked, parts=parts, part=part))

    def older_reports(self, from_ms: int, project: str) -> Quantities:
        """Return what usage events that are reported in the hours from one on have reported before it: rarely any."""
        return _events(self._store.query(_OLDER_REPORTS, project=project, **{"from": timestamp(from_ms)}))

    def numbers(self, project: str) -> Quantities:
        """Return every number of a project; '' is every project."""
        rows = self._store.query(_NUMBERS, project=project)
        return Quantities(
            numbers={(owner, number): Held(frozenset(got), frozenset(gone)) for owner, number, got, gone in rows}
        )


def _bytes(rows: Sequence[Any]) -> Quantities:
    return Quantities(counters={tuple(row[:4]): Transferred(*row[4:]) for row in rows})


def _events(rows: Sequence[Any]) -> Quantities:
    return Quantities(discrete={tuple(row[:5]): Recorded(row[5]) for row in rows})
