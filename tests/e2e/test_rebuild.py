"""State that was lost is rebuilt from the store, and everything that was stopped goes on where it stood."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pipeline.broker import free_port
from pipeline.embedded import connected, now_ms, working
from pipeline.metering.timeline import is_live, observed_start_ms
from pipeline.metering.units import NEVER_MS
from pipeline.settings import Settings
from pipeline.topics import topics
from pipeline.worker import Worker
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.storeserver import StoreServer
from tests.lane import eventually, eventually_async
from tests.oracle import oracle_verdicts

_EVENTS: Final = 4_000
_HALF: Final = _EVENTS // 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    """A store of this test."""
    started = StoreServer(tmp_path)
    started.start()
    yield started
    started.kill()


async def test_a_worker_without_its_changelog_rebuilds_its_open_rooms_from_the_store(
    broker: TestBroker, server: StoreServer, topic_prefix: str
) -> None:
    """Rebuild: the store has all that the offsets say, so the open sessions are those of the rules; so is the bill.

    The first worker may hold more of them for open: it may have forgotten a room's end before a late connect came
    (tests/test_tracker.py).
    """
    settings = Settings(kafka=broker.bootstrap, topic_prefix=topic_prefix, store=server.dsn, http_port=0)
    events = feed.simulated_events(_EVENTS, seed=21)
    async with connected(settings, *Worker.CONDITIONS) as system, working(system) as first:
        await asyncio.to_thread(feed.send, settings, events[:_HALF])
        await _until_done(settings)
        before = _live(first)
    await _delete_changelog(settings)
    async with connected(settings, *Worker.CONDITIONS) as system, working(system) as second:
        await eventually(lambda: not system.readiness.reasons())
        assert before >= _live(second) == _open(events[:_HALF]) != set()
        await asyncio.to_thread(feed.send, settings, events[_HALF:])
        await _until_done(settings)
    billed, due = await asyncio.to_thread(feed.bills, settings, server.dsn, events)
    assert billed == due


def test_everything_stopped_with_ctrl_c_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Embedded: `roommeter up` interrupted and started again reads no event a second time, and loses none."""
    settings = Settings(data_dir=tmp_path / "data", broker_port=free_port(), emit_interval_ms=500)
    fed = settings.model_copy(update={"kafka": f"127.0.0.1:{settings.broker_port}"})
    events = feed.simulated_events(_EVENTS, seed=22)
    up = Process("up", settings, tmp_path / "up.log")
    accepted, sent = 'roommeter_events_total{disposition="accepted"}', [0]
    try:
        for part in (events[:_HALF], events[_HALF:]):
            up.start()
            wait_until(up.is_ready)
            feed.send(fed, part)
            wait_until(lambda: feed.is_done(fed, up.address))
            sent.append(feed.sent(fed))
            wait_until(lambda: up.metric(accepted) >= sent[-1] - sent[-2])
            assert up.metric(accepted) == sent[-1] - sent[-2]
            billed, due = feed.bills(fed, up.address, events[: _HALF * (len(sent) - 1)])
            assert billed == due
            assert up.interrupt() == 0
    finally:
        up.close()


async def _until_done(settings: Settings) -> None:
    await asyncio.to_thread(wait_until, lambda: feed.is_done(settings, settings.store))


async def _delete_changelog(settings: Settings) -> None:
    name = topics(settings).rooms_changelog.name
    async with feed.admin_client(settings) as admin:
        await admin.delete_topics([name])

        async def exists() -> bool:
            return name in await admin.list_topics()

        await eventually_async(exists, expected=False)


def _live(worker: Worker) -> set[tuple[str, str, str]]:
    """Return the sessions in a worker's memory that began and have no end."""
    return {
        (*key, name)
        for facts in worker.tracker.partitions.values()
        for key, name, session in facts.sessions()
        if is_live(session, facts.rooms[key]) and observed_start_ms(session) < NEVER_MS
    }


def _open(events: list[feed.Document]) -> set[tuple[str, str, str]]:
    """Return the sessions that the rules see begun and without an end, but for a presumed one."""
    verdicts = oracle_verdicts(events, now_ms())
    return {key for key, found in verdicts.items() if found and (found.end_ms is None or found.end_presumed)}
