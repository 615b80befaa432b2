"""R10's laws: facts are a join, so order, repetition and the split over workers change nothing."""

from copy import deepcopy
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.session import Facts
from pipeline.metering.usage import usage
from tests.metering.builders import (
    METERS,
    Document,
    aborted,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    joined,
    of_room,
    parsed,
    sampled,
)
from tests.metering.strategies import documents, logs, moments_ms
from tests.oracle import oracle

_AS_OF_MS = clock("15:30:00")

#: Small logs whose events compete: every order of each is tried.
TRICKY: dict[str, list[Document]] = {
    "start inferred, then observed later than reported": [
        disconnected("14:10:00", connected_at="2026-09-21T14:00:00Z", kind="agent"),
        connected("14:05:00"),
        of_room("room.ended", "14:03:00"),
        of_room("room.ended", "14:07:00"),
    ],
    "two connects, two disconnects, an abort": [
        connected("14:00:30"),
        connected("14:00:00.001"),
        disconnected("14:01:00.001"),
        disconnected("14:01:00.002"),
        aborted("14:20:00"),
    ],
    "a room with three lives": [
        connected("14:00:00"),
        of_room("room.ended", "13:59:59.999"),
        of_room("room.ended", "14:02:00"),
        of_room("room.started", "14:03:00"),
        connected("14:03:01", session="PA_2"),
        of_room("room.ended", "14:59:00"),
    ],
    "an orphan by restart, seen again or not": [
        connected("14:00:00"),
        sampled("14:10:00", source="sfu-2"),
        event("server.restarted", "14:10:00", source="sfu-1"),
        event("server.restarted", "14:09:59.999", source="sfu-2"),
        of_room("room.started", "14:30:00", started_at="2026-09-21T13:59:00Z"),
    ],
    "two disconnects that report two begins, and an abort that may not": [
        disconnected("14:10:00", kind="agent", connected_at="2026-09-21T14:02:00Z"),
        disconnected("14:12:00", connected_at="2026-09-21T14:01:00Z"),
        disconnected("14:11:00", connected_at="2026-09-21T14:03:00Z"),
        aborted("14:13:00", connected_at="2026-09-21T13:00:00Z"),
    ],
    "kinds and numbers that disagree": [
        connected("14:00:00", kind="sip", number="+15550100"),
        connected("14:00:00", kind="participant"),
        disconnected("14:02:00", kind="agent", number="+15550199"),
        connected("14:00:00", project="globex", kind="egress"),
    ],
    "an end before every start": [
        disconnected("13:59:00"),
        connected("14:00:00"),
        sampled("14:20:00", bytes_in=7),
        of_room("room.ended", "14:30:00"),
        disconnected("14:40:00", bytes_in=5, bytes_out=9, connected_at="2026-09-21T13:50:00Z"),
        aborted("14:10:00"),
    ],
}
_each_tricky_log = pytest.mark.parametrize("log", TRICKY.values(), ids=TRICKY.keys())


def _billed(facts: Facts) -> dict[Any, Any]:
    return dict(usage(facts, METERS, _AS_OF_MS))


@_each_tricky_log
def test_every_order_of_a_small_log_gives_the_same_facts(log: list[Document]) -> None:
    """R10: all permutations, none left out."""
    events = [parsed(document) for document in log]
    expected = facts_of(events)
    assert all(facts_of(order) == expected for order in permutations(events))


@_each_tricky_log
def test_every_split_of_a_small_log_over_two_workers_gives_the_same_facts(log: list[Document]) -> None:
    """R10: each event goes to either worker, or to both; what they know is joined."""
    events = [parsed(document) for document in log]
    expected = facts_of(events)
    for takers in product(("left", "right", "both"), repeat=len(events)):
        left = facts_of(one for one, taker in zip(events, takers, strict=True) if taker != "right")
        right = facts_of(one for one, taker in zip(events, takers, strict=True) if taker != "left")
        assert joined([left, right]) == expected


@_each_tricky_log
def test_a_small_log_bills_what_the_oracle_bills(log: list[Document]) -> None:
    """R1 to R9: held against the minute-by-minute count."""
    assert _billed(facts_of(map(parsed, log))) == oracle(log, _AS_OF_MS)


@given(logs, st.data())
def test_any_order_and_repetition_of_a_log_gives_the_same_facts(log: list[Document], data: st.DataObject) -> None:
    """R10: shuffled, with up to forty repetitions put in."""
    again = data.draw(st.lists(st.sampled_from(log), max_size=40)) if log else []
    shuffled = data.draw(st.permutations(log + again))
    assert facts_of(map(parsed, shuffled)) == facts_of(map(parsed, log))


@given(st.lists(st.tuples(documents, st.sets(st.integers(0, 3), min_size=1)), max_size=40))
def test_any_split_of_a_log_over_workers_gives_the_same_facts(log: list[tuple[Document, set[int]]]) -> None:
    """R10: four workers, each event to one or several of them, as after a rebalance."""
    workers = [facts_of(parsed(document) for document, takers in log if worker in takers) for worker in range(4)]
    assert joined(workers) == facts_of(parsed(document) for document, _ in log)


@given(logs, logs)
def test_the_join_is_commutative(one: list[Document], other: list[Document]) -> None:
    """R10: who is joined into whom does not matter."""
    left, right = facts_of(map(parsed, one)), facts_of(map(parsed, other))
    assert joined([left, right]) == joined([right, left])


@given(logs, logs, logs)
def test_the_join_is_associative(one: list[Document], two: list[Document], three: list[Document]) -> None:
    """R10: how workers are grouped does not matter."""
    a, b, c = (facts_of(map(parsed, log)) for log in (one, two, three))
    assert joined([joined([a, b]), c]) == joined([a, joined([b, c])])


@given(logs)
def test_the_join_is_idempotent(log: list[Document]) -> None:
    """R10: facts joined to themselves stay what they are."""
    facts = facts_of(map(parsed, log))
    assert joined([facts, facts]) == facts


@given(logs)
def test_knowing_nothing_is_the_joins_identity(log: list[Document]) -> None:
    """R10: a worker that has seen nothing adds nothing, on either side."""
    facts = facts_of(map(parsed, log))
    assert joined([facts, Facts()]) == facts == joined([Facts(), facts])


@given(logs, documents)
def test_joined_facts_do_not_share_what_they_join(log: list[Document], more: Document) -> None:
    """R10: observing goes on in one place without changing what was read in another."""
    facts = facts_of(map(parsed, log))
    before = deepcopy(facts)
    joined([facts]).observe(parsed(more))
    assert facts == before


@given(logs, documents)
def test_observing_changes_nothing_but_the_room_of_the_event(log: list[Document], more: Document) -> None:
    """R10: every other room stays as it is, so only the touched one has to be written."""
    facts = facts_of(map(parsed, log))
    before = deepcopy(facts)
    event = parsed(more)
    assert facts.observe(event) == event.type.startswith(("room.", "session.", "server."))
    rest = {key: room for key, room in facts.rooms.items() if key != (event.project, event.room)}
    assert rest == {key: room for key, room in before.rooms.items() if key != (event.project, event.room)}


@pytest.mark.parametrize("event_type", ["job.dispatched", "job.ended", "number.acquired", "usage.recorded"])
def test_what_is_not_about_a_session_is_no_sign_of_life(event_type: str) -> None:
    """R4: jobs, numbers and discrete usage start nothing and prove nothing of a session."""
    said = event(
        event_type, "14:00:00", project="acme", room="RM_1", job="AJ_1", number="1", meter="tts_characters", quantity=1
    )
    facts = Facts()
    assert facts.observe(parsed(said)) is False
    assert facts == Facts(quantities=facts.quantities)


@given(logs, moments_ms)
def test_facts_never_forget(log: list[Document], as_of_ms: int) -> None:
    """R10, R20: the bill as of a moment is a function of the facts: asking twice changes neither."""
    facts = facts_of(map(parsed, log))
    before = deepcopy(facts)
    assert usage(facts, METERS, as_of_ms) == usage(facts, METERS, as_of_ms)
    assert facts == before
