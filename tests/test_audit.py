"""The conservation laws on what was read: each passes what is right, and names what is not."""

from dataclasses import replace
from typing import Any, Final

import pytest

from pipeline.audit import laws as audit
from pipeline.audit.auditor import Report
from pipeline.audit.bill_store import Window
from pipeline.audit.canary import canary_answers, canary_scenario, finished_scenario
from pipeline.audit.facts import KeptEvent, Scope, compare_room, differing_rooms, facts_of, gathered, spilled
from pipeline.audit.laws import NUMBERS, Hole, HourTotals, Law, Lives, Stage
from pipeline.audit.loop import show
from pipeline.metering.session import Facts, Room, Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, NOT_SEEN_MS
from pipeline.metrics import Metrics
from pipeline.simulator import simulate
from tests.metering.builders import METERS, clock, connected, disconnected, of_room, parsed
from tests.metering.builders import facts_of as joined

_NOW_MS: Final = clock("20:00:00")
_SCOPE: Final = Scope(METERS, _NOW_MS, MS_PER_DAY)
_STAGE: Final = Stage(
    "lifecycle", 3, 11, _NOW_MS, 0, 10, _NOW_MS - MS_PER_HOUR, _NOW_MS - MS_PER_HOUR, {"accepted": 9, "not_json": 2}
)


def test_every_law_has_its_number() -> None:
    """As the catalogue of laws names them."""
    assert NUMBERS[Law.FACTS] == "C4b"
    assert len(set(NUMBERS.values())) == len(Law)


def test_what_is_kept_balances() -> None:
    """C1: accepted, ignored and dead letters of known reasons."""
    result = audit.stage_balance([_STAGE], _NOW_MS)
    assert (result.checked, result.differences) == (11, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kept": {"accepted": 10, "mislaid": 1}}, "dispositions that nobody defined: {'mislaid': 1}"),
        ({"next_offset": 12}, "offsets up to 11 were processed, the last one kept is 10"),
        ({"next_offset": 5}, "offsets up to 10 are kept, progress still says 5"),
        ({"kept": {}, "last_offset": -1}, "offsets up to 10 were processed, the last one kept is -1"),
    ],
    ids=["unknown disposition", "not kept", "not vouched for", "nothing kept"],
)
def test_what_does_not_balance_is_named(change: dict[str, Any], words: str) -> None:
    """C1: topic and partition, and what is missing."""
    [found] = audit.stage_balance([_STAGE._replace(**change)], _NOW_MS).differences
    assert found.detail == f"topic lifecycle partition 3: {words}"


def test_a_batch_under_way_and_a_log_that_grew_old_balance() -> None:
    """C1: events come before their progress, and old days are dropped in their time."""
    under_way = _STAGE._replace(next_offset=5, written_ms=_NOW_MS - 1)
    dropped = Stage("lifecycle", 4, 11, _NOW_MS - 60 * MS_PER_DAY)
    assert audit.stage_balance([under_way, dropped], _NOW_MS).differences == []


def test_a_gap_that_retention_explains_is_an_alarm() -> None:
    """C2: what the topic deleted before it was read is lost, and said so."""
    hole = Hole("lifecycle", 3, 4, 7, _NOW_MS - 60 * MS_PER_DAY, _NOW_MS)
    [found] = audit.offset_continuity([_STAGE], [hole], _NOW_MS, is_whole=True).differences
    assert "2 offsets after 4 are missing" in found.detail
    assert "retention may have deleted them before they were read" in found.detail


def test_a_log_that_begins_late_is_an_alarm_while_it_is_young() -> None:
    """C2: nothing can have been dropped yet; once days are, it is a note."""
    late = _STAGE._replace(first_offset=5)
    [found] = audit.offset_continuity([late], [], _NOW_MS, is_whole=True).differences
    assert "begins at offset 5" in found.detail
    old = late._replace(first_ms=_NOW_MS - 60 * MS_PER_DAY)
    result = audit.offset_continuity([old], [], _NOW_MS, is_whole=True)
    assert (result.differences, len(result.notes)) == ([], 1)


def test_hours_that_do_not_add_up_are_named() -> None:
    """C3: R1 telescopes, so sums of hours are sums of rounded sessions."""
    right = HourTotals("acme", "webrtc_minutes", 7, 7, 2)
    assert audit.session_hours([right], METERS).differences == []
    wrong = audit.session_hours([right._replace(by_hours=8, crowded_hours_ms=(0,))], METERS).differences
    assert [(one.project, one.meter, one.hour_ms) for one in wrong] == [
        ("acme", "webrtc_minutes", None),
        ("acme", "webrtc_minutes", 0),
    ]


def test_sessions_that_are_nowhere_are_named() -> None:
    """C6: started is ended, presumed ended or open."""
    assert audit.orphans([Lives("acme", 9, 4, 3, 2, 0)]).differences == []
    assert len(audit.orphans([Lives("acme", 9, 4, 3, 1, 1)]).differences) == 2


def test_a_partition_that_waits_and_an_hour_left_out_are_named() -> None:
    """C9: with something left to read; an idle partition is no difference."""
    old = _STAGE._replace(progress_ms=_NOW_MS - 2 * MS_PER_HOUR)
    assert audit.watermark_age([old], {3: 11}, [], _NOW_MS).differences == []
    found = audit.watermark_age([old], {3: 12}, [("acme", "webrtc_minutes", 0)], _NOW_MS).differences
    assert [one.project for one in found] == ["", "acme"]
    assert "1 records wait" in found[0].detail


def test_facts_spilled_in_pieces_are_gathered_whole() -> None:
    """C4b, R10: any split of the log over pieces joins into the same facts."""
    events = [parsed(document) for _, document in simulate(canary_scenario(clock("14:00:00"))).events]
    pieces = [joined(events[first : first + 7]) for first in range(0, len(events), 7)]
    lines = [line for piece in pieces for _, line in spilled(piece)]
    assert gathered(lines).rooms == joined(events).rooms


def test_what_the_log_calls_accepted_and_is_no_event_is_named() -> None:
    """C4b: by topic, partition and offset."""
    refused: list[audit.Difference] = []
    facts_of([KeptEvent("lifecycle", 3, 7, _NOW_MS, "not json")], METERS, refused)
    assert "topic lifecycle partition 3 offset 7 was accepted, but is no event" in refused[0].detail


def _room(*documents: dict[str, Any]) -> Room:
    return joined(map(parsed, documents)).rooms["acme", "RM_1"]


def test_beyond_the_log_only_what_is_missing_differs() -> None:
    """C4b: facts outlive their events, so what no event tells any more is no difference there."""
    stored = _room(connected("14:00:00"), disconnected("14:10:00"), of_room("room.ended", "14:11:00"))
    log = _room(disconnected("14:10:00"))
    late = replace(_SCOPE, floor_ms=clock("14:05:00"))
    ours, theirs = Facts({("acme", "RM_1"): stored}), Facts({("acme", "RM_1"): log})
    assert {one.fact for one in compare_room(("acme", "RM_1"), stored, log, late)} == {"ends"}
    assert differing_rooms(ours, theirs, replace(_SCOPE, floor_ms=clock("15:00:00"))) == []
    assert {one.fact for one in compare_room(("acme", "RM_1"), log, stored, late)} == {"connected_at", "kind", "ends"}


def test_a_difference_holds_the_hours_it_changes() -> None:
    """C4b: one minute more may begin in another hour; what bills nothing holds nothing."""
    log = _room(connected("14:58:00"), disconnected("15:00:00"))
    longer = replace(log.sessions["PA_1"], disconnected_at_ms=clock("15:00:01"))
    [found] = compare_room(("acme", "RM_1"), Room(sessions={"PA_1": longer}), log, _SCOPE)
    assert found.fact == "disconnected_at"
    assert found.holds == {("acme", clock("15:00:00"))}
    named = replace(log.sessions["PA_1"], identity="zz")
    [found] = compare_room(("acme", "RM_1"), Room(sessions={"PA_1": named}), log, _SCOPE)
    assert (found.holds, found.hour_ms) == (frozenset(), clock("14:00:00"))


def test_a_session_unknown_to_either_side_differs_in_every_fact() -> None:
    """C4b: it has the bottoms of all facts there."""
    log = _room(connected("14:00:00"))
    lost = {one.fact for one in compare_room(("acme", "RM_1"), Room(), log, _SCOPE)}
    made_up = {one.fact for one in compare_room(("acme", "RM_1"), log, Room(), _SCOPE)}
    assert lost == made_up == {"connected_at", "kind", "last_seen", "sources"}
    assert Session().last_seen_ms == NOT_SEEN_MS


def test_a_canary_is_known_by_the_ids_of_its_sessions() -> None:
    """C11: one id of a world is enough to know the answers of all; a world not over yet has none."""
    start_ms = clock("14:00:00")
    truth = simulate(canary_scenario(start_ms)).truth
    answers = canary_answers([truth[0].session, "PA_7", "SI_1_2_3"], start_ms + MS_PER_DAY)
    assert answers == [true for true in truth if true.is_exact] != []
    assert canary_answers([truth[0].session], start_ms + MS_PER_HOUR) == []


@pytest.mark.parametrize("started", ["13:00:00", "13:17:41", "13:59:59"])
def test_a_world_to_be_sent_now_is_over(started: str) -> None:
    """C11: nothing of it lies in the future (R11), so that it may be sent all at once; and it has answers."""
    world = simulate(finished_scenario(clock(started) + 999))
    assert max(sent_at_ms for sent_at_ms, _ in world.events) <= clock(started)
    assert any(true.is_exact for true in world.truth)


def test_metrics_say_which_law_does_not_hold() -> None:
    """0 is good, and is there from the start."""
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    assert value("roommeter_conservation_diff", {"law": "facts"}) == 0
    result = audit.orphans([Lives("acme", 9, 4, 3, 1, 1)])
    show(Report(Window(0, _NOW_MS), _NOW_MS, (result,)), metrics)
    assert value("roommeter_conservation_diff", {"law": "orphans"}) == 2
    assert value("roommeter_audit_last_success_seconds") == _NOW_MS / 1000
