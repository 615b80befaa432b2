"""The law of facts (C4b): what is stored is what the kept events give, fact by fact. Pure.

Facts are a join (R10), so two comparisons are possible. Joining what the events give into what is stored must
change nothing, whatever part of the log is left. And where the whole life of a session lies within the log, the two
must be equal: nothing is stored that no event tells.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, NamedTuple

from pipeline import codec
from pipeline.audit.laws import Difference, Law, ProjectHour
from pipeline.metering.events import InvalidEvent
from pipeline.metering.meters import Meters
from pipeline.metering.session import Facts, Room, RoomKey, Session
from pipeline.metering.units import NEVER_MS, NOT_SEEN_MS, format_time, hour_of
from pipeline.metering.usage import usage

#: What was accepted once is read again whatever the limits are today.
_NO_LIMIT: Final = 2**62
_SESSION_FACTS: Final = tuple(item.name for item in fields(Session))


class KeptEvent(NamedTuple):
    """An accepted record of the event log: where it lay, the broker's time in ms, and its bytes as text."""

    topic: str
    partition: int
    offset: int
    broker_time_ms: int
    payload: str


@dataclass(slots=True)
class Scope:
    """What facts are judged by: the meters, and from when on the log is whole, in ms; 0 where it is from its begin.

    `restarts_ms` are those stored; they decide of presumed ends, and so of hours.
    """

    meters: Meters
    as_of_ms: int
    orphan_after_ms: int
    floor_ms: int = 0
    restarts_ms: dict[str, int] = field(default_factory=dict)


def facts_of(events: Iterable[KeptEvent], meters: Container[str], refused: list[Difference]) -> Facts:
    """Join kept events through the core; adds to `refused` what the log calls accepted and is no event."""
    facts = Facts()
    for kept in events:
        try:
            event = codec.decode_event(kept.payload.encode(), meters, _NO_LIMIT)
        except InvalidEvent as error:
            where = f"topic {kept.topic} partition {kept.partition} offset {kept.offset}"
            hour_ms = hour_of(kept.broker_time_ms)
            refused.append(Difference(Law.FACTS, f"{where} was accepted, but is no event: {error}", hour_ms=hour_ms))
        else:
            if event is not None:
                facts.observe(event)
    return facts


def spilled(facts: Facts) -> Iterator[tuple[RoomKey, bytes]]:
    """Yield the facts of rooms and sessions as lines, each with its room; restarts are left to the caller."""
    for key, room in facts.rooms.items():
        yield key, _line(codec.changelog_key(*key), codec.encode_room(room))
        for name, session in room.sessions.items():
            yield key, _line(codec.changelog_key(*key, name), codec.encode_session(session))


def gathered(lines: Iterable[bytes]) -> Facts:
    """Join lines of `spilled`, of any number of facts."""
    facts = Facts()
    for line in lines:
        key, _, value = line.partition(b"\t")
        project, room_name, *names = codec.split_key(key)
        room = facts.rooms.setdefault((project, room_name), Room())
        if names:
            session = codec.decode_session(value)
            known = room.sessions.setdefault(names[0], session)
            if known is not session:
                known.join(session)
        else:
            room.join(codec.decode_room(value))
    return facts


def _line(key: bytes, value: bytes) -> bytes:
    # No name contains a tab, and JSON no line end.
    return key + b"\t" + value + b"\n"


def differing_rooms(stored: Facts, log: Facts, scope: Scope) -> list[RoomKey]:
    """Return the rooms whose facts are not what the log gives."""
    nothing = Room()
    return [
        key
        for key in sorted(stored.rooms.keys() | log.rooms.keys())
        if (ours := stored.rooms.get(key, nothing)) != (theirs := log.rooms.get(key, nothing))
        and any(True for _ in _differences(ours, theirs, scope.floor_ms))
    ]


def compare_room(key: RoomKey, stored: Room, log: Room, scope: Scope) -> Iterator[Difference]:
    """Yield a difference for each fact of a room and its sessions, with the hours that it changes."""
    found = list(_differences(stored, log, scope.floor_ms))
    hours = _changed_hours(key, stored, log, scope) if found else frozenset()
    first_ms = min((hour_ms for _, hour_ms in hours), default=None)
    for session, fact, detail in found:
        hour_ms = _hour_of(session, stored, log) if first_ms is None else first_ms
        yield Difference(Law.FACTS, detail, key[0], hour_ms, room=key[1], session=session, fact=fact, holds=hours)


def _hour_of(name: str, *rooms: Room) -> int | None:
    """Return the hour in which a session was first heard of, where it is known."""
    found_ms = min((_earliest_ms(room.sessions[name]) for room in rooms if name in room.sessions), default=NEVER_MS)
    return None if found_ms == NEVER_MS else hour_of(found_ms)


def compare_restarts(stored: Mapping[str, int], log: Mapping[str, int], floor_ms: int) -> Iterator[Difference]:
    """Yield a difference for each server whose newest restart is not what the log gives (R9)."""
    for source in sorted(stored.keys() | log.keys()):
        ours, theirs = stored.get(source, NOT_SEEN_MS), log.get(source, NOT_SEEN_MS)
        if ours < theirs or (ours > theirs and ours >= floor_ms):
            detail = _said(f"restart of {source}", ours, theirs)
            yield Difference(Law.FACTS, detail, hour_ms=hour_of(max(ours, theirs)), fact="restarted_at")


def _differences(stored: Room, log: Room, floor_ms: int) -> Iterator[tuple[str, str, str]]:
    """Yield session, fact and what is said of it."""
    missing = log.ends_ms - stored.ends_ms
    unfounded = {end for end in stored.ends_ms - log.ends_ms if end >= floor_ms}
    if missing or unfounded:
        yield "", "ends", _said("ends", sorted(unfounded), sorted(missing))
    if stored.started_at_ms < log.started_at_ms or (
        stored.started_at_ms > log.started_at_ms and stored.started_at_ms >= floor_ms
    ):
        yield "", "started_at", _said("started_at", stored.started_at_ms, log.started_at_ms)
    for name in sorted(stored.sessions.keys() | log.sessions.keys()):
        ours, theirs = stored.sessions.get(name, Session()), log.sessions.get(name, Session())
        if ours != theirs:
            for fact in _differing_facts(ours, theirs, floor_ms):
                shown = fact.removesuffix("_ms")
                yield name, shown, _said(shown, getattr(ours, fact), getattr(theirs, fact))


def _differing_facts(stored: Session, log: Session, floor_ms: int) -> list[str]:
    joined = replace(stored)
    joined.join(log)
    is_whole = _earliest_ms(stored) >= floor_ms
    return [
        fact
        for fact in _SESSION_FACTS
        if getattr(joined, fact) != getattr(stored, fact)
        # An amendment's event has a time of its own: it may have left the log before the session it amends.
        or (is_whole and getattr(stored, fact) != getattr(log, fact) and (fact != "amendment" or not floor_ms))
    ]


def _earliest_ms(session: Session) -> int:
    """Return the earliest moment that the facts of a session name."""
    seen = (at_ms for at_ms in (session.last_seen_ms, session.absent_at_ms) if at_ms != NOT_SEEN_MS)
    return min(session.connected_at_ms, session.begun_at_ms, session.disconnected_at_ms, *seen)


def _changed_hours(key: RoomKey, stored: Room, log: Room, scope: Scope) -> frozenset[ProjectHour]:
    """Return the hours in which the two give different usage."""
    one, other = (
        usage(Facts({key: room}, scope.restarts_ms), scope.meters, scope.as_of_ms, scope.orphan_after_ms)
        for room in (stored, log)
    )
    cells = (cell for cell in one.keys() | other.keys() if one.get(cell) != other.get(cell))
    return frozenset((project, hour_ms) for project, _, hour_ms in cells)


def _said(fact: str, stored: Any, log: Any) -> str:
    return f"{fact} is stored as {_shown(fact, stored)}, the events give {_shown(fact, log)}"


def _shown(fact: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(format_time(item) for item in value) or "none more"
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "none"
    if isinstance(value, int) and not fact.startswith("bytes"):
        return "none" if value in (NEVER_MS, NOT_SEEN_MS) else format_time(value)
    return "none" if value is None or value == "" else str(value)
