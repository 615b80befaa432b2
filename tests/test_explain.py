"""An explanation can be followed by hand: each rule with the event behind it, and sums that are the bill's."""

import random
from collections import Counter
from typing import Any, Final

import pytest

from pipeline.explain.reported import explain_number, explain_usage
from pipeline.explain.sessions import Explanation, Known, as_emitted, explain
from pipeline.explain.steps import Source
from pipeline.metering.quantities import Held, Recorded
from pipeline.metering.rollup import Rollup
from pipeline.metering.timeline import ORPHAN_AFTER_MS
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, NEVER_MS
from pipeline.metering.usage import CellKey, usage
from pipeline.simulator import Scenario, simulate
from tests.metering.builders import (
    METERS,
    aborted,
    absent,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    of_room,
    parsed,
    sampled,
)

Document = dict[str, Any]

_METER: Final = "agent_session_minutes"


def _explained(documents: list[Document], session: str = "PA_1", as_of: str = "20:00:00") -> Explanation:
    """Explain a session of acme's RM_1; each event lies at the offset of its place in the list."""
    events = [parsed(document) for document in documents]
    facts = facts_of(events)
    room = facts.rooms["acme", "RM_1"]
    sources = [Source("lifecycle", 3, offset, found.time_ms, found) for offset, found in enumerate(events)]
    reports = dict(facts.quantities.of_sessions()).get(("acme", "RM_1", session), {})
    known = Known("acme", "RM_1", session, room.sessions[session], room, facts.restarts_ms, sources, reports)
    return explain(known, METERS, clock(as_of), ORPHAN_AFTER_MS)


def _said(explanation: Explanation, rule: str) -> list[str]:
    return [step.text for step in explanation.steps if step.rule == rule]


def test_the_start_names_its_rule_and_its_event() -> None:
    """R3: of two connects the earlier, wherever it lies."""
    found = _explained([connected("14:00:02"), connected("14:00:01.087"), disconnected("14:10:00")])
    assert _said(found, "R3") == [
        (
            "started at 2026-09-21T14:00:01.087Z: earliest session.connected, "
            "event EV_1 (topic lifecycle partition 3 offset 1)"
        )
    ]


def test_an_inferred_start_names_the_event_that_reported_it() -> None:
    """R3: the begin that a disconnect reports."""
    found = _explained([disconnected("14:10:00", connected_at="2026-09-21T14:00:00Z")])
    [text] = _said(found, "R3")
    assert "earliest begin reported, event EV_1 (topic lifecycle partition 3 offset 0); start_inferred" in text
    assert found.flags == ("start_inferred",)


def test_an_end_without_a_start_is_pending() -> None:
    """R3: known, and not billed."""
    found = _explained([disconnected("14:10:00")])
    assert (found.flags, found.shares, found.started_at_ms) == (("end_without_start",), (), NEVER_MS)


def test_what_never_connected_has_no_usage() -> None:
    """R4: a sample says that it is there, not that it connected."""
    found = _explained([event("session.sampled", "14:00:00", project="acme", room="RM_1", session="PA_1")])
    assert _said(found, "R4") == ["nothing shows that it connected: no usage"]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ([disconnected("14:10:00"), of_room("room.ended", "14:11:00")], "14:10:00.000Z: earliest end of its own"),
        ([disconnected("14:10:00"), of_room("room.ended", "14:09:00")], "14:09:00.000Z: its room ended"),
        ([aborted("14:00:30")], "14:00:30.000Z: earliest end of its own"),
    ],
    ids=["own end", "end of the room", "abort"],
)
def test_the_end_is_the_earlier_of_its_own_and_its_rooms(ends: list[Document], words: str) -> None:
    """R5: and its event is named."""
    [text] = _said(_explained([connected("14:00:00"), *ends]), "R5")
    assert words in text
    assert "event EV_1 (topic lifecycle partition 3" in text


def test_an_end_of_an_earlier_life_of_the_room_is_told_apart() -> None:
    """R5: a room id can be reused."""
    found = _explained([of_room("room.ended", "13:00:00"), connected("14:00:00"), disconnected("14:10:00")])
    assert (
        "ends of the room before its start are of an earlier life of the room: 2026-09-21T13:00"
        in _said(found, "R5")[1]
    )


@pytest.mark.parametrize(
    ("after", "as_of", "why"),
    [
        ([of_room("room.started", "15:00:00")], "20:00:00", "its room was started again at 2026-09-21T15:00"),
        ([event("server.restarted", "15:00:00")], "20:00:00", "its media server restarted at 2026-09-21T15:00"),
        ([absent("15:00:00")], "20:00:00", "its media server, when asked, did not know it any more at"),
        ([], "38:00:00", "nothing was seen of it for 86400 s"),
    ],
    ids=["room", "server", "absent", "silence"],
)
def test_a_presumed_end_says_what_made_it_one(after: list[Document], as_of: str, why: str) -> None:
    """R9: ended when it was last seen, and why."""
    found = _explained([connected("14:00:00"), *after], as_of=as_of)
    [text] = _said(found, "R9")
    assert why in text
    assert found.flags == ("end_presumed",)


def test_an_open_session_says_so() -> None:
    """R8: it accrues until the moment asked for."""
    found = _explained([connected("14:00:00")], as_of="14:10:00")
    assert found.flags == ("is_open",)
    assert "it accrues until the moment asked for, 2026-09-21T14:10:00.000Z" in _said(found, "R8")[0]


def test_a_skewed_clock_counts_as_no_length() -> None:
    """R6, R7: one increment all the same."""
    found = _explained([connected("14:00:00"), disconnected("13:59:00")])
    assert found.flags == ("clock_skew",)
    assert "ceil(0 / 60000) = 0, at least 1 (R7): 1 increments" in _said(found, "R1")[0]


def test_the_arithmetic_is_written_out() -> None:
    """R1: elapsed time, increments, and the share of each hour."""
    found = _explained([connected("14:58:30"), disconnected("15:01:00")])
    assert _said(found, "R1") == [
        "2026-09-21T15:01:00.000Z - 2026-09-21T14:58:30.000Z = 150000 ms; ceil(150000 / 60000) = 3: 3 increments",
        "hour 2026-09-21T14:00:00.000Z: 2 begun by 2026-09-21T15:00:00.000Z - 0 begun by 2026-09-21T14:58:30.000Z = 2",
        "hour 2026-09-21T15:00:00.000Z: 3 begun by 2026-09-21T15:01:00.000Z - 2 begun by 2026-09-21T15:00:00.000Z = 1",
    ]


def test_an_amendment_says_who_and_why() -> None:
    """R12: what was observed is kept beside it."""
    amendment = of_room(
        "session.amended",
        "16:00:00",
        session="PA_1",
        epoch=2,
        actor="kim",
        reason="ticket 7",
        ended_at="2026-09-21T14:05:00Z",
    )
    found = _explained([connected("14:00:00"), disconnected("14:10:00"), amendment])
    assert _said(found, "R12") == ["amended by kim: ticket 7, epoch 2: its end is 2026-09-21T14:05:00.000Z"]
    assert (found.increments(_METER, clock("14:00:00")), found.flags) == (5, ("amended",))


def test_events_of_other_sessions_explain_nothing() -> None:
    """Its own, its room's and its server's are listed."""
    found = _explained([connected("14:00:00"), connected("14:00:00", "PA_2"), of_room("room.ended", "14:10:00")])
    assert [source.offset for source in found.events] == [0, 2]


def test_a_fact_whose_event_is_gone_says_so() -> None:
    """The log keeps 60 days, facts are kept for ever."""
    [document] = [connected("14:00:00")]
    room = facts_of([parsed(document)]).rooms["acme", "RM_1"]
    found = explain(
        Known("acme", "RM_1", "PA_1", room.sessions["PA_1"], room, {}, ()), METERS, clock("15:00:00"), MS_PER_DAY
    )
    assert "its event is not kept in the log any more" in _said(found, "R3")[0]


def test_explanations_add_up_to_the_usage_of_every_hour() -> None:
    """R1: of a simulated day with every fault, each cell to the increment, and each session says where it began."""
    scenario = Scenario(
        start_ms=clock("0:00:00"), end_ms=clock("6:00:00"), sessions=400, reconnect=0.1, crash=0.2, duplicate=0.1,
        lost=0.05, abort=0.1, lost_connect=0.1, reused_rooms=0.2, skew_ms=60_000, sample_every_ms=300_000,
        usage_every_ms=600_000, numbers=5,
    )  # fmt: skip
    documents = [document for _, document in simulate(scenario).events]
    random.Random(4).shuffle(documents)  # noqa: S311 - an order, not a secret
    facts = facts_of(map(parsed, documents))
    as_of_ms = clock("5:00:00")
    reports = dict(facts.quantities.of_sessions())
    explained = [
        explain(
            Known(*key, name, session, facts.rooms[key], facts.restarts_ms, (), reports.get((*key, name), {})),
            METERS,
            as_of_ms,
            MS_PER_HOUR,
        )
        for key, name, session in facts.sessions()
    ]
    explained += [
        explain_usage((project, "sfu-1", "U_1"), found, METERS[meter], as_of_ms, ())
        for project, meter, found in facts.quantities.of_events()
    ]
    explained += [
        explain_number(*key, held, METERS["number_rental"], as_of_ms, ())
        for key, held in facts.quantities.numbers.items()
    ]
    cells: Counter[CellKey] = Counter()
    for found in explained:
        assert found.steps
        for share in found.shares:
            for hour in share.hours:
                cells[found.project, share.meter, hour.hour_ms] += hour.increments
    assert cells == {key: cell.increments for key, cell in usage(facts, METERS, as_of_ms, MS_PER_HOUR).items()}


def test_bytes_are_explained_by_the_largest_reports() -> None:
    """R13, R1: each direction's maximum, their sum, and the hours in which it grew."""
    log = [
        connected("14:00:00"),
        sampled("14:30:00", bytes_in=9_000_000),
        disconnected("15:10:00", bytes_out=2_000_000),
    ]
    found = _explained(log)
    assert _said(found, "R13") == ["largest reported: 9000000 + 2000000 = 11000000 bytes, on data_transfer_gb"]
    assert _said(found, "R1")[-2:] == [
        "hour 2026-09-21T14:00:00.000Z: 1 begun by reports of it and before - 0 before it = 1",
        "hour 2026-09-21T15:00:00.000Z: 2 begun by reports of it and before - 1 before it = 1",
    ]


def test_a_usage_event_is_explained_with_whom_it_is_ascribed_to() -> None:
    """R14: its name, its labels, the larger quantity and the arithmetic."""
    hour_ms = clock("14:00:00")
    reports = {hour_ms: Recorded(1_001, room="RM_1", model="a"), hour_ms + MS_PER_HOUR: Recorded(900, model="b")}
    found = explain_usage(("acme", "sfu-1", "U_1"), reports, METERS["stt_seconds"], clock("20:00:00"), ())
    assert (found.subject, found.session, found.increments("stt_seconds", hour_ms)) == ("usage event", "U_1", 2)
    assert _said(found, "R14")[1:] == [
        "ascribed to room RM_1, model b",
        "largest reported: 1001 quantity, on stt_seconds",
    ]


def test_a_number_is_explained_month_by_month() -> None:
    """R15: when it was acquired and released, and where each month is billed."""
    held = Held(frozenset({clock("14:00:00")}), frozenset({clock("14:00:00") + 11 * MS_PER_DAY}))
    found = explain_number("acme", "+15550100", held, METERS["number_rental"], NEVER_MS, ())
    assert _said(found, "R15") == [
        "acquired at 2026-09-21T14:00:00.000Z",
        "released at 2026-10-02T14:00:00.000Z",
        "month 2026-09: first held in the hour 2026-09-21T14:00:00.000Z, one unit",
        "month 2026-10: first held in the hour 2026-10-01T00:00:00.000Z, one unit",
    ]


def _rollup(revision: int, as_of: str, hour: str = "14:00:00") -> Rollup:
    return Rollup("acme", _METER, clock(hour), revision, revision, 0, 1, 1, clock(as_of), clock(as_of))


def test_what_was_emitted_as_of_a_moment_is_the_newest_revision_until_then() -> None:
    """R20: later revisions and hours were not known then."""
    rollups = [
        _rollup(1, "15:05:00"),
        _rollup(2, "15:30:00"),
        _rollup(3, "17:00:00"),
        _rollup(1, "17:00:00", "16:00:00"),
    ]
    assert as_emitted(rollups, clock("15:30:00")) == [rollups[1]]
    assert as_emitted(reversed(rollups), clock("17:00:00")) == rollups[2:]
    assert as_emitted(rollups, clock("15:00:00")) == []
