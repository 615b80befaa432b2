"""What the emitter promises: complete hours, each revision once, whoever emits, killed or paused anywhere (R17-R20)."""

import asyncio
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import orjson
import pytest

from pipeline import codec
from pipeline.clickhouse import Store, StoreUnavailable
from pipeline.emitter import MARGIN_MS, Emission, Emitter
from pipeline.explain import as_emitted
from pipeline.kafka import read_topic
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup, follows
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, NEVER_MS
from pipeline.metering.usage import CellKey, Usage
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.rows import Batch, RollupQuery, UsageQuery
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.lane import PATIENCE_SECONDS, declare
from tests.metering.builders import clock

_METER = "agent_session_minutes"
#: Calls of the store and the producer in a run that emits two hours: each is a step before which it may stop.
_STEPS = 12
#: The first of them before which something was read of the store, that can be out of date after a pause.
_FIRST_READ = 3
#: The first of them that leaves a trace: from here on proposals are in the decision log, or under way to it.
_FIRST_TRACE = 7


class Killed(RuntimeError):
    """The process died here."""


class Stepped:
    """A real store or producer: before each call of it, `reach` is awaited."""

    def __init__(self, real: object, reach: Callable[[], Awaitable[None]]) -> None:
        """Wrap it; the store's calls come from threads, and wait there."""
        self._real = real
        self._reach = reach
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        """Return the real method, with a step before it."""
        call = getattr(self._real, name)

        async def awaited(*args: Any) -> Any:
            await self._reach()
            return await call(*args)

        def blocking(*args: Any) -> Any:
            asyncio.run_coroutine_threadsafe(cast("Any", self._reach()), self._loop).result(PATIENCE_SECONDS)
            return call(*args)

        return awaited if inspect.iscoroutinefunction(call) else blocking


class Steps:
    """Counts the steps of one emitter; at step `at` (from 1) it dies, or waits until it is told to go on."""

    def __init__(self, at: int, error: Exception | None = None) -> None:
        """Choose where, and what to die of; without an error it waits."""
        self.count = 0
        self._at = at
        self._error = error
        self.reached = asyncio.Event()
        self.resumed = asyncio.Event()

    async def reach(self) -> None:
        """Count one step."""
        self.count += 1
        if self.count == self._at:
            self.reached.set()
            if self._error is not None:
                raise self._error
            await asyncio.wait_for(self.resumed.wait(), PATIENCE_SECONDS)


class Stage:
    """One installation: topics, a store with facts written straight into it, a clock, any number of emitters."""

    def __init__(self, settings: Settings, meters: Meters, store: Store, producer: Producer) -> None:
        """Begin when the hour from 14:00 is just complete, without any facts."""
        self.settings = settings
        self.meters = meters
        self.store = store
        self.producer = producer
        self.topics = topics(settings)
        self.now_ms = clock("15:05:00")
        self.metrics = Metrics()

    def emitter(self, steps: Steps | None = None) -> Emitter:
        """Return a new emitter, as after a start."""
        store, producer = self.store, self.producer
        if steps is not None:
            store = cast("Store", Stepped(store, steps.reach))
            producer = cast("Producer", Stepped(producer, steps.reach))
        return Emitter(self.settings, self.meters, store, producer, self.metrics, lambda: self.now_ms)

    def agent(self, session: str, start: str, end: str | None = None, **facts: Any) -> None:
        """Store what is known of an agent's session; times of day."""
        end_ms = NEVER_MS if end is None else clock(end)
        times: dict[str, Any] = {"connected_at_ms": clock(start), "last_seen_ms": clock(start)} | facts
        self.store.write(Batch([("acme", "RM_1", session, Session("agent", disconnected_at_ms=end_ms, **times))]))

    def processed(self, partition: int, offset: int, broker_time: str) -> None:
        """Store how far a partition has been processed: up to and with an offset."""
        name = self.topics.lifecycle.name
        self.store.write(Batch(events=[(name, partition, offset, clock(broker_time), "ignored", None, b"{}")]))

    async def arrives(self, partition: int) -> None:
        """Put a record into a partition of the lifecycle topic."""
        await self.producer.send(self.topics.lifecycle.name, None, b"{}", partition=partition)

    async def emit(self) -> Emission:
        """Run a new emitter once."""
        return await self.emitter().run_once()

    async def published(self) -> list[bytes]:
        """Return every rollup of the topic, in order."""
        return [record.value or b"" async for record in read_topic(self.settings.kafka, self.topics.rollups.name)]

    async def decided(self) -> dict[str, Rollup]:
        """Return by id what came first for each revision in the decision log."""
        newest: dict[CellKey, Rollup] = {}
        decided = {}
        async for record in read_topic(self.settings.kafka, self.topics.decisions.name):
            rollup = codec.decode_decision(record.value or b"")
            if follows(rollup, newest.get(rollup.key)):
                newest[rollup.key] = decided[rollup.id] = rollup
        return decided

    def usage(self) -> dict[CellKey, Usage]:
        """Return what the complete hours hold, as of now."""
        to_ms = (self.now_ms - self.settings.grace_period_ms) // MS_PER_HOUR * MS_PER_HOUR
        return dict(self.store.usage(UsageQuery(as_of_ms=self.now_ms, to_ms=to_ms)))

    async def check(self) -> None:
        """Assert what holds whenever an emitter has come to an end (R17, R19)."""
        contents = defaultdict(set)
        for payload in await self.published():
            contents[orjson.loads(payload)["id"]].add(payload)
        decided = await self.decided()
        assert contents == {key: {codec.encode_rollup(rollup, self.meters)} for key, rollup in decided.items()}
        kept = self.store.rollups(RollupQuery())
        assert {rollup.id: rollup for rollup in kept} == decided
        deltas: dict[CellKey, int] = defaultdict(int)
        for rollup in kept:
            deltas[rollup.key] += rollup.delta
        usage = self.usage()
        assert deltas == {key: usage[key].increments if key in usage else 0 for key in deltas}
        assert usage.keys() <= deltas.keys()


@pytest.fixture
async def stage(broker: TestBroker, topic_prefix: str, store: Store, meters: Meters) -> AsyncIterator[Stage]:
    """An installation of its own, on the shared broker."""
    settings = await declare(broker.bootstrap, topic_prefix, partitions=2)
    async with Producer(settings.kafka) as producer:
        yield Stage(settings, meters, store, producer)


def _told(emission: Emission) -> list[tuple[int, int, int, str]]:
    """Return (revision, increments, delta, status) of what one run published."""
    return [(rollup.revision, rollup.increments, rollup.delta, rollup.status) for rollup in emission.published]


async def _corrected(stage: Stage) -> None:
    """Emit the hour from 14:00; then the next hour is due, and a late event changes the first."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.emit()
    stage.now_ms = clock("16:05:00")
    stage.agent("PA_2", "14:55:00", "15:05:00")


@pytest.mark.parametrize(("now", "emitted"), [("15:04:59.999", []), ("15:05:00", [(1, 10, 10, "settled")])])
async def test_an_hour_is_emitted_when_its_grace_period_is_over(stage: Stage, now: str, emitted: list[Any]) -> None:
    """R18: never earlier than its end plus the grace period."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    stage.now_ms = clock(now)
    assert _told(await stage.emit()) == emitted


async def test_a_rollup_says_all_of_its_hour(stage: Stage) -> None:
    """R17: every field, as billing reads it; an hour with an open session is open (R8)."""
    stage.agent("PA_1", "14:00:00", "14:00:10")
    stage.agent("PA_2", "14:58:30")
    [rollup] = (await stage.emit()).published
    now_ms = clock("15:05:00")
    assert rollup == Rollup("acme", _METER, clock("14:00:00"), 1, 3, 2, 3, 2, now_ms, now_ms)
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
    await _corrected(stage)
    assert _told(await stage.emit()) == [(2, 15, 5, "settled"), (1, 5, 5, "settled")]
    await stage.check()


async def test_the_end_of_an_open_session_settles_its_hour(stage: Stage) -> None:
    """R8: the quantity is the same, but nothing of it can shrink any more."""
    stage.agent("PA_1", "14:50:00")
    assert _told(await stage.emit()) == [(1, 10, 10, "open")]
    stage.agent("PA_1", "14:50:00", "15:00:00")
    assert _told(await stage.emit()) == [(2, 10, 0, "settled")]


async def test_an_orphan_gives_back_what_cannot_be_shown(stage: Stage) -> None:
    """R9: after a day of silence its end is presumed where it was last seen."""
    stage.agent("PA_1", "14:10:00", last_seen_ms=clock("14:20:00"))
    assert _told(await stage.emit()) == [(1, 50, 50, "open")]
    stage.now_ms = clock("14:20:00") + MS_PER_DAY
    assert _told(await stage.emit()) == [(2, 10, -40, "settled")]
    await stage.check()


async def test_a_session_that_moves_to_another_hour_leaves_nothing_behind(stage: Stage) -> None:
    """R3, R17: its inferred start gives way to an observed one, and the hour it leaves is revised to 0."""
    stage.agent("PA_1", "15:00:00", "15:00:00", connected_at_ms=NEVER_MS, begun_at_ms=clock("14:58:00"))
    stage.now_ms = clock("16:05:00")
    assert _told(await stage.emit()) == [(1, 2, 2, "settled")]
    stage.agent("PA_1", "15:00:00")
    assert _told(await stage.emit()) == [(2, 0, -2, "settled"), (1, 1, 1, "settled")]
    await stage.check()


async def test_an_hour_far_behind_the_correction_window_stays_as_it_is(stage: Stage) -> None:
    """R11: what nobody may dispute any more is not revised."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.emit()
    stage.agent("PA_2", "14:00:00", "14:10:00")
    stage.now_ms += stage.settings.correction_window_ms + MARGIN_MS + MS_PER_HOUR
    assert _told(await stage.emit()) == []


async def test_what_was_accepted_in_time_is_billed_after_days_of_standstill(stage: Stage) -> None:
    """R11: the window is judged when an event arrives, so an emitter that was away still revises the hour."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.emit()
    stage.agent("PA_2", "14:00:00", "14:10:00")
    stage.now_ms += stage.settings.correction_window_ms + MARGIN_MS - MS_PER_HOUR
    assert _told(await stage.emit()) == [(2, 20, 10, "settled")]


async def test_an_hour_that_the_audit_holds_is_not_emitted_until_it_is_let_go(stage: Stage) -> None:
    """A difference stops the emission of its hour, of no other hour or project, and no ingestion."""
    stage.agent("PA_1", "14:55:00", "15:05:00")
    stage.now_ms = clock("16:05:00")
    held = {("acme", clock("14:00:00")), ("globex", clock("15:00:00"))}
    emitter = Emitter(
        stage.settings, stage.meters, stage.store, stage.producer, stage.metrics, lambda: stage.now_ms, lambda: held
    )
    assert [rollup.hour_ms for rollup in (await emitter.run_once()).published] == [clock("15:00:00")]
    assert stage.metrics.registry.get_sample_value("roommeter_hours_held") == 2
    held.clear()
    assert [rollup.hour_ms for rollup in (await emitter.run_once()).published] == [clock("14:00:00")]
    await stage.check()


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
    assert _told(await emitter.run_once()) == []
    assert len(await stage.published()) == 1


async def test_what_was_presumed_is_not_taken_back_while_a_quiet_partition_is_read(stage: Stage) -> None:
    """R9, R18: a later moment was reached before; no rollup is as of an earlier one than its last revision."""
    stage.agent("PA_1", "14:10:00", last_seen_ms=clock("14:20:00"))
    await stage.arrives(0)
    stage.processed(0, 0, "15:20:00")
    stage.now_ms = clock("15:30:00")
    await stage.emit()
    stage.now_ms = clock("14:20:00") + MS_PER_DAY
    assert _told(await stage.emit()) == [(2, 10, -40, "settled")]
    await stage.arrives(0)
    assert _told(await stage.emit()) == []


async def test_hours_held_for_long_come_all_at_once_and_only_once(stage: Stage) -> None:
    """R18: late, and said so by the metric, but never left out."""
    stage.agent("PA_1", "14:00:00", "17:00:00")
    stage.now_ms = clock("17:05:00")
    emission = await stage.emit()
    assert [rollup.increments for rollup in emission.published] == [60, 60, 60]
    assert stage.metrics.registry.get_sample_value("roommeter_emission_lag_seconds") == 0


async def test_first_emissions_and_corrections_are_counted_apart(stage: Stage) -> None:
    """R18: what was emitted is a metric."""
    await _corrected(stage)
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


async def test_a_run_has_as_many_steps_as_the_tests_below_take(stage: Stage) -> None:
    """Or they would leave a step out."""
    await _corrected(stage)
    steps = Steps(0)
    await stage.emitter(steps).run_once()
    assert steps.count == _STEPS


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_whoever_comes_after_a_killed_emitter_publishes_what_was_decided(stage: Stage, step: int) -> None:
    """R19: killed before any step, with the facts changed before the next one starts."""
    await _corrected(stage)
    with pytest.raises(Killed):
        await stage.emitter(Steps(step, Killed())).run_once()
    stage.agent("PA_3", "14:30:00", "14:31:00")
    await stage.emit()
    await stage.check()


@pytest.mark.parametrize("step", range(_FIRST_TRACE, _STEPS + 1))
async def test_an_emitter_that_failed_at_any_step_goes_on_where_it_was(stage: Stage, step: int) -> None:
    """R19, R22: store or broker were away for a moment; what was read of the decision log is not lost."""
    await _corrected(stage)
    emitter = stage.emitter(Steps(step, StoreUnavailable("away for a moment")))
    with pytest.raises(StoreUnavailable):
        await emitter.run_once()
    stage.agent("PA_3", "14:30:00", "14:31:00")
    await emitter.run_once()
    await stage.check()


@pytest.mark.parametrize("step", range(_FIRST_READ, _STEPS + 1))
async def test_an_emitter_paused_at_any_step_agrees_with_those_that_went_on(stage: Stage, step: int) -> None:
    """R19: it wakes up with old facts and old proposals, when others have emitted newer ones twice."""
    await _corrected(stage)
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
    assert {key: cell.increments for key, cell in stage.usage().items()} == {("acme", _METER, clock("14:00:00")): 20}


async def test_a_store_that_answers_with_what_it_knew_before_changes_no_rollup(stage: Stage) -> None:
    """R19: a replica that lags does not know the newest revision; the emitter remembers it."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    emitter = stage.emitter()
    await emitter.run_once()
    stage.agent("PA_2", "14:00:00", "14:10:00")
    stage.store._client.command("TRUNCATE TABLE rollups")
    assert _told(await emitter.run_once()) == [(2, 20, 10, "settled")]
