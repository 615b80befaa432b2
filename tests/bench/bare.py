"""What the worker is compared with: a bare consumer loop with the same job, and a stock Faust agent without any."""

import asyncio
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer

from pipeline.embedded import load_meters
from pipeline.rows import Batch
from pipeline.settings import Settings
from pipeline.topics import topics
from pipeline.tracker import Tracker
from pipeline.work import work_out
from pipeline.worker import POLL_RECORDS
from tests.bench.load import Line, policy_of
from tests.bench.workers import observe


def job_cpu_us(settings: Settings, lines: Sequence[Line]) -> float:
    """Return the CPU per event, in us, of the job alone: decode, state, changelog entries and rows, without Kafka."""
    tracker = Tracker(load_meters(settings), policy_of(settings))
    Batch(restarts=[("sfu-1", 0)]).tables()  # the first Arrow array of a process imports pandas
    started_s = time.process_time()
    for first in range(0, len(lines), settings.batch_events):
        work_out(tracker, lines[first : first + settings.batch_events]).tables()
    return (time.process_time() - started_s) * 1e6 / len(lines)


async def bare_cpu_us(settings: Settings, events: int) -> float:
    """Return the CPU per event, in us, of a loop that polls, decodes, joins, drops the rows and commits."""
    tracker = Tracker(load_meters(settings), policy_of(settings))
    consumer = AIOKafkaConsumer(
        topics(settings).lifecycle.name,
        bootstrap_servers=settings.kafka,
        group_id=settings.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        started_s, done = time.process_time(), 0
        while done < events:
            for records in (await consumer.getmany(timeout_ms=1_000, max_records=POLL_RECORDS)).values():
                done += len(tracker.apply(records).events)
            await consumer.commit()
        return (time.process_time() - started_s) * 1e6 / events
    finally:
        await consumer.stop()


async def stock_faust_cpu_us(settings: Settings, events: int) -> float:
    """Return the CPU per event, in us, of a Faust agent that takes bytes one by one and does nothing with them."""
    app = faust.App(
        f"{settings.topic_prefix}stock",
        broker=f"kafka://{settings.kafka}",
        datadir=tempfile.gettempdir(),
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        key_serializer="raw",
        value_serializer="raw",
    )
    topic = app.topic(topics(settings).lifecycle.name, key_type=bytes, value_type=bytes)
    done = asyncio.Event()
    spent_s = 0.0

    async def count(stream: Any) -> None:
        nonlocal spent_s
        started_s, seen = 0.0, 0
        async for _ in stream:
            started_s = started_s or time.process_time()
            seen += 1
            if seen == events:
                spent_s = time.process_time() - started_s
                done.set()

    app.agent(topic)(count)
    await app.start()
    try:
        await done.wait()
    finally:
        await app.stop()
    return spent_s * 1e6 / events


def bytes_per_session(settings: Settings, sessions: int) -> float:
    """Return the memory of one open session in a Tracker, in bytes, its half of a room included."""
    tracker = Tracker(load_meters(settings), policy_of(settings))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in observe(settings, sessions, tracker):
        pass
    assert tracker.count()[1] == sessions
    return (tracemalloc.get_traced_memory()[0] - before) / sessions
