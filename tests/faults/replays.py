"""F22, F24: the whole topic replayed into the same store and into an empty one; the changelog deleted."""

import asyncio
import dataclasses
import time
from collections.abc import Iterator

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.embedded import now_ms
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.compare import Compared, compare
from tests.faults.engine import Lab, Row
from tests.faults.rig import rig
from tests.faults.storeserver import StoreServer


def replays(lab: Lab) -> Iterator[Row]:
    """Replay a topic whole, half of the times into the store that has it already, then into an empty one."""
    times, size = lab.size(2, 10), lab.size(10_000, 50_000)
    events = feed.simulated_events(size, lab.seed)
    with rig(lab, "replay", batch_events=5_000) as made:
        worker = made.worker()
        made.send(events)
        made.until_done()
        as_of_ms = now_ms()

        def found_at(dsn: str) -> Compared:
            return compare(made.settings, dsn, made.events, made.records, as_of_ms)

        before = found_at(made.server.dsn)
        for _ in range(times):
            _again(worker, made.settings)
        same = found_at(made.server.dsn)
        empty = StoreServer(lab.directory("empty"))
        empty.start()
        try:
            worker.settings = worker.settings.model_copy(update={"store": empty.dsn})
            _again(worker, made.settings)
            fresh = found_at(empty.dsn)
        finally:
            worker.close()
            empty.kill()
    problems = [] if before.digest == same.digest == fresh.digest else ["digests differ"]
    found = dataclasses.replace(same, **{name: getattr(same, name) + getattr(fresh, name) for name in _COUNTS})
    note = f"{times} times into the same store, once into an empty one; digest {before.digest[1]:016x}"
    yield Row("F24 whole topic replayed", times + 1, times + 1, note=note, problems=problems).compared(found)


_COUNTS = ("wrong", "lost", "doubled")


def _again(worker: Process, settings: Settings) -> None:
    """Let a worker begin at the first record again, and return when it has committed the last."""
    worker.stop()
    asyncio.run(_forget(settings))
    worker.start()
    wait_until(worker.is_ready)
    sent = feed.sent(settings)
    wait_until(lambda: feed.committed(settings) == sent, 300)


async def _forget(settings: Settings) -> None:
    """Set the workers' group back to the first record of each partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, group_id=settings.group, enable_auto_commit=False, auto_offset_reset="none"
    )
    name = topics(settings).lifecycle.name
    partitions = [TopicPartition(name, number) for number in range(settings.partitions)]
    consumer.assign(partitions)
    await consumer.start()
    try:
        await consumer.commit(dict.fromkeys(partitions, 0))
    finally:
        await consumer.stop()


def changelog(lab: Lab) -> Iterator[Row]:
    """Kill a worker with open sessions in its memory, and delete the changelog before it starts again."""
    size = lab.size(8_000, 100_000)
    events = feed.simulated_events(size, lab.seed)
    with rig(lab, "changelog") as made:
        worker = made.worker()
        made.send(events[: size // 2])
        made.until_done()
        worker.kill()
        asyncio.run(_delete_changelog(made.settings))
        started_s = time.monotonic()
        worker.start()
        wait_until(worker.is_ready)
        recovery_s = time.monotonic() - started_s
        made.send(events[size // 2 :])
        made.until_done()
        found = made.compare()
    note = "rebuilt from the store; recovery with the time until the broker declares the killed one dead"
    yield Row("F22 changelog deleted", 1, recovery_s=recovery_s, note=note).compared(found)


async def _delete_changelog(settings: Settings) -> None:
    name = topics(settings).rooms_changelog.name
    async with feed.admin_client(settings) as admin:
        await admin.delete_topics([name])
        deadline_s = time.monotonic() + 30
        while name in await admin.list_topics():
            assert time.monotonic() < deadline_s, "the changelog is not deleted"
            await asyncio.sleep(0.05)
