"""What the benchmark is measured on: a simulated day on the lifecycle topic, and many open sessions."""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from pipeline.embedded import now_ms
from pipeline.kafka import create_topics, partition_of
from pipeline.messages import event_key
from pipeline.metering.units import MS_PER_HOUR, format_time
from pipeline.settings import Settings
from pipeline.simulator import Scenario, simulate
from pipeline.topics import topics
from pipeline.tracker import Policy

PARTITIONS: Final = 8
#: The simulator sends about three events for each session, those of its room among them.
_EVENTS_PER_SESSION: Final = 2.5

Entry = tuple[int, bytes | None, bytes | None]
"""Partition, key and value of a record to write."""


class Line(NamedTuple):
    """One record that never was in Kafka."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def settings_of(kafka: str, prefix: str) -> Settings:
    """Return the settings of one measurement."""
    return Settings(kafka=kafka, topic_prefix=prefix, partitions=PARTITIONS)


def policy_of(settings: Settings) -> Policy:
    """Return the limits that a worker with these settings applies."""
    limits = (settings.correction_window_ms, settings.future_skew_ms, settings.evict_after_ms)
    return Policy(settings.max_event_bytes, *limits)


def day(events: int) -> list[Entry]:
    """Return a simulated day that ends now: partition, key and bytes of so many events, in order of sending."""
    until_ms = now_ms()
    sessions = int(events / _EVENTS_PER_SESSION)
    scenario = Scenario(start_ms=until_ms - 24 * MS_PER_HOUR, end_ms=until_ms, sessions=sessions, disorder_ms=2_000)
    documents = [document for sent_at_ms, document in simulate(scenario).events if sent_at_ms <= until_ms]
    assert len(documents) >= events, len(documents)
    return [_addressed(document) for document in documents[-events:]]


def lines(events: int) -> Iterator[Line]:
    """Yield a simulated day as records that never were in Kafka."""
    read_ms = now_ms()
    for offset, (partition, key, value) in enumerate(day(events)):
        yield Line("lifecycle", partition, offset, read_ms, key, value)


def _addressed(document: dict[str, Any]) -> Entry:
    key = event_key(document)
    return partition_of(key or b"", PARTITIONS), key, orjson.dumps(document)


def open_sessions(count: int) -> Iterator[Line]:
    """Yield the connects of so many sessions, two in each room, that nobody ended: an agent and who called it."""
    began_ms = now_ms()
    for number in range(count):
        room = f"RM_{number // 2:012x}"
        session = f"PA_{number:012x}"
        kind = ("agent", "participant")[number % 2]
        data = {"project": f"project-{number % 7}", "room": room, "session": session, "kind": kind}
        data |= {"agent": "support"} if kind == "agent" else {"identity": f"user-{number:x}"}
        event: dict[str, Any] = {"specversion": "1.0", "id": f"EV_{number:012x}", "source": f"livekit/eu-{number % 8}"}
        event |= {"type": "session.connected", "time": format_time(began_ms), "subject": session, "data": data}
        yield Line("lifecycle", number // 2 % PARTITIONS, number, began_ms, None, orjson.dumps(event))


async def fill(kafka: str, topic: str, entries: Iterable[Entry]) -> None:
    """Append entries to a topic, in large batches."""
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, max_batch_size=500_000, max_request_size=8_000_000, request_timeout_ms=60_000
    )
    await producer.start()
    batches: dict[int, Any] = {}
    try:
        for partition, key, value in entries:
            batch = batches.setdefault(partition, producer.create_batch())
            if batch.append(key=key, value=value, timestamp=None) is None:
                await (await producer.send_batch(batch, topic, partition=partition))
                batches[partition] = producer.create_batch()
                batches[partition].append(key=key, value=value, timestamp=None)
        for partition, batch in batches.items():
            await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await producer.stop()


async def declare(settings: Settings) -> None:
    """Create the topics of a measurement."""
    await create_topics(settings.kafka, topics(settings).all())
