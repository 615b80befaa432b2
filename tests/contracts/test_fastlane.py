"""What the batch path takes over from Faust, property by property, on a real broker."""

import asyncio
from functools import partial

import pytest

from pipeline import fastlane
from pipeline.settings import Settings
from tests.brokers import TestBroker
from tests.lane import PATIENCE_SECONDS, Lane, committed, declare, eventually, eventually_async, running, send


@pytest.fixture
async def settings(broker: TestBroker, topic_prefix: str) -> Settings:
    """The settings of one test, its topics created."""
    return await declare(broker.bootstrap, topic_prefix)


async def test_records_of_a_partition_arrive_once_and_in_order(settings: Settings) -> None:
    """Order: what one poll brought of one partition is one item, in order of offsets."""
    await send(settings, 1000)
    async with running(settings) as lane:
        await lane.until(lambda: lane.count() == 1000)
        assert all(offsets == list(range(250)) for offsets in lane.seen.values())
        assert len(lane.batches) < 200


async def test_only_what_the_agent_has_finished_is_committed(settings: Settings) -> None:
    """Acknowledge after durable: a batch in hand holds its offset back, whatever the commit timer does."""
    async with running(settings) as lane:
        lane.open.clear()
        await send(settings, 400)
        await eventually(lambda: _busy(lane))
        await lane.app.consumer.commit()  # as the timer does
        assert await committed(lane) == 0
        lane.open.set()
        await lane.until(lambda: lane.count() == 400)
        await eventually_async(lambda: committed(lane), 400)


async def test_a_clean_rebalance_replays_nothing(settings: Settings) -> None:
    """Rebalance: what is done is committed before partitions are given up, what is not begun is dropped."""
    await send(settings, 4000)
    async with running(settings) as first:
        await first.until(lambda: first.count() >= 200)
        async with running(settings) as second:
            await send(settings, 4000)
            await eventually(lambda: first.count() + second.count() == 8000)
            assert second.count() > 0
            handled = [(p, o) for lane in (first, second) for p, offsets in lane.seen.items() for o in offsets]
            assert sorted(handled) == [(p, o) for p in range(4) for o in range(2000)]


async def test_a_partition_taken_away_from_a_busy_agent_is_replayed_by_its_next_owner(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoke: a batch that does not become durable in time is not acknowledged for anybody."""
    monkeypatch.setattr(fastlane, "HAND_OVER_SECONDS", 0.1)
    await send(settings, 400)
    async with running(settings) as first:
        first.open.clear()
        await eventually(lambda: _busy(first))
        async with running(settings) as second:
            await second.until(lambda: second.count() == 200)
            assert len(second.seen) == 2
            first.open.set()
            await first.until(lambda: {0, 1, 2, 3} == first.seen.keys() | second.seen.keys())


async def test_a_full_queue_stops_polling_and_keeps_the_assignment(settings: Settings) -> None:
    """Pause: behind a waiting agent a bounded number of batches is read, and no partition is lost."""
    async with running(settings) as lane:
        lane.open.clear()
        await send(settings, 20_000)
        queue = next(iter(lane.app.batches._subscribers)).queue
        await eventually(lambda: queue.qsize() == fastlane.QUEUE_BATCHES)
        assert lane.app.consumer.assignment()
        lane.open.set()
        await lane.until(lambda: lane.count() == 20_000)
        assert all(offsets == list(range(5000)) for offsets in lane.seen.values())


async def test_a_rebalance_while_the_queue_is_full_ends_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoke: Faust clears the queue and cancels who waits at it; what waited is read again, by its next owner."""
    monkeypatch.setattr(fastlane, "HAND_OVER_SECONDS", 0.1)
    async with running(settings) as first:
        first.open.clear()
        await send(settings, 20_000)
        queue = next(iter(first.app.batches._subscribers)).queue
        await eventually(lambda: bool(queue._putters))
        async with running(settings) as second:
            first.open.set()
            for lane in (first, second):
                await lane.until(partial(_has_all, lane))
            assert (first.app.crash_reason, second.app.crash_reason) == (None, None)


def _has_all(lane: Lane) -> bool:
    return lane.owned is not None and len(lane.owned) == 2 and all(len({*lane.seen[n]}) == 5000 for n in lane.owned)


async def test_the_table_is_recovered_from_its_changelog(settings: Settings) -> None:
    """Recovery: a new process sees every entry, the newest of a key last, and tombstones."""
    async with running(settings) as first:
        await first.remember((number % 4, b"room-%d" % number, b"old") for number in range(1000))
        await first.remember((number % 4, b"room-%d" % number, b"new") for number in range(1000))
        await first.remember([(0, b"room-0", None)])
    async with running(settings) as second:
        assert len(second.recovered) == 1000
        assert second.recovered[b"room-999"] == b"new"
        assert second.recovered[b"room-0"] is None


async def test_a_rebalance_does_not_read_back_what_a_worker_wrote_itself(settings: Settings) -> None:
    """Recovery: kept partitions continue behind their own entries; Faust would read them all again."""
    async with running(settings) as first:
        await first.remember((number % 4, b"room-%d" % number, b"value") for number in range(1000))
        async with running(settings) as second:
            await first.until(lambda: first.owned is not None and len(first.owned) == 2)
            assert second.recovered_count == 500
            assert first.recovered_count == 0


async def test_stopping_finishes_the_batch_in_hand_and_commits_it(settings: Settings) -> None:
    """Graceful stop: what the agent was doing is not done again by the next process."""
    async with running(settings) as first:
        first.open.clear()
        await send(settings, 100)
        await eventually(lambda: _busy(first))
        stopping = asyncio.create_task(first.app.stop())
        first.open.set()
        await stopping
        done = first.count()
    async with running(settings) as second:
        await second.until(lambda: second.count() == 100 - done)
        assert done > 0
        assert not any(set(first.seen[p]) & set(second.seen[p]) for p in range(4))


async def test_an_agent_that_raises_ends_the_app_and_acknowledges_nothing(settings: Settings) -> None:
    """A real error ends the process: Faust's own streams would acknowledge the event and go on."""
    async with running(settings) as lane:
        lane.fail = True
        await send(settings, 200)
        await asyncio.wait_for(lane.app._crashed.wait(), PATIENCE_SECONDS)
        assert lane.app.consumer.acknowledged == {}
    async with running(settings) as second:
        await second.until(lambda: second.count() == 200)


def _busy(lane: Lane) -> bool:
    return not lane.app.consumer.nothing_in_hand.is_set()
