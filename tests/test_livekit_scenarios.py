"""What LiveKit servers really send, scene by scene, and the minutes that one counts by hand.

Each scene goes from bodies through the adapter to the core, is held against the independent oracle, and is tried
in other orders and with repetitions (R10). All is on one day; minutes are of the whole call unless said otherwise.
"""

import json
from collections.abc import Iterable
from random import Random
from typing import Any, Final

import pytest

from pipeline.livekit import DEFAULT, KeepAll, Policy, canonical
from pipeline.metering.events import InvalidEvent, Reason
from pipeline.metering.session import Facts
from pipeline.metering.units import NEVER_MS
from pipeline.metering.usage import usage
from tests.livekit_server import PLANTED, LivekitServer
from tests.metering.builders import METERS, Document, clock, facts_of, parsed, timelines
from tests.oracle import oracle, oracle_verdicts

#: Ten days later: what has not ended by then never will.
_LONG_AFTER: Final = "240:00:00"
_ORDERS: Final = 20


def _documents(bodies: Iterable[bytes], policy: Policy = DEFAULT) -> list[Document]:
    """Return the canonical events of webhook bodies."""
    return [document for body in bodies for document in canonical(json.loads(body), "acme", policy=policy)]


def _facts(bodies: Iterable[bytes], policy: Policy) -> Facts:
    return facts_of(map(parsed, _documents(bodies, policy)))


def _minutes(bodies: list[bytes], as_of: str = _LONG_AFTER, policy: Policy = DEFAULT) -> dict[str, int]:
    """Return the minutes by meter; core and oracle have to agree on them and on every start, end and flag."""
    documents, facts, as_of_ms = _documents(bodies, policy), _facts(bodies, policy), clock(as_of)
    assert PLANTED not in json.dumps(documents)
    cells = usage(facts, METERS, as_of_ms)
    assert cells == oracle(documents, as_of_ms)
    assert _verdicts(documents, as_of_ms) == oracle_verdicts(documents, as_of_ms)
    _assert_that_order_and_repetition_change_nothing(bodies, facts, policy)
    minutes: dict[str, int] = {}
    for (_, meter, _), cell in cells.items():
        minutes[meter] = minutes.get(meter, 0) + cell.increments
    return minutes


def _verdicts(documents: list[Document], as_of_ms: int) -> dict[Any, Any]:
    """Return the core's timelines as the oracle says them: None for an end that is not there."""
    lines = timelines([parsed(document) for document in documents], as_of_ms)
    return {
        key: line and (line[0], None if line.ended_at_ms == NEVER_MS else line.ended_at_ms, *line[2:])
        for key, line in lines.items()
    }


def _assert_that_order_and_repetition_change_nothing(bodies: list[bytes], facts: Facts, policy: Policy) -> None:
    """R10: webhooks come late, twice, and past each other."""
    chance = Random(len(bodies))  # noqa: S311 - the same orders in every run
    for _ in range(_ORDERS):
        order = bodies + chance.choices(bodies, k=chance.randrange(len(bodies)))
        chance.shuffle(order)
        assert _facts(order, policy) == facts


@pytest.fixture
def server() -> LivekitServer:
    """A server on which RM_1 has started at 14:00:00."""
    one = LivekitServer()
    one.room_started("14:00:00")
    return one


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
    assert _minutes(server.bodies) == {"agent_session_minutes": 2, "webrtc_minutes": 2}


def test_an_agent_that_waits_for_its_user_is_billed_while_it_waits(server: LivekitServer) -> None:
    """R3: three minutes alone, one with the user, and the 20 s until the server closes the room on it."""
    server.joined("14:00:00", "PA_agent", kind="AGENT")
    server.joined("14:03:00", "PA_user")
    server.left("14:04:00", "PA_user")
    server.left("14:04:20", "PA_agent", "ROOM_CLOSED")
    server.room_finished("14:04:20")
    assert _minutes(server.bodies) == {"agent_session_minutes": 5, "webrtc_minutes": 1}


def test_a_job_that_never_connects_bills_nothing(server: LivekitServer) -> None:
    """R4: a job was running for a minute, its process came as far as signalling, and that was all."""
    server.job("agent_job_pending", "14:00:00", "AJ_1", "JS_PENDING")
    server.job("agent_job_started", "14:00:01", "AJ_1")
    server.signalled("14:00:02", "PA_agent", kind="AGENT")
    server.aborted("14:01:02", "PA_agent", "JOIN_FAILURE")
    server.job("agent_job_ended", "14:01:02", "AJ_1", "JS_FAILED")
    server.room_finished("14:05:00")
    assert _minutes(server.bodies) == {}


@pytest.mark.parametrize("joined_at", ["14:00:10", "14:00:11"])
def test_a_participant_who_aborts_while_becoming_active_bills_one_minute(server: LivekitServer, joined_at: str) -> None:
    """R5 to R7: the abort ends what the join, sent after it, begins; there will be no other end."""
    server.signalled("14:00:08", "PA_1")
    server.aborted("14:00:10", "PA_1")
    server.joined(joined_at, "PA_1")
    assert _minutes(server.bodies) == {"webrtc_minutes": 1}


def test_a_connection_that_is_resumed_is_one_session(server: LivekitServer) -> None:
    """R2: a resume keeps the sid and sends no webhook: 120 s are two minutes."""
    server.joined("14:00:00", "PA_1")
    server.left("14:02:00", "PA_1")
    assert _minutes(server.bodies) == {"webrtc_minutes": 2}


def test_a_resumed_connection_that_ends_as_aborted_is_billed_to_its_end(server: LivekitServer) -> None:
    """R5: after a resume the server may have forgotten that the participant was active."""
    server.joined("14:00:00", "PA_1")
    server.aborted("14:03:00", "PA_1")
    server.room_finished("14:30:00")
    assert _minutes(server.bodies) == {"webrtc_minutes": 3}


def test_a_full_reconnect_is_a_second_session_that_rounds_up_by_itself(server: LivekitServer) -> None:
    """R2: 30 s and 30 s under two sids are two minutes."""
    server.joined("14:00:00", "PA_1", identity="ada")
    server.left("14:00:30", "PA_1", "STATE_MISMATCH")
    server.joined("14:00:31", "PA_2", identity="ada")
    server.left("14:01:01", "PA_2")
    assert _minutes(server.bodies) == {"webrtc_minutes": 2}


def test_a_duplicate_identity_that_leaves_after_the_other_joined_ends_itself_alone(server: LivekitServer) -> None:
    """R2: 62 s of the old sid are two minutes, 60 s of the new one are one."""
    server.joined("14:00:00", "PA_old", identity="ada")
    server.joined("14:01:00", "PA_new", identity="ada")
    server.left("14:01:02", "PA_old", "DUPLICATE_IDENTITY")
    server.left("14:02:00", "PA_new")
    assert _minutes(server.bodies) == {"webrtc_minutes": 3}


def test_a_crash_of_a_node_ends_its_sessions_where_they_were_last_seen(server: LivekitServer) -> None:
    """R9: no end ever comes; the room starts again under its sid: 4 minutes that can be shown, and 1 after."""
    server.joined("14:00:05", "PA_before")
    server.published("14:04:05", "PA_before")
    server.room_started("14:10:00")
    server.joined("14:10:02", "PA_after")
    server.left("14:11:02", "PA_after")
    assert _minutes(server.bodies) == {"webrtc_minutes": 5}


def test_the_end_of_a_room_that_came_back_from_a_crash_ends_what_was_lost_in_it(server: LivekitServer) -> None:
    """R9: a real end replaces the presumed one: 14:00:05 to 14:20:00 is 20 minutes, as R5 reads."""
    server.joined("14:00:05", "PA_before")
    server.room_started("14:10:00")
    server.room_finished("14:20:00")
    assert _minutes(server.bodies) == {"webrtc_minutes": 20}


def test_a_room_deleted_and_made_again_under_its_sid_has_two_lives(server: LivekitServer) -> None:
    """R5: the first end is not the second life's: 90 s and 120 s are two minutes each."""
    server.joined("14:00:00", "PA_1")
    server.left("14:01:30", "PA_1", "ROOM_DELETED")
    server.room_finished("14:01:30", "ROOM_END_API_DELETE")
    server.room_started("14:01:35")
    server.joined("14:01:36", "PA_2")
    server.left("14:03:36", "PA_2")
    server.room_finished("14:04:00")
    assert _minutes(server.bodies) == {"webrtc_minutes": 4}


def test_who_joins_a_room_that_has_ended_is_not_ended_by_that_end(server: LivekitServer) -> None:
    """R5: some servers let people into a draining room: 60 s are one minute, not a negative one."""
    server.room_finished("14:00:30")
    server.joined("14:00:31", "PA_1")
    server.left("14:01:31", "PA_1", "ROOM_CLOSED")
    assert _minutes(server.bodies) == {"webrtc_minutes": 1}


def test_the_rooms_end_stops_the_meter_before_a_late_left(server: LivekitServer) -> None:
    """R5: whichever occurs first; 120 s, though the left is stamped 3 s later."""
    server.joined("14:00:00", "PA_1")
    server.room_finished("14:02:00")
    server.left("14:02:03", "PA_1", "ROOM_CLOSED")
    assert _minutes(server.bodies) == {"webrtc_minutes": 2}


def test_a_lost_joined_is_recovered_from_the_left(server: LivekitServer) -> None:
    """R3: 14:00:03.905 to 14:01:14 is 70.095 s."""
    server.signalled("14:00:03.905", "PA_1")
    server.left("14:01:14", "PA_1")
    assert _minutes(server.bodies) == {"webrtc_minutes": 2}


@pytest.mark.parametrize(("knows_ms", "minutes"), [(True, 1), (False, 2)])
def test_an_old_server_tells_a_lost_join_in_whole_seconds(knows_ms: bool, minutes: int) -> None:  # noqa: FBT001 - a case
    """R3: 60.1 s after 14:00:03.900, in the whole seconds of a left, is 60 s and 61 s after 14:00:03."""
    server = LivekitServer(knows_ms=knows_ms)
    server.room_started("14:00:00")
    server.signalled("14:00:03.900", "PA_1")
    server.left("14:01:04.000" if not knows_ms else "14:01:03.999", "PA_1")
    assert _minutes(server.bodies) == {"webrtc_minutes": minutes}


def test_a_lost_room_finished_changes_nothing_where_every_left_is_there(server: LivekitServer) -> None:
    """R5: the participant's own end is enough."""
    server.joined("14:00:00", "PA_1")
    server.left("14:01:00", "PA_1")
    assert _minutes(server.bodies) == {"webrtc_minutes": 1}


def test_a_lost_left_is_bounded_by_the_rooms_end(server: LivekitServer) -> None:
    """R5: 14:00:00 to 14:03:00, when the room ended."""
    server.joined("14:00:00", "PA_1")
    server.room_finished("14:03:00")
    assert _minutes(server.bodies) == {"webrtc_minutes": 3}


def test_retries_and_a_second_url_bill_once(server: LivekitServer) -> None:
    """R10: the same bytes, twice to each of two URLs."""
    server.joined("14:00:00", "PA_1")
    server.left("14:01:10", "PA_1")
    server.room_finished("14:01:30")
    assert _minutes(server.bodies * 4) == {"webrtc_minutes": 2}


def test_a_recording_may_report_its_end_after_its_room_has_ended(server: LivekitServer) -> None:
    """R1: 14:00:09 to 14:01:56 is on file: two minutes; the 5 s of uploading after it are nobody's recording."""
    server.egress("egress_started", "14:00:07", "EGRESS_STARTING", started_at="14:00:07")
    server.egress("egress_updated", "14:00:09", "EGRESS_ACTIVE", started_at="14:00:08", updated_at="14:00:09")
    server.room_finished("14:01:56")
    server.egress("egress_ended", "14:02:01", "EGRESS_COMPLETE", files=[("14:00:09", "14:01:56")])
    assert _minutes(server.bodies) == {"recording_export_minutes": 2}


def test_a_recording_that_reports_two_ends_with_two_starts_is_billed_once(server: LivekitServer) -> None:
    """R5: two recorders of one request: from the earlier start, 14:00:09, to the earlier end, 14:01:56."""
    server.egress("egress_started", "14:00:07", "EGRESS_STARTING", started_at="14:00:07")
    server.room_finished("14:01:58")
    for started_at, last in (("14:00:08", "14:01:56"), ("14:00:10", "14:01:58")):
        files = [("14:00:09", last)]
        server.egress("egress_ended", "14:02:03", "EGRESS_COMPLETE", started_at=started_at, ended_at=last, files=files)
    assert _minutes(server.bodies) == {"recording_export_minutes": 2}


def test_a_recording_that_is_tried_again_has_two_runs(server: LivekitServer) -> None:
    """R2: the first failed with 20 s on file, the second wrote 61 s: 1 and 2 minutes under one id."""
    server.egress("egress_ended", "14:00:30", "EGRESS_FAILED", files=[("14:00:09", "14:00:29")])
    server.egress("egress_updated", "14:00:40", "EGRESS_ACTIVE", updated_at="14:00:40", retry_count=1)
    server.egress("egress_ended", "14:01:45", "EGRESS_COMPLETE", files=[("14:00:40", "14:01:41")], retry_count=1)
    assert _minutes(server.bodies) == {"recording_export_minutes": 3}


def test_a_recorder_that_crashes_is_billed_until_its_crash(server: LivekitServer) -> None:
    """R5: the end is told by the launcher, with a startedAt of its own; the room goes on for an hour."""
    server.egress("egress_started", "14:00:07", "EGRESS_STARTING", started_at="14:00:07")
    server.egress("egress_updated", "14:00:09", "EGRESS_ACTIVE", started_at="14:00:08", updated_at="14:00:09")
    server.egress("egress_ended", "14:05:09", "EGRESS_FAILED", started_at="14:00:07", ended_at="14:05:09")
    server.room_finished("15:05:09")
    assert _minutes(server.bodies) == {"recording_export_minutes": 5}


@pytest.mark.parametrize("status", ["EGRESS_FAILED", "EGRESS_ABORTED"])
def test_a_recording_that_fails_before_it_records_bills_nothing(server: LivekitServer, status: str) -> None:
    """R4: it was starting for 80 s, and nothing shows that it ever recorded."""
    server.egress("egress_started", "14:00:00", "EGRESS_STARTING", started_at="14:00:00")
    server.egress("egress_ended", "14:01:20", status, started_at="14:00:00", ended_at="14:01:20")
    server.room_finished("14:05:00")
    assert _minutes(server.bodies) == {}


def test_each_stream_into_a_reusable_import_is_a_session(server: LivekitServer) -> None:
    """R2: 30 s and 61 s into IN_1 are 1 and 2 minutes."""
    for resource, start, end in (("RT_1", "14:00:00", "14:00:30"), ("RT_2", "14:02:00", "14:03:01")):
        stream = {"started_at": start, "resource_id": resource}
        server.ingress("ingress_started", start, "ENDPOINT_PUBLISHING", **stream)
        server.ingress("ingress_ended", end, "ENDPOINT_INACTIVE", ended_at=end, **stream)
    assert _minutes(server.bodies) == {"stream_import_minutes": 3}


def test_an_import_that_starts_before_it_has_joined_its_room_is_one_session(server: LivekitServer) -> None:
    """R3: a WHIP stream's start has no room; its end tells room and begin: 70 s are two minutes."""
    stream = {"started_at": "14:00:00", "resource_id": "WH_1"}
    server.ingress("ingress_started", "14:00:01", "ENDPOINT_PUBLISHING", room_id="", **stream)
    server.ingress("ingress_ended", "14:01:10", "ENDPOINT_INACTIVE", ended_at="14:01:10", **stream)
    assert _minutes(server.bodies) == {"stream_import_minutes": 2}


def test_an_import_that_never_came_into_a_room_bills_nothing(server: LivekitServer) -> None:
    """R4: somebody held the line for a minute and sent nothing."""
    times = {"started_at": "14:00:00", "ended_at": "14:01:00"}
    server.ingress("ingress_ended", "14:01:00", "ENDPOINT_INACTIVE", room_id="", resource_id="RT_1", **times)
    assert _minutes(server.bodies) == {}


def _close_of_a_big_room(server: LivekitServer) -> tuple[list[bytes], list[bytes]]:
    """Let 250 people be seen at 14:09:00 and go at 14:10:00; return what was sent before the close, and at it."""
    people = [f"PA_{number}" for number in range(250)]
    for sid in people:
        server.joined("14:00:00", sid)
        server.published("14:09:00", sid)
    before = list(server.bodies)
    for sid in people:
        server.left("14:10:00", sid, "ROOM_CLOSED")
    server.room_finished("14:10:00")
    return before, server.bodies[len(before) :]


def test_a_close_burst_that_loses_its_tail_bills_the_rest_as_last_seen(server: LivekitServer) -> None:
    """R9: the queue takes 200 of 251: 200 people have ten minutes, 50 the nine that can be shown."""
    before, burst = _close_of_a_big_room(server)
    assert _minutes(before + burst[:200]) == {"webrtc_minutes": 200 * 10 + 50 * 9}


def test_a_close_burst_of_which_only_the_last_arrives_bills_all(server: LivekitServer) -> None:
    """R5: the room's end ends every session in it."""
    before, burst = _close_of_a_big_room(server)
    assert _minutes([*before, burst[-1]]) == {"webrtc_minutes": 250 * 10}


def test_all_within_one_second_is_one_minute(server: LivekitServer) -> None:
    """R7: start of the room, join, left and end have the same createdAt, and no order."""
    server.joined("14:00:00.100", "PA_1")
    server.left("14:00:00.800", "PA_1")
    server.room_finished("14:00:00.900")
    assert _minutes(server.bodies) == {"webrtc_minutes": 1}


def _with(body: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(body) | fields).encode()


def test_an_unknown_webhook_and_unknown_fields_change_nothing(server: LivekitServer) -> None:
    """R21: ignored, at every depth."""
    server.joined("14:00:00", "PA_1")
    joined = server.bodies.pop()
    participant = json.loads(joined)["participant"] | {"hologram": {"kind": "AGENT"}}
    server.bodies.append(_with(joined, participant=participant, futureField=[1]))
    server.left("14:01:00", "PA_1")
    server.bodies.append(_with(joined, event="participant_teleported", id="EV_future"))
    assert _minutes(server.bodies) == {"webrtc_minutes": 1}


def test_a_participant_of_an_unknown_kind_is_quarantined_and_the_others_are_billed(server: LivekitServer) -> None:
    """R21: never billed as another kind; neither is a number that nobody has a name for."""
    body = server.joined("14:00:00", "PA_1")
    server.left("14:01:00", "PA_1")
    for kind in ("HOLOGRAM", 99):
        alien = _with(body, id="EV_alien", participant={"sid": "PA_alien", "kind": kind})
        with pytest.raises(InvalidEvent) as refused:
            _minutes([*server.bodies, alien])
        assert refused.value.reason is Reason.UNKNOWN_KIND
    assert _minutes(server.bodies) == {"webrtc_minutes": 1}


@pytest.mark.parametrize(
    ("ahead_at_join_ms", "ahead_at_left_ms", "left_at", "minutes"),
    [
        (0, 0, "14:01:00", 1),
        (2_000, -2_000, "14:01:00", 1),  # 60 s look like 56 s
        (-2_000, 2_000, "14:01:00", 2),  # and like 64 s
        (2_000, -2_000, "14:01:04", 1),
        (2_000, -2_000, "14:00:03", 1),  # 3 s look like -1 s
    ],
)
def test_servers_whose_clocks_differ_by_two_seconds_each_are_off_by_no_more(
    ahead_at_join_ms: int, ahead_at_left_ms: int, left_at: str, minutes: int
) -> None:
    """R6: what the clocks say is billed; an end before the start is a session of zero length."""
    one, other = LivekitServer("1", skew_ms=ahead_at_join_ms), LivekitServer("2", skew_ms=ahead_at_left_ms)
    for server in (one, other):
        server.room_started("13:59:00")
    one.joined("14:00:00", "PA_1")
    other.signalled("14:00:00", "PA_1")
    other.left(left_at, "PA_1")
    assert _minutes([*one.bodies, other.bodies[-1]]) == {"webrtc_minutes": minutes}


def test_an_orphan_accrues_for_a_day_and_is_then_billed_as_last_seen(server: LivekitServer) -> None:
    """R8, R9: open for 5000 minutes, last seen after 30; six hours in, 360 have begun."""
    server.joined("14:00:00", "PA_1")
    server.published("14:30:00", "PA_1")
    assert _minutes(server.bodies, as_of="20:00:00") == {"webrtc_minutes": 360}
    assert _minutes(server.bodies, as_of="97:20:00") == {"webrtc_minutes": 30}


def test_the_end_of_an_orphan_that_comes_after_all_replaces_the_presumed_one(server: LivekitServer) -> None:
    """R9: it was there for 5000 minutes."""
    server.joined("14:00:00", "PA_1")
    server.left("97:20:00", "PA_1")
    assert _minutes(server.bodies) == {"webrtc_minutes": 5000}


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
    assert _minutes(server.bodies, policy=policy) == minutes


def test_a_phone_call_in_bills_telephony_and_the_rented_number(server: LivekitServer) -> None:
    """R16: 61 s are two minutes on both meters; the caller's number is nowhere."""
    attributes = {"sip.phoneNumber": PLANTED, "sip.trunkPhoneNumber": "+15105550199", "sip.ruleID": "SDR_1"}
    server.joined("14:00:00", "PA_1", kind="SIP", identity=f"sip_{PLANTED}", attributes=attributes)
    server.left("14:01:01", "PA_1")
    assert _minutes(server.bodies) == {"telephony_minutes": 2, "phone_inbound_minutes": 2}
