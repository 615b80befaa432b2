"""What the emitter emits: complete hours once, and revisions of what changed (R17-R20)."""

from typing import Any

import pytest

from pipeline import codec
from pipeline.emitter import MARGIN_MS, Emitter
from pipeline.explain.sessions import as_emitted
from pipeline.metering.rollup import Rollup
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, NEVER_MS
from pipeline.rows import RollupQuery
from tests.brokers import TestBroker
from tests.contracts.emitter_stage import METER, Stage, corrected, told
from tests.lane import declare
from tests.metering.builders import clock


@pytest.fixture(params=["new emitters", "one emitter"])
def stage(stage: Stage, request: pytest.FixtureRequest) -> Stage:
    """Every test twice: each run by an emitter that looks at all, or all runs by one that looks at what changed."""
    if request.param == "one emitter":
        stage.only = stage.emitter()
    return stage


@pytest.mark.parametrize(("now", "emitted"), [("15:04:59.999", []), ("15:05:00", [(1, 10, 10, "settled")])])
async def test_an_hour_is_emitted_when_its_grace_period_is_over(stage: Stage, now: str, emitted: list[Any]) -> None:
    """R18: never earlier than its end plus the grace period."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    stage.now_ms = clock(now)
    assert told(await stage.emit()) == emitted


async def test_a_rollup_says_all_of_its_hour(stage: Stage) -> None:
    """R17: every field, as billing reads it; an hour with an open session is open (R8)."""
    stage.agent("PA_1", "14:00:00", "14:00:10")
    stage.agent("PA_2", "14:58:30")
    [rollup] = (await stage.emit()).published
    now_ms = clock("15:05:00")
    assert rollup == Rollup("acme", METER, clock("14:00:00"), 1, 3, 2, 3, 2, now_ms, now_ms)
    assert await stage.published() == [codec.encode_rollup(rollup, stage.meters)]


async def test_running_again_emits_nothing(stage: Stage) -> None:
    """R19: neither the same emitter nor a new one, now or later."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    emitter = stage.emitter()
    first = await emitter.run_once()
    stage.now_ms += MS_PER_DAY
    again = [await emitter.run_once(), await stage.emit()]
    assert [len(first.published), *(len(emission.published) for emission in again)] == [1, 0, 0]
    assert len(await stage.published()) == 1


async def test_a_late_event_makes_a_revision_with_the_difference(stage: Stage) -> None:
    """R11, R17: an hour already emitted is emitted again; its deltas add up."""
    await corrected(stage)
    assert told(await stage.emit()) == [(2, 15, 5, "settled"), (1, 5, 5, "settled")]
    await stage.check()


async def test_the_end_of_an_open_session_settles_its_hour(stage: Stage) -> None:
    """R8: the quantity is the same, but nothing of it can shrink any more."""
    stage.agent("PA_1", "14:50:00")
    assert told(await stage.emit()) == [(1, 10, 10, "open")]
    stage.agent("PA_1", "14:50:00", "15:00:00")
    assert told(await stage.emit()) == [(2, 10, 0, "settled")]


async def test_an_orphan_gives_back_what_cannot_be_shown(stage: Stage) -> None:
    """R9: after a day of silence its end is presumed where it was last seen, though nothing was ingested since."""
    stage.agent("PA_1", "14:10:00", last_seen_ms=clock("14:20:00"))
    assert told(await stage.emit()) == [(1, 50, 50, "open")]
    assert told(await stage.emit()) == []
    stage.now_ms = clock("14:20:00") + MS_PER_DAY
    assert told(await stage.emit()) == [(2, 10, -40, "settled")]
    await stage.check()


async def test_a_session_that_moves_to_another_hour_leaves_nothing_behind(stage: Stage) -> None:
    """R3, R17: its inferred start gives way to an observed one, and the hour it leaves is revised to 0."""
    stage.agent("PA_1", "15:00:00", "15:00:00", connected_at_ms=NEVER_MS, begun_at_ms=clock("14:58:00"))
    stage.now_ms = clock("16:05:00")
    assert told(await stage.emit()) == [(1, 2, 2, "settled")]
    stage.agent("PA_1", "15:00:00")
    assert told(await stage.emit()) == [(2, 0, -2, "settled"), (1, 1, 1, "settled")]
    await stage.check()


async def test_an_hour_far_behind_the_correction_window_stays_as_it_is(stage: Stage) -> None:
    """R11: what nobody may dispute any more is not revised."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.emit()
    stage.agent("PA_2", "14:00:00", "14:10:00")
    stage.now_ms += stage.settings.correction_window_ms + MARGIN_MS + MS_PER_HOUR
    assert told(await stage.emit()) == []


async def test_what_was_accepted_in_time_is_billed_after_days_of_standstill(stage: Stage) -> None:
    """R11: the window is judged when an event arrives, so an emitter that was away still revises the hour."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.emit()
    stage.agent("PA_2", "14:00:00", "14:10:00")
    stage.now_ms += stage.settings.correction_window_ms + MARGIN_MS - MS_PER_HOUR
    assert told(await stage.emit()) == [(2, 20, 10, "settled")]


async def test_an_hour_that_the_audit_holds_is_not_emitted_until_it_is_let_go(stage: Stage) -> None:
    """A difference stops the emission of its hour, of no other hour or project, and no ingestion."""
    stage.agent("PA_1", "14:55:00", "15:05:00")
    stage.now_ms = clock("16:05:00")
    held = {("acme", clock("14:00:00")), ("globex", clock("15:00:00"))}
    emitter = Emitter(
        stage.settings, stage.meters, stage.store, stage.producer, stage.metrics, lambda: stage.now_ms, lambda: held
    )
    assert [rollup.hour_ms for rollup in (await emitter.run_once()).published] == [clock("15:00:00")]
    assert stage.metrics.registry.get_sample_value("roommeter_emissions_held") == 2
    held.clear()
    assert [rollup.hour_ms for rollup in (await emitter.run_once()).published] == [clock("14:00:00")]
    await stage.check()


async def test_first_emissions_and_corrections_are_counted_apart(stage: Stage) -> None:
    """R18: what was emitted is a metric."""
    await corrected(stage)
    await stage.emit()
    counted = [
        stage.metrics.registry.get_sample_value("roommeter_rollups_emitted_total", {"revision": revision})
        for revision in ("first", "correction")
    ]
    assert counted == [2, 1]


async def test_the_same_facts_and_moment_give_the_same_bytes(
    stage: Stage, broker: TestBroker, topic_prefix: str
) -> None:
    """R20: emitted anew into other topics, after everything emitted was lost, byte for byte."""
    for minute in range(0, 60, 7):
        stage.agent(f"PA_{minute}", f"14:{minute:02}:30", f"15:{minute:02}:31")
    stage.now_ms = clock("16:05:00")
    await stage.emit()
    stage.store._client.command("TRUNCATE TABLE rollups")
    settings = await declare(broker.bootstrap, f"{topic_prefix}again.", partitions=2)
    again = Stage(settings, stage.meters, stage.store, stage.producer)
    again.now_ms = stage.now_ms
    await again.emit()
    assert len(await stage.published()) == 2
    assert await again.published() == await stage.published()


async def test_any_past_emission_can_be_shown_again_byte_for_byte(stage: Stage) -> None:
    """R20: what was published by a moment, from what is stored, though newer revisions came since."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.emit()
    first_ms, first = stage.now_ms, await stage.published()
    stage.now_ms = clock("16:05:00")
    stage.agent("PA_2", "14:55:00", "15:05:00")
    await stage.emit()
    kept = stage.store.rollups(RollupQuery())
    assert [codec.encode_rollup(rollup, stage.meters) for rollup in as_emitted(kept, first_ms)] == first
    newest = {codec.encode_rollup(rollup, stage.meters) for rollup in as_emitted(kept, stage.now_ms)}
    assert newest == set(await stage.published()) - set(first)
