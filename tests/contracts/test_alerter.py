"""What the alerter tells, on a real broker and a real store: each change of an alert once."""

from pipeline.alerts.store import AlertStore
from pipeline.metering.anomaly.alert import Mute
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from tests.contracts.alert_stage import AlertStage

_RAISED = "connection_storm open 1"
_RESOLVED = "connection_storm resolved 2"


async def test_a_storm_is_raised_stored_and_priced(alert_stage: AlertStage) -> None:
    """Who, since when, against which baseline, what it costs, what to look at."""
    alert_stage.storm()
    [raised] = await alert_stage.alerter().run_once()
    [document] = await alert_stage.published()
    assert (document["project"], document["observed"], document["cost"], document["currency"]) == (
        *("acme", "30", "0.3", "USD"),
    )
    assert AlertStore(alert_stage.store).current() == [document]
    assert raised.finding.since_ms <= alert_stage.now_ms - 2 * MS_PER_MINUTE
    await alert_stage.check()


async def test_it_is_told_once_by_whoever_looks_and_restarts_and_resolved_when_it_is_over(
    alert_stage: AlertStage,
) -> None:
    """Minute by minute, by two who take turns; then a quarter of an hour of calm."""
    alert_stage.storm()
    alerter = alert_stage.alerter()
    for _ in range(3):
        await alerter.run_once()
        await alert_stage.alerter().run_once()
        alert_stage.now_ms += MS_PER_MINUTE
    assert await alert_stage.told() == [_RAISED]
    alert_stage.now_ms += 20 * MS_PER_MINUTE
    await alert_stage.alerter().run_once()
    assert await alert_stage.told() == [_RAISED, _RESOLVED]
    await alert_stage.check()


async def test_facts_and_log_replayed_raise_nothing_twice(alert_stage: AlertStage) -> None:
    """R10: every session again, and an alerter that begins anew, after it was over."""
    alert_stage.storm()
    await alert_stage.alerter().run_once()
    alert_stage.now_ms += 20 * MS_PER_MINUTE
    await alert_stage.alerter().run_once()
    alert_stage.sessions.reverse()
    for _ in range(2):
        await alert_stage.alerter().run_once()
        alert_stage.now_ms += MS_PER_MINUTE
    assert await alert_stage.told() == [_RAISED, _RESOLVED]
    await alert_stage.check()


async def test_what_came_while_nobody_looked_is_told_by_the_next(alert_stage: AlertStage) -> None:
    """Moment by moment, from where the log says that was looked: raised and resolved, in the past."""
    await alert_stage.alerter().run_once()
    alert_stage.now_ms += MS_PER_HOUR
    alert_stage.storm(ago_ms=40 * MS_PER_MINUTE)
    alerter = alert_stage.alerter()
    for _ in range(3):
        await alerter.run_once()
    assert await alert_stage.told() == [_RAISED, _RESOLVED]
    assert alerter.as_of_ms == alert_stage.now_ms - MS_PER_MINUTE


async def test_after_days_of_standstill_a_day_is_looked_at(alert_stage: AlertStage) -> None:
    """More would hold up what is happening now."""
    alerter = alert_stage.alerter()
    await alerter.run_once()
    alert_stage.now_ms += 3 * MS_PER_DAY
    await alerter.run_once()
    assert (
        alert_stage.now_ms - MS_PER_DAY - 2 * MS_PER_MINUTE < alerter.as_of_ms < alert_stage.now_ms - 23 * MS_PER_HOUR
    )


async def test_what_is_muted_is_told_as_muted_until_it_is_over(alert_stage: AlertStage) -> None:
    """And who muted it is kept."""
    until_ms = alert_stage.now_ms + MS_PER_MINUTE
    await alert_stage.mute(Mute("acme", "", "", until_ms, alert_stage.now_ms, "jo", "load test"))
    alert_stage.storm()
    alert_stage.storm(project="globex")
    await alert_stage.alerter().run_once()
    assert {one["project"]: one["muted"] for one in await alert_stage.published()} == {"acme": True, "globex": False}
    assert alert_stage.store.query("SELECT project, actor, reason FROM alert_mutes")[0] == ("acme", "jo", "load test")
