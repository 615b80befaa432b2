"""A small app on the batch path: its agent notes what it is given, and can be held up."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from pipeline.fastlane import App, BatchTable, RecordBatch
from pipeline.kafka import create_topics
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics

#: Longer than anything here takes, so that a hang is a failure and not a wait.
PATIENCE_SECONDS = 90.0
#: Between two looks: whoever looks without a pause takes the processor from what it waits for.
_POLL_SECONDS = 0.01


class Lane:
    """One app, as a worker process would run it."""

    def __init__(self, settings: Settings) -> None:
        """Declare the app, its agent and its table."""
        self.settings = settings
        self.seen: defaultdict[int, list[int]] = defaultdict(list)
        self.batches: list[tuple[int, int]] = []
        self.recovered: dict[bytes, bytes | None] = {}
        self.recovered_count = 0
        self.owned: set[int] | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.changed = asyncio.Condition()
        self.fail = False
        self.app = App(
            settings.group,
            broker=f"kafka://{settings.kafka}",
            datadir=tempfile.gettempdir(),
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            table_standby_replicas=0,
            consumer_auto_offset_reset="earliest",
            broker_commit_interval=0.2,
            broker_session_timeout=6.0,
            broker_heartbeat_interval=1.0,
            broker_max_poll_records=100,
            agent_supervisor="mode.supervisors:CrashingSupervisor",
            key_serializer="raw",
            value_serializer="raw",
        )
        self.app.topics.add(self.app.topic(topics(settings).lifecycle.name, key_type=bytes, value_type=bytes))
        self.table = BatchTable(self.app, name="rooms", key_type=bytes, value_type=bytes)
        self.table.on_recover = self._recover
        self.table.on_owned = self._own
        self.app.tables.add(self.table)
        self.app.agent(self.app.batches, concurrency=1)(self.track)

    async def track(self, stream: Any) -> None:
        """Note every batch, once it may pass."""
        async for first in stream:
            async with self.app.work(stream, first, 1000) as batches:
                await self.open.wait()
                if self.fail:
                    raise RuntimeError("the agent was told to fail")
                await self._note(batches)

    async def _note(self, batches: list[RecordBatch]) -> None:
        async with self.changed:
            for batch in batches:
                self.seen[batch.tp.partition] += [record.offset for record in batch.records]
                self.batches.append((batch.tp.partition, len(batch.records)))
            self.changed.notify_all()

    def _recover(self, _partition: int, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, value in entries:
            self.recovered[key] = value
            self.recovered_count += 1

    async def _own(self, partitions: set[int]) -> None:
        async with self.changed:
            self.owned = partitions
            self.changed.notify_all()

    def count(self) -> int:
        """Return how many records were handled."""
        return sum(map(len, self.seen.values()))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a batch or an assignment makes a condition true."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(condition)

    async def remember(self, entries: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        """Write changelog entries."""
        by_partition: defaultdict[int, list[tuple[bytes, bytes | None]]] = defaultdict(list)
        for partition, key, value in entries:
            by_partition[partition].append((key, value))
        await self.app.changelog(self.table, by_partition)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Lane]:
    """Start an app, wait until it owns partitions, and stop it."""
    lane = Lane(settings)
    await lane.app.start()
    try:
        await lane.until(lambda: lane.owned is not None)
        yield lane
    finally:
        lane.open.set()
        await lane.app.stop()


async def declare(bootstrap: str, prefix: str, partitions: int = 4) -> Settings:
    """Create the topics of one test; return its settings."""
    settings = Settings(kafka=bootstrap, topic_prefix=prefix, partitions=partitions)
    await create_topics(bootstrap, topics(settings).all())
    return settings


async def send(settings: Settings, count: int) -> None:
    """Send numbered records, spread evenly over the partitions."""
    async with Producer(settings.kafka) as producer:
        for number in range(count):
            await producer.send_soon(
                topics(settings).lifecycle.name, b"key", b"%d" % number, partition=number % settings.partitions
            )
        await producer.flush()


async def committed(lane: Lane) -> int:
    """Return the sum of the committed offsets of the partitions that a lane owns, as the broker has them."""
    consumer = lane.app.consumer._thread._ensure_consumer()
    own = [tp for tp in consumer.assignment() if not tp.topic.endswith("changelog")]
    offsets = [await lane.app.consumer._thread.call_thread(consumer.committed, tp) for tp in own]
    return sum(offset or 0 for offset in offsets)


async def eventually(condition: Callable[[], bool]) -> None:
    """Let everything else run until a condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event: it is inside Faust
            await asyncio.sleep(_POLL_SECONDS)


async def eventually_async(value: Callable[[], Awaitable[object]], expected: object) -> None:
    """Ask somebody else again and again until the answer is as expected."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await value() != expected:  # noqa: ASYNC110 - as above
            await asyncio.sleep(_POLL_SECONDS)
