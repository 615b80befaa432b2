"""One event for each crossing, whoever tells it, killed, failed or paused before any step."""

import asyncio

import pytest

from pipeline.clickhouse import StoreUnavailable
from pipeline.limits.limiter import Limiter
from tests.contracts.emitter_stage import Killed, Steps
from tests.contracts.limit_stage import LimitStage
from tests.lane import PATIENCE_SECONDS
from tests.metering.builders import amended

#: Calls of the store and the producer in a first run that tells two crossings: each is a step before which it may stop.
_STEPS = 11
#: The first of them that leaves a trace in the log of decisions.
_FIRST_TRACE = 6


async def _run_to_the_end(limiter: Limiter) -> None:
    """Run as long as the store does not answer."""
    while True:
        try:
            await limiter.run_once()
        except StoreUnavailable:
            continue
        return


async def test_a_run_has_as_many_steps_as_the_tests_below_take(limit_stage: LimitStage) -> None:
    """Or they would leave a step out."""
    await limit_stage.call("PA_1", 8)
    steps = Steps(0)
    await limit_stage.limiter(steps).run_once()
    assert steps.count == _STEPS


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_whoever_comes_after_a_killed_limiter_tells_what_was_decided(limit_stage: LimitStage, step: int) -> None:
    """Killed before any step, with a larger quantity before the next one starts; nothing is in the topic twice."""
    await limit_stage.call("PA_1", 8)
    with pytest.raises(Killed):
        await limit_stage.limiter(Steps(step, Killed())).run_once()
    await limit_stage.call("PA_2", 2)
    limiter = limit_stage.limiter()
    await limiter.run_once()
    limit_stage.wait_out()
    await limiter.run_once()
    assert sorted(await limit_stage.told()) == ["reached 100", "reached 50", "reached 80"]
    await limit_stage.check()


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_a_limiter_that_failed_at_any_step_goes_on_where_it_was(limit_stage: LimitStage, step: int) -> None:
    """R22: store or broker were away for a moment; nothing is lost, and nothing told twice."""
    await limit_stage.call("PA_1", 8)
    limiter = limit_stage.limiter(Steps(step, StoreUnavailable("away for a moment")))
    await _run_to_the_end(limiter)
    await limit_stage.call("PA_2", 2)
    await _run_to_the_end(limiter)
    limit_stage.wait_out()
    await _run_to_the_end(limiter)
    assert sorted(await limit_stage.told()) == ["reached 100", "reached 50", "reached 80"]
    await limit_stage.check()


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_a_limiter_paused_at_any_step_agrees_with_those_that_went_on(limit_stage: LimitStage, step: int) -> None:
    """It wakes up with old quantities when others have told newer ones; what it then repeats are the same bytes."""
    await limit_stage.call("PA_1", 8)
    steps = Steps(step)
    paused = limit_stage.limiter(steps)
    running = asyncio.create_task(paused.run_once())
    await asyncio.wait_for(steps.reached.wait(), PATIENCE_SECONDS)
    await limit_stage.call("PA_2", 2)
    other = limit_stage.limiter()
    for _ in range(2):
        await other.run_once()
        limit_stage.wait_out()
    steps.resumed.set()
    await running
    await paused.run_once()
    assert set(await limit_stage.told()) == {"reached 100", "reached 50", "reached 80"}
    await limit_stage.check(most=2)


async def test_what_was_decided_is_told_before_what_follows_it(limit_stage: LimitStage) -> None:
    """Killed before it published what it had decided; by then a correction takes it back."""
    await limit_stage.call("PA_1", 5)
    with pytest.raises(Killed):
        await limit_stage.limiter(Steps(7, Killed())).run_once()
    await limit_stage.send(amended(limit_stage.now_ms, room="RM_PA_1", void=True))
    limiter = limit_stage.limiter()
    for _ in range(2):
        await limiter.run_once()
        limit_stage.wait_out()
    assert await limit_stage.told() == ["reached 50", "back_under 50"]
    await limit_stage.check()


async def test_two_limiters_at_once_are_as_one(limit_stage: LimitStage) -> None:
    """Side by side, step by step: what one proposed it publishes, the other is silent."""
    limiters = [limit_stage.limiter(), limit_stage.limiter()]
    for number in range(7):
        await limit_stage.call(f"PA_{number}", 2)
        await asyncio.gather(*(limiter.run_once() for limiter in limiters))
    assert sorted(await limit_stage.told()) == ["exceeded hard", "reached 100", "reached 50", "reached 80"]
    await limit_stage.check()
