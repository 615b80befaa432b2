"""LiveKit webhooks to canonical events: one decoded webhook body in, zero or more events out.

Pure. What a webhook says is taken field by field from an allow-list, so that passwords, stream keys,
names, metadata and attributes never pass. Bodies are proto3 JSON: 64-bit integers are strings, default
values are left out, enum values are names (a bare number where the server itself does not know one).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pipeline.metering.events import MAX_NAME_LENGTH, EventType, InvalidEvent, Reason
from pipeline.metering.meters import KINDS
from pipeline.metering.units import EARLIEST_MS, NEVER_MS, format_time

#: Units of LiveKit's times, in nanoseconds; every field has its own.
_SECOND, _MILLISECOND, _NANOSECOND = 1_000_000_000, 1_000_000, 1
_MAX_DIGITS: Final = 21
#: Participants who are the recorder or the importer itself: egress_* and ingress_* already meter them.
_NOT_METERED: Final = frozenset({"EGRESS", "INGRESS"})
_KINDS: Final = {
    "STANDARD": "participant",
    "CONNECTOR": "participant",
    "BRIDGE": "participant",
    "AGENT": "agent",
    "SIP": "sip",
}
#: Recordings that failed show no time of their own but what their results say.
_FAILED: Final = frozenset({"EGRESS_FAILED", "EGRESS_ABORTED", "ENDPOINT_ERROR"})
_RESULTS: Final = ("fileResults", "streamResults", "segmentResults", "imageResults")

_Part = tuple[EventType, int, dict[str, Any]]
"""What one canonical event says: its type, its time in ms, its data without the project."""


def canonical(payload: Mapping[str, Any], project: str, source: str = "livekit") -> list[dict[str, Any]]:
    """Turn one decoded webhook body into canonical events (CloudEvents) of a project.

    A webhook that nobody defined, or that shows nothing to meter, gives an empty list. Raises
    InvalidEvent for a body that lacks what its kind of webhook always has, or has it in a wrong form.
    """
    name = _text(payload, "event")
    mapping = _WEBHOOKS.get(name)
    if mapping is None:
        return []
    event_id = _text(payload, "id")
    created_at_ms = _time(payload, "createdAt", unit_ns=_SECOND)
    if created_at_ms is None:
        reason = Reason.IMPOSSIBLE_TIME if payload.get("createdAt") else Reason.MISSING_FIELD
        raise InvalidEvent(reason, "createdAt has to be a time in whole seconds, between 2000 and 2199")
    return [
        {
            "specversion": "1.0",
            "id": event_id if number == 0 else f"{event_id}#{number}",
            "source": source,
            "type": str(event_type),
            "time": format_time(time_ms),
            "subject": data.get("session") or data.get("job") or data["room"],
            "data": {"project": project, **{key: value for key, value in data.items() if value}},
        }
        for number, (event_type, time_ms, data) in enumerate(mapping(payload, created_at_ms))
    ]


def _room_started(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    # The start of this *instance* of the room, not the room's creation: a room that comes back after a
    # crash keeps its id and its creation time, and only a later start tells that the old sessions died (R9).
    started_at = format_time(created_at_ms)
    yield EventType.ROOM_STARTED, created_at_ms, {"room": _room(payload), "started_at": started_at}


def _room_finished(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    yield EventType.ROOM_ENDED, created_at_ms, {"room": _room(payload), "reason": _enum(payload, "roomEndReason")}


def _participant_joined(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    # Sent when media flows (ACTIVE); joinedAt is when signalling began, which is too early to bill.
    for data in _participant(payload):
        yield EventType.SESSION_CONNECTED, created_at_ms, data


def _participant_left(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    participant = _message(payload, "participant")
    joined_at_ms = _time(participant, "joinedAtMs", unit_ns=_MILLISECOND) or _time(
        participant, "joinedAt", unit_ns=_SECOND
    )
    for data in _participant(payload):
        data |= {"connected_at": _written(joined_at_ms), "reason": _enum(participant, "disconnectReason")}
        yield EventType.SESSION_DISCONNECTED, created_at_ms, data


def _participant_aborted(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    reason = _enum(_message(payload, "participant"), "disconnectReason")
    for data in _participant(payload):
        yield EventType.SESSION_ABORTED, created_at_ms, data | {"reason": reason}


def _track(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    # Proof of life only: the participant's kind is not in these webhooks.
    room, session = _label(_message(payload, "room"), "sid"), _label(_message(payload, "participant"), "sid")
    if room and session:
        yield EventType.SESSION_SAMPLED, created_at_ms, {"room": room, "session": session}


def _egress_running(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    # Starting is not recording yet, as joining is not being connected: ACTIVE is (R4).
    info = _message(payload, "egressInfo")
    data = _egress(payload, info)
    if _enum(info, "status") == "EGRESS_ACTIVE":
        yield EventType.SESSION_CONNECTED, _time(info, "updatedAt", unit_ns=_NANOSECOND) or created_at_ms, data
    else:
        yield EventType.SESSION_SAMPLED, created_at_ms, data


def _egress_ended(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    info = _message(payload, "egressInfo")
    if not _label(info, "egressId"):
        return  # an automatic recording that never came to be: it has no id and no start
    data = _egress(payload, info)
    spans = list(_spans(info))
    if spans:
        yield EventType.SESSION_CONNECTED, min(start for start, _ in spans), data
        yield EventType.SESSION_DISCONNECTED, max(end for _, end in spans), data | {"reason": _enum(info, "status")}
    else:
        yield _ended(info, created_at_ms, data)


def _ingress_started(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    state = _message(_message(payload, "ingressInfo"), "state")
    started_at_ms = _time(state, "startedAt", unit_ns=_NANOSECOND) or created_at_ms
    yield EventType.SESSION_CONNECTED, started_at_ms, _ingress(payload, state)


def _ingress_ended(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    state = _message(_message(payload, "ingressInfo"), "state")
    yield _ended(state, created_at_ms, _ingress(payload, state))


def _job(payload: Mapping[str, Any], created_at_ms: int) -> Iterator[_Part]:
    job = _message(payload, "job")
    room, state = _message(job, "room"), _message(job, "state")
    has_ended = payload["event"] == "agent_job_ended"
    yield (
        EventType.JOB_ENDED if has_ended else EventType.JOB_DISPATCHED,
        _time(state, "endedAt" if has_ended else "startedAt", unit_ns=_NANOSECOND) or created_at_ms,
        {
            "room": _label(room, "sid") or _text(room, "name"),
            "job": _text(job, "id"),
            "agent": _label(job, "agentName"),
            "identity": _label(state, "participantIdentity"),
            "status": _enum(state, "status"),
        },
    )


_WEBHOOKS: Final[dict[str, Callable[[Mapping[str, Any], int], Iterator[_Part]]]] = {
    "room_started": _room_started,
    "room_finished": _room_finished,
    "participant_joined": _participant_joined,
    "participant_left": _participant_left,
    "participant_connection_aborted": _participant_aborted,
    "track_published": _track,
    "track_unpublished": _track,
    "egress_started": _egress_running,
    "egress_updated": _egress_running,
    "egress_ended": _egress_ended,
    "ingress_started": _ingress_started,
    "ingress_ended": _ingress_ended,
    "agent_job_pending": _job,
    "agent_job_started": _job,
    "agent_job_ended": _job,
}


def _room(payload: Mapping[str, Any]) -> str:
    """Return the room's id; a room that has none yet is known by its name."""
    room = _message(payload, "room")
    return _label(room, "sid") or _text(room, "name")


def _participant(payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a participant's data; nothing for the recorder's or importer's own participant."""
    participant = _message(payload, "participant")
    kind = _kind(participant.get("kind"))
    if kind in _NOT_METERED:
        return
    attributes = _message(participant, "attributes")
    is_phone = kind == "sip"
    is_inbound = is_phone and bool(_label(attributes, "sip.ruleID"))
    yield {
        "room": _room(payload),
        "session": _text(participant, "sid"),
        "kind": kind,
        # A phone caller's identity is made of the caller's number, which is nobody's business here.
        "identity": "" if is_phone else _label(participant, "identity"),
        "agent": (_label(attributes, "lk.agent_name") or _label(attributes, "lk.agent.name"))
        if kind == "agent"
        else "",
        "number": _label(attributes, "sip.trunkPhoneNumber") if is_inbound else "",
        "region": _label(participant, "region"),
    }


def _kind(value: object) -> str:
    """Return the canonical kind; one that we do not know keeps its own name and is quarantined later (R21)."""
    if value is not None and type(value) not in (str, int):
        raise InvalidEvent(Reason.WRONG_FIELD, "participant.kind has to be an enum value")
    name = "STANDARD" if value is None else str(value)
    if name in _NOT_METERED:
        return name
    unknown = name.lower()
    # Never let an unknown name fall together with one of ours.
    return _KINDS.get(name) or (f"livekit_{unknown}" if unknown in KINDS else unknown)


def _egress(payload: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    egress_id = _text(info, "egressId")
    room = _message(payload, "room")
    return {
        # The recording of a web page has no room: it is a room of its own.
        "room": _label(room, "sid") or _label(info, "roomId") or _label(info, "roomName") or egress_id,
        # One egress id can have several runs.
        "session": _run(egress_id, _time(info, "startedAt", unit_ns=_NANOSECOND)),
        "kind": "egress",
    }


def _ingress(payload: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    info = _message(payload, "ingressInfo")
    ingress_id = _text(info, "ingressId")
    room = _message(payload, "room")
    return {
        "room": _label(room, "sid") or _label(state, "roomId") or _label(info, "roomName") or ingress_id,
        # A reusable ingress keeps its id; every stream into it has a resource id of its own.
        "session": _run(ingress_id, _label(state, "resourceId") or _time(state, "startedAt", unit_ns=_NANOSECOND)),
        "kind": "ingress",
        "identity": _label(info, "participantIdentity"),
    }


def _run(name: str, run: str | int | None) -> str:
    return f"{name}@{run}" if run else name


def _ended(info: Mapping[str, Any], created_at_ms: int, data: dict[str, Any]) -> _Part:
    """Return the end of an egress or ingress; its begin too, unless it may never have carried media (R4)."""
    status = _enum(info, "status")
    started_at_ms = _time(info, "startedAt", unit_ns=_NANOSECOND)
    ended_at_ms = _time(info, "endedAt", unit_ns=_NANOSECOND)
    if ended_at_ms is None or ended_at_ms < (started_at_ms or ended_at_ms):
        ended_at_ms = created_at_ms
    connected_at = "" if status in _FAILED else _written(started_at_ms)
    return EventType.SESSION_DISCONNECTED, ended_at_ms, data | {"connected_at": connected_at, "reason": status}


def _spans(info: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield start and end in ms of every result of a recording; some servers report ends before starts."""
    for name in _RESULTS:
        results = info.get(name) or []
        if not isinstance(results, list) or not all(isinstance(result, Mapping) for result in results):
            raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be a list of objects")
        for result in results:
            start_ms = _time(result, "startedAt", unit_ns=_NANOSECOND)
            end_ms = _time(result, "endedAt", unit_ns=_NANOSECOND)
            if start_ms is not None and end_ms is not None and start_ms <= end_ms:
                yield start_ms, end_ms


def _message(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a nested object; an absent one is empty, as in proto3."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be an object")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    """Return a required identifier; whether it is fit to be one is the core's to judge."""
    value = fields.get(name)
    if value is None or value == "":
        raise InvalidEvent(Reason.MISSING_FIELD, f"{name} is required")
    if not isinstance(value, str):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be text")
    return value


def _label(fields: Mapping[str, Any], name: str) -> str:
    """Return an optional text, '' where it is absent or unfit: a label must not cost us the event."""
    value = fields.get(name)
    fits = isinstance(value, str) and value.isprintable() and len(value) <= MAX_NAME_LENGTH
    return str(value) if fits else ""


def _enum(fields: Mapping[str, Any], name: str) -> str:
    """Return the name of an enum value, '' for the default, digits where the server knew no name."""
    value = fields.get(name)
    return str(value) if type(value) is int else _label(fields, name)


def _time(fields: Mapping[str, Any], name: str, *, unit_ns: int) -> int | None:
    """Return a time in ms, None where it is absent or impossible (some servers write Go's zero time)."""
    value = fields.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < _MAX_DIGITS:
        value = int(value)
    if type(value) is not int:
        return None
    time_ms = value * unit_ns // _MILLISECOND
    return time_ms if EARLIEST_MS <= time_ms < NEVER_MS else None


def _written(time_ms: int | None) -> str:
    return "" if time_ms is None else format_time(time_ms)
