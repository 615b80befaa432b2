"""LiveKit webhooks as canonical events: a whole recorded call down to its minutes."""

import json
from typing import Any

import pytest

from pipeline.livekit.webhooks import canonical
from tests.livekit.webhooks import CALL, minutes_of

_ROOM = "RM_7Yk3hQpWvTzD"
_EGRESS = "EG_Bu37AhhwbBtN"
_INGRESS = "IN_Qx8yPzR4tWvU@RT_d3F5g7H9jK1l"
_MARKER = "planted-secret"
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
    ("payload", "expected"), list(zip(CALL, _EXPECTED, strict=True)), ids=[f"{p['event']}-{p['id']}" for p in CALL]
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
    assert minutes_of(CALL) == {
        "agent_session_minutes": 2,
        "webrtc_minutes": 2,
        "telephony_minutes": 2,
        "phone_inbound_minutes": 2,
        "recording_export_minutes": 2,
        "stream_import_minutes": 2,
    }


def test_a_call_whose_starts_are_all_lost_bills_what_its_ends_tell() -> None:
    """R3: every end tells when its session began; 71 s by signalling is 2 minutes as well."""
    ends = [payload for payload in CALL if not payload["event"].endswith(("_started", "joined", "_updated"))]
    assert minutes_of(ends) == minutes_of(CALL)


def test_a_call_sent_twice_and_backwards_bills_once() -> None:
    """R10: a webhook that is retried has the same ids, in whatever order."""
    assert minutes_of([*CALL, *reversed(CALL)]) == minutes_of(CALL)


def test_no_secret_and_nothing_personal_passes() -> None:
    """Only listed fields pass: markers in all others, at every depth, never show."""
    secret = {"turnPassword": _MARKER, "metadata": _MARKER, "name": _MARKER, "streamKey": _MARKER, "url": _MARKER}
    attributes = {"sip.phoneNumber": _MARKER, "sip.h.x": _MARKER, "lk.agent.state": _MARKER}
    passed = []
    for payload in CALL:
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


def test_canonical_events_of_one_webhook_have_ids_of_their_own() -> None:
    """R14: (source, id) names an event."""
    assert [document["id"] for document in canonical(CALL[16], "acme")] == ["EV_6oMSUAKckZqn", "EV_6oMSUAKckZqn#1"]
