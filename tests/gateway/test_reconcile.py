"""Reconciliation: what a server's answers say of sessions that are open here, and what they do not say (R9)."""

from typing import Any

import pytest

from pipeline.livekit.reconcile import (
    STRANGER_FROM_SESSIONS,
    Document,
    Findings,
    ListedRoom,
    Outcome,
    Pass,
    Question,
    judge,
)
from pipeline.metering.units import MS_PER_DAY
from tests.gateway.ledger import KEY, WINDOW_MS, Ledger, live, silent, there
from tests.metering.builders import aborted, absent, clock, connected, disconnected, of_room, sampled


def _judge(
    ledger: Ledger,
    time: str | int,
    *rooms: ListedRoom,
    previous: Pass | Findings | None = None,
    accept_empty: bool = False,
) -> Findings:
    asked_at_ms = clock(time) if isinstance(time, str) else time
    question = Question("acme", "reconcile/sfu", asked_at_ms, WINDOW_MS, accept_empty)
    listed = [participant.session for room in rooms for participant in room.participants or ()]
    return judge(
        question,
        ledger.open_sessions("acme", asked_at_ms, MS_PER_DAY),
        rooms,
        ledger.known_sessions("acme", listed),
        previous.state if isinstance(previous, Findings) else previous,
    )


def _said(findings: Findings, event_type: str) -> list[tuple[str, str, str]]:
    """Return room, session and time of the events of a type."""
    return [
        (event["data"]["room"], event["data"]["session"], event["time"][11:19])
        for event in findings.events
        if event["type"] == event_type
    ]


def test_a_session_missing_in_two_passes_in_a_row_is_absent_since_the_first() -> None:
    """Dated to the first: both answers lie after its last sign of life."""
    ledger = Ledger(live())
    first = _judge(ledger, "14:05:00")
    second = _judge(ledger, "14:06:00", previous=first)
    assert (first.events, first.missing) == ((), 1)
    assert _said(second, "session.absent") == [("RM_1", "PA_1", "14:05:00")]


def test_an_absence_is_reported_again_while_the_session_is_open_here() -> None:
    """An event that got lost is made up for; one that arrived takes the session off the list."""
    ledger = Ledger(live())
    second = _judge(ledger, "14:06:00", previous=_judge(ledger, "14:05:00"))
    third = _judge(ledger, "14:07:00", previous=second)
    assert _said(third, "session.absent") == [("RM_1", "PA_1", "14:06:00")]
    ledger.take(second.events)
    assert _judge(ledger, "14:07:00", previous=second).events == ()


def test_a_session_missing_once_is_not_absent() -> None:
    """A single answer, empty or not, ends nothing."""
    ledger = Ledger(live(), live("PA_2"))
    first = _judge(ledger, "14:05:00", there("PA_2"))
    second = _judge(ledger, "14:06:00", there("PA_1", "PA_2"), previous=first)
    third = _judge(ledger, "14:07:00", there("PA_2"), previous=second)
    assert not [event for passed in (first, second, third) for event in _said(passed, "session.absent")]


def test_a_session_that_gave_a_sign_of_life_between_the_passes_is_not_absent() -> None:
    """It was there after the first answer; two passes after that have to miss it."""
    ledger = Ledger(live())
    first = _judge(ledger, "14:05:00")
    ledger.take([sampled("14:05:30", source="livekit")])
    second = _judge(ledger, "14:06:00", previous=first)
    third = _judge(ledger, "14:07:00", previous=second)
    assert second.events == ()
    assert _said(third, "session.absent") == [("RM_1", "PA_1", "14:06:00")]


def test_a_session_that_began_after_the_question_is_never_absent() -> None:
    """The answer cannot know it; nor one whose server's clock is ahead of ours."""
    ledger = Ledger(connected("14:06:02", source="livekit"))
    second = _judge(ledger, "14:06:00", previous=_judge(ledger, "14:05:00"))
    assert second.state == Pass(clock("14:06:00"))
    assert (second.events, second.missing) == ((), 0)


def test_a_room_that_does_not_answer_ends_nothing_and_the_others_are_judged() -> None:
    """Half an answer is half an answer."""
    ledger = Ledger(live(), live("PA_2", room="RM_2"))
    first = _judge(ledger, "14:05:00", silent(), there(room="RM_2", name="sales"))
    second = _judge(ledger, "14:06:00", silent(), there(room="RM_2", name="sales"), previous=first)
    assert second.outcome is Outcome.PARTIAL
    assert _said(second, "session.absent") == [("RM_2", "PA_2", "14:05:00")]


def test_an_unlisted_room_is_not_judged_while_it_may_be_another_id_of_a_silent_name() -> None:
    """After a split one name has two ids; the server lists one of them, and is asked by name."""
    ledger = Ledger(live())
    first = _judge(ledger, "14:05:00", silent("RM_2"))
    assert _judge(ledger, "14:06:00", silent("RM_2"), previous=first).events == ()


def test_an_unlisted_room_of_another_name_is_judged_beside_a_silent_one() -> None:
    """Rooms that a crashed node left behind stay listed and silent: they must not protect all others."""
    ledger = Ledger(live())
    listed = _judge(ledger, "14:04:00", there("PA_1"), silent("RM_9", "crashed"))
    first = _judge(ledger, "14:05:00", silent("RM_9", "crashed"), previous=listed)
    second = _judge(ledger, "14:06:00", silent("RM_9", "crashed"), previous=first)
    assert _said(second, "session.absent") == [("RM_1", "PA_1", "14:05:00")]


def test_a_session_under_another_id_of_its_rooms_name_is_there() -> None:
    """Its signs of life go to the room that it is known in, or they would open it a second time."""
    ledger = Ledger(live())
    found = _judge(ledger, "14:05:00", there("PA_1", room="RM_2"))
    assert _said(found, "session.sampled") == [("RM_1", "PA_1", "14:05:00")]
    assert found.opened == 0


@pytest.mark.parametrize("kind", ["egress", "ingress"])
def test_recordings_and_imports_are_never_absent(kind: str) -> None:
    """They are in no list of participants."""
    ledger = Ledger(live(kind=kind))
    assert _judge(ledger, "14:06:00", previous=_judge(ledger, "14:05:00")).events == ()


def test_sessions_of_other_servers_are_never_absent() -> None:
    """LiveKit knows nothing of a Janus server's rooms."""
    ledger = Ledger(connected("14:00:00", source="janus/eu-1"))
    assert _judge(ledger, "14:06:00", previous=_judge(ledger, "14:05:00")).events == ()


def test_a_session_that_is_there_gives_a_sign_of_life_at_the_time_of_the_question() -> None:
    """Whoever is in the answer and was connected before the question was connected then."""
    found = _judge(Ledger(live()), "14:05:00", there("PA_1"))
    assert _said(found, "session.sampled") == [("RM_1", "PA_1", "14:05:00")]
    assert "connected_at" not in found.events[0]["data"]
    assert (found.outcome, found.present) == (Outcome.COMPLETE, 1)


def test_a_session_that_joined_after_the_question_gives_none() -> None:
    """At the time of the question it was not there."""
    ledger = Ledger(connected("14:05:01", source="livekit"))
    assert _judge(ledger, "14:05:00", there("PA_1", joined_at_ms=clock("14:05:01"))).events == ()


def test_a_session_that_is_there_and_unknown_here_is_opened() -> None:
    """Its start is when the server says it joined, and its evidence the source (R3)."""
    [event] = _judge(Ledger(), "14:05:00", there("PA_1")).events
    assert (event["type"], event["source"]) == ("session.sampled", "reconcile/sfu")
    assert event["data"] == {
        "project": "acme",
        "room": "RM_1",
        "session": "PA_1",
        "kind": "agent",
        "connected_at": "2026-09-21T14:00:00.000Z",
    }


def test_a_session_whose_webhook_may_still_be_under_way_is_not_opened_yet() -> None:
    """LiveKit queues and retries for 45 s: after a minute it is lost."""
    assert _judge(Ledger(), "14:00:59", there("PA_1")).events == ()
    assert _judge(Ledger(), "14:01:00", there("PA_1")).opened == 1


def test_a_session_of_which_only_tracks_were_seen_gets_its_start_in_the_room_known_here() -> None:
    """The webhook of its join is lost; those of its tracks are not."""
    ledger = Ledger(sampled("14:01:00", room="RM_0", source="livekit"))
    [event] = _judge(ledger, "14:05:00", there("PA_1")).events
    assert event["data"]["room"] == "RM_0"
    assert event["data"]["connected_at"] == "2026-09-21T14:00:00.000Z"


@pytest.mark.parametrize(
    "fields",
    [
        {"is_active": False},
        {"kind": ""},
        {"kind": "egress"},
        {"joined_at_ms": None},
        {"joined_at_ms": clock("14:05:00") - WINDOW_MS},
    ],
    ids=["never active (R4)", "unknown kind (R21)", "recorder", "no start", "older than a bill may be disputed (R11)"],
)
def test_what_cannot_be_billed_is_not_opened(fields: dict[str, Any]) -> None:
    """Only what the server shows to be active, of a kind that we know, from a time that counts."""
    assert _judge(Ledger(), "14:05:00", there("PA_1", **fields)).events == ()


@pytest.mark.parametrize(
    "ending",
    [disconnected("14:03:00"), aborted("14:03:00"), of_room("room.ended", "14:03:00")],
    ids=lambda end: end["type"],
)
def test_a_session_that_ended_here_is_not_brought_back(ending: Document) -> None:
    """A real end is a real end; the server's list lags behind."""
    assert _judge(Ledger(live(), ending), "14:05:00", there("PA_1")).events == ()


def test_an_aborted_session_without_a_start_is_not_opened() -> None:
    """It never connected (R4)."""
    assert _judge(Ledger(aborted("14:03:00")), "14:05:00", there("PA_1")).events == ()


def test_a_ghost_of_a_crashed_node_is_not_kept_alive() -> None:
    """A server that keeps its lists in a database lists it still; its room began anew since (R9)."""
    ledger = Ledger(live(), of_room("room.started", "14:03:00"))
    assert _judge(ledger, "14:05:00", there("PA_1")).events == ()


def test_an_end_that_was_only_presumed_is_taken_back_when_the_session_is_there() -> None:
    """Presumed for its silence, or for an absence: a later sign of life replaces it (R9)."""
    ledger = Ledger(live(), absent("14:03:00"))
    assert ledger.timeline(KEY, "PA_1", clock("14:05:00")).end_presumed
    ledger.take(_judge(ledger, "14:05:00", there("PA_1")).events)
    assert ledger.timeline(KEY, "PA_1", clock("14:05:00")).is_open()


def _many() -> Ledger:
    return Ledger(*(live(f"PA_{number}") for number in range(STRANGER_FROM_SESSIONS)))


@pytest.mark.parametrize("rooms", [(), (there("PA_x", room="RM_x"),)], ids=["empty", "strangers only"])
def test_an_answer_that_knows_none_of_many_sessions_says_nothing(rooms: tuple[ListedRoom, ...]) -> None:
    """It may be another server's, or an empty database's: it ends nothing and opens nothing, however often given."""
    ledger = _many()
    state: Findings | None = None
    for minute in range(5, 10):
        state = _judge(ledger, f"14:0{minute}:00", *rooms, previous=state)
        assert (state.outcome, state.events, state.state) == (Outcome.UNCONFIRMED, (), None)


def test_rooms_that_do_not_answer_are_no_sign_of_another_server() -> None:
    """It is half an answer, and the advice for a wrong address would mislead."""
    found = _judge(_many(), "14:05:00", silent())
    assert (found.outcome, found.events) == (Outcome.PARTIAL, ())


def test_one_session_that_both_know_confirms_an_answer() -> None:
    """A new call after a crash: the webhook of it came here, and the server lists it."""
    ledger = _many()
    ledger.take([connected("14:04:30", "PA_new", "livekit")])
    first = _judge(ledger, "14:05:00", there("PA_new"))
    second = _judge(ledger, "14:06:00", there("PA_new"), previous=first)
    assert second.absent == STRANGER_FROM_SESSIONS


def test_an_operator_can_accept_an_answer_that_knows_none_of_many_sessions() -> None:
    """Then, as ever, two in a row."""
    ledger = _many()
    first = _judge(ledger, "14:05:00", accept_empty=True)
    second = _judge(ledger, "14:06:00", previous=first, accept_empty=True)
    assert (first.absent, second.absent) == (0, STRANGER_FROM_SESSIONS)


def test_what_is_found_twice_has_one_id() -> None:
    """R10: asked again about the same moment, the same events; of another moment, others."""
    ledger = Ledger(live())
    once, again, later = (_judge(ledger, time, there("PA_1")) for time in ("14:05:00", "14:05:00", "14:06:00"))
    assert once.events == again.events
    assert once.events[0]["id"] != later.events[0]["id"]
