"""LiveKit webhooks as canonical events: each field by itself, and what is refused."""

from typing import Any

import pytest

from pipeline.livekit.webhooks import EVENTS, canonical
from pipeline.metering.events import InvalidEvent, Reason
from pipeline.metering.units import format_time
from tests.livekit.webhooks import CALL, T0_S, data_of, egress, joined, webhook


def test_a_room_reports_the_start_of_its_instance() -> None:
    """R9: after a crash a room starts again with its old creation time; only createdAt is new."""
    again = CALL[0] | {"createdAt": str(T0_S + 600), "id": "EV_again"}
    assert data_of(again)["started_at"] == format_time((T0_S + 600) * 1000)


def test_a_disconnect_tells_its_begin_and_reason() -> None:
    """R3: joinedAtMs, to the millisecond."""
    data = data_of(CALL[9])
    assert (data["connected_at"], data["reason"]) == ("2026-09-21T14:00:03.905Z", "CLIENT_INITIATED")


def test_an_old_server_tells_the_begin_in_seconds() -> None:
    """R3: servers before 1.8.4 have joinedAt alone."""
    left = webhook("participant_left", participant={"sid": "PA_1", "joinedAt": str(T0_S - 60)})
    assert data_of(left)["connected_at"] == "2026-09-21T13:59:00.000Z"


def test_a_track_of_an_unknown_participant_says_nothing() -> None:
    """R9: a sign of life needs a session that it is of."""
    assert canonical(webhook("track_published", participant={"identity": "ada"}), "acme") == []


def test_a_job_may_be_pending_before_its_room_is_there() -> None:
    """Canonical event: a room is required; the job is its own until then."""
    data = data_of(webhook("agent_job_pending", job={"id": "AJ_1", "room": {"name": "support"}}))
    assert (data["room"], data["status"]) == ("AJ_1", "JS_PENDING")


def test_a_webhook_that_nobody_defined_is_ignored() -> None:
    """R21: LiveKit adds kinds of webhooks; they are no error."""
    assert canonical(webhook("room_metadata_changed"), "acme") == []
    assert "room_metadata_changed" not in EVENTS


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({}, Reason.MISSING_FIELD),
        ({"event": 7}, Reason.WRONG_FIELD),
        (joined() | {"id": ""}, Reason.MISSING_FIELD),
        (joined() | {"createdAt": None}, Reason.MISSING_FIELD),
        (joined() | {"createdAt": "soon"}, Reason.IMPOSSIBLE_TIME),
        (joined() | {"createdAt": "1" * 5000}, Reason.IMPOSSIBLE_TIME),
        (joined() | {"createdAt": 1.5e9}, Reason.IMPOSSIBLE_TIME),
        (joined() | {"createdAt": "²"}, Reason.IMPOSSIBLE_TIME),
        (joined() | {"createdAt": "946684799"}, Reason.IMPOSSIBLE_TIME),
        (joined() | {"createdAt": 7_258_118_400}, Reason.IMPOSSIBLE_TIME),
        (joined(sid=""), Reason.MISSING_FIELD),
        (joined(kind=["AGENT"]), Reason.WRONG_FIELD),
        (joined() | {"room": {}}, Reason.MISSING_FIELD),
        (joined() | {"room": {"name": "support"}}, Reason.MISSING_FIELD),
        (joined() | {"id": "E" * 121}, Reason.WRONG_FIELD),
        (joined(sid="PA\n1"), Reason.WRONG_FIELD),
        (joined(kind=True), Reason.WRONG_FIELD),
        (joined(kind=4.5), Reason.WRONG_FIELD),
        (joined(kind=2**31), Reason.WRONG_FIELD),
        (joined(kind="+15105550100"), Reason.WRONG_FIELD),
        (joined(attributes=[]), Reason.WRONG_FIELD),
        (joined() | {"room": "RM_1"}, Reason.WRONG_FIELD),
        (egress("egress_ended", fileResults={}) | {"egressInfo": []}, Reason.WRONG_FIELD),
        (egress("egress_ended", fileResults=[1]), Reason.WRONG_FIELD),
    ],
)
def test_a_malformed_webhook_is_refused_with_a_reason(payload: dict[str, Any], reason: Reason) -> None:
    """R21: the closed list of reasons."""
    with pytest.raises(InvalidEvent) as refused:
        canonical(payload, "acme")
    assert refused.value.reason is reason
