"""What the audit reads of facts and their events, and the hours that it holds. All SQL is constant. Blocking."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from pipeline.audit.facts import KeptEvent
from pipeline.audit.laws import Hole, ProjectHour, Stage
from pipeline.metering.events import Amendment
from pipeline.metering.session import Facts, Room, RoomKey, Session, shared_set
from pipeline.metering.units import NEVER_MS, NOT_SEEN_MS, format_time

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: Rows of one read of the event log: bounds memory here, and the time of one query there.
READ_EVENTS: Final = 100_000
#: Rooms of one question by name: their names travel in an address, which servers bound.
MOST_ROOMS: Final = 500

_STAGES: Final = """
SELECT
    topic, partition, disposition, count(), min(offset), max(offset), toUnixTimestamp64Milli(min(broker_time)),
    toUnixTimestamp64Milli(max(ingested_at))
FROM events FINAL
WHERE broker_time >= {from:DateTime64(3, 'UTC')}
GROUP BY topic, partition, disposition
"""
_PROGRESS: Final = """
SELECT topic, partition, max(next_offset), toUnixTimestamp64Milli(max(broker_time))
FROM progress GROUP BY topic, partition ORDER BY topic, partition
"""
_HOLES: Final = """
SELECT
    topic, partition, previous, offset, toUnixTimestamp64Milli(previous_time), toUnixTimestamp64Milli(broker_time)
FROM
(
    SELECT
        topic, partition, offset, broker_time,
        lagInFrame(offset, 1, offset) OVER before AS previous,
        lagInFrame(broker_time, 1, broker_time) OVER before AS previous_time
    FROM events
    WHERE topic = {topic:String} AND partition = {partition:UInt32} AND broker_time >= {from:DateTime64(3, 'UTC')}
    WINDOW before AS (PARTITION BY topic, partition ORDER BY offset ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
WHERE offset > previous + 1
ORDER BY offset
LIMIT 100
"""
_LOG: Final = """
SELECT topic, partition, offset, toUnixTimestamp64Milli(broker_time), payload
FROM events
WHERE topic = {topic:String} AND partition = {partition:UInt32} AND offset >= {first:UInt64} AND offset < {after:UInt64}
    AND broker_time >= {from:DateTime64(3, 'UTC')} AND disposition = 'accepted'
    AND ({project:String} = '' OR project = {project:String})
    AND (startsWith(type, 'session.') OR startsWith(type, 'room.') OR type = 'server.restarted')
"""
_EVENTS_OF_ROOMS: Final = """
SELECT topic, partition, offset, toUnixTimestamp64Milli(broker_time), payload
FROM events
WHERE (project, room) IN (SELECT arrayJoin(arrayZip({projects:Array(String)}, {rooms:Array(String)})))
    AND broker_time >= {from:DateTime64(3, 'UTC')} AND disposition = 'accepted'
ORDER BY broker_time, topic, partition, offset
LIMIT 1 BY topic, partition, offset
"""
_RESTART_EVENTS: Final = """
SELECT topic, partition, offset, toUnixTimestamp64Milli(broker_time), payload
FROM events WHERE type = 'server.restarted' AND disposition = 'accepted'
ORDER BY broker_time, topic, partition, offset
LIMIT 1 BY topic, partition, offset
"""
_RESTARTS: Final = """
SELECT source, toUnixTimestamp64Milli(max(restarted_at)) FROM server_facts GROUP BY source
"""
#: One room of many, in order: where ranges of about so many sessions begin.
_CUTS: Final = """
SELECT project, room
FROM (SELECT project, room, row_number() OVER (ORDER BY project, room) AS number FROM session_facts
      WHERE cityHash64(room) % {share:UInt64} = 0)
WHERE number % {every:UInt64} = 0
GROUP BY project, room ORDER BY project, room
"""
#: Rooms of a range in which something happened since a moment; the parameters are those of `in_range`.
IN_RANGE: Final = """
    ({project:String} = '' OR project = {project:String})
    AND project >= {from_project:String} AND (project, room) >= ({from_project:String}, {from_room:String})
    AND ({is_last:Bool} OR project <= {to_project:String})
    AND ({is_last:Bool} OR (project, room) < ({to_project:String}, {to_room:String}))
    AND ({latest:DateTime64(3, 'UTC')} <= toDateTime64(0, 3, 'UTC') OR (project, room) IN (
        SELECT project, room FROM session_facts WHERE latest_at >= {latest:DateTime64(3, 'UTC')}
        UNION ALL SELECT project, room FROM room_facts
        WHERE arrayMax(ends) >= {latest:DateTime64(3, 'UTC')} OR started_at >= {latest:DateTime64(3, 'UTC')}))
"""
#: Rooms by name; the parameters are those of `named`.
NAMED: Final = "(project, room) IN (SELECT arrayJoin(arrayZip({projects:Array(String)}, {rooms:Array(String)})))"
_SESSION_FACTS: Final = """
SELECT
    project, room, session, max(kind), max(number), max(agent), max(identity), max(region),
    toUnixTimestamp64Milli(min(connected_at)), toUnixTimestamp64Milli(min(begun_at)),
    toUnixTimestamp64Milli(min(disconnected_at)), toUnixTimestamp64Milli(max(last_seen)),
    toUnixTimestamp64Milli(max(absent_at)), max(bytes_in), max(bytes_out), groupUniqArrayArray(sources)
FROM session_facts WHERE"""
_ROOM_FACTS: Final = """
SELECT
    project, room, arrayMap(end -> toUnixTimestamp64Milli(end), groupUniqArrayArray(ends)),
    toUnixTimestamp64Milli(max(started_at))
FROM room_facts WHERE"""
_AMENDMENTS: Final = """
SELECT
    project, room, session, epoch, is_void, toUnixTimestamp64Milli(started_at), toUnixTimestamp64Milli(ended_at),
    actor, reason
FROM amendments WHERE"""
_BY_SESSION: Final = "GROUP BY project, room, session"
_BY_ROOM: Final = "GROUP BY project, room"
_SESSIONS_IN_RANGE: Final = f"{_SESSION_FACTS} {IN_RANGE} {_BY_SESSION}"
_ROOMS_IN_RANGE: Final = f"{_ROOM_FACTS} {IN_RANGE} {_BY_ROOM}"
_AMENDED_IN_RANGE: Final = f"{_AMENDMENTS} {IN_RANGE}"
_SESSIONS_NAMED: Final = f"{_SESSION_FACTS} {NAMED} {_BY_SESSION}"
_ROOMS_NAMED: Final = f"{_ROOM_FACTS} {NAMED} {_BY_ROOM}"
_AMENDED_NAMED: Final = f"{_AMENDMENTS} {NAMED}"
_HELD: Final = """
SELECT project, toUnixTimestamp64Milli(hour)
FROM audit_holds GROUP BY project, hour HAVING argMax(is_held, decided_at)
"""


class Range(NamedTuple):
    """Rooms from one on and before another; None is the end of all."""

    first: RoomKey
    after: RoomKey | None


class AuditStore:
    """The store, as the audit sees it. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store") -> None:
        """Wrap an open store."""
        self._store = store

    def stages(self, from_ms: int) -> list[Stage]:
        """Return every partition of which something is kept since a broker's time, or was ever processed."""
        # Progress first: what it vouches for was written before it.
        progress = {(row[0], row[1]): Stage(*row) for row in self._store.query(_PROGRESS)}
        kept: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
        for topic, partition, *counted in self._store.query(_STAGES, **{"from": timestamp(from_ms)}):
            kept.setdefault((topic, partition), []).append(tuple(counted))
        found = []
        for key in sorted(progress.keys() | kept.keys()):
            stage = progress.get(key, Stage(key[0], key[1], 0, NOT_SEEN_MS))
            if key in kept:
                names, counts, firsts, lasts, times_ms, written_ms = zip(*kept[key], strict=True)
                stage = stage._replace(
                    first_offset=min(firsts),
                    last_offset=max(lasts),
                    first_ms=min(times_ms),
                    written_ms=max(written_ms),
                    kept=dict(zip(names, counts, strict=True)),
                )
            found.append(stage)
        return found

    def holes(self, stage: Stage, from_ms: int) -> list[Hole]:
        """Return the first hundred gaps between the offsets kept of a partition."""
        rows = self._store.query(_HOLES, topic=stage.topic, partition=stage.partition, **{"from": timestamp(from_ms)})
        return [Hole(*row) for row in rows]

    def log(self, stage: Stage, from_ms: int, project: str) -> Iterator[list[KeptEvent]]:
        """Yield the accepted events of sessions, rooms and servers that a partition keeps, some at a time.

        With a project, only its own; servers have none.
        """
        for first in range(stage.first_offset, stage.last_offset + 1, READ_EVENTS):
            rows = self._store.query(
                _LOG,
                topic=stage.topic,
                partition=stage.partition,
                first=first,
                after=min(first + READ_EVENTS, stage.last_offset + 1),
                project=project,
                **{"from": timestamp(from_ms)},
            )
            yield [KeptEvent(*row) for row in rows]

    def events_of(self, rooms: Sequence[RoomKey], from_ms: int = 0) -> list[KeptEvent]:
        """Return the accepted events of at most MOST_ROOMS rooms, once each, by the broker's time."""
        rows = self._store.query(_EVENTS_OF_ROOMS, **named(rooms), **{"from": timestamp(from_ms)})
        return [KeptEvent(*row) for row in rows]

    def restart_events(self) -> list[KeptEvent]:
        """Return the restarts of servers that are kept, once each, by the broker's time."""
        return [KeptEvent(*row) for row in self._store.query(_RESTART_EVENTS)]

    def restarts(self) -> dict[str, int]:
        """Return the newest restart of each server, in ms."""
        rows: Sequence[tuple[str, int]] = self._store.query(_RESTARTS)
        return dict(rows)

    def ranges(self, sessions: int, most: int) -> list[Range]:
        """Cut all rooms into ranges of about so many sessions; into at most so many, if need be of more sessions."""
        share = 16
        rows = self._store.query(_CUTS, share=share, every=max(1, sessions // share))
        firsts: list[RoomKey] = [("", ""), *((project, room) for project, room in rows)]
        firsts = firsts[:: -(-len(firsts) // most)]
        return [Range(first, after) for first, after in zip(firsts, [*firsts[1:], None], strict=True)]

    def facts_in(self, part: Range, latest_ms: int, project: str) -> Facts:
        """Return what is stored of the rooms of a range in which something happened since a moment; 0 for all."""
        asked = in_range(part, latest_ms, project)
        return self._facts(_SESSIONS_IN_RANGE, _ROOMS_IN_RANGE, _AMENDED_IN_RANGE, asked)

    def facts_of(self, rooms: Sequence[RoomKey]) -> Facts:
        """Return what is stored of at most MOST_ROOMS rooms."""
        return self._facts(_SESSIONS_NAMED, _ROOMS_NAMED, _AMENDED_NAMED, named(rooms))

    def _facts(self, sessions: str, rooms: str, amended: str, asked: dict[str, Any]) -> Facts:
        facts = Facts()
        for project, room, name, *said, sources in self._store.query(sessions, **asked):
            session = Session(*said)
            session.sources = shared_set(frozenset(sources))
            _room(facts, (project, room)).sessions[name] = session
        for project, room, ends_ms, started_at_ms in self._store.query(rooms, **asked):
            _room(facts, (project, room)).join(Room(frozenset(ends_ms), started_at_ms))
        for project, room, name, *said in self._store.query(amended, **asked):
            of_room = _room(facts, (project, room))
            of_room.sessions.setdefault(name, Session()).join(Session(amendment=Amendment(*said)))
        return facts

    def held(self) -> frozenset[ProjectHour]:
        """Return the hours, in ms, whose emission waits because a law does not hold there."""
        return frozenset((project, hour_ms) for project, hour_ms in self._store.query(_HELD))

    def hold(self, held: dict[ProjectHour, str], released: Sequence[ProjectHour], now_ms: int) -> None:
        """Hold hours, each with what is wrong there, and let others go. Doing it twice changes nothing."""
        rows = [(*key, now_ms, True, detail) for key, detail in sorted(held.items())]
        rows += [(*key, now_ms, False, "") for key in released]
        if rows:
            time = pa.timestamp("ms", "UTC")
            kinds = {"project": pa.string(), "hour": time, "decided_at": time, "is_held": pa.bool_()}
            kinds["detail"] = pa.string()
            columns = zip(kinds.items(), zip(*rows, strict=True), strict=True)
            self._store.insert(
                "audit_holds", pa.table({name: pa.array(values, kind) for (name, kind), values in columns})
            )


def timestamp(time_ms: int) -> str:
    """Write a time as a parameter of a query; beyond what a column holds, the nearest that it holds."""
    return format_time(min(max(time_ms, NOT_SEEN_MS), NEVER_MS)).replace("T", " ").removesuffix("Z")


def in_range(part: Range, latest_ms: int, project: str) -> dict[str, Any]:
    """Return the parameters of IN_RANGE; 0 and '' are every moment and every project."""
    return {
        **dict(zip(("from_project", "from_room"), part.first, strict=True)),
        **dict(zip(("to_project", "to_room"), part.after or ("", ""), strict=True)),
        "is_last": part.after is None,
        "latest": timestamp(latest_ms),
        "project": project,
    }


def named(rooms: Sequence[RoomKey]) -> dict[str, list[str]]:
    """Return the parameters of NAMED, for at most MOST_ROOMS rooms."""
    assert len(rooms) <= MOST_ROOMS, "the caller asks in parts"
    return {"projects": [project for project, _ in rooms], "rooms": [room for _, room in rooms]}


def _room(facts: Facts, key: RoomKey) -> Room:
    room = facts.rooms.get(key)
    if room is None:
        room = facts.rooms[key] = Room()
    return room
