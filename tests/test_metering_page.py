"""The pricing page, rule by rule. The number in each docstring is the rule's."""

import pytest

from tests.metering.builders import (
    Document,
    aborted,
    absent,
    amended,
    bill,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    of_room,
    parsed,
    sampled,
    timelines,
)

_LATER = "20:00:00"
_AGENT = "agent_session_minutes"
_14 = (_AGENT, "14")
_15 = (_AGENT, "15")


def _session(seconds: str, session: str = "PA_1") -> list[Document]:
    """Return a session that starts at 14:00:00 and ends so many seconds later."""
    length_ms = int(float(seconds) * 1_000)
    start_ms = clock("14:00:00")
    return [connected(start_ms, session), disconnected(start_ms + length_ms, session)]


@pytest.mark.parametrize(
    ("seconds", "minutes"),
    [("0", 1), ("0.001", 1), ("10", 1), ("59.999", 1), ("60", 1), ("60.001", 2), ("70", 2), ("120", 2), ("3599", 60)],
)
def test_a_session_is_billed_by_the_begun_minute(seconds: str, minutes: int) -> None:
    """R1, R7: time is rounded up to whole minutes; 10 s are 1 minute, 70 s are 2."""
    assert bill(_session(seconds), _LATER) == {_14: minutes}


def test_each_session_is_rounded_up_before_sessions_are_added() -> None:
    """R1: two sessions of 10 s are 2 minutes, not 1."""
    assert bill(_session("10", "PA_1") + _session("10", "PA_2"), _LATER) == {_14: 2}


def test_a_minute_belongs_to_the_hour_in_which_it_begins() -> None:
    """R1: 14:58:30 to 15:00:45 begins minutes at 14:58:30, 14:59:30 and 15:00:30."""
    assert bill([connected("14:58:30"), disconnected("15:00:45")], _LATER) == {_14: 2, _15: 1}


def test_a_minute_that_runs_over_the_hour_is_not_billed_in_both() -> None:
    """R1: 14:59:59 to 15:00:59 is one minute, and it began at 14:59:59."""
    assert bill([connected("14:59:59"), disconnected("15:00:59")], _LATER) == {_14: 1}


def test_a_session_that_starts_with_the_hour_is_billed_in_that_hour() -> None:
    """R1: an hour begins with its first millisecond and ends before the next one's."""
    assert bill([connected("14:00:00"), disconnected("15:00:00")], _LATER) == {_14: 60}


def test_the_hours_of_a_session_add_up_to_its_rounded_total() -> None:
    """R1: 3 h 20 min and 1 ms from 14:30:15 on are 201 minutes, however they are spread."""
    billed = bill([connected("14:30:15"), disconnected("17:50:15.001")], _LATER)
    assert billed == {_14: 30, _15: 60, (_AGENT, "16"): 60, (_AGENT, "17"): 51}


def test_a_reconnect_is_a_session_of_its_own() -> None:
    """R2: a new connection id rounds up on its own, also when the participant is the same."""
    first = [connected("14:00:00", identity="agent-1"), disconnected("14:00:30")]
    second = [connected("14:00:31", session="PA_2", identity="agent-1"), disconnected("14:01:01", session="PA_2")]
    assert bill(first + second, _LATER) == {_14: 2}


def test_the_same_connection_id_in_another_room_is_another_session() -> None:
    """R2: a session is a connection to one room."""
    other = [connected("14:00:00", room="RM_2"), disconnected("14:00:10", room="RM_2")]
    assert bill(_session("10") + other, _LATER) == {_14: 2}


def test_metering_starts_with_the_earliest_connect() -> None:
    """R3: a connect that is reported twice with two times counts from the earlier one."""
    assert bill([connected("14:00:30"), connected("14:00:00"), disconnected("14:01:10")], _LATER) == {_14: 2}


def test_a_lost_connect_is_recovered_from_the_disconnect() -> None:
    """R3: the disconnect reports when the connection began."""
    log = [disconnected("14:02:10", kind="agent", connected_at="2026-09-21T14:00:00Z")]
    assert bill(log, _LATER) == {_14: 3}


def test_an_observed_connect_counts_before_a_reported_one() -> None:
    """R3: what a disconnect reports is used only where no connect is known."""
    log = [connected("14:01:00"), disconnected("14:02:00", connected_at="2026-09-21T13:00:00Z")]
    assert bill(log, _LATER) == {_14: 1}


def test_an_end_without_any_start_is_not_billed() -> None:
    """R3: without a begin there is nothing to measure."""
    assert bill([disconnected("14:02:10", kind="agent")], _LATER) == {}


def test_a_job_that_never_connects_is_not_billed() -> None:
    """R4: dispatching, ringing and giving up cost nothing."""
    job = [of_room("job.dispatched", "14:00:00", job="AJ_1"), of_room("job.ended", "14:00:10", job="AJ_1")]
    assert bill([*job, aborted("14:00:09", kind="agent"), of_room("room.ended", "14:01:00")], _LATER) == {}


def test_signs_of_life_alone_start_nothing() -> None:
    """R4: a sample of a session that never connected is no session."""
    assert bill([sampled("14:00:00", kind="agent"), sampled("14:30:00", kind="agent")], _LATER) == {}


@pytest.mark.parametrize("log", [[disconnected("14:01:00"), disconnected("14:09:00")], [aborted("14:01:00")]])
def test_metering_stops_with_the_earliest_disconnect_or_abort(log: list[Document]) -> None:
    """R5: what comes after the first end does not count."""
    assert bill([connected("14:00:00"), *log], _LATER) == {_14: 1}


def test_metering_stops_when_the_room_ends_before_the_participant_leaves() -> None:
    """R5: whichever occurs first."""
    log = [connected("14:00:00"), of_room("room.ended", "14:01:40"), disconnected("14:08:20")]
    assert bill(log, _LATER) == {_14: 2}


def test_metering_stops_when_the_participant_leaves_before_the_room_ends() -> None:
    """R5: whichever occurs first."""
    log = [connected("14:00:00"), disconnected("14:01:40"), of_room("room.ended", "14:08:20")]
    assert bill(log, _LATER) == {_14: 2}


def test_a_room_end_stops_every_session_in_the_room() -> None:
    """R5: no disconnect has to be seen."""
    log = [connected("14:00:00"), connected("14:00:30", session="PA_2"), of_room("room.ended", "14:02:00")]
    assert bill(log, _LATER) == {_14: 4}


def test_an_earlier_life_of_a_room_does_not_end_a_later_one() -> None:
    """R5: a room id can be used again; its ends before the start are another life's."""
    log = [of_room("room.ended", "13:59:00"), connected("14:00:00"), of_room("room.ended", "14:05:00")]
    assert bill(log, _LATER) == {_14: 5}


def test_the_first_room_end_after_the_start_counts_and_not_the_last() -> None:
    """R5: a second life's end does not stretch the first life's sessions."""
    log = [connected("14:00:00"), of_room("room.ended", "14:30:00"), of_room("room.ended", "14:05:00")]
    assert bill(log, _LATER) == {_14: 5}


def test_an_end_before_the_start_is_a_session_of_no_length() -> None:
    """R6, R7: clocks differ between servers; it bills its minute, in the hour of its start, and is flagged."""
    log = [connected("14:00:10"), disconnected("13:59:08")]
    assert bill(log, _LATER) == {_14: 1}
    line = timelines([parsed(document) for document in log], clock(_LATER))["acme", "RM_1", "PA_1"]
    assert line is not None
    assert line.clock_skew


@pytest.mark.parametrize(
    ("as_of", "billed"),
    [
        ("14:00:00", {}),
        ("14:00:00.001", {_14: 1}),
        ("14:01:00", {_14: 1}),
        ("14:01:00.001", {_14: 2}),
        ("15:00:00", {_14: 60}),
        ("15:30:00", {_14: 60, _15: 30}),
    ],
)
def test_an_open_session_shows_the_minutes_it_has_begun(as_of: str, billed: dict[tuple[str, str], int]) -> None:
    """R8: usage accrues while the session lasts."""
    assert bill([connected("14:00:00")], as_of) == billed


def test_a_late_end_shrinks_what_an_open_session_had_accrued() -> None:
    """R8: the end decides, whenever it is learned."""
    assert bill([connected("14:00:00")], "14:30:00") == {_14: 30}
    assert bill([connected("14:00:00"), disconnected("14:10:00")], "14:30:00") == {_14: 10}


def test_an_orphan_is_billed_up_to_where_it_was_last_seen() -> None:
    """R9: after a day of silence only what can be shown is billed."""
    log = [connected("14:00:00"), sampled("14:02:05")]
    assert bill(log, "38:02:04")[_15] == 60
    assert bill(log, "38:02:05") == {_14: 3}


@pytest.mark.parametrize(
    "again", [of_room("room.started", "14:10:00"), event("server.restarted", "14:10:00")], ids=["room", "server"]
)
def test_a_room_or_server_that_begins_anew_ends_its_silent_sessions(again: Document) -> None:
    """R9: at once, where they were last seen; a session that is seen again goes on."""
    assert bill([connected("14:00:00"), sampled("14:02:05"), again], "14:30:00") == {_14: 3}
    assert bill([connected("14:00:00"), sampled("14:10:05"), again], "14:30:00") == {_14: 30}


def test_a_session_that_its_server_does_not_know_any_more_ends_where_it_was_last_seen() -> None:
    """R9, as for a server that restarts: it is presumed, until something real is heard of the session."""
    log = [connected("14:00:00"), sampled("14:02:05"), absent("14:10:00")]
    assert bill(log, "14:30:00") == {_14: 3}
    assert bill([*log, disconnected("14:12:00")], "14:30:00") == {_14: 12}


def test_a_session_first_heard_of_from_its_server_is_billed_from_the_begin_that_it_reports() -> None:
    """R3: as for a disconnect whose connect was lost; a connect that arrives late replaces it."""
    log = [sampled("14:20:00", kind="agent", connected_at="2026-09-21T14:10:00Z"), disconnected("14:30:00")]
    assert bill(log, _LATER) == {_14: 20}
    assert bill([*log, connected("14:10:30")], _LATER) == {_14: 20}
    assert bill([*log, connected("14:11:00")], _LATER) == {_14: 19}


def test_an_operator_may_void_a_session_and_set_its_start_and_end() -> None:
    """R12: in place of what was observed, before and after the amendment alike."""
    log = [connected("14:00:00"), disconnected("14:30:00")]
    assert bill([*log, amended("15:00:00", void=True)], _LATER) == {}
    assert bill([*log, amended("15:00:00", started_at="2026-09-21T14:20:00Z")], _LATER) == {_14: 10}
    assert bill([amended("15:00:00", ended_at="2026-09-21T14:05:00Z"), *log], _LATER) == {_14: 5}


def test_the_amendment_of_the_highest_epoch_wins_and_one_that_sets_nothing_takes_it_back() -> None:
    """R12: whatever the order in which they arrive."""
    log = [connected("14:00:00"), disconnected("14:30:00"), amended("15:00:00", void=True)]
    assert bill([amended("15:10:00", 2, ended_at="2026-09-21T14:05:00Z"), *log], _LATER) == {_14: 5}
    assert bill([amended("15:10:00", 2), *log], _LATER) == {_14: 30}


def test_the_start_of_a_sessions_own_room_does_not_end_it() -> None:
    """R9: a start that is reported late still names the instance's own begin."""
    log = [connected("14:00:00"), of_room("room.started", "14:00:05", started_at="2026-09-21T13:59:59Z")]
    assert bill(log, "14:30:00") == {_14: 30}


def test_a_real_end_replaces_a_presumed_one() -> None:
    """R9: earlier or later."""
    orphan = [connected("14:00:00"), event("server.restarted", "14:10:00")]
    assert bill([*orphan, disconnected("14:20:00")], _LATER) == {_14: 20}


def test_the_same_events_in_any_order_and_twice_bill_once() -> None:
    """R10: order and repetition do not matter (all of it: tests/metering/test_session_laws.py)."""
    log = [connected("14:00:00"), disconnected("14:01:10"), of_room("room.ended", "14:05:00")]
    assert bill(log[::-1] + log, _LATER) == bill(log, _LATER) == {_14: 2}


@pytest.mark.parametrize(
    ("kind", "number", "meters"),
    [
        ("agent", "", {"agent_session_minutes"}),
        ("participant", "", {"webrtc_minutes"}),
        ("sip", "", {"telephony_minutes"}),
        ("sip", "+15550100", {"telephony_minutes", "phone_inbound_minutes"}),
        ("ingress", "", {"stream_import_minutes"}),
        ("egress", "", {"recording_export_minutes"}),
        ("participant", "+15550100", {"webrtc_minutes"}),
    ],
)
def test_each_kind_of_session_feeds_its_own_meters(kind: str, number: str, meters: set[str]) -> None:
    """R16: a call that came in on a rented number feeds two."""
    log = [connected("14:00:00", kind=kind, number=number), disconnected("14:01:10")]
    assert bill(log, _LATER) == {(meter, "14"): 2 for meter in meters}


def test_a_session_whose_kind_nobody_told_is_not_billed_as_another_kind() -> None:
    """R16, R21: its facts are kept until an event tells it."""
    log = [disconnected("14:02:10", connected_at="2026-09-21T14:00:00Z")]
    assert bill(log, _LATER) == {}
    assert bill([*log, sampled("14:01:00", kind="agent")], _LATER) == {_14: 3}


def test_projects_are_billed_apart() -> None:
    """R17: another project's session in a room of the same id is on its own bill."""
    log = [*_session("10"), connected("14:00:00", project="globex"), disconnected("14:30:00", project="globex")]
    assert bill(log, _LATER) == {_14: 1}
    assert set(facts_of(map(parsed, log)).rooms) == {("acme", "RM_1"), ("globex", "RM_1")}
