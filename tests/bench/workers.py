"""Real workers that are watched: CPU per event, recovery, and what a rebalance repeats."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice

from pipeline.clickhouse import Store
from pipeline.embedded import load_meters
from pipeline.http import Readiness
from pipeline.metering.session import Room
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.rows import Batch
from pipeline.settings import Settings
from pipeline.topics import topics
from pipeline.tracker import Changes, Tracker
from pipeline.work import Work
from pipeline.worker import Worker
from tests.bench.load import fill, open_sessions, policy_of

#: Of one stretch of records that a Tracker is given: as many as a worker's poll brings.
STRETCH = 2_000


class NullStore(Store):
    """A store that takes rows, as Arrow, and keeps none."""

    def __init__(self) -> None:
        """Connect to nothing, but warm up: the first Arrow array of a process imports pandas, for half a second."""
        Batch(restarts=[("sfu-1", 0)]).tables()

    def write(self, batch: Batch | Work) -> None:
        """Build the rows and drop them."""
        batch.tables()

    def open_rooms(self) -> Iterator[tuple[str, str, Room]]:
        """Know of no room."""
        return iter(())


class Handled:
    """Which records (partition, offset) were finished, by one worker or several."""

    def __init__(self) -> None:
        """Begin with none."""
        self.changed = asyncio.Condition()
        self.records: list[tuple[object, ...]] = []

    async def add(self, work: Work) -> None:
        """Note the records of a batch that is finished."""
        async with self.changed:
            for events in work.rows["events"]:
                self.records += zip(events["partition"].to_pylist(), events["offset"].to_pylist(), strict=True)
            self.changed.notify_all()

    async def until(self, count: int) -> None:
        """Wait until so many are finished."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.records) >= count)


class WatchedWorker(Worker):
    """A worker that notes which records it has finished, and what the clocks said when it owned its partitions."""

    def __init__(self, settings: Settings, store: Store, producer: Producer, handled: Handled) -> None:
        """Make a worker with metrics of its own."""
        metrics = Metrics()
        readiness = Readiness(metrics, "broker", "clickhouse", *Worker.CONDITIONS)
        super().__init__(settings, load_meters(settings), store, producer, metrics, readiness)
        self.owns = asyncio.Event()
        self.owned_cpu_s = 0.0
        self.owned_s = 0.0
        self.count = 0
        self._handled = handled

    async def _own(self, partitions: set[int]) -> None:
        await super()._own(partitions)
        self.owned_cpu_s, self.owned_s = time.process_time(), time.perf_counter()
        self.owns.set()

    async def _after(self, work: Work) -> None:
        await super()._after(work)
        self.count += work.dispositions.total()
        await self._handled.add(work)


@asynccontextmanager
async def watched(settings: Settings, store: Store, handled: Handled) -> AsyncIterator[WatchedWorker]:
    """Run one worker, and stop it in order."""
    async with Producer(settings.kafka) as producer:
        worker = WatchedWorker(settings, store, producer, handled)
        await worker.start()
        try:
            yield worker
        finally:
            await worker.stop()


async def cpu_us(settings: Settings, events: int, store: Store) -> float:
    """Return the CPU per event of a worker, in us: from owning its partitions to the last event's acknowledgement."""
    handled = Handled()
    async with watched(settings, store, handled) as worker:
        await handled.until(events)
        spent_s = time.process_time() - worker.owned_cpu_s
    return spent_s * 1e6 / events


async def replayed(settings: Settings, events: int) -> int:
    """Return how many records are handled twice when, under load, a second worker joins and leaves again."""
    entries = ((line.partition, None, line.value) for line in open_sessions(events))
    handled, sent = Handled(), 0

    async def feed(count: int) -> int:
        await fill(settings.kafka, topics(settings).lifecycle.name, islice(entries, count))
        return sent + count

    async with watched(settings, NullStore(), handled) as staying:
        await staying.owns.wait()
        async with watched(settings, NullStore(), handled) as joining:
            while not joining.count and sent < events // 2:
                sent = await feed(events // 50)
            sent = await feed(events // 4)
            assert joining.owns.is_set(), "the second worker came too late"
        sent = await feed(events // 8)
        await handled.until(sent)
    return len(handled.records) - len(set(handled.records))


async def recovery(settings: Settings, sessions: int) -> tuple[float, float]:
    """Return how long a worker takes to recover so many open sessions from the changelog: seconds, CPU us a record."""
    records = await _remember(settings, sessions)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    async with watched(settings, NullStore(), Handled()) as worker:
        await worker.owns.wait()
        assert worker.tracker.count()[1] == sessions
        return worker.owned_s - started_s, (worker.owned_cpu_s - started_cpu_s) * 1e6 / records


async def _remember(settings: Settings, sessions: int) -> int:
    """Write the changelog of a worker that saw so many sessions begin; return its records."""
    newest = {
        (partition, key): value
        for changes in observe(settings, sessions)
        for partition, entries in changes.changelog.items()
        for key, value in entries
    }
    changelog = ((partition, key, value) for (partition, key), value in newest.items())
    await fill(settings.kafka, topics(settings).rooms_changelog.name, changelog)
    return len(newest)


def observe(settings: Settings, sessions: int, tracker: Tracker | None = None) -> Iterator[Changes]:
    """Let a tracker see so many sessions begin; yields what each stretch changed."""
    tracker = tracker or Tracker(load_meters(settings), policy_of(settings))
    lines = open_sessions(sessions)
    while stretch := list(islice(lines, STRETCH)):
        yield tracker.apply(stretch)
