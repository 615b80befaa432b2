"""Events of a Janus server's event handlers to canonical events.

Pure, but with a memory: Janus names the room only when a participant joins it, and the connection only by
session and handle, so the adapter remembers what belongs together. An adapter that starts in the middle of
a call does not know its room; the ends it then reports match no start and bill nothing (R3).
Values are taken from an allow-list: display names, tokens, SDP, candidates and addresses never pass.
"""

import json
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

from pipeline.metering.events import MAX_NAME_LENGTH, EventType, InvalidEvent, Reason
from pipeline.metering.units import EARLIEST_MS, NEVER_MS, format_time

#: Janus's event types that say something of sessions and rooms; all others are ignored.
_SESSION, _HANDLE, _WEBRTC, _MEDIA, _PLUGIN, _CORE = 1, 2, 16, 32, 64, 256
#: The plugin whose rooms we know; two plugins may use the same room id.
_VIDEOROOM: Final = "janus.plugin.videoroom"
_US_PER_MS: Final = 1_000
#: How many sessions, rooms and participants are remembered, and handles of one session (which a server-side
#: client keeps for months); the least recently used are forgotten.
_MEMORY: Final = 100_000
_HANDLES_OF_A_SESSION: Final = 10_000
_ID_LENGTH: Final = 32

_Part = tuple[EventType, int, dict[str, Any]]
"""What one canonical event says: its type, its time in ms, its data without the project."""
_Value = TypeVar("_Value")


class _Recent(Generic[_Value]):
    """A map that forgets its least recently used entries above a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Hashable, _Value] = OrderedDict()

    def put(self, key: Hashable, value: _Value) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def get(self, key: Hashable) -> _Value | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def values(self) -> list[_Value]:
        return list(self._entries.values())


@dataclass(slots=True)
class _Handle:
    """What is known of one handle. It can connect several times, one connection after the other.

    `owner` is the participant's publishing handle where this one only receives for the same participant.
    """

    name: str
    room: str
    identity: str = ""
    owner: "_Handle | None" = None
    connections: list[tuple[int, str]] = field(default_factory=list)
    hung_up_at_ms: int = 0
    counters: dict[tuple[str, int, str], tuple[int, int, int]] = field(default_factory=dict)

    def connect(self, time_ms: int) -> None:
        """Note a connection to the room of now; a repetition, or a renegotiation without a hang-up, is none."""
        if not self.connections or self.connections[-1][0] <= self.hung_up_at_ms < time_ms:
            self.connections.append((time_ms, self.room))

    def run(self, time_ms: int) -> int:
        """Return which connection of the handle, counted from 1, a moment belongs to."""
        return max(1, sum(connected_at_ms <= time_ms for connected_at_ms, _ in self.connections))

    def session(self, run: int) -> dict[str, Any]:
        """Return the canonical data of one connection: each is a session of its own (R2)."""
        room = self.connections[run - 1][1] if self.connections else self.room
        name = self.name if run == 1 else f"{self.name}/{run}"
        return {"room": room, "session": name, "kind": "participant", "identity": self.identity}


class JanusAdapter:
    """Turns the events of any number of Janus servers into canonical events of one project."""

    def __init__(self, project: str) -> None:
        """Start with nothing remembered."""
        self._project = project
        self._sessions: _Recent[_Recent[_Handle]] = _Recent(_MEMORY)
        self._created_at_ms: _Recent[int] = _Recent(_MEMORY)
        self._participants: _Recent[_Handle] = _Recent(_MEMORY)

    def canonical(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Turn a batch of decoded Janus events, in the order sent, into canonical events (CloudEvents).

        A batch that Janus sends again gives the same events again. Raises InvalidEvent at the first
        event that lacks what its type always has; hand events over one by one to keep the others.
        """
        return [document for event in events for document in self._documents(event)]

    def _documents(self, event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if event.get("type") not in (_SESSION, _HANDLE, _WEBRTC, _MEDIA, _PLUGIN, _CORE):
            return
        emitter = _name(event, "emitter")
        parts = list(self._parts(event, _mapping(event, "event"), emitter, _time_ms(event)))
        # Janus gives no ids: the whole event names itself, so that a repetition has the same id.
        event_id = sha256(json.dumps(event, sort_keys=True).encode()).hexdigest()[:_ID_LENGTH] if parts else ""
        for number, (event_type, at_ms, data) in enumerate(parts):
            yield {
                "specversion": "1.0",
                "id": event_id if number == 0 else f"{event_id}#{number}",
                "source": f"janus/{emitter}",
                "type": str(event_type),
                "time": format_time(at_ms),
                "subject": data.get("session") or data.get("room") or emitter,
                "data": {"project": self._project} | {key: value for key, value in data.items() if value != ""},
            }

    def _parts(self, event: Mapping[str, Any], body: Mapping[str, Any], emitter: str, time_ms: int) -> Iterable[_Part]:
        """Return what one event says; `body` is its inner object."""
        if event["type"] == _CORE:
            return [(EventType.SERVER_RESTARTED, time_ms, {})] if body.get("status") == "started" else []
        if event["type"] == _PLUGIN:
            if body.get("plugin") != _VIDEOROOM:
                return []
            return self._in_a_room(event, _mapping(body, "data"), emitter, time_ms)
        if event["type"] == _SESSION:
            handles = self._sessions.get((emitter, _name(event, "session_id")))
            if handles is None or body.get("name") not in ("destroyed", "timeout"):
                return []
            return [part for handle in handles.values() for part in _end(handle, time_ms, "session")]
        return _of_a_handle(self._handle(event, emitter), event["type"], body, time_ms)

    def _in_a_room(
        self, event: Mapping[str, Any], data: Mapping[str, Any], emitter: str, time_ms: int
    ) -> Iterator[_Part]:
        """Yield what the plugin says of a room, and remember who is in it."""
        what = data.get("event")
        if what not in ("created", "destroyed", "joined", "subscribing", "leaving", "kicked"):
            return
        key = (emitter, _name(data, "room"))
        if what == "created":
            self._created_at_ms.put(key, time_ms)
        # A room id can be used again: the instance is named by its creation where that was seen.
        created_at_ms = self._created_at_ms.get(key)
        room = "/".join(key) if created_at_ms is None else f"{'/'.join(key)}/{created_at_ms}"
        if what == "created":
            yield EventType.ROOM_STARTED, time_ms, {"room": room, "started_at": format_time(time_ms)}
        elif what == "destroyed":
            yield EventType.ROOM_ENDED, time_ms, {"room": room}
        elif what == "joined":
            handle = self._handle(event, emitter)
            handle.room = room
            self._participants.put((*key, "id", _name(data, "id")), handle)
            if data.get("private_id"):
                self._participants.put((*key, "private", _name(data, "private_id")), handle)
        elif what == "subscribing":
            # Janus has a connection for each direction; a participant who also publishes is one session.
            handle = self._handle(event, emitter)
            handle.room = room
            handle.owner = self._participants.get((*key, "private", str(data.get("private_id"))))
        else:
            left = self._participants.get((*key, "id", _name(data, "id")))
            yield from _end(left, time_ms, what) if left else []

    def _handle(self, event: Mapping[str, Any], emitter: str) -> _Handle:
        """Return what is known of the event's handle; until it joins a room, its session is its room."""
        session = (emitter, _name(event, "session_id"))
        handles = self._sessions.get(session)
        if handles is None:
            handles = _Recent(_HANDLES_OF_A_SESSION)
            self._sessions.put(session, handles)
        name = _name(event, "handle_id")
        handle = handles.get(name)
        if handle is None:
            handle = _Handle("/".join((*session, name)), "/".join(session))
            handles.put(name, handle)
        handle.identity = handle.identity or _label(event, "opaque_id")
        return handle


def _of_a_handle(handle: _Handle, event_type: int, body: Mapping[str, Any], time_ms: int) -> Iterator[_Part]:
    """Yield what an event says of the one handle it names."""
    what = body.get("connection") if event_type == _WEBRTC else body.get("name")
    if event_type == _MEDIA:
        if "bytes-received" in body:
            yield _sample(handle, body, time_ms)
    elif what == "webrtcup" and handle.owner is None:
        handle.connect(time_ms)
        yield EventType.SESSION_CONNECTED, time_ms, handle.session(handle.run(time_ms))
    elif what in ("hangup", "detached"):
        yield from _end(handle, time_ms, what)


def _end(handle: _Handle, time_ms: int, reason: str) -> Iterator[_Part]:
    """Yield the end of a handle's connection; of one that never connected, that it was given up (R4)."""
    handle.hung_up_at_ms = max(handle.hung_up_at_ms, time_ms)
    if handle.owner is None:
        event_type = EventType.SESSION_DISCONNECTED if handle.connections else EventType.SESSION_ABORTED
        yield event_type, time_ms, handle.session(handle.run(time_ms)) | {"reason": reason}


def _sample(handle: _Handle, body: Mapping[str, Any], time_ms: int) -> _Part:
    """Return the bytes of a session so far: of every medium of its handles the most seen, summed (R13).

    The time is that of the newest sample, so that a repetition never dates bytes back.
    """
    carrier = handle.owner or handle
    run = carrier.run(time_ms)
    medium = (handle.name, run, str(body.get("mid", body.get("media"))))
    at_ms, bytes_in, bytes_out = carrier.counters.get(medium, (0, 0, 0))
    carrier.counters[medium] = (
        max(at_ms, time_ms),
        max(bytes_in, _count(body, "bytes-received")),
        max(bytes_out, _count(body, "bytes-sent")),
    )
    seen = [counts for (_, of_run, _), counts in carrier.counters.items() if of_run == run]
    totals = {"bytes_in": sum(counts[1] for counts in seen), "bytes_out": sum(counts[2] for counts in seen)}
    return EventType.SESSION_SAMPLED, max(counts[0] for counts in seen), carrier.session(run) | totals


def _time_ms(event: Mapping[str, Any]) -> int:
    time_ms = _count(event, "timestamp") // _US_PER_MS
    if not EARLIEST_MS <= time_ms < NEVER_MS:
        raise InvalidEvent(Reason.IMPOSSIBLE_TIME, "timestamp (microseconds) is outside the years 2000 to 2199")
    return time_ms


def _mapping(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if not isinstance(value, Mapping):
        raise InvalidEvent(Reason.MISSING_FIELD if value is None else Reason.WRONG_FIELD, f"{name} has to be an object")
    return value


def _name(fields: Mapping[str, Any], name: str) -> str:
    """Return an id as text: Janus writes numbers, or text where it is so configured."""
    value = fields.get(name)
    if value is None or value == "":
        raise InvalidEvent(Reason.MISSING_FIELD, f"{name} is required")
    if type(value) not in (int, str):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be a number or text")
    return str(value)


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise InvalidEvent(
            Reason.MISSING_FIELD if value is None else Reason.WRONG_FIELD, f"{name} has to be an integer"
        )
    if value < 0:
        raise InvalidEvent(Reason.NEGATIVE_QUANTITY, f"{name} is negative")
    return value


def _label(fields: Mapping[str, Any], name: str) -> str:
    """Return an optional text, '' where it is absent or unfit: a label must not cost us the event."""
    value = fields.get(name)
    fits = isinstance(value, str) and value.isprintable() and len(value) <= MAX_NAME_LENGTH
    return str(value) if fits else ""
