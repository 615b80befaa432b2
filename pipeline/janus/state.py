"""What an adapter of Janus events remembers, and how that outlives the process. Pure.

Janus names a room only when somebody joins it, and a connection only by session and handle. `changed` returns
what a batch changed, as keys and bytes to be kept anywhere; `restore` takes all of them back. Everything is
looked up by the time of the event, so that a batch that Janus sends again finds what it found before.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import orjson

#: How many sessions, rooms and participants are remembered, and handles of one session (which a server-side
#: client keeps for months); the least recently used are forgotten.
_MEMORY: Final = 100_000
_HANDLES_OF_A_SESSION: Final = 10_000
#: How many lives of a room id, users of a participant id and connections of a handle are remembered.
_PAST: Final = 100

Key = tuple[str, ...]
"""What something is remembered by: what it is (handle, room, participant, project), then the names Janus gives it."""
_Value = TypeVar("_Value")


class _Recent(Generic[_Value]):
    """A map that forgets its least recently used entries above a limit, and says which."""

    def __init__(self, limit: int, forget: Callable[[Key, _Value], None]) -> None:
        self._limit = limit
        self._forget = forget
        self._entries: OrderedDict[Key, _Value] = OrderedDict()

    def put(self, key: Key, value: _Value) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._forget(*self._entries.popitem(last=False))

    def get(self, key: Key) -> _Value | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def keys(self) -> list[Key]:
        return list(self._entries)


@dataclass(slots=True)
class Stay:
    """A handle's time in one room: the room's instance, its id at Janus ('' before a join), whose it is, who it was."""

    room: str
    room_id: str = ""
    project: str = ""
    identity: str = ""


@dataclass(slots=True)
class Handle:
    """What is known of one handle. It can connect several times, one connection after the other.

    `owner` is the participant's publishing handle where this one only receives for the same participant.
    `counters` are a medium's bytes in and out by run and mid, `totals` a run's by run: newest ms, bytes in, bytes out.
    """

    key: Key
    stay: Stay
    owner: Key | None = None
    connections: list[tuple[int, Stay]] = field(default_factory=list)
    forgotten: int = 0
    hung_up_at_ms: int = 0
    counters: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    totals: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def connect(self, time_ms: int) -> None:
        """Note a connection to the room of now; a repetition, or a renegotiation without a hang-up, is none."""
        last_ms = self.connections[-1][0] if self.connections else 0
        if not self.connections or last_ms <= self.hung_up_at_ms < time_ms:
            self.connections.append((time_ms, self.stay))
        if len(self.connections) > _PAST:
            del self.connections[0]
            self.forgotten += 1
            self.totals.pop(self.forgotten, None)

    def hang_up(self, time_ms: int) -> None:
        """Note an end; where nothing had connected, of an attempt (since 0): what connects later is another (R4)."""
        if not self.connections:
            self.connections.append((0, self.stay))
        self.hung_up_at_ms = max(self.hung_up_at_ms, time_ms)

    def run(self, time_ms: int) -> int:
        """Return which connection of the handle, counted from 1, a moment belongs to."""
        return self.forgotten + max(1, sum(connected_at_ms <= time_ms for connected_at_ms, _ in self.connections))

    def connection(self, run: int) -> tuple[int, Stay]:
        """Return when a connection began, 0 where it never did, and where it was."""
        return self.connections[run - self.forgotten - 1] if self.connections else (0, self.stay)

    def count(self, medium: tuple[int, str], bytes_in: int, bytes_out: int) -> tuple[int, int]:
        """Note what one medium has carried so far; return what is new of it: bytes in, bytes out."""
        if medium not in self.counters:  # what a forgotten connection carried is settled
            self.counters = {known: sums for known, sums in self.counters.items() if known[0] > medium[0] - _PAST}
        before_in, before_out = self.counters.get(medium, (0, 0))
        bytes_in, bytes_out = max(before_in, bytes_in), max(before_out, bytes_out)
        self.counters[medium] = bytes_in, bytes_out
        return bytes_in - before_in, bytes_out - before_out

    def add(self, run: int, time_ms: int, bytes_in: int, bytes_out: int) -> tuple[int, int, int]:
        """Add new bytes to a connection's; return the time of its newest sample in ms, bytes in, bytes out."""
        newest_ms, total_in, total_out = self.totals.get(run, (0, 0, 0))
        self.totals[run] = total = max(newest_ms, time_ms), total_in + bytes_in, total_out + bytes_out
        return total

    def encoded(self) -> list[Any]:
        """Return the handle without its key as what JSON can hold."""
        return [
            _encoded_stay(self.stay),
            self.owner,
            [(connected_at_ms, _encoded_stay(stay)) for connected_at_ms, stay in self.connections],
            self.forgotten,
            self.hung_up_at_ms,
            [(*medium, *sums) for medium, sums in self.counters.items()],
            [(run, *sums) for run, sums in self.totals.items()],
        ]


def _encoded_stay(stay: Stay) -> tuple[str, str, str, str]:
    return stay.room, stay.room_id, stay.project, stay.identity


def _decoded_handle(key: Key, value: list[Any]) -> Handle:
    """Return a handle from what `encoded` made; stays in one room are one object again: what one learns, all know."""
    current, owner, connections, forgotten, hung_up_at_ms, counters, totals = value
    handle = Handle(key, Stay(*current), tuple(owner) if owner else None, [], forgotten, hung_up_at_ms)
    last = handle.stay
    for connected_at_ms, fields in reversed(connections):
        last = last if last.room == fields[0] else Stay(*fields)
        handle.connections.insert(0, (connected_at_ms, last))
    handle.counters = {(run, mid): (bytes_in, bytes_out) for run, mid, bytes_in, bytes_out in counters}
    handle.totals = {run: (newest_ms, bytes_in, bytes_out) for run, newest_ms, bytes_in, bytes_out in totals}
    return handle


class JanusState:
    """Handles, lives of rooms, participants and projects, each bounded."""

    def __init__(self, name: str) -> None:
        """Start with nothing remembered; `name` tells this adapter's entries from another's."""
        self._name = name
        self._changed: dict[Key, Callable[[], object] | None] = {}
        self._sessions: _Recent[_Recent[Handle]] = _Recent(_MEMORY, self._forget_session)
        self._rooms: _Recent[list[int]] = _Recent(_MEMORY, self._forget)
        self._participants: _Recent[list[tuple[int, Key]]] = _Recent(_MEMORY, self._forget)
        self._projects: _Recent[str] = _Recent(_MEMORY, self._forget)

    def handle(self, emitter: str, session: str, name: str, room: str) -> Handle:
        """Return what is known of a handle; `room` is where a new one is."""
        key = ("handle", emitter, session, name)
        handle = self.known(key)
        if handle is None:
            handle = Handle(key, Stay(room))
            self._put_handle(handle)
        return handle

    def known(self, key: Key) -> Handle | None:
        """Return a handle by its key, None where it is not known (any more); whoever asks may change it."""
        handles = self._sessions.get(key[1:3])
        handle = handles.get(key) if handles else None
        if handle:
            self._changed[key] = handle.encoded
        return handle

    def handles(self, emitter: str, session: str) -> list[Handle]:
        """Return the handles of a session by name, so that their order never depends on what came before."""
        handles = self._sessions.get((emitter, session))
        return [handle for key in sorted(handles.keys()) if (handle := self.known(key))] if handles else []

    def create_room(self, emitter: str, room_id: str, time_ms: int) -> None:
        """Note that a room was created: its id can have been another room's before."""
        key = ("room", emitter, room_id)
        lives = self._rooms.get(key) or []
        if time_ms not in lives:
            insort(lives, time_ms)
            del lives[:-_PAST]
            self._put(self._rooms, key, lives)

    def room(self, emitter: str, room_id: str, time_ms: int) -> str:
        """Return the instance of a room at a moment, named by its creation where that was seen."""
        lives = self._rooms.get(("room", emitter, room_id)) or []
        created_at_ms = max((life for life in lives if life <= time_ms), default=None)
        return f"{emitter}/{room_id}" if created_at_ms is None else f"{emitter}/{room_id}/{created_at_ms}"

    def join(self, emitter: str, room_id: str, participant: Key, time_ms: int, handle: Handle) -> None:
        """Note whose an id of a participant is from a moment on; `participant` is the sort of id, and the id."""
        key = ("participant", emitter, room_id, *participant)
        users = self._participants.get(key) or []
        if (time_ms, handle.key) not in users:
            insort(users, (time_ms, handle.key))
            del users[:-_PAST]
            self._put(self._participants, key, users)

    def participant(self, emitter: str, room_id: str, participant: Key, time_ms: int) -> Handle | None:
        """Return the handle that an id of a participant belonged to at a moment."""
        users = self._participants.get(("participant", emitter, room_id, *participant)) or []
        known = [key for joined_at_ms, key in users if joined_at_ms <= time_ms]
        return self.known(known[-1]) if known else None

    def project(self, room: str) -> str:
        """Return the project that was decided for a room's instance, '' before that."""
        return self._projects.get(("project", room)) or ""

    def decide(self, room: str, project: str) -> None:
        """Remember the project of a room's instance."""
        self._put(self._projects, ("project", room), project)

    def changed(self) -> dict[str, bytes | None]:
        """Return what changed since this was last asked, None for what was forgotten; keys are text."""
        changes = {self._text(key): None if get is None else orjson.dumps(get()) for key, get in self._changed.items()}
        self._changed = {}
        return changes

    def restore(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Take back what `changed` returned, in the order of the last changes; other adapters' entries are skipped."""
        maps: Mapping[str, _Recent[Any]] = {
            "room": self._rooms,
            "participant": self._participants,
            "project": self._projects,
        }
        for text, encoded in entries:
            name, *parts = orjson.loads(text)
            if name != self._name:
                continue
            key, value = tuple(parts), orjson.loads(encoded)
            if key[0] == "handle":
                self._put_handle(_decoded_handle(key, value))
            elif key[0] == "participant":
                self._participants.put(key, [(joined_at_ms, tuple(handle)) for joined_at_ms, handle in value])
            else:
                maps[key[0]].put(key, value)
        self._changed = {key: get for key, get in self._changed.items() if get is None}

    def _put(self, entries: _Recent[_Value], key: Key, value: _Value) -> None:
        self._changed[key] = lambda: value
        entries.put(key, value)

    def _put_handle(self, handle: Handle) -> None:
        session = handle.key[1:3]
        handles = self._sessions.get(session)
        if handles is None:
            handles = _Recent(_HANDLES_OF_A_SESSION, self._forget)
            self._sessions.put(session, handles)
        self._changed[handle.key] = handle.encoded
        handles.put(handle.key, handle)

    def _forget(self, key: Key, _value: object) -> None:
        self._changed[key] = None

    def _forget_session(self, _key: Key, handles: _Recent[Handle]) -> None:
        self._changed.update(dict.fromkeys(handles.keys()))

    def _text(self, key: Key) -> str:
        return orjson.dumps([self._name, *key]).decode()
