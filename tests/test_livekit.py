"""LiveKit webhooks as canonical events: each webhook on its own, and a whole call down to its minutes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.livekit import EVENTS, canonical
from pipeline.metering.events import InvalidEvent, Reason, parse_event
from pipeline.metering.meters import parse_meters
from pipeline.metering.session import Facts
from pipeline.metering.units import MS_PER_DAY, format_time
from pipeline.metering.usage import usage

_HERE = Path(__file__).parent
_METERS = parse_meters((_HERE.parent / "schemas" / "meters.toml").read_text())
_CALL = [
    json.loads(line)
    for line in (_HERE.parent / "schemas" / "recordings" / "livekit-call.jsonl").read_text().splitlines()
]
_T0_S = 1_789_999_200  # 2026-09-21T14:00:00Z
_ROOM = "RM_7Yk3hQpWvTzD"
_EGRESS = "EG_Bu37AhhwbBtN"
_INGRESS = "IN_Qx8yPzR4tWvU@RT_d3F5g7H9jK1l"
_MARKER = "planted-secret"


def _minutes(payloads: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the minutes of each meter that the payloads bill, through the core."""
    facts = Facts()
    for payload in payloads:
        for document in canonical(payload, "acme"):
            event = parse_event(document, _METERS)
            assert event is not None
            facts.observe(event)
    minutes: dict[str, int] = {}
    for (_, meter, _), cell in usage(facts, _METERS, _T0_S * 1000 + 10 * MS_PER_DAY).items():
        minutes[meter] = minutes.get(meter, 0) + cell.increments
    return minutes


def _webhook(event: str, **parts: Any) -> dict[str, Any]:
    """Return a webhook body with an id, a time and a room, and other parts as given."""
    return {"event": event, "id": "EV_1", "createdAt": str(_T0_S), "room": {"sid": "RM_1", "name": "r"}, **parts}


def _joined(**participant: Any) -> dict[str, Any]:
    return _webhook("participant_joined", participant={"sid": "PA_1", "identity": "ada", **participant})


def _egress(event: str, *, start_s: int | None = None, **info: Any) -> dict[str, Any]:
    started = {} if start_s is None else {"startedAt": _ns(start_s)}
    return _webhook(event, egressInfo={"egressId": "EG_1", "roomId": "RM_1", **started, **info})


def _ingress(event: str, **info: Any) -> dict[str, Any]:
    state = {"roomId": "RM_1", "resourceId": "RT_1", "startedAt": _ns(0)}
    return _webhook(event, ingressInfo={"ingressId": "IN_1", "state": state, **info})


def _ns(after_t0_s: int) -> str:
    return str((_T0_S + after_t0_s) * 1_000_000_000)


def _data(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the data of the one canonical event of a webhook."""
    (document,) = canonical(payload, "acme")
    return dict(document["data"])


_EXPECTED: list[tuple[str, list[tuple[str, str, str]]]] = [
    ("room_started", [("room.started", "14:00:00.000", _ROOM)]),
    ("agent_job_started", [("job.dispatched", "14:00:00.455", "AJ_kYas98RK5hYf")]),
    ("participant_joined", [("session.connected", "14:00:01.000", "PA_eJ8nQ2rUxVbA")]),
    ("participant_joined", [("session.connected", "14:00:04.000", "PA_wq4ZyBmNcLdT")]),
    ("participant_joined", [("session.connected", "14:00:05.000", "PA_Xf5sVhKtR9uE")]),
    ("track_published", [("session.sampled", "14:00:06.000", "PA_wq4ZyBmNcLdT")]),
    ("egress_started", [("session.sampled", "14:00:07.000", _EGRESS)]),
    ("egress_updated", [("session.connected", "14:00:09.000", _EGRESS)]),
    ("ingress_started", [("session.connected", "14:00:18.000", _INGRESS)]),
    ("participant_left", [("session.disconnected", "14:01:14.000", "PA_wq4ZyBmNcLdT")]),
    ("participant_connection_aborted", [("session.aborted", "14:01:20.000", "PA_kL9pOiUyTrEw")]),
    ("ingress_ended", [("session.disconnected", "14:01:30.000", _INGRESS)]),
    ("participant_left", [("session.disconnected", "14:01:35.000", "PA_Xf5sVhKtR9uE")]),
    ("participant_left", [("session.disconnected", "14:01:56.000", "PA_eJ8nQ2rUxVbA")]),
    ("room_finished", [("room.ended", "14:01:56.000", _ROOM)]),
    ("agent_job_ended", [("job.ended", "14:01:56.000", "AJ_kYas98RK5hYf")]),
    (
        "egress_ended",
        [("session.connected", "14:00:09.000", _EGRESS), ("session.disconnected", "14:01:56.000", _EGRESS)],
    ),
]


@pytest.mark.parametrize(
    ("payload", "expected"), list(zip(_CALL, _EXPECTED, strict=True)), ids=[f"{p['event']}-{p['id']}" for p in _CALL]
)
def test_every_webhook_of_a_call_becomes_its_canonical_events(
    payload: dict[str, Any], expected: tuple[str, list[tuple[str, str, str]]]
) -> None:
    """Canonical event: type, time and subject of all that one webhook tells, all in the call's room."""
    documents = canonical(payload, "acme", "livekit/eu-1")
    told = [(document["type"], document["time"][11:-1], document["subject"]) for document in documents]
    assert (payload["event"], told) == expected
    assert {(document["source"], document["data"]["room"]) for document in documents} == {("livekit/eu-1", _ROOM)}


def test_a_whole_call_bills_the_minutes_one_counts_by_hand() -> None:
    """R1, R7, R16: each session is rounded up to minutes by itself.

    agent      14:00:01 to 14:01:56 = 115 s: 2      user   14:00:04 to 14:01:14 = 70 s: 2
    phone      14:00:05 to 14:01:35 =  90 s: 2, inbound on a rented number: 2 there too
    recording  14:00:09 to 14:01:56 = 107 s: 2      RTMP   14:00:18 to 14:01:30 = 72 s: 2
    the caller who never connected: nothing
    """
    assert _minutes(_CALL) == {
        "agent_session_minutes": 2,
        "webrtc_minutes": 2,
        "telephony_minutes": 2,
        "phone_inbound_minutes": 2,
        "recording_export_minutes": 2,
        "stream_import_minutes": 2,
    }


def test_a_call_whose_starts_are_all_lost_bills_what_its_ends_tell() -> None:
    """R3: every end tells when its session began; 71 s by signalling is 2 minutes as well."""
    ends = [payload for payload in _CALL if not payload["event"].endswith(("_started", "_joined", "_updated"))]
    assert _minutes(ends) == _minutes(_CALL)


def test_a_call_sent_twice_and_backwards_bills_once() -> None:
    """R10: a webhook that is retried has the same ids, in whatever order."""
    assert _minutes([*_CALL, *reversed(_CALL)]) == _minutes(_CALL)


def test_a_room_reports_the_start_of_its_instance() -> None:
    """R9: after a crash a room starts again with its old creation time; only createdAt is new."""
    again = _CALL[0] | {"createdAt": str(_T0_S + 600), "id": "EV_again"}
    assert _data(again)["started_at"] == format_time((_T0_S + 600) * 1000)


def test_a_disconnect_tells_its_begin_and_reason() -> None:
    """R3: joinedAtMs, to the millisecond."""
    data = _data(_CALL[9])
    assert (data["connected_at"], data["reason"]) == ("2026-09-21T14:00:03.905Z", "CLIENT_INITIATED")


def test_an_old_server_tells_the_begin_in_seconds() -> None:
    """R3: servers before 1.8.4 have joinedAt alone."""
    left = _webhook("participant_left", participant={"sid": "PA_1", "joinedAt": str(_T0_S - 60)})
    assert _data(left)["connected_at"] == "2026-09-21T13:59:00.000Z"


@pytest.mark.parametrize(
    ("kind", "canonical_kind"),
    [
        (None, "participant"),
        ("STANDARD", "participant"),
        ("CONNECTOR", "participant"),
        ("BRIDGE", "participant"),
        ("AGENT", "agent"),
        ("SIP", "sip"),
        (0, "participant"),
        (3, "sip"),
        (4, "agent"),
        (7, "participant"),
    ],
)
def test_a_kind_of_participant_is_one_of_ours(kind: str | int | None, canonical_kind: str) -> None:
    """R16: the kinds that meters know; STANDARD is left out on the wire, and a number is as good as its name."""
    assert _data(_joined(kind=kind))["kind"] == canonical_kind


@pytest.mark.parametrize("kind", ["HOLOGRAM", 9, 5, -1, "PARTICIPANT", "agent", "SIP2"])
def test_an_unknown_kind_is_quarantined_and_not_billed_as_another(kind: str | int) -> None:
    """R21: the core refuses it as unknown_kind, even where its name looks like one of ours."""
    (document,) = canonical(_joined(kind=kind) | {"event": "participant_left"}, "acme")
    with pytest.raises(InvalidEvent) as refused:
        parse_event(document, _METERS)
    assert refused.value.reason is Reason.UNKNOWN_KIND


@pytest.mark.parametrize("kind", ["EGRESS", "INGRESS"])
@pytest.mark.parametrize("event", ["participant_joined", "participant_left", "participant_connection_aborted"])
def test_a_recorder_in_the_room_is_not_metered_as_a_participant(event: str, kind: str) -> None:
    """R16: egress and ingress are metered by their own webhooks; once is enough."""
    assert canonical(_joined(kind=kind) | {"event": event}, "acme") == []


def test_an_agent_has_its_name_and_a_phone_caller_no_identity() -> None:
    """A caller's identity is made of the caller's phone number."""
    agent, caller = _data(_CALL[2]), _data(_CALL[4])
    assert (agent["agent"], agent["identity"]) == ("support", "agent-AJ_kYas98RK5hYf")
    assert "identity" not in caller


def test_a_call_in_on_a_rented_number_names_the_number() -> None:
    """R16: phone_inbound_minutes need the number; a call out has no dispatch rule and names none."""
    attributes = {"sip.trunkPhoneNumber": "+15105550199", "sip.ruleID": "SDR_1"}
    assert _data(_joined(kind="SIP", attributes=attributes))["number"] == "+15105550199"
    del attributes["sip.ruleID"]
    assert "number" not in _data(_joined(kind="SIP", attributes=attributes))


def test_no_secret_and_nothing_personal_passes() -> None:
    """Only listed fields pass: markers in all others, at every depth, never show."""
    secret = {"turnPassword": _MARKER, "metadata": _MARKER, "name": _MARKER, "streamKey": _MARKER, "url": _MARKER}
    attributes = {"sip.phoneNumber": _MARKER, "sip.h.x": _MARKER, "lk.agent.state": _MARKER}
    passed = []
    for payload in _CALL:
        full = json.loads(json.dumps(payload))
        for part in (
            full.get("room"),
            full.get("participant"),
            full.get("ingressInfo"),
            full.get("job", {}).get("room"),
        ):
            (part or {}).update(secret)
        full.get("participant", {}).setdefault("attributes", {}).update(attributes)
        passed += canonical(full | {"future": _MARKER}, "acme")
    text = json.dumps(passed)
    assert _MARKER not in text
    assert "5105550100" not in text
    assert "SecretR4nd0m" not in text


class _Hashed:
    """A project that keeps no identity but its length, and takes hosted agents alone for agents."""

    agents: Literal["hosted"] = "hosted"

    def identity_of(self, identity: str) -> str:
        return f"{len(identity)} characters"


@pytest.mark.parametrize(
    ("participant", "kind"),
    [
        ({"kind": "AGENT", "kindDetails": ["CLOUD_AGENT"]}, "agent"),
        ({"kind": "AGENT", "kindDetails": ["FORWARDED", "CLOUD_AGENT"]}, "agent"),
        ({"kind": 4, "kind_details": [0]}, "agent"),
        ({"kind": "AGENT", "kindDetails": ["FUTURE", 99]}, "participant"),
        ({"kind": "AGENT"}, "participant"),
        ({"permission": {"agent": True}}, "participant"),
        ({"kindDetails": ["CLOUD_AGENT"]}, "participant"),
        ({"kind": "SIP", "kindDetails": ["CLOUD_AGENT"]}, "sip"),
    ],
)
def test_a_project_may_take_hosted_agents_alone_for_agents(participant: dict[str, Any], kind: str) -> None:
    """R16: an agent without CLOUD_AGENT is a participant like any other then."""
    (document,) = canonical(_joined(**participant), "acme", policy=_Hashed())
    assert document["data"]["kind"] == kind


@pytest.mark.parametrize(
    "participant",
    [
        {"kind": "AGENT", "kindDetails": ["SIMULATION"]},
        {"kind": "AGENT", "attributes": {"lk.publish_on_behalf": "agent-AJ_1"}},
        {"permission": {"agent": True}},
        {"kind": "STANDARD", "permission": {"agent": True, "hidden": True}},
    ],
)
def test_whoever_is_an_agent_is_billed_as_one_unless_the_project_says_otherwise(participant: dict[str, Any]) -> None:
    """R2, R16: test traffic, an avatar beside its agent, and agents of servers that knew no kinds."""
    assert _data(_joined(**participant))["kind"] == "agent"


@pytest.mark.parametrize("permission", [{}, {"agent": False}, {"agent": "yes"}, {"recorder": True}])
def test_a_participant_without_an_agents_permission_is_none(permission: dict[str, Any]) -> None:
    """R16: STANDARD is left out on the wire, and so is a permission that is not given."""
    assert _data(_joined(permission=permission))["kind"] == "participant"


@pytest.mark.parametrize(
    ("payload", "identity"),
    [
        (_joined(), "3 characters"),
        (_joined(kind="AGENT"), "3 characters"),
        (_joined(kind="BRIDGE"), "3 characters"),
        (_webhook("agent_job_started", job={"id": "AJ_1", "state": {"participantIdentity": "bo"}}), "2 characters"),
        (_ingress("ingress_started", participantIdentity="cam"), "3 characters"),
        (_joined(identity=""), None),
        (_joined(kind="SIP"), None),
        (_joined(kind="CONNECTOR"), None),
        (_joined(kind="HOLOGRAM"), None),
        (_joined(identity="sip_+15105550100"), None),
    ],
)
def test_an_identity_passes_as_the_project_wants_it_and_a_callers_never(
    payload: dict[str, Any], identity: str | None
) -> None:
    """Identities of agents and of imports too; of a kind that may be a phone's, none."""
    (document,) = canonical(payload, "acme", policy=_Hashed())
    assert document["data"].get("identity") == identity


def test_a_label_that_is_unfit_does_not_cost_the_event() -> None:
    """R21: an identity may be anything at LiveKit; what the core would refuse is left out."""
    assert "identity" not in _data(_joined(identity="a\nb"))
    assert "identity" not in _data(_joined(identity="a" * 257))


def test_a_recording_is_billed_from_its_first_to_its_last_byte() -> None:
    """R1: results 10 s to 69 s are 1 minute, though the recorder was there from 0 s to 80 s."""
    file = {"startedAt": _ns(10), "endedAt": _ns(69)}
    events = [
        _egress("egress_started", start_s=0),
        _egress("egress_ended", start_s=0, endedAt=_ns(80), status="EGRESS_COMPLETE", fileResults=[file]),
    ]
    assert _minutes(events) == {"recording_export_minutes": 1}


def test_a_recording_with_several_results_is_billed_from_the_first_to_the_last() -> None:
    """R1: a file from 10 s to 30 s and a stream from 20 s to 71 s are 61 s: 2 minutes."""
    results: dict[str, Any] = {
        "fileResults": [{"startedAt": _ns(10), "endedAt": _ns(30)}],
        "streamResults": [{"startedAt": _ns(20), "endedAt": _ns(71)}],
    }
    connected, disconnected = canonical(_egress("egress_ended", status="EGRESS_COMPLETE", **results), "acme")
    assert (connected["time"][14:19], disconnected["time"][14:19]) == ("00:10", "01:11")


@pytest.mark.parametrize("ended_at", [_ns(9), "-62135596800000000000", None])
def test_a_result_that_ends_before_it_starts_is_dropped(ended_at: str | None) -> None:
    """R3: then the recording's own begin and end count: 80 s are 2 minutes."""
    file = {"startedAt": _ns(10), "endedAt": ended_at}
    ended = _egress("egress_ended", start_s=0, endedAt=_ns(80), status="EGRESS_COMPLETE", fileResults=[file])
    assert _minutes([ended]) == {"recording_export_minutes": 2}


def test_a_recording_that_ends_before_it_starts_ends_when_it_is_reported() -> None:
    """R5: from 0 s to the webhook's own time, 70 s, is 2 minutes."""
    ended = _egress("egress_ended", start_s=0, endedAt=_ns(-5), status="EGRESS_COMPLETE")
    assert _minutes([ended | {"createdAt": str(_T0_S + 70)}]) == {"recording_export_minutes": 2}


def test_a_recording_that_failed_before_it_recorded_is_not_billed() -> None:
    """R4: started is not recording; without ACTIVE and without results nothing shows that it was."""
    events = [
        _egress("egress_started", start_s=0),
        _egress("egress_ended", start_s=0, endedAt=_ns(80), status="EGRESS_FAILED"),
    ]
    assert _minutes(events) == {}


def test_two_runs_of_one_recording_are_two_sessions() -> None:
    """R2: a recording that is tried again keeps its id and counts: 10 s and 10 s are 2 minutes."""
    runs = [
        _egress("egress_ended", start_s=at_s, endedAt=_ns(at_s + 10), status="EGRESS_COMPLETE", retryCount=retry)
        for retry, at_s in ((0, 0), (1, 100))
    ]
    assert _minutes(runs) == {"recording_export_minutes": 2}


def test_a_count_of_runs_that_is_none_is_the_first() -> None:
    """Canonical event: an id stays an id, whatever the number."""
    started = _egress("egress_started", retryCount=2**64)
    assert _data(started)["session"] == "EG_1"


def test_one_run_of_a_recording_is_one_session_whatever_its_start() -> None:
    """R2: the launcher tells another startedAt than the recorder: 70 s from ACTIVE to the crash are 2 minutes."""
    events = [
        _egress("egress_started", start_s=0),
        _egress("egress_updated", start_s=1, updatedAt=_ns(2), status="EGRESS_ACTIVE"),
        _egress("egress_ended", start_s=0, endedAt=_ns(72), status="EGRESS_FAILED"),
    ]
    assert _minutes(events) == {"recording_export_minutes": 2}


def test_a_recording_that_never_got_an_id_yields_nothing() -> None:
    """R4: an automatic recording that could not start reports an end without an id."""
    assert canonical(_webhook("egress_ended", egressInfo={"status": "EGRESS_FAILED"}), "acme") == []


def test_the_recording_of_a_web_page_is_a_room_of_its_own() -> None:
    """Canonical event: a room is required, and a web page has none; a room's name is never an id."""
    started = _webhook("egress_started", room={"name": "r"}, egressInfo={"egressId": "EG_web", "roomName": "r"})
    assert _data(started)["room"] == "EG_web"


def test_two_streams_into_one_ingress_are_two_sessions() -> None:
    """R2: a reusable ingress keeps its id; the resource id names the stream."""
    streams = []
    for resource, start_s in (("RT_1", 0), ("RT_2", 100)):
        state = {"roomId": "RM_1", "resourceId": resource, "startedAt": _ns(start_s)}
        streams.append(_webhook("ingress_started", ingressInfo={"ingressId": "IN_1", "state": state}))
        ended = state | {"endedAt": _ns(start_s + 61)}
        streams.append(_webhook("ingress_ended", ingressInfo={"ingressId": "IN_1", "state": ended}))
    assert _minutes(streams) == {"stream_import_minutes": 4}


def test_a_track_of_an_unknown_participant_says_nothing() -> None:
    """R9: a sign of life needs a session that it is of."""
    assert canonical(_webhook("track_published", participant={"identity": "ada"}), "acme") == []


def test_a_job_may_be_pending_before_its_room_is_there() -> None:
    """Canonical event: a room is required; the job is its own until then."""
    data = _data(_webhook("agent_job_pending", job={"id": "AJ_1", "room": {"name": "support"}}))
    assert (data["room"], data["status"]) == ("AJ_1", "JS_PENDING")


def test_a_webhook_that_nobody_defined_is_ignored() -> None:
    """R21: LiveKit adds kinds of webhooks; they are no error."""
    assert canonical(_webhook("room_metadata_changed"), "acme") == []
    assert "room_metadata_changed" not in EVENTS


def test_canonical_events_of_one_webhook_have_ids_of_their_own() -> None:
    """R14: (source, id) names an event."""
    assert [document["id"] for document in canonical(_CALL[16], "acme")] == ["EV_6oMSUAKckZqn", "EV_6oMSUAKckZqn#1"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({}, Reason.MISSING_FIELD),
        ({"event": 7}, Reason.WRONG_FIELD),
        (_joined() | {"id": ""}, Reason.MISSING_FIELD),
        (_joined() | {"createdAt": None}, Reason.MISSING_FIELD),
        (_joined() | {"createdAt": "soon"}, Reason.IMPOSSIBLE_TIME),
        (_joined() | {"createdAt": "1" * 5000}, Reason.IMPOSSIBLE_TIME),
        (_joined() | {"createdAt": 1.5e9}, Reason.IMPOSSIBLE_TIME),
        (_joined() | {"createdAt": "²"}, Reason.IMPOSSIBLE_TIME),
        (_joined() | {"createdAt": "946684799"}, Reason.IMPOSSIBLE_TIME),
        (_joined() | {"createdAt": 7_258_118_400}, Reason.IMPOSSIBLE_TIME),
        (_joined(sid=""), Reason.MISSING_FIELD),
        (_joined(kind=["AGENT"]), Reason.WRONG_FIELD),
        (_joined() | {"room": {}}, Reason.MISSING_FIELD),
        (_joined() | {"room": {"name": "support"}}, Reason.MISSING_FIELD),
        (_joined() | {"id": "E" * 121}, Reason.WRONG_FIELD),
        (_joined(sid="PA\n1"), Reason.WRONG_FIELD),
        (_joined(kind=True), Reason.WRONG_FIELD),
        (_joined(kind=4.5), Reason.WRONG_FIELD),
        (_joined(kind=2**31), Reason.WRONG_FIELD),
        (_joined(kind="+15105550100"), Reason.WRONG_FIELD),
        (_joined(attributes=[]), Reason.WRONG_FIELD),
        (_joined() | {"room": "RM_1"}, Reason.WRONG_FIELD),
        (_egress("egress_ended", fileResults={}) | {"egressInfo": []}, Reason.WRONG_FIELD),
        (_egress("egress_ended", fileResults=[1]), Reason.WRONG_FIELD),
    ],
)
def test_a_malformed_webhook_is_refused_with_a_reason(payload: dict[str, Any], reason: Reason) -> None:
    """R21: the closed list of reasons."""
    with pytest.raises(InvalidEvent) as refused:
        canonical(payload, "acme")
    assert refused.value.reason is reason
