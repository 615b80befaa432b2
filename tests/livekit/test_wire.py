"""LiveKit's webhooks as they are on the wire: whatever its own messages can say, and what they can not.

Messages are filled at random from the descriptors of the official package and written by its own JSON writer. Every
text that is nobody's business is planted with a marker, which must never be seen again.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol.agent import JobStatus
from livekit.protocol.egress import EgressStatus
from livekit.protocol.ingress import IngressState
from livekit.protocol.models import DisconnectReason, ParticipantInfo, RoomEndReason
from livekit.protocol.webhook import WebhookEvent

from pipeline.livekit import protocol
from pipeline.livekit.protocol import FIELDS, unknown_fields
from pipeline.livekit.webhooks import EVENTS, canonical
from pipeline.livekit.wire import snake
from pipeline.metering.events import InvalidEvent, Reason, parse_event
from tests.livekit_server import PLANTED, LivekitServer
from tests.metering.builders import METERS, ROOT

_CALL: Final = [
    json.loads(line) for line in (ROOT / "schemas" / "recordings" / "livekit-call.jsonl").read_text().splitlines()
]
#: The texts that may pass, by message and field; all others are planted.
_MAY_PASS: Final = {
    "livekit.WebhookEvent.event",
    "livekit.WebhookEvent.id",
    "livekit.Room.sid",
    "livekit.ParticipantInfo.sid",
    "livekit.ParticipantInfo.identity",
    "livekit.ParticipantInfo.region",
    "livekit.EgressInfo.egress_id",
    "livekit.EgressInfo.room_id",
    "livekit.IngressInfo.ingress_id",
    "livekit.IngressInfo.participant_identity",
    "livekit.IngressState.room_id",
    "livekit.IngressState.resource_id",
    "livekit.Job.id",
    "livekit.Job.agent_name",
    "livekit.JobState.participant_identity",
}
_ATTRIBUTES: Final = {
    "lk.agent_name": "support",
    "lk.agent.name": "support",
    "sip.trunkPhoneNumber": "+15105550199",
    "sip.ruleID": PLANTED,
    "sip.phoneNumber": PLANTED,
    "sip.h.from": PLANTED,
    "lk.agent.state": PLANTED,
}
#: Kinds of participants whose identity may pass.
_KNOWN_BY_IDENTITY: Final = (ParticipantInfo.STANDARD, ParticipantInfo.AGENT, ParticipantInfo.BRIDGE)
_T0_S: Final = 1_789_999_200
_numbers = st.one_of(
    st.sampled_from([_T0_S * unit for unit in (1, 1_000, 1_000_000, 1_000_000_000)]),
    st.sampled_from([0, 1, -1, -62_135_596_800, 2**63 - 1, -(2**63)]),
    st.integers(-(2**63), 2**63 - 1),
)
_ids = st.sampled_from(["RM_1", "PA_1", "PA_1", "a" * 120, "a" * 300, "a\nb", ""]) | st.text(max_size=9)
_SCALARS: Final[dict[int, st.SearchStrategy[Any]]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_BYTES: st.just(PLANTED.encode()),
    FieldDescriptor.TYPE_DOUBLE: st.just(0.5),
    FieldDescriptor.TYPE_FLOAT: st.just(0.5),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: _numbers,
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
}


def _values(field: Any) -> st.SearchStrategy[Any]:
    """Return what a field (a descriptor, of either implementation) that is no message may hold."""
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from(known) | st.integers(-(2**31), 2**31 - 1)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _ids if field.full_name in _MAY_PASS else st.just(PLANTED)
    return _SCALARS[field.type]


def _fill(draw: st.DrawFn, message: Message, names: set[str], depth: int) -> None:
    """Fill the named fields of a message, and any of the messages within it, `depth` levels down."""
    for field in message.DESCRIPTOR.fields:
        if field.name not in names:
            continue
        inner = field.message_type
        if inner is None:
            if field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(_values(field), max_size=2)))
            else:
                setattr(message, field.name, draw(_values(field)))
        elif inner.GetOptions().map_entry:
            if field.name == "attributes":
                keys = draw(st.sets(st.sampled_from(sorted(_ATTRIBUTES))))
                getattr(message, field.name).update({key: _ATTRIBUTES[key] for key in keys})
        elif depth > 0 and inner.file.package == "livekit":
            part = getattr(message, field.name)
            for place in [part.add() for _ in range(draw(st.integers(0, 2)))] if field.is_repeated else [part]:
                place.SetInParent()
                _fill(draw, place, draw(st.sets(st.sampled_from([each.name for each in inner.fields]))), depth - 1)
    if isinstance(message, ParticipantInfo) and message.kind not in _KNOWN_BY_IDENTITY:
        message.identity = PLANTED


@st.composite
def _webhooks(draw: st.DrawFn) -> WebhookEvent:
    """Draw a webhook of any event, nearly all of its parts filled with nearly anything."""
    names = {field.name for field in WebhookEvent.DESCRIPTOR.fields}
    webhook = WebhookEvent()
    _fill(draw, webhook, names - draw(st.sets(st.sampled_from(sorted(names)), max_size=2)), depth=3)
    webhook.event = draw(st.sampled_from(sorted(EVENTS)))
    if draw(st.sampled_from([*[True] * 7, False])):  # hypothesis prefers the first: most have what they need
        webhook.id, webhook.created_at, webhook.participant.sid = "EV_1", _T0_S, "PA_1"
        webhook.room.sid = draw(st.sampled_from(["RM_1", ""]))
        webhook.egress_info.egress_id, webhook.ingress_info.ingress_id, webhook.job.id = "EG_1", "IN_1", "AJ_1"
    return webhook


def _outcome(payload: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the canonical events of a body, None where it is refused; all else that is raised is a failure."""
    try:
        return canonical(payload, "acme")
    except InvalidEvent as refused:
        assert PLANTED not in str(refused)  # noqa: PT017 - that it is refused is one of two right outcomes
        return None


def _assert_that_the_core_takes(documents: list[dict[str, Any]]) -> None:
    """Every event is one, but for a participant whose kind nobody knows (R21)."""
    for document in documents:
        try:
            assert parse_event(document, METERS) is not None
        except InvalidEvent as refused:
            assert refused.reason is Reason.UNKNOWN_KIND  # noqa: PT017 - as above


@given(_webhooks())
def test_whatever_a_server_can_say_is_understood_or_refused_with_a_reason(webhook: WebhookEvent) -> None:
    """R21: nothing else is raised, and what passes is an event or a quarantined kind."""
    _assert_that_the_core_takes(_outcome(MessageToDict(webhook)) or [])


@given(_webhooks())
def test_nothing_that_is_nobodys_business_passes(webhook: WebhookEvent) -> None:
    """Fields pass by allow-list: the marker was in every other text, at every depth."""
    assert PLANTED not in json.dumps(_outcome(MessageToDict(webhook)))


def _as_numbers(written: Any) -> Any:
    """Return JSON with every 64-bit integer as a number; no identifier of these tests is made of digits alone."""
    if isinstance(written, dict):
        return {name: _as_numbers(value) for name, value in written.items()}
    if isinstance(written, list):
        return [_as_numbers(value) for value in written]
    is_number = isinstance(written, str) and written.removeprefix("-").isascii() and written.removeprefix("-").isdigit()
    return int(written) if is_number else written


_SPELLINGS: Final[dict[str, Callable[[Message], dict[str, Any]]]] = {
    "snake_case": lambda message: MessageToDict(message, preserving_proto_field_name=True),
    "enums as numbers": lambda message: MessageToDict(message, use_integers_for_enums=True),
    "defaults written out": lambda message: MessageToDict(message, always_print_fields_with_no_presence=True),
    "64-bit integers as numbers": lambda message: dict(_as_numbers(MessageToDict(message))),
}


@pytest.mark.parametrize("spelling", _SPELLINGS.values(), ids=_SPELLINGS.keys())
def test_a_call_is_the_same_however_its_bodies_are_spelt(spelling: Callable[[Message], dict[str, Any]]) -> None:
    """Proto3 JSON: a parser has to understand all of these."""
    messages = [ParseDict(payload, WebhookEvent()) for payload in _CALL]
    assert [canonical(spelling(one), "acme") for one in messages] == [canonical(payload, "acme") for payload in _CALL]


@given(_webhooks(), st.sampled_from(["snake_case", "enums as numbers", "defaults written out"]))
def test_any_webhook_is_the_same_however_it_is_spelt(webhook: WebhookEvent, spelling: str) -> None:
    """Proto3 JSON, on what no real call contains."""
    assert _outcome(_SPELLINGS[spelling](webhook)) == _outcome(MessageToDict(webhook))


_json = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**64, -(2**64), 10**4000]),
        st.floats(),
        st.sampled_from(["\ud800", "0", "9" * 20, "9" * 5000, "AGENT", "²"]),
        st.text(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every object or list within a body with each of its keys or places."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


@given(st.sampled_from(_CALL), st.data())
def test_a_body_with_anything_in_the_place_of_anything_is_understood_or_refused(
    payload: dict[str, Any], data: st.DataObject
) -> None:
    """R21: what no server writes, an attacker or a fault may."""
    mutated = json.loads(json.dumps(payload))
    places = list(_places(mutated))
    node, key = places[data.draw(st.integers(0, len(places) - 1))]
    node[key] = data.draw(_json)
    _assert_that_the_core_takes(_outcome(mutated) or [])
    assert unknown_fields(mutated) >= 0


@pytest.mark.parametrize("payload", [{}, {"event": None}, {"event": []}, {"": 1}])
def test_a_body_without_an_event_is_refused(payload: dict[str, Any]) -> None:
    """R21: it is not a webhook."""
    with pytest.raises(InvalidEvent):
        canonical(payload, "acme")


#: What each webhook tells, in the words of the protocol's own list of events; `agent_job_pending` is newer than it.
_TELLS: Final[list[tuple[str, Callable[[LivekitServer], object], list[str]]]] = [
    ("room_started", lambda server: server.room_started("14:00:00"), ["room.started"]),
    ("room_finished", lambda server: server.room_finished("14:00:00"), ["room.ended"]),
    ("participant_joined", lambda server: server.joined("14:00:00", "PA_2"), ["session.connected"]),
    ("participant_left", lambda server: server.left("14:00:00", "PA_1"), ["session.disconnected"]),
    ("participant_connection_aborted", lambda server: server.aborted("14:00:00", "PA_1"), ["session.aborted"]),
    ("track_published", lambda server: server.published("14:00:00", "PA_1"), ["session.sampled"]),
    (
        "track_unpublished",
        lambda server: server.published("14:00:00", "PA_1", "track_unpublished"),
        ["session.sampled"],
    ),
    (
        "egress_started",
        lambda server: server.egress("egress_started", "14:00:00", "EGRESS_STARTING"),
        ["session.sampled"],
    ),
    (
        "egress_updated",
        lambda server: server.egress("egress_updated", "14:00:00", "EGRESS_ACTIVE"),
        ["session.connected"],
    ),
    (
        "egress_ended",
        lambda server: server.egress("egress_ended", "14:00:00", "EGRESS_COMPLETE"),
        ["session.disconnected"],
    ),
    (
        "ingress_started",
        lambda server: server.ingress("ingress_started", "14:00:00", "ENDPOINT_PUBLISHING", started_at="14:00:00"),
        ["session.connected"],
    ),
    (
        "ingress_ended",
        lambda server: server.ingress("ingress_ended", "14:00:00", "ENDPOINT_INACTIVE", started_at="14:00:00"),
        ["session.disconnected"],
    ),
    ("agent_job_pending", lambda server: server.job("agent_job_pending", "14:00:00", "AJ_1"), ["job.dispatched"]),
    ("agent_job_started", lambda server: server.job("agent_job_started", "14:00:00", "AJ_1"), ["job.dispatched"]),
    ("agent_job_ended", lambda server: server.job("agent_job_ended", "14:00:00", "AJ_1"), ["job.ended"]),
]


@pytest.mark.parametrize(("event", "send", "types"), _TELLS, ids=[event for event, _, _ in _TELLS])
def test_every_webhook_of_the_protocol_tells_something(
    event: str, send: Callable[[LivekitServer], object], types: list[str]
) -> None:
    """Canonical event: none of them is ignored, and none tells of another room."""
    server = LivekitServer()
    server.room_started("13:59:00")
    server.joined("13:59:30", "PA_1")
    send(server)
    payload = json.loads(server.bodies[-1])
    documents = canonical(payload, "acme")
    assert (payload["event"], [document["type"] for document in documents]) == (event, types)
    assert {document["data"]["room"] for document in documents} == {"RM_1"}


def test_the_table_above_lists_every_webhook_that_is_understood() -> None:
    """A webhook added to the adapter gets a row."""
    assert {event for event, _, _ in _TELLS} == EVENTS


@pytest.mark.parametrize(
    ("names", "official"),
    [
        (protocol.KIND, ParticipantInfo.Kind.DESCRIPTOR),
        (protocol.KIND_DETAIL, ParticipantInfo.KindDetail.DESCRIPTOR),
        (protocol.DISCONNECT_REASON, DisconnectReason.DESCRIPTOR),
        (protocol.ROOM_END_REASON, RoomEndReason.DESCRIPTOR),
        (protocol.EGRESS_STATUS, EgressStatus.DESCRIPTOR),
        (protocol.INGRESS_STATUS, IngressState.Status.DESCRIPTOR),
        (protocol.JOB_STATUS, JobStatus.DESCRIPTOR),
    ],
)
def test_the_names_of_an_enum_are_the_official_ones(names: dict[int, str], official: EnumDescriptor) -> None:
    """A newer package of the protocol shows here what it has added."""
    assert names == {value.number: value.name for value in official.values}


def test_the_fields_of_a_webhook_are_the_official_ones() -> None:
    """As above; both spellings of each."""
    parts = {"": WebhookEvent.DESCRIPTOR} | {
        field.json_name: field.message_type
        for field in WebhookEvent.DESCRIPTOR.fields
        if field.message_type is not None and field.name != "track"  # nothing of a track is read
    }
    assert {
        part: {field.json_name for field in message.fields} | {field.name for field in message.fields}
        for part, message in parts.items()
    } == FIELDS


def test_the_fields_that_nobody_named_are_counted() -> None:
    """R21: in the body and in its parts, in either spelling; what cannot hold fields has none."""
    body = {"event": "x", "created_at": "1", "future": 1, "room": {"sid": "RM_1", "future": 2, "newer": 3}, "job": 7}
    assert unknown_fields(body) == 3
    assert unknown_fields(_CALL[3]) == 0


@pytest.mark.parametrize(
    ("name", "spelt"), [("sid", "sid"), ("joinedAtMs", "joined_at_ms"), ("egressInfo", "egress_info")]
)
def test_a_name_is_spelt_as_in_the_protocols_own_files(name: str, spelt: str) -> None:
    """Proto3 JSON: the second of two accepted spellings."""
    assert snake(name) == spelt
