"""A worker killed again and again bills exactly what the rules say, session by session and hour by hour."""

import asyncio
import random
from collections.abc import Iterator

import pytest

from pipeline.kafka import create_topics
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.compare import Compared, compare

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
def events() -> list[feed.Document]:
    """Most of a day that ends now, with signs of life between the begin and the end of a session."""
    return feed.simulated_events(EVENTS, seed=4, per_session=4, sample_every_ms=600_000)


@pytest.fixture(scope="module")
def sent(settings: Settings, events: list[feed.Document]) -> int:
    """How many records the topic holds once everything is sent."""
    asyncio.run(create_topics(settings.kafka, topics(settings).all()))
    feed.send(settings, events)
    return feed.sent(settings)


@pytest.fixture(scope="module")
def done_at_kills(broker: TestBroker, settings: Settings, worker: Process, sent: int) -> list[int]:
    """Run a worker over all records and kill it ten times, in the middle of the work; what was done each time."""
    chance = random.Random(7)  # noqa: S311 - a repeatable choice, not a secret
    done: list[int] = []
    for kill in range(KILLS):
        worker.start()
        wait_until(worker.is_ready)
        goal = int(sent * (kill + chance.random()) / (KILLS + 1))
        wait_until(lambda: feed.stored(settings, worker.address) > goal)  # noqa: B023 - called at once
        done.append(feed.stored(settings, worker.address))
        worker.kill()
        asyncio.run(broker.expire_members())
    return done


@pytest.fixture(scope="module")
def compared(
    settings: Settings, worker: Process, events: list[feed.Document], sent: int, done_at_kills: list[int]
) -> Compared:
    """What the store bills when the last worker has caught up, beside what the rules ask for."""
    assert len(done_at_kills) == KILLS
    worker.start()
    wait_until(worker.is_ready)
    wait_until(lambda: feed.is_done(settings, worker.address))
    return compare(settings, worker.address, events, sent)


def test_the_kills_came_in_mid_run(sent: int, done_at_kills: list[int]) -> None:
    """A test of faults has to have had its faults: each kill left records behind."""
    assert len(done_at_kills) == KILLS
    assert all(0 < done < sent for done in done_at_kills)


def test_the_bill_is_the_rules_bill_hour_by_hour(compared: Compared, events: list[feed.Document]) -> None:
    """R10, R22: ten SIGKILLs during 100 000 events change nothing of any project's hour, nor of any session's."""
    assert len(events) == EVENTS
    assert compared.sessions > EVENTS // 10
    assert compared.wrong == 0


def test_every_record_is_stored_once(compared: Compared) -> None:
    """R10: known by partition and offset."""
    assert (compared.lost, compared.doubled) == (0, 0)
