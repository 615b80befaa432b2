"""What LiveKit servers really send of people, agents and rooms, and the minutes that one counts by hand."""

import pytest

from pipeline.livekit.webhooks import DEFAULT, KeepAll, Policy
from tests.livekit.scenes import minutes_of
from tests.livekit_server import PLANTED, LivekitServer


def test_a_call_of_a_hosted_agent_and_a_user_bills_two_minutes_each(server: LivekitServer) -> None:
    """R1: the agent's 115 s and the user's 70 s, each from ACTIVE on and not from signalling."""
    server.job("agent_job_started", "14:00:00.455", "AJ_1")
    server.signalled("14:00:00.900", "PA_agent", kind="AGENT", kind_details=["CLOUD_AGENT"])
    server.joined("14:00:01.087", "PA_agent")
    server.signalled("14:00:03.905", "PA_user")
    server.joined("14:00:04.200", "PA_user")
    server.left("14:01:14.100", "PA_user")
    server.left("14:01:56.300", "PA_agent", "ROOM_CLOSED")
    server.room_finished("14:01:56.400")
    server.job("agent_job_ended", "14:01:56.500", "AJ_1", "JS_SUCCESS")
    assert minutes_of(server.bodies) == {"agent_session_minutes": 2, "webrtc_minutes": 2}


def test_an_agent_that_waits_for_its_user_is_billed_while_it_waits(server: LivekitServer) -> None:
    """R3: three minutes alone, one with the user, and the 20 s until the server closes the room on it."""
    server.joined("14:00:00", "PA_agent", kind="AGENT")
    server.joined("14:03:00", "PA_user")
    server.left("14:04:00", "PA_user")
    server.left("14:04:20", "PA_agent", "ROOM_CLOSED")
    server.room_finished("14:04:20")
    assert minutes_of(server.bodies) == {"agent_session_minutes": 5, "webrtc_minutes": 1}


def test_a_job_that_never_connects_bills_nothing(server: LivekitServer) -> None:
    """R4: a job was running for a minute, its process came as far as signalling, and that was all."""
    server.job("agent_job_pending", "14:00:00", "AJ_1", "JS_PENDING")
    server.job("agent_job_started", "14:00:01", "AJ_1")
    server.signalled("14:00:02", "PA_agent", kind="AGENT")
    server.aborted("14:01:02", "PA_agent", "JOIN_FAILURE")
    server.job("agent_job_ended", "14:01:02", "AJ_1", "JS_FAILED")
    server.room_finished("14:05:00")
    assert minutes_of(server.bodies) == {}


@pytest.mark.parametrize("joined_at", ["14:00:10", "14:00:11"])
def test_a_participant_who_aborts_while_becoming_active_bills_one_minute(server: LivekitServer, joined_at: str) -> None:
    """R5 to R7: the abort ends what the join, sent after it, begins; there will be no other end."""
    server.signalled("14:00:08", "PA_1")
    server.aborted("14:00:10", "PA_1")
    server.joined(joined_at, "PA_1")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 1}


def test_a_connection_that_is_resumed_is_one_session(server: LivekitServer) -> None:
    """R2: a resume keeps the sid and sends no webhook: 120 s are two minutes."""
    server.joined("14:00:00", "PA_1")
    server.left("14:02:00", "PA_1")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 2}


def test_a_resumed_connection_that_ends_as_aborted_is_billed_to_its_end(server: LivekitServer) -> None:
    """R5: after a resume the server may have forgotten that the participant was active."""
    server.joined("14:00:00", "PA_1")
    server.aborted("14:03:00", "PA_1")
    server.room_finished("14:30:00")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 3}


def test_a_full_reconnect_is_a_second_session_that_rounds_up_by_itself(server: LivekitServer) -> None:
    """R2: 30 s and 30 s under two sids are two minutes."""
    server.joined("14:00:00", "PA_1", identity="ada")
    server.left("14:00:30", "PA_1", "STATE_MISMATCH")
    server.joined("14:00:31", "PA_2", identity="ada")
    server.left("14:01:01", "PA_2")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 2}


def test_a_duplicate_identity_that_leaves_after_the_other_joined_ends_itself_alone(server: LivekitServer) -> None:
    """R2: 62 s of the old sid are two minutes, 60 s of the new one are one."""
    server.joined("14:00:00", "PA_old", identity="ada")
    server.joined("14:01:00", "PA_new", identity="ada")
    server.left("14:01:02", "PA_old", "DUPLICATE_IDENTITY")
    server.left("14:02:00", "PA_new")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 3}


def test_a_crash_of_a_node_ends_its_sessions_where_they_were_last_seen(server: LivekitServer) -> None:
    """R9: no end ever comes; the room starts again under its sid: 4 minutes that can be shown, and 1 after."""
    server.joined("14:00:05", "PA_before")
    server.published("14:04:05", "PA_before")
    server.room_started("14:10:00")
    server.joined("14:10:02", "PA_after")
    server.left("14:11:02", "PA_after")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 5}


def test_the_end_of_a_room_that_came_back_from_a_crash_ends_what_was_lost_in_it(server: LivekitServer) -> None:
    """R9: a real end replaces the presumed one: 14:00:05 to 14:20:00 is 20 minutes, as R5 reads."""
    server.joined("14:00:05", "PA_before")
    server.room_started("14:10:00")
    server.room_finished("14:20:00")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 20}


def test_a_room_deleted_and_made_again_under_its_sid_has_two_lives(server: LivekitServer) -> None:
    """R5: the first end is not the second life's: 90 s and 120 s are two minutes each."""
    server.joined("14:00:00", "PA_1")
    server.left("14:01:30", "PA_1", "ROOM_DELETED")
    server.room_finished("14:01:30", "ROOM_END_API_DELETE")
    server.room_started("14:01:35")
    server.joined("14:01:36", "PA_2")
    server.left("14:03:36", "PA_2")
    server.room_finished("14:04:00")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 4}


def test_who_joins_a_room_that_has_ended_is_not_ended_by_that_end(server: LivekitServer) -> None:
    """R5: some servers let people into a draining room: 60 s are one minute, not a negative one."""
    server.room_finished("14:00:30")
    server.joined("14:00:31", "PA_1")
    server.left("14:01:31", "PA_1", "ROOM_CLOSED")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 1}


def test_the_rooms_end_stops_the_meter_before_a_late_left(server: LivekitServer) -> None:
    """R5: whichever occurs first; 120 s, though the left is stamped 3 s later."""
    server.joined("14:00:00", "PA_1")
    server.room_finished("14:02:00")
    server.left("14:02:03", "PA_1", "ROOM_CLOSED")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 2}


def test_all_within_one_second_is_one_minute(server: LivekitServer) -> None:
    """R7: start of the room, join, left and end have the same createdAt, and no order."""
    server.joined("14:00:00.100", "PA_1")
    server.left("14:00:00.800", "PA_1")
    server.room_finished("14:00:00.900")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 1}


@pytest.mark.parametrize(
    ("policy", "minutes"),
    [
        (DEFAULT, {"agent_session_minutes": 3}),
        (KeepAll(agents="hosted"), {"agent_session_minutes": 1, "webrtc_minutes": 2}),
    ],
)
def test_a_project_may_bill_its_own_agents_as_participants(
    server: LivekitServer, policy: Policy, minutes: dict[str, int]
) -> None:
    """R16: the hosted agent has 60 s, the self-hosted one 90 s."""
    server.joined("14:00:00", "PA_hosted", kind="AGENT", kind_details=["CLOUD_AGENT"])
    server.joined("14:00:00", "PA_own", kind="AGENT")
    server.left("14:01:00", "PA_hosted")
    server.left("14:01:30", "PA_own")
    assert minutes_of(server.bodies, policy=policy) == minutes


def test_a_phone_call_in_bills_telephony_and_the_rented_number(server: LivekitServer) -> None:
    """R16: 61 s are two minutes on both meters; the caller's number is nowhere."""
    attributes = {"sip.phoneNumber": PLANTED, "sip.trunkPhoneNumber": "+15105550199", "sip.ruleID": "SDR_1"}
    server.joined("14:00:00", "PA_1", kind="SIP", identity=f"sip_{PLANTED}", attributes=attributes)
    server.left("14:01:01", "PA_1")
    assert minutes_of(server.bodies) == {"telephony_minutes": 2, "phone_inbound_minutes": 2}
