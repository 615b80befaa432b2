"""The usage events and numbers of an hour, with their facts and kept events, explained. Blocking."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.audit.facts import KeptEvent
from pipeline.explain.reported import explain_number, explain_usage
from pipeline.explain.sessions import Explanation
from pipeline.explain.steps import Source
from pipeline.explain.store import read_sources
from pipeline.metering.meters import Meter, Meters
from pipeline.metering.quantities import Held, Recorded
from pipeline.metering.units import MS_PER_HOUR
from pipeline.rows import timestamp

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: Subjects of one question by name: their names travel in an address, which servers bound.
_MOST: Final = 200

_USAGE_OF_HOUR: Final = """
SELECT DISTINCT source, id
FROM discrete_usage(
    as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
    project = {project:String})
WHERE meter = {meter:String}
ORDER BY source, id
"""
_NUMBERS_OF_HOUR: Final = """
SELECT DISTINCT number
FROM rental_usage(
    as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
    project = {project:String})
WHERE meter = {meter:String}
ORDER BY number
"""
_RECORDED: Final = """
SELECT
    source, id, toUnixTimestamp64Milli(hour), max(quantity), max(room), max(session), max(model), max(endpoint),
    max(team), max(key), max(status), max(latency_ms)
FROM discrete_facts
WHERE project = {project:String} AND meter = {meter:String}
    AND (source, id) IN (SELECT arrayJoin(arrayZip({sources:Array(String)}, {ids:Array(String)})))
GROUP BY source, id, hour
"""
_HELD: Final = """
SELECT
    number, arrayMap(at -> toUnixTimestamp64Milli(at), groupUniqArrayArray(acquired)),
    arrayMap(at -> toUnixTimestamp64Milli(at), groupUniqArrayArray(released))
FROM number_facts
WHERE project = {project:String} AND number IN (SELECT arrayJoin({numbers:Array(String)}))
GROUP BY number
"""
_USAGE_EVENTS: Final = """
SELECT topic, partition, offset, toUnixTimestamp64Milli(broker_time), payload
FROM events
WHERE project = {project:String} AND type = 'usage.recorded' AND disposition = 'accepted'
    AND (source, id) IN (SELECT arrayJoin(arrayZip({sources:Array(String)}, {ids:Array(String)})))
ORDER BY broker_time, topic, partition, offset
LIMIT 1 BY topic, partition, offset
"""
_NUMBER_EVENTS: Final = """
SELECT topic, partition, offset, toUnixTimestamp64Milli(broker_time), payload
FROM events
WHERE project = {project:String} AND startsWith(type, 'number.') AND disposition = 'accepted'
    AND JSONExtractString(payload, 'data', 'number') IN (SELECT arrayJoin({numbers:Array(String)}))
ORDER BY broker_time, topic, partition, offset
LIMIT 1 BY topic, partition, offset
"""


class SubjectStore:
    """The store, as explanations of usage events and numbers see it; raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store", meters: Meters, as_of_ms: int) -> None:
        """Wrap an open store; explanations are as of a moment."""
        self._store = store
        self._meters = meters
        self._as_of_ms = as_of_ms

    def hour(self, project: str, meter: Meter, hour_ms: int) -> Iterator[Explanation]:
        """Yield every usage event or number with increments in an hour: together they are the hour's usage."""
        span = {"from": timestamp(hour_ms), "to": timestamp(hour_ms + MS_PER_HOUR), "meter": meter.name}
        of_hour = _USAGE_OF_HOUR if meter.measures == "discrete" else _NUMBERS_OF_HOUR
        found = self._store.query(of_hour, project=project, as_of=timestamp(self._as_of_ms), **span)
        explained = self._usage if meter.measures == "discrete" else self._numbers
        for first in range(0, len(found), _MOST):
            yield from explained(project, meter, found[first : first + _MOST])

    def _usage(self, project: str, meter: Meter, names: Sequence[Sequence[str]]) -> Iterator[Explanation]:
        asked: dict[str, Any] = {
            "project": project,
            "sources": [source for source, _ in names],
            "ids": [name for _, name in names],
        }
        reports: dict[tuple[str, str], dict[int, Recorded]] = {(source, name): {} for source, name in names}
        for source, name, hour_ms, *recorded in self._store.query(_RECORDED, meter=meter.name, **asked):
            reports[source, name][hour_ms] = Recorded(*recorded)
        events = self._events(_USAGE_EVENTS, asked)
        for (source, name), told in reports.items():
            own = [one for one in events if (one.event.source, one.event.id) == (source, name)]
            yield explain_usage((project, source, name), told, meter, self._as_of_ms, own)

    def _numbers(self, project: str, meter: Meter, names: Sequence[Sequence[str]]) -> Iterator[Explanation]:
        asked: dict[str, Any] = {"project": project, "numbers": [number for (number,) in names]}
        events = self._events(_NUMBER_EVENTS, asked)
        for number, acquired_ms, released_ms in sorted(self._store.query(_HELD, **asked)):
            held = Held(frozenset(acquired_ms), frozenset(released_ms))
            own = [one for one in events if one.event.number == number]
            yield explain_number(project, number, held, meter, self._as_of_ms, own)

    def _events(self, question: str, asked: dict[str, Any]) -> list[Source]:
        return read_sources([KeptEvent(*row) for row in self._store.query(question, **asked)], self._meters)
