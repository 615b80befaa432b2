"""What is known of sessions, rooms and servers: facts joined by min, max and set union (R10).

Everything here only moves one way (a minimum falls, a maximum or a set grows), so the same events
in any order, repeated and split over any number of workers end in the same facts. What follows from
the facts (starts, ends, flags, presumptions) is never stored: see `pipeline.metering.timeline`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from pipeline.metering.events import Amendment, Event, EventType
from pipeline.metering.quantities import Quantities
from pipeline.metering.units import NEVER_MS, NOT_SEEN_MS

RoomKey = tuple[str, str]
"""Project and room id."""

# Bound once: reading a member from its class costs 100 ns, several times per event.
_CONNECTED: Final = EventType.SESSION_CONNECTED
_SAMPLED: Final = EventType.SESSION_SAMPLED
_ABSENT: Final = EventType.SESSION_ABSENT
_AMENDED: Final = EventType.SESSION_AMENDED
_NONE: Final[frozenset[str]] = frozenset()
_NO_TIMES: Final[frozenset[int]] = frozenset()


@lru_cache(maxsize=4096)
def shared_set(names: frozenset[str]) -> frozenset[str]:
    """Return one object for equal sets: a set of its own in every session costs 200 bytes each."""
    return names


@dataclass(slots=True)
class Session:
    """Facts of one connection of one participant to one room (R2). Times in ms.

    `connected_at_ms` is the earliest observed connect, `begun_at_ms` the earliest begin that a
    disconnect or a sample reported (R3), `disconnected_at_ms` the earliest disconnect or abort (R5),
    `last_seen_ms` the latest sign of life (R9), `absent_at_ms` the latest moment at which its server,
    when asked, did not know it, `amendment` the greatest one (R12). Texts are joined by max: '' is the
    bottom, and of two different values the greater one stays, whatever the order.
    """

    kind: str = ""
    number: str = ""
    agent: str = ""
    identity: str = ""
    region: str = ""
    connected_at_ms: int = NEVER_MS
    begun_at_ms: int = NEVER_MS
    disconnected_at_ms: int = NEVER_MS
    last_seen_ms: int = NOT_SEEN_MS
    absent_at_ms: int = NOT_SEEN_MS
    bytes_in: int = 0
    bytes_out: int = 0
    sources: frozenset[str] = _NONE
    amendment: Amendment | None = None

    def observe(self, event: Event) -> None:  # noqa: C901, PLR0912 - one flat list of fields, on the hot path
        """Join what a session.* event says."""
        time_ms = event.time_ms
        if event.type is _CONNECTED:
            self.connected_at_ms = min(self.connected_at_ms, time_ms)
        elif event.type is _ABSENT:
            self.absent_at_ms = max(self.absent_at_ms, time_ms)
            return  # says nothing else: whoever did not find it did not see it
        elif event.type is _AMENDED:
            self.amendment = _greater(self.amendment, event.amendment)
            return  # nor did whoever amends it
        else:
            if event.type is not _SAMPLED:
                self.disconnected_at_ms = min(self.disconnected_at_ms, time_ms)
            if event.connected_at_ms is not None:
                self.begun_at_ms = min(self.begun_at_ms, event.connected_at_ms)
        self.last_seen_ms = max(self.last_seen_ms, time_ms)
        # Most events repeat or omit these: compare before joining, this is the hot path.
        if event.kind != self.kind:
            self.kind = max(self.kind, event.kind)
        if event.number != self.number:
            self.number = max(self.number, event.number)
        if event.agent != self.agent:
            self.agent = max(self.agent, event.agent)
        if event.identity != self.identity:
            self.identity = max(self.identity, event.identity)
        if event.region != self.region:
            self.region = max(self.region, event.region)
        if event.bytes_in is not None:
            self.bytes_in = max(self.bytes_in, event.bytes_in)
        if event.bytes_out is not None:
            self.bytes_out = max(self.bytes_out, event.bytes_out)
        if event.source not in self.sources:
            self.sources = shared_set(self.sources | {event.source})

    def join(self, other: "Session") -> None:
        """Join another session's facts into these."""
        self.kind = max(self.kind, other.kind)
        self.number = max(self.number, other.number)
        self.agent = max(self.agent, other.agent)
        self.identity = max(self.identity, other.identity)
        self.region = max(self.region, other.region)
        self.connected_at_ms = min(self.connected_at_ms, other.connected_at_ms)
        self.begun_at_ms = min(self.begun_at_ms, other.begun_at_ms)
        self.disconnected_at_ms = min(self.disconnected_at_ms, other.disconnected_at_ms)
        self.last_seen_ms = max(self.last_seen_ms, other.last_seen_ms)
        self.absent_at_ms = max(self.absent_at_ms, other.absent_at_ms)
        self.bytes_in = max(self.bytes_in, other.bytes_in)
        self.bytes_out = max(self.bytes_out, other.bytes_out)
        self.sources = shared_set(self.sources | other.sources)
        self.amendment = _greater(self.amendment, other.amendment)


def _greater(one: Amendment | None, other: Amendment | None) -> Amendment | None:
    """Return the amendment of the higher epoch (R12); of the same epoch the greater, whatever the order."""
    return max(filter(None, (one, other)), default=None)


@dataclass(slots=True)
class Room:
    """Facts of one room id: the set of its ends (an id can be reused, R5), its newest start (R9), its sessions."""

    ends_ms: frozenset[int] = _NO_TIMES
    started_at_ms: int = NOT_SEEN_MS
    sessions: dict[str, Session] = field(default_factory=dict)

    def observe(self, event: Event) -> None:
        """Join what a room.* or session.* event of this room says."""
        if event.session:
            session = self.sessions.get(event.session)
            if session is None:
                session = self.sessions[event.session] = Session()
            session.observe(event)
        elif event.type is EventType.ROOM_ENDED:
            self.ends_ms |= {event.time_ms}
        else:
            started_at_ms = event.time_ms if event.started_at_ms is None else event.started_at_ms
            self.started_at_ms = max(self.started_at_ms, started_at_ms)

    def join(self, other: "Room") -> None:
        """Join another room's facts into these."""
        self.ends_ms |= other.ends_ms
        self.started_at_ms = max(self.started_at_ms, other.started_at_ms)
        for name, session in other.sessions.items():
            self.sessions.setdefault(name, Session()).join(session)


#: Events that say something of a session or of its room's life.
_OF_A_ROOM = frozenset(
    {
        EventType.ROOM_STARTED,
        EventType.ROOM_ENDED,
        EventType.SESSION_CONNECTED,
        EventType.SESSION_DISCONNECTED,
        EventType.SESSION_ABORTED,
        EventType.SESSION_SAMPLED,
        EventType.SESSION_ABSENT,
        EventType.SESSION_AMENDED,
    },
)


@dataclass(slots=True)
class Facts:
    """All that is known: rooms with their sessions, each server's newest restart in ms (R9), and what was reported."""

    rooms: dict[RoomKey, Room] = field(default_factory=dict)
    restarts_ms: dict[str, int] = field(default_factory=dict)
    quantities: Quantities = field(default_factory=Quantities)

    def observe(self, event: Event) -> bool:
        """Join one event; tell whether it says anything of a session, a room or a server."""
        if event.type in _OF_A_ROOM:
            key = (event.project, event.room)
            room = self.rooms.get(key)
            if room is None:
                room = self.rooms[key] = Room()
            room.observe(event)
            if event.bytes_in is not None or event.bytes_out is not None:
                self.quantities.count(event)
            return True
        if event.type is EventType.SERVER_RESTARTED:
            self.restarts_ms[event.source] = max(self.restarts_ms.get(event.source, NOT_SEEN_MS), event.time_ms)
            return True
        self.quantities.observe(event)
        return False

    def join(self, other: "Facts") -> None:
        """Join other facts into these: R10's law, in one place."""
        for key, room in other.rooms.items():
            self.rooms.setdefault(key, Room()).join(room)
        for source, restarted_at_ms in other.restarts_ms.items():
            self.restarts_ms[source] = max(self.restarts_ms.get(source, NOT_SEEN_MS), restarted_at_ms)
        self.quantities.join(other.quantities)

    def take_quantities(self) -> Quantities:
        """Return what was reported since this was last asked, and forget it: the store joins it."""
        taken, self.quantities = self.quantities, Quantities()
        return taken

    def sessions(self) -> Iterator[tuple[RoomKey, str, Session]]:
        """Yield every session with its room's key and its own id."""
        for key, room in self.rooms.items():
            for name, session in room.sessions.items():
                yield key, name, session
