"""The broker goes away for half a minute under load: every event that was answered arrives, in order (R22)."""

import asyncio
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from pipeline.gateway.outbox import Outbox
from pipeline.kafka import create_topics, read_topic
from pipeline.messages import Message
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker, own_candidates, start_broker

_OUTAGE_S: Final = 30.0
_ROOMS: Final = 20
#: Between a room's events: with all rooms some 200 events a second.
_PAUSE_S: Final = 0.1
#: What one source may wait for its answer: LiveKit gives up a try after this time.
_PATIENCE_S: Final = 5.0
_MOST_GROWTH_KB: Final = 30_000


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[TestBroker]:
    """A broker of this test alone, so that its death disturbs no other."""
    started = start_broker(own_candidates(), tmp_path, print)
    yield started
    asyncio.run(started.stop())


class Room:
    """One room's source: it sends the next event when the last was answered, as media servers do."""

    def __init__(self, outbox: Outbox, topic: str, name: bytes) -> None:
        """Prepare; `answered` counts what was accepted."""
        self.name = name
        self.answered = 0
        self.slowest_s = 0.0
        self._outbox = outbox
        self._topic = topic

    async def play(self, end: asyncio.Event) -> None:
        """Send until the end; the last event is answered too."""
        while not end.is_set():
            began_s = time.monotonic()
            await self._outbox.accept([Message(self._topic, self.name, b"%d" % self.answered)])
            self.answered += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            await _pause(end, _PAUSE_S)


async def _pause(end: asyncio.Event, seconds: float) -> None:
    await asyncio.wait({waiting := asyncio.create_task(end.wait())}, timeout=seconds)
    waiting.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(180):
        while not condition():
            await _pause(asyncio.Event(), 0.05)


def _value(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"roommeter_{name}") or 0.0


async def test_every_event_answered_while_the_broker_is_away_arrives_in_order(
    own_broker: TestBroker, tmp_path: Path
) -> None:
    """Answers come in time all the while, memory stays flat, and the spool is empty afterwards."""
    settings = Settings(kafka=own_broker.bootstrap, data_dir=tmp_path / "gateway")
    topic = topics(settings).lifecycle
    await create_topics(settings.kafka, [topic])
    metrics, end = Metrics(), asyncio.Event()
    async with Outbox(settings, metrics, lambda: time.time_ns() // 1_000_000) as outbox:
        rooms = [Room(outbox, topic.name, b"acme/RM_%d" % number) for number in range(_ROOMS)]
        playing = [asyncio.create_task(room.play(end)) for room in rooms]
        await _pause(end, 2)
        await own_broker.crash()
        await _until(lambda: _value(metrics, "spooled_total") >= 2 * _ROOMS)
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await _pause(end, _OUTAGE_S)
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
        assert _value(metrics, "spool_messages") > 100 * _ROOMS
        assert _value(metrics, "spool_age_seconds") > _OUTAGE_S - 5
        await own_broker.restart()
        await _until(lambda: _value(metrics, "spool_messages") == 0)
        end.set()
        await asyncio.gather(*playing)
    assert max(room.slowest_s for room in rooms) < _PATIENCE_S
    assert grown_kb < _MOST_GROWTH_KB
    arrived: dict[bytes | None, list[int]] = {room.name: [] for room in rooms}
    async for record in read_topic(settings.kafka, topic.name):
        if (number := int(record.value or b"")) not in arrived[record.key]:
            arrived[record.key].append(number)
    assert arrived == {room.name: list(range(room.answered)) for room in rooms}
