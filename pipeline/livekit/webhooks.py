"""LiveKit webhooks to canonical events: one decoded webhook body in, zero or more events out.

Pure. What a webhook says is taken field by field from an allow-list, so that passwords, stream keys, names,
metadata, phone numbers and attributes never pass. How a body is written: `pipeline.livekit.wire`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

from pipeline.livekit import protocol, wire
from pipeline.livekit.wire import MILLISECOND, NANOSECOND, SECOND, Fields
from pipeline.metering.events import EventType, InvalidEvent, Reason
from pipeline.metering.meters import KINDS
from pipeline.metering.units import format_time


class Policy(Protocol):
    """What a project decides about its webhooks (`pipeline.gateway.projects.Project` is one)."""

    @property
    def agents(self) -> Literal["all", "hosted"]:
        """Which AGENT participants are agents: all, or those that LiveKit hosts; others are participants then."""
        ...

    def identity_of(self, identity: str) -> str:
        """Return what is kept of an identity; never asked about a phone caller's."""
        ...


@dataclass(frozen=True, slots=True)
class KeepAll:
    """The policy where no project says otherwise: every agent is one, and identities stay."""

    agents: Literal["all", "hosted"] = "all"

    def identity_of(self, identity: str) -> str:
        """Return the identity as it is."""
        return identity


DEFAULT: Final[Policy] = KeepAll()

#: Participants who are the recorder or the importer itself: egress_* and ingress_* already meter them.
_NOT_METERED: Final = frozenset({"EGRESS", "INGRESS"})
_KINDS: Final = {
    "STANDARD": "participant",
    "CONNECTOR": "participant",
    "BRIDGE": "participant",
    "AGENT": "agent",
    "SIP": "sip",
}
#: Kinds whose identity is not made of a phone number; what a kind unknown to us makes it of, nobody knows.
_WITH_IDENTITY: Final = frozenset({"STANDARD", "BRIDGE", "AGENT"})
#: How LiveKit names a phone caller who has no other name, before the caller's number.
_CALLER: Final = "sip_"
#: What failed shows no time of its own but what its results say.
_FAILED: Final = frozenset({"EGRESS_FAILED", "EGRESS_ABORTED", "ENDPOINT_ERROR"})
_RESULTS: Final = ("fileResults", "streamResults", "segmentResults", "imageResults")

_Part = tuple[EventType, int, dict[str, Any]]
"""What one canonical event says: its type, its time in ms, its data without the project."""


class _Webhook(NamedTuple):
    """A webhook as its mapping sees it; `created_at_ms` is when the server sent it, in whole seconds."""

    body: Fields
    created_at_ms: int
    policy: Policy


def canonical(payload: Fields, project: str, source: str = "livekit", policy: Policy = DEFAULT) -> list[dict[str, Any]]:
    """Turn one decoded webhook body into canonical events (CloudEvents) of a project.

    A webhook that nobody defined, or that shows nothing to meter, gives an empty list. Raises InvalidEvent for a
    body that lacks what its kind of webhook always has, or has it in a wrong form. A participant of a kind unknown
    to us keeps that kind's name, which the core refuses as unknown_kind (R21).
    """
    mapping = _WEBHOOKS.get(wire.identifier(payload, "event"))
    if mapping is None:
        return []
    event_id = wire.identifier(payload, "id")
    created_at_ms = wire.time_ms(payload, "createdAt", SECOND)
    if created_at_ms is None:
        reason = Reason.IMPOSSIBLE_TIME if wire.value(payload, "createdAt") else Reason.MISSING_FIELD
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
        for number, (event_type, time_ms, data) in enumerate(mapping(_Webhook(payload, created_at_ms, policy)))
    ]


def _room_started(webhook: _Webhook) -> Iterator[_Part]:
    # The start of this *instance* of the room, not the room's creation: a room that comes back after a
    # crash keeps its id and its creation time, and only a later start tells that the old sessions died (R9).
    started_at = format_time(webhook.created_at_ms)
    yield EventType.ROOM_STARTED, webhook.created_at_ms, {"room": _room(webhook), "started_at": started_at}


def _room_finished(webhook: _Webhook) -> Iterator[_Part]:
    reason = wire.enum(webhook.body, "roomEndReason", protocol.ROOM_END_REASON)
    yield EventType.ROOM_ENDED, webhook.created_at_ms, {"room": _room(webhook), "reason": reason}


def _participant_joined(webhook: _Webhook) -> Iterator[_Part]:
    # Sent when media flows (ACTIVE); joinedAt is when signalling began, which is too early to bill.
    for data in _participant(webhook):
        yield EventType.SESSION_CONNECTED, webhook.created_at_ms, data


def _participant_left(webhook: _Webhook) -> Iterator[_Part]:
    participant = wire.message(webhook.body, "participant")
    # Servers before 1.8.4 know seconds alone.
    joined_at_ms = wire.time_ms(participant, "joinedAtMs", MILLISECOND) or wire.time_ms(participant, "joinedAt", SECOND)
    for data in _participant(webhook):
        data |= {"connected_at": _written(joined_at_ms), "reason": _disconnect_reason(participant)}
        yield EventType.SESSION_DISCONNECTED, webhook.created_at_ms, data


def _participant_aborted(webhook: _Webhook) -> Iterator[_Part]:
    # It may come after a joined (a race, or a resumed connection): an end then, and never a begin (R4, R5).
    reason = _disconnect_reason(wire.message(webhook.body, "participant"))
    for data in _participant(webhook):
        yield EventType.SESSION_ABORTED, webhook.created_at_ms, data | {"reason": reason}


def _track(webhook: _Webhook) -> Iterator[_Part]:
    # Proof of life only: the participant's kind is not in these webhooks.
    room = wire.label(wire.message(webhook.body, "room"), "sid")
    session = wire.label(wire.message(webhook.body, "participant"), "sid")
    if room and session:
        yield EventType.SESSION_SAMPLED, webhook.created_at_ms, {"room": room, "session": session}


def _egress_running(webhook: _Webhook) -> Iterator[_Part]:
    # Starting is not recording yet, as joining is not being connected: ACTIVE is (R4).
    info = wire.message(webhook.body, "egressInfo")
    data = _egress(webhook, info)
    if wire.enum(info, "status", protocol.EGRESS_STATUS) == "EGRESS_ACTIVE":
        active_at_ms = wire.time_ms(info, "updatedAt", NANOSECOND) or webhook.created_at_ms
        yield EventType.SESSION_CONNECTED, active_at_ms, data
    else:
        yield EventType.SESSION_SAMPLED, webhook.created_at_ms, data


def _egress_ended(webhook: _Webhook) -> Iterator[_Part]:
    info = wire.message(webhook.body, "egressInfo")
    if not wire.value(info, "egressId"):
        return  # an automatic recording that never came to be: it has no id and no start
    data = _egress(webhook, info)
    status = wire.enum(info, "status", protocol.EGRESS_STATUS)
    spans = list(_spans(info))
    if spans:
        yield EventType.SESSION_CONNECTED, min(start for start, _ in spans), data
        yield EventType.SESSION_DISCONNECTED, max(end for _, end in spans), data | {"reason": status}
    else:
        yield _ended(webhook, info, status, data)


def _ingress_started(webhook: _Webhook) -> Iterator[_Part]:
    state = wire.message(wire.message(webhook.body, "ingressInfo"), "state")
    for data in _ingress(webhook, state):
        started_at_ms = wire.time_ms(state, "startedAt", NANOSECOND) or webhook.created_at_ms
        yield EventType.SESSION_CONNECTED, started_at_ms, data


def _ingress_ended(webhook: _Webhook) -> Iterator[_Part]:
    state = wire.message(wire.message(webhook.body, "ingressInfo"), "state")
    for data in _ingress(webhook, state):
        yield _ended(webhook, state, wire.enum(state, "status", protocol.INGRESS_STATUS), data)


def _job(webhook: _Webhook) -> Iterator[_Part]:
    job = wire.message(webhook.body, "job")
    state, job_id = wire.message(job, "state"), wire.identifier(job, "id")
    has_ended = webhook.body["event"] == "agent_job_ended"
    yield (
        EventType.JOB_ENDED if has_ended else EventType.JOB_DISPATCHED,
        wire.time_ms(state, "endedAt" if has_ended else "startedAt", NANOSECOND) or webhook.created_at_ms,
        {
            # A job may be pending before its room is there.
            "room": wire.label(wire.message(job, "room"), "sid") or job_id,
            "job": job_id,
            "agent": wire.label(job, "agentName"),
            "identity": _identity(webhook, state, "participantIdentity"),
            "status": wire.enum(state, "status", protocol.JOB_STATUS),
        },
    )


_WEBHOOKS: Final[dict[str, Callable[[_Webhook], Iterator[_Part]]]] = {
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
#: Every webhook that is understood; any other is ignored (R21).
EVENTS: Final = frozenset(_WEBHOOKS)


def _room(webhook: _Webhook) -> str:
    """Return the room's id; never its name, which is its people's business, and not the same room for long."""
    return wire.identifier(wire.message(webhook.body, "room"), "sid")


def _participant(webhook: _Webhook) -> Iterator[dict[str, Any]]:
    """Yield a participant's data; nothing for the recorder's or importer's own participant."""
    participant = wire.message(webhook.body, "participant")
    name = wire.enum(participant, "kind", protocol.KIND)
    if name in _NOT_METERED:
        return
    kind = _kind(name, participant, webhook.policy)
    attributes = wire.message(participant, "attributes")
    is_inbound = kind == "sip" and bool(wire.label(attributes, "sip.ruleID"))
    yield {
        "room": _room(webhook),
        "session": wire.identifier(participant, "sid"),
        "kind": kind,
        "identity": _identity(webhook, participant, "identity") if name in _WITH_IDENTITY else "",
        "agent": (wire.label(attributes, "lk.agent_name") or wire.label(attributes, "lk.agent.name"))
        if kind == "agent"
        else "",
        "number": wire.label(attributes, "sip.trunkPhoneNumber") if is_inbound else "",
        "region": wire.label(participant, "region"),
    }


def _kind(name: str, participant: Fields, policy: Policy) -> str:
    """Return the canonical kind; one that we do not know keeps its own name and is quarantined later (R21).

    Of a participant's kindDetails only CLOUD_AGENT has a meaning here. Test traffic (SIMULATION) is metered like
    any other: it uses the servers alike, and whoever signs a token could call anybody a test.
    """
    if name == "STANDARD" and wire.is_true(wire.message(participant, "permission"), "agent"):
        name = "AGENT"  # servers from before there were kinds
    if name == "AGENT" and policy.agents == "hosted":
        is_hosted = "CLOUD_AGENT" in wire.enums(participant, "kindDetails", protocol.KIND_DETAIL)
        return "agent" if is_hosted else "participant"
    unknown = name.lower()
    # Never let an unknown name fall together with one of ours.
    return _KINDS.get(name) or (f"livekit_{unknown}" if unknown in KINDS else unknown)


def _identity(webhook: _Webhook, fields: Fields, name: str) -> str:
    """Return what may be known of an identity; nothing of a phone caller's, which is made of the caller's number."""
    identity = wire.label(fields, name)
    return webhook.policy.identity_of(identity) if identity and not identity.startswith(_CALLER) else ""


def _disconnect_reason(participant: Fields) -> str:
    return wire.enum(participant, "disconnectReason", protocol.DISCONNECT_REASON)


def _egress(webhook: _Webhook, info: Fields) -> dict[str, Any]:
    egress_id = wire.identifier(info, "egressId")
    # A recording is tried again under the same id. Its startedAt does not tell the runs apart: within one run
    # egress_started has the launcher's, egress_updated the recorder's, and after a crash egress_ended the launcher's.
    run = wire.count(info, "retryCount")
    return {
        # The recording of a web page has no room: it is a room of its own.
        "room": wire.label(wire.message(webhook.body, "room"), "sid") or wire.label(info, "roomId") or egress_id,
        "session": f"{egress_id}@{run}" if run else egress_id,
        "kind": "egress",
    }


def _ingress(webhook: _Webhook, state: Fields) -> Iterator[dict[str, Any]]:
    """Yield an import's data; nothing while it is in no room yet, or where it never came into one (R4).

    A WHIP stream reports its start before it has joined its room. Its end tells the room and the begin (R3).
    """
    info = wire.message(webhook.body, "ingressInfo")
    ingress_id = wire.identifier(info, "ingressId")
    room = wire.label(wire.message(webhook.body, "room"), "sid") or wire.label(state, "roomId")
    # A reusable ingress keeps its id; every stream into it has a resource id of its own.
    run = wire.label(state, "resourceId", wire.MAX_ID_LENGTH) or wire.time_ms(state, "startedAt", NANOSECOND)
    if room:
        yield {
            "room": room,
            "session": f"{ingress_id}@{run}" if run else ingress_id,
            "kind": "ingress",
            "identity": _identity(webhook, info, "participantIdentity"),
        }


def _ended(webhook: _Webhook, info: Fields, status: str, data: dict[str, Any]) -> _Part:
    """Return the end of an egress or ingress; its begin too, unless it may never have carried media (R4)."""
    started_at_ms = wire.time_ms(info, "startedAt", NANOSECOND)
    ended_at_ms = wire.time_ms(info, "endedAt", NANOSECOND)
    if ended_at_ms is None or ended_at_ms < (started_at_ms or ended_at_ms):
        ended_at_ms = webhook.created_at_ms
    connected_at = "" if status in _FAILED else _written(started_at_ms)
    return EventType.SESSION_DISCONNECTED, ended_at_ms, data | {"connected_at": connected_at, "reason": status}


def _spans(info: Fields) -> Iterator[tuple[int, int]]:
    """Yield start and end in ms of every result of a recording; some servers report ends before starts."""
    for name in _RESULTS:
        for result in wire.messages(info, name):
            start_ms = wire.time_ms(result, "startedAt", NANOSECOND)
            end_ms = wire.time_ms(result, "endedAt", NANOSECOND)
            if start_ms is not None and end_ms is not None and start_ms <= end_ms:
                yield start_ms, end_ms


def _written(time_ms: int | None) -> str:
    return "" if time_ms is None else format_time(time_ms)
