"""A worker killed again and again bills exactly what the rules say, session by session and hour by hour."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson
import pytest

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.kafka import create_topics, end_offsets
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE
from pipeline.metering.usage import increments_by_hour
from pipeline.producer import Producer
from pipeline.publish import publish
from pipeline.rows import SessionQuery, UsageQuery
from pipeline.settings import Settings
from pipeline.simulator import Scenario, simulate
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.oracle import oracle, oracle_sessions

KILLS = 10
EVENTS = 100_000


@pytest.fixture(scope="module")
def settings(broker: TestBroker, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A worker on the test broker with a store of its own; it may be declared dead as early as the broker allows."""
    store = tmp_path_factory.mktemp("killed") / "clickhouse"
    return Settings(
        kafka=broker.bootstrap,
        topic_prefix="killed.",
        store=f"chdb://{store}",
        session_timeout_ms=broker.session_timeout_ms,
        batch_events=2000,
    )


@pytest.fixture(scope="module")
def worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The worker process; not started yet."""
    process = Process("worker", settings, tmp_path_factory.mktemp("killed") / "worker.log")
    yield process
    process.close()


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    """A day that ends now: reconnects, crashes, repetitions, disorder, losses, reused rooms, clocks that differ."""
    now = now_ms()
    scenario = Scenario(
        start_ms=now - 24 * MS_PER_HOUR,
        end_ms=now,
        sessions=EVENTS // 4,
        seed=4,
        reconnect=0.05,
        crash=0.03,
        duplicate=0.05,
        disorder_ms=60_000,
        late=0.02,
        lost=0.02,
        abort=0.03,
        lost_connect=0.02,
        reused_rooms=0.05,
        skew_ms=2_000,
        sample_every_ms=600_000,
    )
    return [document for sent_at_ms, document in simulate(scenario).events if sent_at_ms <= now][:EVENTS]


async def _send(settings: Settings, events: list[dict[str, Any]]) -> None:
    topic = topics(settings).lifecycle.name
    async with Producer(settings.kafka) as producer:
        for event in events:
            await publish(producer, topic, orjson.dumps(event))
        await producer.flush()


def _done(settings: Settings, store: Store) -> int:
    """Return how many records are in the store, by the worker's own account."""
    return sum(next_offset for next_offset, _ in store.progress(topics(settings).lifecycle.name).values())


@pytest.fixture(scope="module")
def sent(settings: Settings, events: list[dict[str, Any]]) -> int:
    """How many records the topic holds once everything is sent."""
    asyncio.run(create_topics(settings.kafka, topics(settings).all()))
    asyncio.run(_send(settings, events))
    return sum(asyncio.run(end_offsets(settings.kafka, topics(settings).lifecycle.name)).values())


@pytest.fixture(scope="module")
def done_at_kills(broker: TestBroker, settings: Settings, worker: Process, sent: int) -> list[int]:
    """Run a worker over all records and kill it ten times, in the middle of the work; what was done each time."""
    chance = random.Random(7)  # noqa: S311 - a repeatable choice, not a secret
    done = []
    for kill in range(KILLS):
        worker.start()
        wait_until(worker.is_ready)
        goal = int(sent * (kill + chance.random()) / (KILLS + 1))
        with closing(Store.open(worker.address)) as store:
            wait_until(lambda: _done(settings, store) > goal)  # noqa: B023 - called at once
            done.append(_done(settings, store))
        worker.kill()
        asyncio.run(broker.expire_members())
    return done


@pytest.fixture(scope="module")
def metered(settings: Settings, worker: Process, sent: int, done_at_kills: list[int]) -> Iterator[Store]:
    """The store when the last worker has caught up."""
    assert len(done_at_kills) == KILLS
    worker.start()
    wait_until(worker.is_ready)
    with closing(Store.open(worker.address)) as store:
        wait_until(lambda: _done(settings, store) == sent)
        yield store


def test_the_kills_came_in_mid_run(sent: int, done_at_kills: list[int]) -> None:
    """A test of faults has to have had its faults: each kill left records behind."""
    assert len(done_at_kills) == KILLS
    assert all(0 < done < sent for done in done_at_kills)


def test_the_bill_is_the_rules_bill_cell_by_cell(metered: Store, events: list[dict[str, Any]]) -> None:
    """R10, R22: ten SIGKILLs during 100 000 events change no minute of any project, meter and hour."""
    as_of_ms = now_ms()
    assert len(events) == EVENTS
    assert {key: tuple(cell) for key, cell in metered.usage(UsageQuery(as_of_ms=as_of_ms))} == oracle(events, as_of_ms)


def test_every_session_has_the_rules_minutes_hour_by_hour(metered: Store, events: list[dict[str, Any]]) -> None:
    """Totals can hide errors that cancel out: so each session on its own, each of its hours on its own."""
    as_of_ms = now_ms()
    minutes = {
        (row.project, row.room, row.session, hour_ms): increments
        for row in metered.sessions(SessionQuery(as_of_ms=as_of_ms, limit=1_000_000))
        if row.started_at_ms < as_of_ms
        for hour_ms, increments in increments_by_hour(row.started_at_ms, min(row.ended_at_ms, as_of_ms), MS_PER_MINUTE)
    }
    assert minutes == {key: total for key, (total, _) in oracle_sessions(events, as_of_ms).items()}
