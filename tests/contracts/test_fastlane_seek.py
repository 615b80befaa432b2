"""Behind the seek to the committed offsets nothing is polled before the flow goes on."""

import asyncio
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver

from pipeline import fastlane
from pipeline.settings import Settings
from tests.brokers import TestBroker
from tests.lane import declare, running, send


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

    async def late(*args: Any) -> None:
        await asyncio.sleep(0.1)  # so that a poll is under way
        await complete(*args)

    async def slow(self: driver.Consumer) -> None:
        await seek(self)
        await send(settings, 8)
        await asyncio.sleep(0.2)  # for the poll to bring them, before the flow goes on

    monkeypatch.setattr(driver.Consumer, "perform_seek", slow)
    monkeypatch.setattr(fastlane.BatchTable, "on_recovery_completed", late)
    async with running(settings) as lane:
        await lane.until(lambda: lane.count() == 8)
