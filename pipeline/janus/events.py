"""Events of a Janus server's event handlers to canonical events.

Pure, but with a memory (`pipeline.janus.state`): Janus names the room only when a participant joins it, and
the connection only by session and handle. An adapter that starts in the middle of a call, with nothing
restored, does not know its room; the ends it then reports match no start and bill nothing (R3).
Values are taken from an allow-list: display names, tokens, SDP, candidates and addresses never pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from pipeline.janus.state import Handle, JanusState, Stay
from pipeline.metering.events import MAX_NAME_LENGTH, EventType, InvalidEvent, Reason
from pipeline.metering.units import EARLIEST_MS, NEVER_MS, format_time

ProjectOf = Callable[[str, str], str | None]
"""The rule that names a project by a room's id at Janus ('' before a join) and a handle's opaque id; or None."""
IdentityOf = Callable[[str, str], str]
"""What is kept of an identity, by project and opaque id: itself, a hash, or ''."""

#: Janus's event types that say something of sessions and rooms; all others are ignored.
_SESSION, _HANDLE, _WEBRTC, _MEDIA, _PLUGIN, _CORE = 1, 2, 16, 32, 64, 256
#: The plugin whose rooms we know; two plugins may use the same room id.
_VIDEOROOM: Final = "janus.plugin.videoroom"
_US_PER_MS: Final = 1_000
_ID_LENGTH: Final = 32
#: More bytes than any medium carries: the sum of a thousand such still fits a signed 64-bit column.
_MOST_BYTES: Final = 2**53


class _Part(NamedTuple):
    """What one canonical event says; `place` tells the parts of one Janus event apart, '' where there is one."""

    type: EventType
    time_ms: int
    project: str
    data: dict[str, Any]
    place: str = ""


class JanusAdapter:
    """Turns the events of any number of Janus servers into canonical events."""

    def __init__(
        self, project: str | ProjectOf, identity_of: IdentityOf = lambda _, identity: identity, name: str = ""
    ) -> None:
        """Start with nothing remembered. `project` is that of every room, or the rule that names it, once per room.

        `name` is that of whoever vouches for these servers, part of all ids: two that call themselves alike stay two.
        """
        self._project_of: ProjectOf = project if callable(project) else lambda _room, _opaque_id: project
        self._identity_of = identity_of
        self._name = name
        self._state = JanusState(name)

    def canonical(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Turn a batch of decoded Janus events, in the order sent, into canonical events (CloudEvents).

        Raises InvalidEvent at the first event that cannot be read; `read` them one by one to keep the others.
        """
        return [document for event in events for document in self.read(event)]

    def read(self, event: object) -> list[dict[str, Any]]:
        """Turn one decoded Janus event into canonical events: none, one, or several. Hand events over as sent.

        An event that is sent again gives the same ids and facts again. Raises InvalidEvent for one that lacks
        what its type always has, and for one of a room that no rule names a project for. The memory of joins
        and connections is kept even then, so that the same event can be read once the rule is mended.
        """
        if not isinstance(event, Mapping):
            raise InvalidEvent(Reason.NOT_AN_OBJECT, "a Janus event has to be a JSON object")
        if event.get("type") not in (_SESSION, _HANDLE, _WEBRTC, _MEDIA, _PLUGIN, _CORE):
            return []
        emitter = "/".join(filter(None, (self._name, _name(event, "emitter"))))
        parts = list(self._parts(event, emitter, _time_ms(event)))
        named = [part for part in parts if part.project or part.type is EventType.SERVER_RESTARTED]
        if not named:
            # What never connected could not be billed to anybody: it is no loss (R4).
            if any(part.type is not EventType.SESSION_ABORTED for part in parts):
                raise InvalidEvent(Reason.MISSING_FIELD, "project: no rule names one for this room or opaque id")
            return []
        event_id = _event_id(event)
        return [
            {
                "specversion": "1.0",
                "id": f"{event_id}#{part.place}" if part.place else event_id,
                "source": f"janus/{emitter}",
                "type": str(part.type),
                "time": format_time(part.time_ms),
                "subject": part.data.get("session") or part.data.get("room") or emitter,
                "data": {key: value for key, value in {"project": part.project, **part.data}.items() if value != ""},
            }
            for part in named
        ]

    def changed(self) -> dict[str, bytes | None]:
        """Return what is to be kept of the memory's changes since this was last asked; None: is to be removed."""
        return self._state.changed()

    def restore(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Remember again what an adapter of the same name returned as changed, oldest change first."""
        self._state.restore(entries)

    def _parts(self, event: Mapping[str, Any], emitter: str, time_ms: int) -> Iterable[_Part]:
        """Return what one event says."""
        if event["type"] == _MEDIA:
            media = [_medium(body) for body in _bodies(event) if "bytes-received" in body]
            return self._sample(self._handle(event, emitter), media, time_ms) if media else []
        body = _mapping(event, "event")
        if event["type"] == _CORE:
            is_start = body.get("status") == "started"
            return [_Part(EventType.SERVER_RESTARTED, time_ms, "", {})] if is_start else []
        if event["type"] == _PLUGIN:
            is_known = body.get("plugin") == _VIDEOROOM
            return self._in_a_room(event, _mapping(body, "data"), emitter, time_ms) if is_known else []
        if event["type"] == _SESSION:
            if body.get("name") not in ("destroyed", "timeout"):
                return []
            handles = self._state.handles(emitter, _name(event, "session_id"))
            return [
                part._replace(place=handle.key[-1])
                for handle in handles
                for part in self._end(handle, time_ms, "session")
            ]
        return self._of_a_handle(event, body, emitter, time_ms)

    def _of_a_handle(
        self, event: Mapping[str, Any], body: Mapping[str, Any], emitter: str, time_ms: int
    ) -> Iterator[_Part]:
        """Yield what an event says of the one handle it names."""
        what = body.get("connection") if event["type"] == _WEBRTC else body.get("name")
        if what not in ("attached", "webrtcup", "hangup", "detached"):
            return
        handle = self._handle(event, emitter)
        if what == "webrtcup" and handle.owner is None:
            handle.connect(time_ms)
            yield self._session(EventType.SESSION_CONNECTED, time_ms, handle, handle.run(time_ms))
        elif what in ("hangup", "detached"):
            yield from self._end(handle, time_ms, what)

    def _in_a_room(
        self, event: Mapping[str, Any], data: Mapping[str, Any], emitter: str, time_ms: int
    ) -> Iterator[_Part]:
        """Yield what the plugin says of a room, and remember who is in it."""
        what = data.get("event")
        if what not in ("created", "destroyed", "joined", "subscribing", "leaving", "kicked"):
            return
        room_id = _name(data, "room")
        if what in ("leaving", "kicked"):
            left = self._state.participant(emitter, room_id, ("id", _name(data, "id")), time_ms)
            yield from self._end(left, time_ms, what) if left else []
            return
        if what == "created":
            self._state.create_room(emitter, room_id, time_ms)
        # A room id can be used again: the instance is named by its creation where that was seen.
        room = self._state.room(emitter, room_id, time_ms)
        if what == "created":
            project = self._decided(Stay(room, room_id), event)
            yield _Part(EventType.ROOM_STARTED, time_ms, project, {"room": room, "started_at": format_time(time_ms)})
        elif what == "destroyed":
            yield _Part(EventType.ROOM_ENDED, time_ms, self._decided(Stay(room, room_id), event), {"room": room})
        else:
            self._enter(event, data, emitter, time_ms, Stay(room, room_id))

    def _enter(self, event: Mapping[str, Any], data: Mapping[str, Any], emitter: str, time_ms: int, stay: Stay) -> None:
        """Remember that a handle joined a room, or receives from it."""
        is_join = data["event"] == "joined"
        participant = _name(data, "id") if is_join else ""
        private = _name(data, "private_id") if data.get("private_id") else ""
        handle = self._state.handle(emitter, _name(event, "session_id"), _name(event, "handle_id"), room=stay.room)
        if handle.stay.room != stay.room or not handle.stay.room_id:
            handle.stay = stay
        self._recognize(handle, event)
        if is_join:
            self._state.join(emitter, stay.room_id, ("id", participant), time_ms, handle)
        if is_join and private:
            self._state.join(emitter, stay.room_id, ("private", private), time_ms, handle)
        elif not is_join:
            # Janus has a connection for each direction; a participant who also publishes is one session.
            owner = self._state.participant(emitter, stay.room_id, ("private", private), time_ms)
            handle.owner = owner.key if owner and owner is not handle else None

    def _handle(self, event: Mapping[str, Any], emitter: str) -> Handle:
        """Return what is known of the event's handle; until it joins a room, its session is its room."""
        session = _name(event, "session_id")
        handle = self._state.handle(emitter, session, _name(event, "handle_id"), room=f"{emitter}/{session}")
        self._recognize(handle, event)
        return handle

    def _recognize(self, handle: Handle, event: Mapping[str, Any]) -> None:
        """Learn from an event whose a handle's stay is, and who it was."""
        stay = handle.stay
        stay.project = stay.project or self._decided(stay, event)
        identity = _label(event, "opaque_id")
        if stay.project and identity and not stay.identity:
            stay.identity = self._identity_of(stay.project, identity)

    def _decided(self, stay: Stay, event: Mapping[str, Any]) -> str:
        """Return the project of a room: what was decided by the first event that named one, or '' so far."""
        project = self._state.project(stay.room)
        if not project:
            project = self._project_of(stay.room_id, _label(event, "opaque_id")) or ""
            if project and stay.room_id:
                self._state.decide(stay.room, project)
        return project

    def _session(self, event_type: EventType, time_ms: int, handle: Handle, run: int, **data: Any) -> _Part:
        """Return an event of one connection of a handle: each is a session of its own (R2)."""
        stay = handle.connection(run)[1]
        stay.project = stay.project or self._decided(stay, {})
        name = "/".join(handle.key[1:]) + (f"/{run}" if run > 1 else "")
        session = {"room": stay.room, "session": name, "kind": "participant", "identity": stay.identity}
        return _Part(event_type, time_ms, stay.project, session | data)

    def _end(self, handle: Handle, time_ms: int, reason: str) -> Iterator[_Part]:
        """Yield the end of a handle's connection; of one that never connected, that it was given up (R4)."""
        handle.hang_up(time_ms)
        if handle.owner is not None:
            return
        run = handle.run(time_ms)
        connected_at_ms, _ = handle.connection(run)
        if connected_at_ms:
            begin = format_time(connected_at_ms)
            yield self._session(EventType.SESSION_DISCONNECTED, time_ms, handle, run, connected_at=begin, reason=reason)
        else:
            yield self._session(EventType.SESSION_ABORTED, time_ms, handle, run, reason=reason)

    def _sample(self, handle: Handle, media: Sequence[tuple[str, int, int]], time_ms: int) -> Iterator[_Part]:
        """Yield the bytes of a session so far: of every medium of its handles the most seen, summed (R13).

        The time is that of the newest sample, so that a repetition never dates bytes back.
        """
        carrier = handle if handle.owner is None else self._state.known(handle.owner)
        if carrier is None:
            return  # so long ago that it was forgotten
        run = carrier.run(time_ms)
        new = [handle.count((run, mid), bytes_in, bytes_out) for mid, bytes_in, bytes_out in media]
        newest_ms, bytes_in, bytes_out = carrier.add(
            run, time_ms, sum(count for count, _ in new), sum(count for _, count in new)
        )
        yield self._session(EventType.SESSION_SAMPLED, newest_ms, carrier, run, bytes_in=bytes_in, bytes_out=bytes_out)


def _event_id(event: Mapping[str, Any]) -> str:
    """Return the id of an event, made of all of it: Janus gives none, and a repetition has to have the same."""
    try:
        return sha256(orjson.dumps(event, option=orjson.OPT_SORT_KEYS)).hexdigest()[:_ID_LENGTH]
    except orjson.JSONEncodeError as error:
        raise InvalidEvent(Reason.WRONG_FIELD, f"the event cannot be written as JSON again ({error})") from error


def _bodies(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what an event says of media: one, or with `combine_media_stats` a list."""
    bodies = event.get("event")
    if not isinstance(bodies, list):
        return [_mapping(event, "event")]
    return [_mapping({"event": body}, "event") for body in bodies]


def _medium(body: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return the id of a medium, and its bytes in and out so far."""
    name = "mid" if "mid" in body else "media"
    return _name(body, name), _bytes(body, "bytes-received"), _bytes(body, "bytes-sent")


def _bytes(body: Mapping[str, Any], name: str) -> int:
    count = _count(body, name)
    if count > _MOST_BYTES:
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} is more than 2^53")
    return count


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
    if type(value) is int:
        return str(value)
    if type(value) is str and value.isprintable() and len(value) <= MAX_NAME_LENGTH:
        return value
    raise InvalidEvent(
        Reason.WRONG_FIELD, f"{name} has to be a number, or at most {MAX_NAME_LENGTH} printable characters"
    )


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
