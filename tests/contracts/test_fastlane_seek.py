"""Behind the seek to the committed offsets nothing is polled before the flow goes on."""

from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver

from pipeline import fastlane
from pipeline.settings import Settings
from tests.brokers import TestBroker
from tests.lane import declare, eventually, running, send


@pytest.fixture
async def settings(embedded_broker: TestBroker, topic_prefix: str) -> Settings:
    """The settings of one test, its topics created."""
    return await declare(embedded_broker.bootstrap, topic_prefix)


async def test_what_waits_when_a_worker_starts_is_read(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start: however long the seek takes to return, records behind the committed offsets are handed on."""
    await send(settings, 4)
    async with running(settings) as lane:
        await lane.until(lambda: lane.count() == 4)
        await lane.app.changelog(lane.table, {0: [(b"room", b"1")]})  # to be recovered: by polls, before the seek
    seek, complete = driver.Consumer.perform_seek, fastlane.BatchTable.on_recovery_completed

    async def late(table: fastlane.BatchTable, *args: Any) -> None:
        await eventually(lambda: not table.app.consumer.no_poll_under_way.is_set())
        await complete(table, *args)

    async def slow(self: fastlane.Consumer) -> None:
        await seek(self)
        await send(settings, 8)
        await self.no_poll_under_way.wait()  # one that were under way would bring them, before the flow goes on

    monkeypatch.setattr(driver.Consumer, "perform_seek", slow)
    monkeypatch.setattr(fastlane.BatchTable, "on_recovery_completed", late)
    async with running(settings) as lane:
        await lane.until(lambda: lane.count() == 8)


async def test_what_a_poll_brought_and_nobody_got_is_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R22: a rebalance that comes with the very first records, before any offset was committed, loses none of them."""
    await send(settings, 4)
    hand_on, dropped = fastlane.Consumer._hand_on, list[Any]()

    async def interrupted(self: fastlane.Consumer, polled: Any, active: Any) -> None:
        if not dropped and polled:
            dropped.extend(polled)
            self.stop_flow()
        await hand_on(self, polled, active)

    monkeypatch.setattr(fastlane.Consumer, "_hand_on", interrupted)
    async with running(settings) as lane:
        await eventually(lambda: bool(dropped))
        await lane.app.consumer.perform_seek()
        lane.app.consumer.resume_flow()
        await lane.until(lambda: lane.count() == 4)
