"""One content for each revision, whoever tells it: killed, failed or paused before any step."""

import asyncio

import pytest

from pipeline.alerts.alerter import Alerter
from pipeline.clickhouse import StoreUnavailable
from pipeline.metering.units import MS_PER_MINUTE
from tests.contracts.alert_stage import AlertStage
from tests.contracts.emitter_stage import Killed, Steps
from tests.lane import PATIENCE_SECONDS

#: Calls of the store and the producer in a first run that raises an alert: each is a step before which it may stop.
_STEPS = 9
#: The first of them that leaves a trace in the log of decisions.
_FIRST_TRACE = 4
_RAISED = "connection_storm open 1"


async def _run_to_the_end(alerter: Alerter) -> None:
    """Run as long as the store does not answer."""
    while True:
        try:
            await alerter.run_once()
        except StoreUnavailable:
            continue
        return


async def test_a_run_has_as_many_steps_as_the_tests_below_take(alert_stage: AlertStage) -> None:
    """Or they would leave a step out."""
    alert_stage.storm()
    steps = Steps(0)
    await alert_stage.alerter(steps).run_once()
    assert steps.count == _STEPS


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_whoever_comes_after_a_killed_alerter_tells_what_was_decided(alert_stage: AlertStage, step: int) -> None:
    """Killed before any step, with more to see before the next one starts; nothing is in the topic twice."""
    alert_stage.storm()
    with pytest.raises(Killed):
        await alert_stage.alerter(Steps(step, Killed())).run_once()
    alert_stage.storm(5)
    alerter = alert_stage.alerter()
    await alerter.run_once()
    alert_stage.wait_out()
    await alerter.run_once()
    assert await alert_stage.told() == [_RAISED]
    await alert_stage.check()


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_an_alerter_that_failed_at_any_step_goes_on_where_it_was(alert_stage: AlertStage, step: int) -> None:
    """R22: store or broker were away for a moment; nothing is lost, and nothing told twice."""
    alert_stage.storm()
    alerter = alert_stage.alerter(Steps(step, StoreUnavailable("away for a moment")))
    await _run_to_the_end(alerter)
    alert_stage.now_ms += MS_PER_MINUTE
    await _run_to_the_end(alerter)
    assert await alert_stage.told() == [_RAISED]
    await alert_stage.check()


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_an_alerter_paused_at_any_step_agrees_with_those_that_went_on(alert_stage: AlertStage, step: int) -> None:
    """It wakes up when others have told of a larger storm and of its end; what it repeats are the same bytes."""
    alert_stage.storm()
    steps = Steps(step)
    paused = alert_stage.alerter(steps)
    running = asyncio.create_task(paused.run_once())
    await asyncio.wait_for(steps.reached.wait(), PATIENCE_SECONDS)
    alert_stage.storm(70)
    other = alert_stage.alerter()
    for _ in range(2):
        await other.run_once()
        alert_stage.now_ms += 15 * MS_PER_MINUTE
    steps.resumed.set()
    await running
    await paused.run_once()
    assert {line.split()[1] for line in await alert_stage.told()} == {"open", "resolved"}
    assert len({one["id"] for one in await alert_stage.published()}) == 1
    await alert_stage.check(most=2)
