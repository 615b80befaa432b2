"""What a real Janus server sends of real participants is metered as the participants' own clocks say.

ada talks for more than a minute and leaves; bob sends and receives and hangs up; cleo only signals, in a room that
is nobody's; dan is killed; eve's room is destroyed; zoe is there when Janus crashes. Where the real gateway meters
them, it is killed while they connect, killed again while they leave, and then too busy for some seconds.
"""

from itertools import pairwise
from typing import Any

import pytest

from pipeline.janus.events import JanusAdapter
from pipeline.metering.events import Reason
from pipeline.metering.session import Facts
from pipeline.metering.units import div_ceil
from tests.janus.client import SESSION_TIMEOUT_S
from tests.janus.metering import Json, Run, facts_of

_CONNECTED = ["ada", "bob", "dan", "eve", "zoe"]
_SECOND_MS = 1_000
_MINUTE_MS = 60_000
#: The period of samples in infra/janus/janus.jcfg.
_SAMPLED_EVERY_MS = 5_000


@pytest.mark.parametrize("name", _CONNECTED)
def test_a_start_is_the_participants_own(run: Run, name: str) -> None:
    """R3: to the second, when the participant saw its connection come up."""
    assert abs(run.metered(name).started_at_ms - run.participants[name]["connected_at_ms"]) < _SECOND_MS


@pytest.mark.parametrize("name", ["ada", "bob", "eve"])
def test_an_end_is_the_participants_own(run: Run, name: str) -> None:
    """R5: to the second, when it left, hung up, or its room was destroyed."""
    line = run.metered(name)
    assert not line.end_presumed
    assert abs(line.ended_at_ms - run.participants[name]["ended_at_ms"]) < _SECOND_MS


def test_one_who_vanishes_is_metered_until_janus_gives_him_up(run: Run) -> None:
    """R5: Janus waits for its session timeout, and looks every few seconds."""
    waited_ms = run.metered("dan").ended_at_ms - run.participants["dan"]["ended_at_ms"]
    assert (SESSION_TIMEOUT_S - 3) * _SECOND_MS <= waited_ms <= (SESSION_TIMEOUT_S + 6) * _SECOND_MS


def test_one_who_was_there_when_janus_crashed_ends_with_the_last_sample(run: Run) -> None:
    """R9: nothing tells the end but the restart; at most one period of samples is given away."""
    line = run.metered("zoe")
    crashed_at_ms = run.participants["zoe"]["ended_at_ms"]
    assert line.end_presumed
    assert crashed_at_ms - _SAMPLED_EVERY_MS - _SECOND_MS <= line.ended_at_ms <= crashed_at_ms


def test_the_minutes_are_exactly_the_drivers(run: Run) -> None:
    """R1, R7: ada 2, bob 1, dan 1 of one project, eve 1 and zoe 1 of the other; cleo none."""
    minutes = {"acme": 0, "beta": 0}
    for name in _CONNECTED:
        record = run.participants[name]
        minutes[record["room"][:4]] += div_ceil(record["ended_at_ms"] - record["connected_at_ms"], _MINUTE_MS)
    assert run.minutes() == minutes == {"acme": 4, "beta": 2}


@pytest.mark.parametrize("name", _CONNECTED)
def test_what_was_sent_was_counted(run: Run, name: str) -> None:
    """R13: sound is about 1 kB a second, and nobody was here for less than three."""
    assert run.bytes_of(name)[0] > 1_000


def test_receiving_belongs_to_the_participant_who_sends(run: Run) -> None:
    """R2, R13: bob's second connection is no session, and its bytes are his."""
    assert run.bytes_of("bob")[1] > 1_000
    assert {name for _, name, _ in run.facts.sessions()} == {run.session(name) for name in _CONNECTED}


def test_a_room_of_nobody_is_refused_with_a_reason(run: Run) -> None:
    """R21: kept for the dead letters; cleo, who never connected, is no loss."""
    ((reason, event),) = run.refused
    assert (reason, event["event"]["data"]["event"]) == (Reason.MISSING_FIELD, "created")


def test_the_gateway_was_away_and_busy(played: dict[str, Any]) -> None:
    """So that the others mean something: killed twice, and Janus's deliveries were refused with 503."""
    assert played["kills"] == 2
    assert played["refusals"] > 0


def test_a_delivery_that_is_not_answered_comes_again_and_changes_nothing(run: Run) -> None:
    """R10: Janus repeats it whole; facts are the same without the repetition."""
    assert run.deliveries[2] == run.deliveries[3]
    once = [*run.deliveries[:3], *run.deliveries[4:]]
    facts, due = (_facts(batches) for batches in (run.deliveries, once))
    assert facts == due
    assert list(facts.sessions())


def _facts(batches: list[list[Json]]) -> Facts:
    return facts_of(JanusAdapter("acme").canonical([event for batch in batches for event in batch]))


def test_any_answer_is_the_end_of_a_delivery(run: Run) -> None:
    """Janus's event handler takes 503 for a delivery too: what cannot be kept must stay unanswered, or it is lost."""
    repeated = [batch for before, batch in pairwise(run.deliveries) if batch and batch == before]
    assert repeated == [run.deliveries[3]]
