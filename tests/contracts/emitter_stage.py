"""What the tests of the emitter share: one installation, and emitters that stop before any step."""

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, cast

import orjson

from pipeline import codec
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.emitter import Emission, Emitter
from pipeline.kafka import read_topic
from pipeline.metering.events import Event, EventType
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup, follows
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_HOUR, NEVER_MS
from pipeline.metering.usage import CellKey, Usage
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.rows import Batch, RollupQuery, UsageQuery
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.lane import PATIENCE_SECONDS
from tests.metering.builders import clock

METER = "agent_session_minutes"


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


class OneEmitter(Emitter):
    """Looks at all when it starts, and then only at what changed."""

    look_at_all_ms = NEVER_MS
    overlap_ms = 0


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

    #: The one emitter of all runs; without it, each run has a new one.
    only: Emitter | None = None

    def __init__(self, settings: Settings, meters: Meters, store: Store, producer: Producer) -> None:
        """Begin when the hour from 14:00 is just complete, without any facts."""
        self.settings = settings
        self.meters = meters
        self.store = store
        self.producer = producer
        self.topics = topics(settings)
        self.now_ms = clock("15:05:00")
        self.metrics = Metrics()
        self._offsets = count()

    def emitter(self, steps: Steps | None = None) -> Emitter:
        """Return a new emitter, as after a start."""
        store, producer = self.store, self.producer
        if steps is not None:
            store = cast("Store", Stepped(store, steps.reach))
            producer = cast("Producer", Stepped(producer, steps.reach))
        return OneEmitter(self.settings, self.meters, store, producer, self.metrics, lambda: self.now_ms)

    def agent(self, session: str, start: str, end: str | None = None, **facts: Any) -> None:
        """Store what is known of an agent's session; times of day."""
        end_ms = NEVER_MS if end is None else clock(end)
        times: dict[str, Any] = {"connected_at_ms": clock(start), "last_seen_ms": clock(start)} | facts
        observed = Session("agent", disconnected_at_ms=end_ms, **times)
        # As a worker's batch: with the event that said so.
        said = Event(EventType.SESSION_SAMPLED, "EV_1", "sfu-1", observed.last_seen_ms, "acme", "RM_1", session)
        row = ("file:stage", 0, next(self._offsets), now_ms(), "accepted", said, b"{}")
        self.store.write(Batch([("acme", "RM_1", session, observed)], events=[row]))

    def processed(self, partition: int, offset: int, broker_time: str) -> None:
        """Store how far a partition has been processed: up to and with an offset."""
        name = self.topics.lifecycle.name
        self.store.write(Batch(events=[(name, partition, offset, clock(broker_time), "ignored", None, b"{}")]))

    async def arrives(self, partition: int) -> None:
        """Put a record into a partition of the lifecycle topic."""
        await self.producer.send(self.topics.lifecycle.name, None, b"{}", partition=partition)

    async def emit(self) -> Emission:
        """Run an emitter once."""
        return await (self.only or self.emitter()).run_once()

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


def told(emission: Emission) -> list[tuple[int, int, int, str]]:
    """Return (revision, increments, delta, status) of what one run published."""
    return [(rollup.revision, rollup.increments, rollup.delta, rollup.status) for rollup in emission.published]


async def corrected(stage: Stage) -> None:
    """Emit the hour from 14:00; then the next hour is due, and a late event changes the first."""
    stage.agent("PA_1", "14:00:00", "14:10:00")
    await stage.emit()
    stage.now_ms = clock("16:05:00")
    stage.agent("PA_2", "14:55:00", "15:05:00")
