"""Amendments as an operator makes them: by command, through Kafka and a worker, into what is billed (R12)."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import orjson
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.embedded import System, connected, now_ms, working
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE, format_time
from pipeline.rows import UsageQuery
from pipeline.settings import Settings
from pipeline.worker import Worker
from tests.brokers import TestBroker
from tests.e2e.processes import wait_until
from tests.faults import feed
from tests.faults.storeserver import StoreServer
from tests.metering.builders import connected as connect
from tests.metering.builders import disconnected as disconnect

_WHO: Final = ("--actor", "jo", "--reason", "ticket 4711")

Amend = Callable[..., str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    """A store of this test."""
    started = StoreServer(tmp_path)
    started.start()
    yield started
    started.kill()


@pytest.fixture
async def system(broker: TestBroker, server: StoreServer, topic_prefix: str) -> AsyncIterator[System]:
    """A worker that has metered one session of 30 minutes."""
    settings = Settings(kafka=broker.bootstrap, topic_prefix=topic_prefix, store=server.dsn, http_port=0)
    start_ms = now_ms() - 40 * MS_PER_MINUTE
    call = [connect(start_ms), disconnect(start_ms + 30 * MS_PER_MINUTE)]
    async with connected(settings, *Worker.CONDITIONS) as running, working(running):
        await asyncio.to_thread(feed.send, settings, call)
        await asyncio.to_thread(wait_until, lambda: feed.is_done(settings, settings.store))
        yield running


@pytest.fixture
def amend(system: System) -> Amend:
    """Run `roommeter amend`, and return what it says."""
    settings = system.settings
    said = {"KAFKA": settings.kafka, "TOPIC_PREFIX": settings.topic_prefix, "STORE": settings.store}

    def run(*arguments: str) -> str:
        environment = os.environ | {f"ROOMMETER_{name}": value for name, value in said.items()}
        result = CliRunner().invoke(main, ["amend", *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result.output

    return run


async def _minutes(system: System) -> int:
    cells = await asyncio.to_thread(system.store.usage, UsageQuery(as_of_ms=now_ms()))
    return sum(cell.increments for _, cell in cells)


async def test_what_an_operator_says_is_billed_until_it_is_withdrawn(system: System, amend: Amend) -> None:
    """R12: void, then an end instead, then a start as well, then as observed again."""
    start_ms = now_ms() - 35 * MS_PER_MINUTE
    steps = [
        (("void", "PA_1", *_WHO), 0),
        (("set-end", "PA_1", format_time(start_ms + 10 * MS_PER_MINUTE), *_WHO), 15),
        (("set-start", "PA_1", format_time(start_ms), *_WHO), 10),
        (("withdraw", "PA_1", *_WHO), 30),
    ]
    assert await _minutes(system) == 30
    for arguments, minutes in steps:
        said = await asyncio.to_thread(amend, *arguments)
        assert "now:" in said
        assert await _minutes(system) in range(minutes, minutes + 2)  # `start_ms` is this test's clock, a little later


async def test_an_end_before_the_start_is_refused(system: System, amend: Amend) -> None:
    """R12: it would bill nothing without saying so; `void` says so."""
    with pytest.raises(AssertionError, match="the session would end before it starts"):
        await asyncio.to_thread(amend, "set-end", "PA_1", format_time(now_ms() - MS_PER_DAY), *_WHO)
    assert await _minutes(system) == 30


async def test_the_trail_keeps_every_amendment_with_who_and_why(system: System, amend: Amend) -> None:
    """R12: the one in force last; what was observed is still there."""
    for arguments in (("void", "PA_1"), ("withdraw", "PA_1")):
        await asyncio.to_thread(amend, *arguments, *_WHO)
    trail = [orjson.loads(line) for line in (await asyncio.to_thread(amend, "show", "PA_1", "--json")).splitlines()]
    assert [(row["epoch"], row["void"], row["actor"], row["reason"]) for row in trail] == [
        (1, True, "jo", "ticket 4711"),
        (2, False, "jo", "ticket 4711"),
    ]
    assert await _minutes(system) == 30
