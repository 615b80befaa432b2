"""The store's SQL and the core are two implementations of the same rules: they have to agree to the last increment."""

import random
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import NamedTuple
from uuid import uuid4

import pytest

from pipeline.clickhouse import Store
from pipeline.metering.events import Amendment
from pipeline.metering.meters import Meter, Meters
from pipeline.metering.session import Facts, Room, Session
from pipeline.metering.timeline import newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, NEVER_MS
from pipeline.metering.usage import CellKey, Usage, usage
from pipeline.rows import Batch, SessionFacts, SessionQuery, UsageQuery, timestamp

_SESSIONS = 200_000
_SESSIONS_OF_A_ROOM = 4
_ROWS_OF_A_BATCH = 20_000
_BEGIN_MS = 1_789_992_000_000
_END_MS = _BEGIN_MS + 12 * MS_PER_DAY
_KINDS = ("", "agent", "egress", "ingress", "participant", "sip")
_SERVERS = tuple(f"sfu-{number}" for number in range(6))
#: Lengths on and beside the edges of increments and hours, none at all, and negative ones by clock skew.
_LENGTHS_MS = (-5_000, -1, 0, 1, 10_000, 59_999, 60_000, 60_001, 70_000, 3_599_999, 3_600_000, 3_600_001, 259_200_000)
_MOMENTS = {
    "before anything": (_BEGIN_MS, MS_PER_DAY),
    "in the middle, on the hour": (_BEGIN_MS + 5 * MS_PER_DAY, MS_PER_DAY),
    "in the middle, soon orphans": (_BEGIN_MS + 6 * MS_PER_DAY + 1_234_567, 10 * MS_PER_MINUTE),
    "long after everything": (_END_MS + 9 * MS_PER_DAY, MS_PER_DAY),
}
#: What each view for analysts shows of all timelines.
_SHOWN = {
    "v_sessions": (
        "start_inferred, end_presumed, clock_skew, amended",
        """
        started_at >= {from:DateTime64(3, 'UTC')} AND started_at < {to:DateTime64(3, 'UTC')}
        AND started_at < {as_of:DateTime64(3, 'UTC')}""",
    ),
    "v_unbilled_sessions": (
        "disconnected_at",
        """
        (voided OR end_without_start)
        AND disconnected_at >= {from:DateTime64(3, 'UTC')} AND disconnected_at < {to:DateTime64(3, 'UTC')}""",
    ),
    "v_open_sessions": ("start_inferred, amended", "is_open AND started_at < {as_of:DateTime64(3, 'UTC')}"),
}
_SPAN = "from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')}, "
moments = pytest.mark.parametrize(("as_of_ms", "orphan_after_ms"), _MOMENTS.values(), ids=_MOMENTS)


class Stored(NamedTuple):
    """A store that was given facts in pieces, and the same facts whole."""

    store: Store
    facts: Facts
    meters: Meters
    #: The store's usage of everything, by moment: nothing is stored any more, and it takes seconds.
    answers: dict[tuple[int, int], list[tuple[CellKey, Usage]]]

    def usage(self, as_of_ms: int, orphan_after_ms: int) -> list[tuple[CellKey, Usage]]:
        """Return what the store bills as of a moment."""
        moment = as_of_ms, orphan_after_ms
        if moment not in self.answers:
            self.answers[moment] = self.store.usage(UsageQuery(as_of_ms=as_of_ms, orphan_after_ms=orphan_after_ms))
        return self.answers[moment]


def _amendment(chance: random.Random, start_ms: int) -> Amendment:
    is_void = chance.random() < 0.3
    set_ms = (-60_001, 0, 90_000, NEVER_MS - start_ms)
    times_ms = [NEVER_MS if is_void else start_ms + chance.choice(set_ms) for _ in ("start", "end")]
    return Amendment(chance.randrange(1, 4), is_void, times_ms[0], times_ms[1], chance.choice(("jo", "kim")), "ticket")


def _session(chance: random.Random, room: Room) -> Session:
    """Return random facts of a session, and make its room end and begin anew around it."""
    start_ms = chance.randrange(_BEGIN_MS, _END_MS)
    if chance.random() < 0.2:
        start_ms -= start_ms % MS_PER_HOUR
    length_ms = chance.choice((*_LENGTHS_MS, chance.randrange(6 * MS_PER_HOUR), chance.randrange(20 * MS_PER_MINUTE)))
    session = Session(chance.choice(_KINDS), sources=frozenset(chance.sample(_SERVERS, chance.choice((1, 1, 2)))))
    session.number = chance.choice(("", "", "+15550100"))
    if chance.random() < 0.9:
        session.connected_at_ms = start_ms
    if chance.random() < 0.7:
        session.disconnected_at_ms = start_ms + length_ms
        if chance.random() < 0.6:
            session.begun_at_ms = start_ms + chance.choice((-700, 0, 900, 7_200_000))
    if chance.random() < 0.02:
        as_of_ms, orphan_after_ms = _MOMENTS["in the middle, soon orphans"]
        silent_since_ms = as_of_ms - orphan_after_ms + chance.choice((0, 1))
        return replace(session, connected_at_ms=start_ms, disconnected_at_ms=NEVER_MS, last_seen_ms=silent_since_ms)
    seen_ms = max((t for t in (session.connected_at_ms, session.disconnected_at_ms) if t != NEVER_MS), default=start_ms)
    session.last_seen_ms = seen_ms + chance.choice((0, 0, 1, 30_000, 5 * MS_PER_HOUR))
    if chance.random() < 0.03:
        session.amendment = _amendment(chance, start_ms)
    if chance.random() < 0.1:
        session.absent_at_ms = seen_ms + chance.choice((-1, 0, 1, 30_000, MS_PER_HOUR))
    if chance.random() < 0.3:
        room.ends_ms |= {start_ms + chance.choice((-MS_PER_HOUR, -1, 0, 1, length_ms, 2 * MS_PER_DAY))}
    if chance.random() < 0.1:
        room.started_at_ms = max(room.started_at_ms, start_ms + chance.choice((-1, 0, 1, length_ms, MS_PER_HOUR)))
    return session


def _facts(chance: random.Random) -> Facts:
    facts = Facts(restarts_ms={server: chance.randrange(_BEGIN_MS, _END_MS) for server in _SERVERS[:3]})
    for number in range(_SESSIONS // _SESSIONS_OF_A_ROOM):
        room = facts.rooms[f"project-{chance.randrange(40)}", f"RM_{number}"] = Room()
        room.sessions = {f"PA_{index}": _session(chance, room) for index in range(_SESSIONS_OF_A_ROOM)}
    return facts


def _pieces(chance: random.Random, session: Session) -> Iterator[Session]:
    """Yield one to three partial rows whose join is the session, some of them twice."""
    pieces = [Session() for _ in range(chance.choice((1, 1, 2, 3)))]
    for name in (field.name for field in fields(Session)):
        owner = chance.choice(pieces)
        for piece in pieces:
            if piece is owner or chance.random() < 0.3:
                setattr(piece, name, getattr(session, name))
    yield from pieces
    if chance.random() < 0.2:
        yield chance.choice(pieces)


def _batches(chance: random.Random, facts: Facts) -> Iterator[Batch]:
    """Yield the facts in pieces: out of order, partial and repeated."""
    rows: list[SessionFacts] = [
        (*key, name, piece) for key, name, session in facts.sessions() for piece in _pieces(chance, session)
    ]
    chance.shuffle(rows)
    rooms = [
        (*key, Room(frozenset({end_ms}), chance.choice((0, room.started_at_ms))))
        for key, room in facts.rooms.items()
        for end_ms in room.ends_ms
    ]
    rooms += [(*key, Room(started_at_ms=room.started_at_ms)) for key, room in facts.rooms.items() if room.started_at_ms]
    yield Batch(rooms=rooms)
    for first in range(0, len(rows), _ROWS_OF_A_BATCH):
        yield Batch(rows[first : first + _ROWS_OF_A_BATCH])
    stale = [(server, time_ms - chance.choice((0, 0, 5_000))) for server, time_ms in facts.restarts_ms.items()]
    yield Batch(restarts=[*facts.restarts_ms.items(), *stale])


@pytest.fixture(scope="module")
def stored(store_dsn: str, meters: Meters) -> Iterator[Stored]:
    """A store with random sessions, and three more meters: of seconds, of long increments, of both."""
    chance = random.Random(20_260_921)  # noqa: S311 - the same facts in every run
    facts = _facts(chance)
    meters = meters | {
        "agent_seconds": Meter("agent_seconds", "session", "second", 1_000, 7_000, "agent"),
        "agent_blocks": Meter("agent_blocks", "session", "minute", 60_000, 5_400_000, "agent"),
    }
    database = f"test_{uuid4().hex}"
    store = Store.open(store_dsn, database)
    store.migrate(meters)
    for batch in _batches(chance, facts):
        store.write(batch)
    yield Stored(store, facts, meters, {})
    store._client.command(f"DROP DATABASE {database} SYNC")
    store.close()


@moments
def test_usage_in_sql_is_usage_in_the_core(stored: Stored, as_of_ms: int, orphan_after_ms: int) -> None:
    """R1 to R10, R16: any as-of, over 200,000 sessions stored in pieces, out of order and repeated."""
    expected = usage(stored.facts, stored.meters, as_of_ms, orphan_after_ms)
    assert stored.usage(as_of_ms, orphan_after_ms) == sorted(expected.items())


@moments
def test_timelines_in_sql_are_timelines_in_the_core(stored: Stored, as_of_ms: int, orphan_after_ms: int) -> None:
    """R3 to R9: start, end and every flag of every session."""
    expected = {}
    for (project, room), name, session in stored.facts.sessions():
        restarted_at_ms = newest_restart_ms(session, stored.facts.restarts_ms)
        line = timeline(session, stored.facts.rooms[project, room], restarted_at_ms, as_of_ms, orphan_after_ms)
        is_void = session.amendment is not None and session.amendment.is_void
        pending = line is None and session.disconnected_at_ms != NEVER_MS and not is_void
        times_and_flags = (NEVER_MS, NEVER_MS, False, False, False, False) if line is None else tuple(line)
        expected[project, room, name] = (*times_and_flags, line is not None and line.is_open(), pending)
    query = SessionQuery(as_of_ms=as_of_ms, orphan_after_ms=orphan_after_ms, limit=2 * _SESSIONS)
    found = {
        (row.project, row.room, row.session): (
            *(row.started_at_ms, row.ended_at_ms, row.start_inferred, row.end_presumed),
            *(row.clock_skew, row.amended and row.started_at_ms != NEVER_MS, row.is_open, row.end_without_start),
        )
        for row in stored.store.sessions(query)
    }
    assert found == expected


@moments
def test_a_span_of_hours_is_a_cut_of_the_whole(stored: Stored, as_of_ms: int, orphan_after_ms: int) -> None:
    """Leaving out rooms that cannot have usage in the span leaves out no increment of it."""
    whole = stored.usage(as_of_ms, orphan_after_ms)
    for from_ms in (_BEGIN_MS + 4 * MS_PER_DAY, _BEGIN_MS + 5 * MS_PER_DAY - MS_PER_HOUR + 1, _END_MS):
        to_ms = from_ms + 30 * MS_PER_HOUR
        query = UsageQuery(as_of_ms=as_of_ms, orphan_after_ms=orphan_after_ms, from_ms=from_ms, to_ms=to_ms)
        assert stored.store.usage(query) == [(key, cell) for key, cell in whole if from_ms <= key[2] < to_ms]


@moments
@pytest.mark.parametrize("view", _SHOWN)
def test_a_view_of_a_span_leaves_out_no_session_of_it(
    stored: Stored, view: str, as_of_ms: int, orphan_after_ms: int
) -> None:
    """It reads the rooms of the span alone, and tells of its sessions what all timelines do."""
    stored.store.migrate(stored.meters, orphan_after_ms)
    columns, shown = _SHOWN[view]
    span = "" if view == "v_open_sessions" else _SPAN
    of_all = "as_of = {as_of:DateTime64(3, 'UTC')}, project = '', active_since = '1970-01-01 00:00:00'"
    from_ms = _BEGIN_MS + 5 * MS_PER_DAY - MS_PER_HOUR + 1
    times = {"from": from_ms, "to": from_ms + 30 * MS_PER_HOUR, "as_of": as_of_ms}
    bound = {"orphan_after_ms": orphan_after_ms} | {name: timestamp(time_ms) for name, time_ms in times.items()}
    found, expected = (
        stored.store.query(f"SELECT project, room, session, {columns} FROM {rows} ORDER BY ALL", **bound)  # noqa: S608
        for rows in (
            f"{view}({span}as_of = {{as_of:DateTime64(3, 'UTC')}}, project = '')",
            f"session_timelines({of_all}, orphan_after_ms = {{orphan_after_ms:UInt64}}) WHERE {shown}",
        )
    )
    assert found == expected


def test_a_project_and_a_meter_are_a_cut_of_the_whole(stored: Stored) -> None:
    """Asking for one project and meter gives what the whole says of them."""
    whole = stored.store.usage(UsageQuery(as_of_ms=_END_MS))
    query = UsageQuery(as_of_ms=_END_MS, project="project-7", meter="telephony_minutes")
    expected: list[tuple[CellKey, Usage]] = [
        cell for cell in whole if cell[0][:2] == ("project-7", "telephony_minutes")
    ]
    assert stored.store.usage(query) == expected


def test_a_session_active_since_a_moment_is_not_left_out(stored: Stored) -> None:
    """`active_since` drops only sessions that had ended before it and were not seen since."""
    since_ms = _BEGIN_MS + 11 * MS_PER_DAY
    rows = stored.store.sessions(SessionQuery(as_of_ms=_END_MS, limit=2 * _SESSIONS))
    query = SessionQuery(as_of_ms=_END_MS, active_since_ms=since_ms, limit=2 * _SESSIONS)
    found = set(stored.store.sessions(query))
    assert {row for row in rows if row.started_at_ms < NEVER_MS and row.ended_at_ms >= since_ms} <= found < set(rows)


def test_open_rooms_are_those_with_a_session_without_a_known_end(stored: Stored) -> None:
    """A worker that lost its state gets back every room that can still change by itself, with all its facts."""
    expected = {
        key: Room(
            room.ends_ms,
            room.started_at_ms,
            # An amendment is the store's to remember: what a worker adds later does not undo it.
            {name: replace(session, amendment=None) for name, session in room.sessions.items()},
        )
        for key, room in stored.facts.rooms.items()
        if any(_without_end(session, room) for session in room.sessions.values())
    }
    assert {(project, name): room for project, name, room in stored.store.open_rooms()} == expected


def _without_end(session: Session, room: Room) -> bool:
    start_ms = session.begun_at_ms if session.connected_at_ms == NEVER_MS else session.connected_at_ms
    if session.amendment is not None and session.amendment.started_at_ms != NEVER_MS:
        start_ms = session.amendment.started_at_ms
    if session.amendment is not None and session.amendment.is_void:
        start_ms = NEVER_MS
    is_absent = start_ms < session.absent_at_ms and session.absent_at_ms >= session.last_seen_ms
    latest_ms = session.absent_at_ms if is_absent else NEVER_MS
    ends_ms = [end_ms for end_ms in room.ends_ms if start_ms <= end_ms <= latest_ms]
    return session.disconnected_at_ms == NEVER_MS and not ends_ms
