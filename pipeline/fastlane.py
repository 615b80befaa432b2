"""Record batches under Faust's own consumer: the batch path of the worker.

Faust's streams cost 65 to 190 us of CPU per event, nearly all of it in tasks and acknowledgements
per record. Here the consumer hands on what one poll brought of one partition as one item of a
channel, and an agent acknowledges it when it has finished with it. Assignment, rebalancing, the
table with its changelog, flow control and the commit timer stay Faust's.

What this file takes over from Faust, each with a test in tests/contracts/test_fastlane.py:
order within a partition; acknowledging only what is durable; committing before a partition is
given up, so that a clean rebalance replays nothing; recovery of the table in batches; standing
still while a queue is full; stopping after the batch in hand.

It overrides private methods of faust-streaming 0.15.3; `tests/contracts/test_faust_internals.py`
fails when an upgrade changes them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, cast

import faust
from faust.tables.manager import TableManager
from faust.tables.table import Table
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from pipeline.tracker import ChangelogEntry, Record

#: Batches that may wait in the channel: enough to keep the agent busy, few enough to bound memory.
QUEUE_BATCHES: Final = 64
#: How long giving up partitions waits for the batch in hand, in seconds. It must be well below the
#: group's rebalance timeout; while the store is away longer, the batch is replayed by the next owner.
HAND_OVER_SECONDS: Final = 10.0


class RecordBatch(NamedTuple):
    """What one poll brought of one partition, in order of offsets."""

    tp: TP
    records: Sequence[Record]

    @property
    def next_offset(self) -> int:
        """The offset to continue at when this batch is done."""
        return self.records[-1].offset + 1


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, with whole batches in place of single messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start with nothing acknowledged."""
        super().__init__(*args, **kwargs)
        self.acknowledged: dict[TP, int] = {}
        self.nothing_in_hand = asyncio.Event()
        self.nothing_in_hand.set()
        self.no_poll_under_way = asyncio.Event()
        self.no_poll_under_way.set()

    async def perform_seek(self) -> None:
        """Seek to the committed offsets while no poll is under way; the flow has to be resumed after it, as Faust does.

        What a poll brought from behind the seek, before the flow goes on, would be dropped and never fetched again.
        """
        self.stop_flow()
        await self.no_poll_under_way.wait()
        await super().perform_seek()
        # Where nothing was ever committed, that seek leaves the position behind what a poll brought and nobody got.
        unread = [tp for tp in self.assignment() if not self._is_changelog_tp(tp) and not self._read_offset.get(tp)]
        if unread:
            await self._thread.seek_to_beginning(*map(driver.ensure_aiokafka_TP, unread))

    async def _drain_messages(self, fetcher: Any) -> None:
        """Poll until stopped: changelog records into the table, all others into the channel."""
        app = cast("App", self.app)
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.wait(self.can_resume_flow)
                continue  # it may have been stopped again
            self.no_poll_under_way.clear()
            try:
                polled, active = await self._wait_next_records(timeout=1.0)
                await self._hand_on(polled or {}, active)
            except self.consumer_stopped_errors:
                if app.should_stop:
                    return
                raise
            finally:
                self.no_poll_under_way.set()
            app.signal_recovered()

    async def _hand_on(self, polled: Mapping[Any, Sequence[Record]], active: set[TP] | None) -> None:
        app = cast("App", self.app)
        for tp, records in polled.items():
            if not self.flow_active:
                break  # these are fetched again: a seek to the committed offset comes before the flow goes on
            if tp.topic in app.tables.changelog_topics:
                app.recover(TP(*tp), records)
            elif active is None or tp in active:
                await self.wait_first(self._queue(RecordBatch(TP(*tp), records)), self.suspend_flow.wait())

    async def _queue(self, batch: RecordBatch) -> None:
        """Wait for room in the channel. Giving up partitions, Faust clears it and cancels who waits: no error then."""
        try:
            await cast("App", self.app).batches.put(batch)
        except asyncio.CancelledError:
            if self.flow_active:
                raise

    def acknowledge(self, batches: Iterable[RecordBatch]) -> None:
        """Take batches as done: everything below their ends is durable."""
        for batch in batches:
            if batch.tp in self.assignment():
                self.acknowledged[batch.tp] = max(self.acknowledged.get(batch.tp, 0), batch.next_offset)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> list[TP]:
        return [tp for tp in self.acknowledged if topics is None or tp in topics or tp.topic in topics]

    def _new_offset(self, tp: TP) -> int | None:
        return self.acknowledged.get(tp)

    async def wait_empty(self) -> None:
        """Wait for the batch in hand, for a bounded time, then commit what is done."""
        try:
            await asyncio.wait_for(self.nothing_in_hand.wait(), HAND_OVER_SECONDS)
        except TimeoutError:
            self.log.warning("The batch in hand is not durable yet: its next owner will replay it.")
        await self.commit_and_end_transactions()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit before the partitions are given up; Faust forgets the offsets first."""
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        await self.wait_empty()
        await super().on_partitions_revoked(revoked)
        self.acknowledged.clear()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave stalls to our own readiness: Faust's detector watches events that we do not have."""


class Producer(driver.Producer):  # type: ignore[misc]
    """Faust's producer, idempotent: it retries until the broker has a record exactly once."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class Transport(driver.Transport):  # type: ignore[misc]
    """The transport that makes our consumer and producer."""

    Consumer = Consumer
    Producer = Producer


class BatchTable(Table):  # type: ignore[misc]
    """A table whose contents belong to somebody else: changelog, co-partitioning and recovery are Faust's.

    `on_recover(partition, entries)` joins changelog entries; `on_owned(partitions)` says which
    partitions are ours now that recovery is complete.
    """

    on_recover: Callable[[int, Iterable[tuple[bytes, bytes | None]]], None]
    on_owned: Callable[[set[int]], Any]

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Tell the owner of the contents which partitions are complete and ours."""
        # Faust lets polls go on before it seeks to the committed offsets: what they brought would come twice.
        # It resumes the flow itself, behind the seek.
        self.app.consumer.stop_flow()
        await super().on_recovery_completed(active_tps, standby_tps)
        await self.on_owned({tp.partition for tp in active_tps})


class App(faust.App):  # type: ignore[misc]
    """A Faust app with the batch path: `batches` for its agent, `changelog` for its table."""

    consumer: Consumer
    tables: TableManager

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Faust's own arguments."""
        super().__init__(*args, **kwargs)
        self.batches = self.channel(maxsize=QUEUE_BATCHES)

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Transport:
        return Transport(self.conf.broker_producer, self)

    @asynccontextmanager
    async def work(self, stream: Any, first: RecordBatch, most_records: int) -> AsyncIterator[list[RecordBatch]]:
        """Take a batch and those waiting behind it, and acknowledge them when the block ends without error."""
        queue = stream.channel.queue
        batches, count = [first], len(first.records)
        while count < most_records and not queue.empty():
            batches.append(queue.get_nowait())
            count += len(batches[-1].records)
        self.consumer.nothing_in_hand.clear()
        try:
            yield batches
            self.consumer.acknowledge(batches)
        finally:
            self.consumer.nothing_in_hand.set()

    async def changelog(self, table: BatchTable, entries: Mapping[int, Sequence[ChangelogEntry]]) -> None:
        """Write changelog entries, by partition, as whole batches and wait until the broker has them."""
        producer = self.producer._ensure_producer()  # noqa: SLF001 - batches are below Faust's own interface
        topic = table.changelog_topic.get_topic_name()
        for partition, own in entries.items():
            written = 0
            while written < len(own):
                builder = producer.create_batch()
                for key, value in own[written:]:
                    if builder.append(key=key, value=value, timestamp=None) is None:
                        break
                count = builder.record_count()
                assert count, "one entry is larger than a batch may be"
                metadata = await (await producer.send_batch(builder, topic, partition=partition))
                written += count
                # Our own entries are known here already: a rebalance must not read them back (Faust does).
                self.tables.recovery.active_offsets[TP(topic, partition)] = metadata.offset + count - 1

    def recover(self, tp: TP, records: Sequence[Record]) -> None:
        """Join a stretch of the changelog: 2 us per record, where Faust's event by event takes 99."""
        table = cast("BatchTable", self.tables._changelogs[tp.topic])  # noqa: SLF001
        offsets = self.tables.recovery.active_offsets
        seen = offsets.get(tp)
        fresh = [record for record in records if seen is None or record.offset > seen]
        table.on_recover(tp.partition, ((record.key or b"", record.value) for record in fresh))
        offsets[tp] = records[-1].offset

    def signal_recovered(self) -> None:
        """Let Faust go on when the table has caught up; said again at every poll until it has heard."""
        recovery = self.tables.recovery
        if recovery.in_recovery and not recovery.need_recovery():
            recovery.signal_recovery_end.set()
