"""A worker that would bury nearly everything stops before it does, and goes on where it stopped (R21, R22)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pipeline.kafka import create_topics
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.faults import feed

_RECORDS: Final = 1_500


@pytest.fixture
def settings(broker: TestBroker, tmp_path: Path) -> Settings:
    """An installation whose lifecycle topic holds nothing but what cannot be read."""
    found = Settings(
        kafka=broker.bootstrap, topic_prefix="limit.", partitions=1, store=f"chdb://{tmp_path / 'clickhouse'}"
    )
    asyncio.run(_send(found))
    return found


@pytest.fixture
def processes(settings: Settings, tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    """A worker, and one with a higher limit."""
    higher = settings.model_copy(update={"dead_letter_limit_percent": 100})
    started = Process("worker", settings, tmp_path / "log"), Process("worker", higher, tmp_path / "log")
    yield started
    for process in started:
        process.close()


async def _send(settings: Settings) -> None:
    names = topics(settings)
    await create_topics(settings.kafka, names.all())
    async with Producer(settings.kafka) as producer:
        for number in range(_RECORDS):
            await producer.send_soon(names.lifecycle.name, b"acme/RM_%d" % number, b"not an event")
        await producer.flush()


def test_a_worker_stops_at_the_limit_and_goes_on_when_it_is_raised(
    settings: Settings, processes: tuple[Process, Process]
) -> None:
    """It buries nothing, acknowledges nothing, says what to do, ends when asked; the next one takes it all."""
    worker, next_worker = processes
    worker.start()
    wait_until(lambda: "dead_letter_limit: more than 90 %" in worker.unready_reasons())
    assert f"{_RECORDS} not_json" in worker.unready_reasons()
    assert worker.stop() == 0
    assert feed.dead_letters(settings) == 0
    next_worker.start()
    wait_until(lambda: feed.dead_letters(settings) == _RECORDS)
    wait_until(next_worker.is_ready)
    assert next_worker.stop() == 0
