"""What goes into the store and what is asked of it: batches of facts as Arrow columns, and queries as values."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, NamedTuple

import pyarrow as pa

from pipeline.metering.events import Amendment, Event
from pipeline.metering.meters import Meters
from pipeline.metering.quantities import Quantities
from pipeline.metering.rollup import Rollup, quantities
from pipeline.metering.session import Room, Session
from pipeline.metering.timeline import ORPHAN_AFTER_MS
from pipeline.metering.units import NEVER_MS, NOT_SEEN_MS, format_time
from pipeline.quantity_rows import quantity_tables

SessionFacts = tuple[str, str, str, Session]
"""Project, room, session id and the facts."""
RoomFacts = tuple[str, str, Room]
"""Project, room id and the facts; the room's sessions are not looked at."""
EventRow = tuple[str, int, int, int, str, Event | None, bytes]
"""Topic, partition, offset, broker time in ms, disposition, the event (None if it is none), the original bytes."""

_TIME: Final = pa.timestamp("ms", "UTC")
_QUANTITY: Final = pa.decimal128(38, 9)
#: The tables of a batch, in the order in which to insert them: progress comes last, it vouches for what is before it.
TABLES: Final = (
    *("counter_facts", "discrete_facts", "number_facts"),
    *("session_facts", "room_facts", "server_facts", "amendments", "events", "progress"),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts and events to store together. What is in it may have been stored before, wholly or in part (R10).

    `restarts` are pairs of a server (an event's source) and the time it restarted, in ms. The events
    also say how far their partitions have been processed: give them all, in one batch with their facts.
    """

    sessions: Sequence[SessionFacts] = ()
    rooms: Sequence[RoomFacts] = ()
    restarts: Sequence[tuple[str, int]] = ()
    events: Sequence[EventRow] = ()
    quantities: Quantities = field(default_factory=Quantities)

    def tables(self) -> list[tuple[str, pa.Table]]:
        """Return the tables to insert into, with their rows, in the order of TABLES."""
        columns: list[tuple[str, Callable[[Any], dict[str, pa.Array]], Sequence[Any]]] = [
            ("session_facts", _session_columns, self.sessions),
            ("room_facts", _room_columns, self.rooms),
            ("server_facts", _restart_columns, self.restarts),
            ("amendments", _amendment_columns, self._amendments()),
            ("events", _event_columns, self.events),
            ("progress", _progress_columns, self.events),
        ]
        facts = [(name, pa.table(encode(rows))) for name, encode, rows in columns if rows]
        return [*quantity_tables(self.quantities), *facts]

    def _amendments(self) -> list[tuple[str, str, str, Amendment]]:
        """Return every amendment here, those too that a greater one outdid: they are the trail (R12)."""
        found = {
            (project, room, name, session.amendment)
            for project, room, name, session in self.sessions
            if session.amendment is not None
        }
        for row in self.events:
            event = row[5]
            if event is not None and event.amendment is not None:
                found.add((event.project, event.room, event.session, event.amendment))
        return sorted(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Usage as of a moment, of hours that start in [from_ms, to_ms); None means all projects, meters or time."""

    as_of_ms: int
    from_ms: int = 0
    to_ms: int | None = None
    project: str | None = None
    meter: str | None = None
    orphan_after_ms: int = ORPHAN_AFTER_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeQuery:
    """What was ingested at or after `since_ms`, by the store's clock, or is different as of a later moment."""

    since_ms: int
    after_ms: int
    until_ms: int
    orphan_after_ms: int = ORPHAN_AFTER_MS

    def parameters(self) -> dict[str, object]:
        """Return what the view `changes` is asked with."""
        times = {"since": self.since_ms, "after": self.after_ms, "until": self.until_ms}
        moments = {name: timestamp(time_ms) for name, time_ms in times.items()}
        return {**moments, "orphan_after_ms": self.orphan_after_ms, "never_ms": NEVER_MS}


class Changes(NamedTuple):
    """From when on usage may have changed, in ms: NEVER_MS where nothing did; and the store's clock at the question."""

    earliest_ms: int
    store_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionQuery:
    """Sessions as of a moment, last seen first; `active_since_ms` leaves out what had no usage since, 0 nothing."""

    as_of_ms: int
    active_since_ms: int = 0
    project: str | None = None
    room: str | None = None
    session: str | None = None
    limit: int = 1000
    orphan_after_ms: int = ORPHAN_AFTER_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupQuery:
    """Every revision of hours that start in [from_ms, to_ms); None means all projects, meters or time."""

    from_ms: int = 0
    to_ms: int | None = None
    project: str | None = None
    meter: str | None = None


Query = UsageQuery | SessionQuery | RollupQuery


class SessionRow(NamedTuple):
    """One session as people look at it. Times in ms: NEVER_MS where there is none; the flags are R3's to R9's."""

    project: str
    room: str
    session: str
    kind: str
    number: str
    agent: str
    identity: str
    region: str
    started_at_ms: int
    ended_at_ms: int
    last_seen_ms: int
    is_open: bool
    end_without_start: bool
    start_inferred: bool
    end_presumed: bool
    clock_skew: bool
    reconciled: bool
    amended: bool


#: The columns of a SessionRow, in order, of the sessions of project that were alive since then.
READ_SESSIONS: Final = """
SELECT
    project, room, session, kind, number, agent, identity, region,
    toUnixTimestamp64Milli(started_at), toUnixTimestamp64Milli(ended_at), toUnixTimestamp64Milli(last_seen),
    is_open, end_without_start, start_inferred, end_presumed, clock_skew,
    arrayExists(source -> startsWith(source, 'reconcile/'), sources) AS reconciled, amended
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {active_since:DateTime64(3, 'UTC')}, project = {project:String})
"""


def session_row(columns: Sequence[Any]) -> SessionRow:
    """Return what was read with READ_SESSIONS."""
    return SessionRow(*columns[:11], *map(bool, columns[11:]))


def timestamp(time_ms: int) -> str:
    """Write a time as a parameter; times beyond what the columns can hold become the nearest that they can."""
    return format_time(min(max(time_ms, NOT_SEEN_MS), NEVER_MS)).replace("T", " ").removesuffix("Z")


def rollup_table(rollups: Iterable[Rollup], meters: Meters) -> pa.Table:
    """Return rollups as the columns of the table `rollups`.

    A quantity of more than 38 digits is an error (pyarrow.ArrowInvalid): it is never rounded.
    """
    rows = [(*rollup, rollup.id, rollup.status, *quantities(rollup, meters)) for rollup in rollups]
    names = (*_ROLLUP_TYPES, "id", "status", "quantity", "quantity_open", "delta")
    types = (*_ROLLUP_TYPES.values(), pa.string(), pa.string(), _QUANTITY, _QUANTITY, _QUANTITY)
    columns = zip(names, zip(*rows, strict=True), types, strict=True)
    return pa.table({name: pa.array(values, kind) for name, values, kind in columns})


def meter_table(meters: Meters, since_ms: int) -> pa.Table:
    """Return a table of meters as the columns of `meter_tables`, in force since a moment."""
    names = ("name", "measures", "kind", "with_number", "unit", "unit_size", "increment")
    columns = {name: [getattr(meter, name) for meter in meters.values()] for name in names}
    return pa.table({"since": pa.array([since_ms] * len(meters), _TIME), **columns})


def rules_table(orphan_after_ms: int, since_ms: int) -> pa.Table:
    """Return the rule for orphans (R9) as the columns of `rules`, in force since a moment."""
    return pa.table({"since": pa.array([since_ms], _TIME), "orphan_after_ms": pa.array([orphan_after_ms], pa.uint64())})


#: The columns of a rollup's own fields, in their order.
_ROLLUP_TYPES: Final = {
    "project": pa.string(),
    "meter": pa.string(),
    "hour": _TIME,
    "revision": pa.uint32(),
    "increments": pa.int64(),
    "increments_open": pa.int64(),
    "increments_delta": pa.int64(),
    "sessions": pa.uint64(),
    "as_of": _TIME,
    "watermark": _TIME,
}
_SESSION_TYPES: Final = {
    "kind": pa.string(),
    "number": pa.string(),
    "agent": pa.string(),
    "identity": pa.string(),
    "region": pa.string(),
    "connected_at": _TIME,
    "begun_at": _TIME,
    "disconnected_at": _TIME,
    "last_seen": _TIME,
    "absent_at": _TIME,
    "bytes_in": pa.int64(),
    "bytes_out": pa.int64(),
}
_of_session: Final = attrgetter(
    *(f"{name}_ms" if kind is _TIME else name for name, kind in _SESSION_TYPES.items()),
)
_EVENT_TYPES: Final = {
    "type": pa.string(),
    "id": pa.string(),
    "source": pa.string(),
    "time": _TIME,
    "project": pa.string(),
    "room": pa.string(),
    "session": pa.string(),
}
_AMENDMENT_TYPES: Final = {
    **dict.fromkeys(("project", "room", "session"), pa.string()),
    "epoch": pa.uint64(),
    "is_void": pa.bool_(),
    "started_at": _TIME,
    "ended_at": _TIME,
    "actor": pa.string(),
    "reason": pa.string(),
}
_of_event: Final = attrgetter("type", "id", "source", "time_ms", "project", "room", "session")
#: What the log says where the input was no event: the bottoms of each column.
_NO_EVENT: Final = ("", "", "", 0, "", "", "")


def _session_columns(rows: Sequence[SessionFacts]) -> dict[str, pa.Array]:
    projects, rooms, names, sessions = zip(*rows, strict=True)
    columns = {"project": _texts(projects), "room": _texts(rooms), "session": _texts(names)}
    facts = zip(*map(_of_session, sessions), strict=True)
    for (name, kind), values in zip(_SESSION_TYPES.items(), facts, strict=True):
        columns[name] = pa.array(values, kind)
    columns["sources"] = pa.array([list(session.sources) for session in sessions], pa.list_(pa.string()))
    return columns


def _room_columns(rows: Sequence[RoomFacts]) -> dict[str, pa.Array]:
    return {
        "project": _texts([project for project, _, _ in rows]),
        "room": _texts([name for _, name, _ in rows]),
        "ends": pa.array([list(room.ends_ms) for _, _, room in rows], pa.list_(_TIME)),
        "started_at": pa.array([room.started_at_ms for _, _, room in rows], _TIME),
    }


def _restart_columns(rows: Sequence[tuple[str, int]]) -> dict[str, pa.Array]:
    sources, times_ms = zip(*rows, strict=True)
    return {"source": _texts(sources), "restarted_at": pa.array(times_ms, _TIME)}


def _amendment_columns(rows: Sequence[tuple[str, str, str, Amendment]]) -> dict[str, pa.Array]:
    flat = zip(*((project, room, session, *amendment) for project, room, session, amendment in rows), strict=True)
    return {name: pa.array(values, kind) for (name, kind), values in zip(_AMENDMENT_TYPES.items(), flat, strict=True)}


def _event_columns(rows: Sequence[EventRow]) -> dict[str, pa.Array]:
    topics, partitions, offsets, times_ms, dispositions, events, payloads = zip(*rows, strict=True)
    columns = {
        "topic": _texts(topics),
        "partition": pa.array(partitions, pa.uint32()),
        "offset": pa.array(offsets, pa.uint64()),
        "broker_time": pa.array(times_ms, _TIME),
        "disposition": _texts(dispositions),
        "payload": pa.array(payloads, pa.binary()),
    }
    facts = zip(*[_NO_EVENT if event is None else _of_event(event) for event in events], strict=True)
    for (name, kind), values in zip(_EVENT_TYPES.items(), facts, strict=True):
        columns[name] = pa.array(values, kind)
    return columns


def _progress_columns(rows: Sequence[EventRow]) -> dict[str, pa.Array]:
    # The last row of each partition is its furthest: records come in the order of their offsets.
    last = {(row[0], row[1]): row for row in rows}
    reached = {key: (row[2] + 1, row[3]) for key, row in last.items()}
    return {
        "topic": _texts([topic for topic, _ in reached]),
        "partition": pa.array([partition for _, partition in reached], pa.uint32()),
        "next_offset": pa.array([next_offset for next_offset, _ in reached.values()], pa.uint64()),
        "broker_time": pa.array([newest_ms for _, newest_ms in reached.values()], _TIME),
    }


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array(values, pa.string())
