"""Workers that share one store come, leave and are killed; an emitter makes rollups of what they stored."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import orjson
import pytest

from pipeline.embedded import now_ms
from pipeline.kafka import read_topic
from pipeline.metering.units import hour_of
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.storeserver import StoreServer
from tests.oracle_counted import read_time

_EVENTS: Final = 12_000


@dataclass(frozen=True, slots=True)
class Observed:
    """What came out of a group whose members changed: the bill, the rollups, and what the rules ask for."""

    members: list[int]
    exit_code: int
    billed: dict[Any, Any]
    due: dict[Any, Any]
    rollups: list[dict[str, Any]]
    until_ms: int
    due_rollups: dict[Any, Any]
    dead_letters: int


@pytest.fixture(scope="module")
def observed(broker: TestBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Four parts of a day: one worker; two; the first has left and a third came; the second was killed."""
    home = tmp_path_factory.mktemp("workers")
    (home / "store").mkdir()
    server = StoreServer(home / "store")
    server.start()
    settings = Settings(
        kafka=broker.bootstrap,
        topic_prefix="workers.",
        store=server.dsn,
        session_timeout_ms=broker.session_timeout_ms,
        batch_events=500,
        grace_period_ms=0,
        emit_interval_ms=500,
    )
    events = feed.simulated_events(_EVENTS, seed=31)
    parts = [events[start : start + _EVENTS // 4] for start in range(0, _EVENTS, _EVENTS // 4)]
    first, second, third = (Process("worker", settings, home / f"worker-{number}.log") for number in (1, 2, 3))
    emitter = Process("emitter", settings, home / "emitter.log")
    members = []
    try:
        first.start()
        wait_until(first.is_ready)
        emitter.start()
        feed.send(settings, parts[0])
        second.start()
        wait_until(second.is_ready)
        members.append(len(feed.members(settings)))
        feed.send(settings, parts[1])
        third.start()
        exit_code = first.stop()
        wait_until(third.is_ready)
        members.append(len(feed.members(settings)))
        feed.send(settings, parts[2])
        second.kill()
        asyncio.run(broker.expire_members())
        feed.send(settings, parts[3])
        wait_until(lambda: feed.is_done(settings, server.dsn))
        members.append(len(feed.members(settings)))
        billed, due = feed.bills(settings, server.dsn, events)
        stored_at_s = now_ms() / 1000
        wait_until(lambda: emitter.metric("roommeter_watermark_seconds") > stored_at_s)
        until_ms = hour_of(int(emitter.metric("roommeter_watermark_seconds")) * 1000)
        yield Observed(
            members=members,
            exit_code=exit_code,
            billed=billed,
            due=due,
            rollups=asyncio.run(_rollups(settings)),
            until_ms=until_ms,
            due_rollups={key: cell for key, cell in due.items() if key[2] < until_ms},
            dead_letters=feed.dead_letters(settings),
        )
    finally:
        for process in (emitter, first, second, third):
            process.close()
        server.kill()


async def _rollups(settings: Settings) -> list[dict[str, Any]]:
    name = topics(settings).rollups.name
    return [orjson.loads(record.value or b"") async for record in read_topic(settings.kafka, name)]


def test_the_group_changed_under_way(observed: Observed) -> None:
    """A test of rebalancing has to have had it: the killed one counts until its session is over, or is gone."""
    assert observed.members[:2] == [2, 2]
    assert observed.members[2] in (1, 2)
    assert observed.exit_code == 0


def test_workers_that_come_and_go_change_nothing_on_the_bill(observed: Observed) -> None:
    """R10: split over any number of workers, the same events give the rules' bill, cell by cell."""
    assert observed.billed == observed.due
    assert observed.dead_letters == 0


def test_the_rollups_on_the_topic_are_the_rules_usage_of_complete_hours(observed: Observed) -> None:
    """R17, R18: the newest revision of each cell, read back from Kafka, against the second opinion."""
    newest = {_key(rollup): rollup for rollup in observed.rollups}
    cells = {
        key: (rollup["increments"], rollup["increments_open"], rollup["sessions"])
        for key, rollup in newest.items()
        if key[2] < observed.until_ms
    }
    assert {key: cell for key, cell in cells.items() if any(cell)} == observed.due_rollups
    assert len(cells) > 50


def test_an_hour_was_emitted_again_when_late_events_came(observed: Observed) -> None:
    """R11: most of the day came after the first emission of its hours."""
    assert any(rollup["revision"] > 1 for rollup in observed.rollups)


def test_the_deltas_of_a_cell_add_up_to_its_newest_quantity(observed: Observed) -> None:
    """R17: whoever adds deltas and whoever keeps the newest revision bill the same."""
    totals: dict[Any, Decimal] = defaultdict(Decimal)
    for rollup in {rollup["id"]: rollup for rollup in observed.rollups}.values():
        totals[_key(rollup)] += Decimal(rollup["delta"])
    assert totals == {_key(rollup): Decimal(rollup["quantity"]) for rollup in observed.rollups}


def _key(rollup: dict[str, Any]) -> tuple[str, str, int]:
    return rollup["project"], rollup["meter"], read_time(rollup["hour"])
