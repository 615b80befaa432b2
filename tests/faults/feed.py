"""What the tests of faults share: a simulated day, sending it, and what the broker and the store say of it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import orjson
from aiokafka.admin import AIOKafkaAdminClient

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.kafka import end_offsets
from pipeline.metering.units import MS_PER_HOUR
from pipeline.producer import Producer
from pipeline.publish import publish
from pipeline.rows import UsageQuery
from pipeline.settings import Settings
from pipeline.simulator import Scenario, simulate
from pipeline.topics import topics
from tests.oracle import MeterHour, oracle

Document = dict[str, Any]


def simulated_events(count: int, seed: int, per_session: int = 2, **changes: Any) -> list[Document]:
    """Return so many events, sent in the 20 hours up to now, with faults of every kind that a bill must survive.

    `per_session` is how many events there are of a session, at most: more of them make it quicker. `changes` are what
    else the scenario says.
    """
    now = now_ms()
    faults: dict[str, Any] = {
        "reconnect": 0.05,
        "crash": 0.03,
        "duplicate": 0.05,
        "disorder_ms": 60_000,
        "late": 0.02,
        "lost": 0.02,
        "abort": 0.03,
        "lost_connect": 0.02,
        "reused_rooms": 0.05,
        "skew_ms": 2_000,
    }
    scenario = Scenario(
        start_ms=now - 20 * MS_PER_HOUR, end_ms=now, sessions=count // per_session, seed=seed, **faults | changes
    )
    return [document for sent_at_ms, document in simulate(scenario).events if sent_at_ms <= now][-count:]


def send(settings: Settings, payloads: Iterable[Document | bytes]) -> None:
    """Send events to the lifecycle topic, in order, and return when the broker has them."""
    asyncio.run(_send(settings, payloads))


async def _send(settings: Settings, payloads: Iterable[Document | bytes]) -> None:
    topic = topics(settings).lifecycle.name
    async with Producer(settings.kafka) as producer:
        for payload in payloads:
            await publish(producer, topic, payload if isinstance(payload, bytes) else orjson.dumps(payload))
        await producer.flush()


def sent(settings: Settings) -> int:
    """Return how many records the lifecycle topic has."""
    return sum(asyncio.run(end_offsets(settings.kafka, topics(settings).lifecycle.name)).values())


def stored(settings: Settings, dsn: str) -> int:
    """Return how many records of the lifecycle topic the store at an address has."""
    # Asked again and again while a worker works: opening takes ten times as long as asking.
    open_store = _kept_open if dsn.startswith("http") else _opened
    with open_store(dsn, settings.database) as store:
        return sum(next_offset for next_offset, _ in store.progress(topics(settings).lifecycle.name).values())


_stores: dict[tuple[str, str], Store] = {}


@contextmanager
def _kept_open(dsn: str, database: str) -> Iterator[Store]:
    """Yield a store that stays open as long as it answers: the process behind it may be killed, and another start."""
    store = _stores.pop((dsn, database), None) or Store.open(dsn, database)
    try:
        yield store
    except BaseException:
        store.close()
        raise
    _stores[dsn, database] = store


@contextmanager
def _opened(dsn: str, database: str) -> Iterator[Store]:
    with closing(Store.open(dsn, database)) as store:
        yield store


def is_done(settings: Settings, dsn: str) -> bool:
    """Tell whether the store at an address has all that was sent."""
    return stored(settings, dsn) == sent(settings)


def dead_letters(settings: Settings) -> int:
    """Return how many dead letters there are."""
    return sum(asyncio.run(end_offsets(settings.kafka, topics(settings).dead_letters.name)).values())


def bills(
    settings: Settings, dsn: str, events: Iterable[Document]
) -> tuple[dict[MeterHour, Any], dict[MeterHour, Any]]:
    """Return the bill that the store at an address computes, and the bill that the rules ask for."""
    as_of_ms = now_ms()
    with closing(Store.open(dsn, settings.database)) as store:
        billed = {key: tuple(cell) for key, cell in store.usage(UsageQuery(as_of_ms=as_of_ms))}
    return billed, oracle(events, as_of_ms)


def committed(settings: Settings) -> int:
    """Return the sum of the offsets that the workers' group has committed."""
    return asyncio.run(_committed(settings))


async def _committed(settings: Settings) -> int:
    async with admin_client(settings) as admin:
        offsets = await admin.list_consumer_group_offsets(settings.group)
    name = topics(settings).lifecycle.name
    return sum(found.offset for partition, found in offsets.items() if partition.topic == name)


def members(settings: Settings) -> set[str]:
    """Return the ids of the members of the workers' group, as the broker has them."""
    return asyncio.run(_members(settings))


async def _members(settings: Settings) -> set[str]:
    async with admin_client(settings) as admin:
        [response] = await admin.describe_consumer_groups([settings.group])
    [group] = response.groups
    return {member[0] for member in group[5]}


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield a client for what the product itself never asks or does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
