"""What holds an hour back: partitions with something left to read (R18)."""

from pipeline.emitter import Emission
from pipeline.metering.units import MS_PER_DAY
from tests.contracts.emitter_stage import Stage, told
from tests.metering.builders import clock


async def test_a_partition_with_something_left_to_read_holds_the_hour(stage: Stage) -> None:
    """R18: the watermark is the broker time up to which it was processed; how late the hour is, is a metric."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.arrives(0)
    await stage.arrives(0)
    stage.processed(0, 0, "15:04:59")
    emission = await stage.emit()
    assert emission == Emission(clock("15:04:59"), [])
    assert stage.metrics.registry.get_sample_value("roommeter_emission_lag_seconds") == 3600


async def test_a_partition_that_nobody_has_processed_holds_every_hour(stage: Stage) -> None:
    """R18: nothing is known of it, so nothing is complete."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.arrives(1)
    assert await stage.emit() == Emission(0, [])


async def test_an_idle_partition_holds_nothing(stage: Stage) -> None:
    """R18: partition 1 never had a record, and in partition 0 nothing is left to read since long ago."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.arrives(0)
    stage.processed(0, 0, "9:00:00")
    emission = await stage.emit()
    assert (emission.watermark_ms, len(emission.published)) == (clock("15:05:00"), 1)


async def test_a_record_after_weeks_of_idleness_brings_no_old_hour_back(stage: Stage) -> None:
    """R19: until it is processed the partition is known as of weeks ago, but what was reached stays reached."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.arrives(0)
    stage.processed(0, 0, "15:20:00")
    stage.now_ms = clock("15:30:00")
    emitter = stage.emitter()
    await emitter.run_once()
    stage.now_ms += stage.settings.correction_window_ms + 40 * MS_PER_DAY
    await emitter.run_once()
    await stage.arrives(0)
    assert told(await emitter.run_once()) == []
    assert len(await stage.published()) == 1


async def test_what_was_presumed_is_not_taken_back_while_a_quiet_partition_is_read(stage: Stage) -> None:
    """R9, R18: a later moment was reached before; no rollup is as of an earlier one than its last revision."""
    stage.agent("PA_1", "14:10:00", last_seen_ms=clock("14:20:00"))
    await stage.arrives(0)
    stage.processed(0, 0, "15:20:00")
    stage.now_ms = clock("15:30:00")
    await stage.emit()
    stage.now_ms = clock("14:20:00") + MS_PER_DAY
    assert told(await stage.emit()) == [(2, 10, -40, "settled")]
    await stage.arrives(0)
    assert told(await stage.emit()) == []


async def test_hours_held_for_long_come_all_at_once_and_only_once(stage: Stage) -> None:
    """R18: late, and said so by the metric, but never left out."""
    stage.agent("PA_1", "14:00:00", "17:00:00")
    stage.now_ms = clock("17:05:00")
    emission = await stage.emit()
    assert [rollup.increments for rollup in emission.published] == [60, 60, 60]
    assert stage.metrics.registry.get_sample_value("roommeter_emission_lag_seconds") == 0
