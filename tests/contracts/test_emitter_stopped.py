"""One content per rollup id, whoever emits, killed, failed or paused before any step (R19)."""

import asyncio

import pytest

from pipeline.clickhouse import StoreUnavailable
from pipeline.metering.units import MS_PER_MINUTE
from tests.contracts.emitter_stage import METER, Killed, Stage, Steps, corrected, told
from tests.lane import PATIENCE_SECONDS
from tests.metering.builders import clock

#: Calls of the store and the producer in a run that emits two hours: each is a step before which it may stop.
_STEPS = 13
#: The first of them before which something was read of the store, that can be out of date after a pause.
_FIRST_READ = 3
#: The first of them that leaves a trace: from here on proposals are in the decision log, or under way to it.
_FIRST_TRACE = 8


async def test_a_run_has_as_many_steps_as_the_tests_below_take(stage: Stage) -> None:
    """Or they would leave a step out."""
    await corrected(stage)
    steps = Steps(0)
    await stage.emitter(steps).run_once()
    assert steps.count == _STEPS


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_whoever_comes_after_a_killed_emitter_publishes_what_was_decided(stage: Stage, step: int) -> None:
    """R19: killed before any step, with the facts changed before the next one starts."""
    await corrected(stage)
    with pytest.raises(Killed):
        await stage.emitter(Steps(step, Killed())).run_once()
    stage.agent("PA_3", "14:30:00", "14:31:00")
    await stage.emit()
    await stage.check()


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_an_emitter_that_failed_at_any_step_goes_on_where_it_was(stage: Stage, step: int) -> None:
    """R19, R22: store or broker were away for a moment; what was read of the decision log is not lost."""
    await corrected(stage)
    emitter = stage.emitter(Steps(step, StoreUnavailable("away for a moment")))
    with pytest.raises(StoreUnavailable):
        await emitter.run_once()
    stage.agent("PA_3", "14:30:00", "14:31:00")
    await emitter.run_once()
    await stage.check()


@pytest.mark.parametrize("step", range(_FIRST_READ, _STEPS + 1))
async def test_an_emitter_paused_at_any_step_agrees_with_those_that_went_on(stage: Stage, step: int) -> None:
    """R19: it wakes up with old facts and old proposals, when others have emitted newer ones twice."""
    await corrected(stage)
    steps = Steps(step)
    paused = stage.emitter(steps)
    running = asyncio.create_task(paused.run_once())
    await asyncio.wait_for(steps.reached.wait(), PATIENCE_SECONDS)
    for number in range(2):
        stage.agent(f"PA_{number + 3}", "14:30:00", "14:31:00")
        await stage.emit()
    steps.resumed.set()
    await running
    await paused.run_once()
    await stage.check()


async def test_two_emitters_at_once_are_as_one(stage: Stage) -> None:
    """R19: hour after hour side by side, with the facts changing under them."""
    emitters = [stage.emitter(), stage.emitter()]
    for number in range(5):
        stage.agent(f"PA_{number}", "14:00:00", f"14:0{number}:30")
        stage.now_ms = clock("15:05:00") + number * MS_PER_MINUTE
        running = [asyncio.create_task(emitter.run_once()) for emitter in emitters]
        await asyncio.to_thread(stage.agent, f"PA_late_{number}", "14:30:00", "14:31:00")
        await asyncio.gather(*running)
    await emitters[0].run_once()
    await stage.check()
    assert {key: cell.increments for key, cell in stage.usage().items()} == {("acme", METER, clock("14:00:00")): 20}


async def test_a_store_that_answers_with_what_it_knew_before_changes_no_rollup(stage: Stage) -> None:
    """R19: a replica that lags does not know the newest revision; the emitter remembers it."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    emitter = stage.emitter()
    await emitter.run_once()
    stage.agent("PA_2", "14:00:00", "14:10:00")
    stage.store._client.command("TRUNCATE TABLE rollups")
    assert told(await emitter.run_once()) == [(2, 20, 10, "settled")]
