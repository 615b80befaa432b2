"""What explanations are read from: the sessions of an hour or of an id, their facts and kept events. Blocking."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pipeline import codec
from pipeline.audit.facts import KeptEvent
from pipeline.audit.store import MOST_ROOMS, AuditStore, timestamp
from pipeline.explain.sessions import Explanation, Known, explain
from pipeline.explain.steps import Source
from pipeline.metering.events import InvalidEvent
from pipeline.metering.meters import Meter, Meters
from pipeline.metering.quantities import Transferred
from pipeline.metering.units import MS_PER_HOUR

if TYPE_CHECKING:
    from pipeline.clickhouse import Store
    from pipeline.metering.session import RoomKey

#: Sessions that may have usage in an hour: the core decides.
_OF_HOUR: Final = """
SELECT project, room, session
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {from:DateTime64(3, 'UTC')}, project = {project:String})
WHERE kind = {kind:String} AND started_at < {to:DateTime64(3, 'UTC')} AND started_at < {as_of:DateTime64(3, 'UTC')}
    AND (started_at >= {from:DateTime64(3, 'UTC')} OR ended_at > {from:DateTime64(3, 'UTC')})
ORDER BY started_at, project, room, session
"""
#: Sessions of which bytes are billed in an hour.
_OF_BYTES: Final = """
SELECT DISTINCT project, room, session
FROM counter_usage(
    as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
    project = {project:String})
WHERE meter = {meter:String}
ORDER BY project, room, session
"""
_REPORTS: Final = """
SELECT project, room, session, toUnixTimestamp64Milli(hour), max(bytes_in), max(bytes_out)
FROM counter_facts
WHERE (project, room) IN (SELECT arrayJoin(arrayZip({projects:Array(String)}, {rooms:Array(String)})))
GROUP BY project, room, session, hour
"""
_OF_ID: Final = """
SELECT DISTINCT project, room, session FROM
(
    SELECT project, room, session FROM session_facts
    WHERE session = {session:String} AND ({project:String} = '' OR project = {project:String})
    UNION ALL
    SELECT project, room, session FROM amendments
    WHERE session = {session:String} AND ({project:String} = '' OR project = {project:String})
)
ORDER BY project, room, session
"""
_NO_LIMIT: Final = 2**62


class ExplainStore:
    """The store, as explanations see it. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store", meters: Meters, as_of_ms: int, orphan_after_ms: int) -> None:
        """Wrap an open store; explanations are as of a moment."""
        self._store = store
        self._facts = AuditStore(store)
        self._meters = meters
        self._as_of_ms = as_of_ms
        self._orphan_after_ms = orphan_after_ms

    def hour(self, project: str, meter: Meter, hour_ms: int) -> Iterator[Explanation]:
        """Yield every session with increments of time or bytes in an hour: together they are the hour's usage."""
        asked = {"as_of": timestamp(self._as_of_ms), "orphan_after_ms": self._orphan_after_ms, "project": project}
        span = {"from": timestamp(hour_ms), "to": timestamp(hour_ms + MS_PER_HOUR), "kind": meter.kind}
        question = _OF_HOUR if meter.measures == "session" else _OF_BYTES
        for explanation in self._explained(self._store.query(question, meter=meter.name, **asked, **span)):
            if explanation.increments(meter.name, hour_ms):
                yield explanation

    def session(self, session: str, project: str = "") -> list[Explanation]:
        """Return the session of an id; more than one where projects or rooms share it."""
        return list(self._explained(self._store.query(_OF_ID, session=session, project=project)))

    def _explained(self, found: Sequence[tuple[str, str, str]]) -> Iterator[Explanation]:
        """Explain sessions in their order, some rooms at a time."""
        restarts_ms = self._facts.restarts()
        restarts = read_sources(self._facts.restart_events(), self._meters)
        for first in range(0, len(found), MOST_ROOMS):
            part = found[first : first + MOST_ROOMS]
            rooms = sorted({(project, room) for project, room, _ in part})
            facts = self._facts.facts_of(rooms)
            reports = self._reports(rooms)
            events: dict[RoomKey, list[Source]] = {key: [] for key in rooms}
            for source in read_sources(self._facts.events_of(rooms), self._meters):
                events[source.event.project, source.event.room].append(source)
            for project, room_name, name in part:
                room = facts.rooms[project, room_name]
                sources = sorted([*events[project, room_name], *restarts], key=lambda source: source.event.time_ms)
                told = reports.get((project, room_name, name), {})
                known = Known(project, room_name, name, room.sessions[name], room, restarts_ms, sources, told)
                yield explain(known, self._meters, self._as_of_ms, self._orphan_after_ms)

    def _reports(self, rooms: Sequence["RoomKey"]) -> dict[tuple[str, str, str], dict[int, Transferred]]:
        """Return the largest bytes of sessions by hour in ms."""
        projects, names = [project for project, _ in rooms], [room for _, room in rooms]
        found: dict[tuple[str, str, str], dict[int, Transferred]] = {}
        for project, room, session, hour_ms, *told in self._store.query(_REPORTS, projects=projects, rooms=names):
            found.setdefault((project, room, session), {})[hour_ms] = Transferred(*told)
        return found


def read_sources(events: Sequence[KeptEvent], meters: Meters) -> list[Source]:
    """Read kept events; what today's code refuses explains nothing, the audit speaks of it."""
    found = []
    for topic, partition, offset, broker_time_ms, payload in events:
        try:
            event = codec.decode_event(payload.encode(), meters, _NO_LIMIT)
        except InvalidEvent:
            continue
        if event is not None:
            found.append(Source(topic, partition, offset, broker_time_ms, event))
    return found
