"""The Faust worker: lifecycle records in; facts, dead letters and changelog out, then acknowledged.

The order is the guarantee (R22): rows into ClickHouse, dead letters and changelog into Kafka, and
only then the offset. Killed anywhere between, the next owner repeats the batch, which joins into
the same facts. Nothing here raises for what a record contains; an error that does escape ends the
process, because a Faust agent that raises would go on behind the lost event.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar

import faust

from pipeline.brokers import security_of
from pipeline.clickhouse import Store, StoreUnavailable
from pipeline.deadletters.breaker import Breaker
from pipeline.fastlane import App, BatchTable
from pipeline.http import Readiness
from pipeline.kafka import partition_of
from pipeline.metering.meters import Meters
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics
from pipeline.tracker import ACCEPTED, IGNORED, DeadLetter, Policy, Tracker
from pipeline.work import Work, work_out

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Waits between attempts at the store, in seconds: quick at first, then patient (R22).
BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: How often closed rooms are looked for, in ms of broker time.
EVICT_INTERVAL_MS: Final = 60_000
#: Records of one poll. More make larger batches and so less work per event, and cost memory.
POLL_RECORDS: Final = 8_000


class PartitionsAdded(RuntimeError):
    """The lifecycle topic has more partitions than when this worker started; the message says what to do."""


class Worker:
    """One worker process's Faust app with its table of rooms, and what it writes to."""

    #: What a worker tells its readiness of, beside `clickhouse`.
    CONDITIONS: Final = ("worker", "dead_letter_limit", "worker_progress")

    def __init__(
        self,
        settings: Settings,
        meters: Meters,
        store: Store,
        producer: Producer,
        metrics: Metrics,
        readiness: Readiness,
    ) -> None:
        """Declare the app; nothing is connected before `start`."""
        self._settings = settings
        self._store = store
        self._producer = producer
        self._metrics = metrics
        self._readiness = readiness
        self._topics = topics(settings)
        self._evicted_at_ms = 0
        self._breaker = Breaker(settings.dead_letter_limit_percent, settings.dead_letter_window)
        self.tracker = Tracker(
            meters,
            Policy(
                settings.max_event_bytes,
                settings.correction_window_ms,
                settings.future_skew_ms,
                settings.evict_after_ms,
            ),
        )
        self.app = self._declare()

    async def start(self) -> None:
        """Start the app and return when it is connected; it becomes ready when its table is recovered."""
        self._readiness.unset("worker", "the table of rooms is not recovered yet")
        self._readiness.set("dead_letter_limit")
        await self.app.start()

    async def stop(self) -> None:
        """Finish and commit the batch in hand, then leave the group."""
        self._readiness.unset("worker", "stopping")
        await self.app.stop()

    def owned(self) -> set[int]:
        """Return the partitions of the lifecycle topic that are this worker's now."""
        return {tp.partition for tp in self.app.consumer.assignment() if tp.topic == self._topics.lifecycle.name}

    def has_in_hand(self) -> bool:
        """Tell whether a batch is being worked on."""
        return not self.app.consumer.nothing_in_hand.is_set()

    async def crashed(self) -> BaseException:
        """Wait for an error that ends the worker, and return it."""
        await self.app._crashed.wait()  # noqa: SLF001 - mode has no public way to wait for a crash
        return self.app.crash_reason or RuntimeError("the Faust app crashed")

    def _declare(self) -> App:
        settings = self._settings
        app = App(
            settings.group,
            broker=[f"kafka://{address}" for address in settings.kafka.split(",")],
            broker_credentials=_credentials(settings.kafka),
            datadir=tempfile.gettempdir(),  # Faust wants one; with tables in memory nothing is put there
            web_enabled=False,  # its server would listen on every address, and show the tables
            topic_allow_declare=False,  # pipeline.topics declares them
            topic_disable_leader=True,
            table_standby_replicas=0,  # recovery takes seconds; a standby would double the memory
            consumer_auto_offset_reset="earliest",
            broker_max_poll_records=POLL_RECORDS,
            broker_max_poll_interval=2_000_000.0,  # while the store is away the assignment is kept (R22)
            broker_session_timeout=settings.session_timeout_ms / 1000,
            broker_heartbeat_interval=settings.session_timeout_ms / 5000,
            broker_commit_interval=1.0,
            stream_wait_empty=True,
            agent_supervisor="mode.supervisors:CrashingSupervisor",
            key_serializer="raw",
            value_serializer="raw",
            producer_max_request_size=8 * 1_048_576,
            producer_max_batch_size=262_144,
        )
        app.topics.add(app.topic(self._topics.lifecycle.name, key_type=bytes, value_type=bytes))
        self._table = BatchTable(app, name="rooms", key_type=bytes, value_type=bytes)
        self._table.on_recover = self.tracker.recover
        self._table.on_owned = self._own
        app.tables.add(self._table)
        app.agent(app.batches, concurrency=1)(self.track)
        return app

    async def track(self, stream: Any) -> None:
        """Decode, join, write, acknowledge: the agent."""
        async for first in stream:
            async with self.app.work(stream, first, self._settings.batch_events) as batches:
                self._check_partitions(batch.tp.partition for batch in batches)
                work = work_out(self.tracker, chain.from_iterable(batch.records for batch in batches))
                await self._stop_at_limit(work)
                await self._when_available(partial(self._store.write, work))
                self._metrics.store_insert_events.observe(work.dispositions.total())
                await self._bury(work.dead_letters)
                await self.app.changelog(self._table, work.changelog)
            await self._after(work)

    def _check_partitions(self, partitions: Iterable[int]) -> None:
        """Refuse records of partitions that the changelog has no counterpart for; nothing of them is acknowledged."""
        known = self._topics.lifecycle.partitions
        if max(partitions) >= known:
            raise PartitionsAdded(
                f"topic {self._topics.lifecycle.name!r} had {known} partitions and has got more: start every worker "
                "again, the first one adds them to the changelog; nothing is lost"
            )

    async def _stop_at_limit(self, work: Work) -> None:
        """Wait for ever, before anything is written, when nearly everything would be a dead letter (R22).

        Then the worker is misconfigured rather than its producers. Nothing is lost or acknowledged: started
        again, mended or with a higher limit, it goes on with the same batch.
        """
        if self._breaker.admits(work.counts):
            return
        reasons = work.dispositions.most_common(3)
        self._readiness.unset(
            "dead_letter_limit",
            f"more than {self._settings.dead_letter_limit_percent} % of the last records would be dead letters: "
            f"{', '.join(f'{times} {reason}' for reason, times in reasons)} "
            f"in this batch of {work.dispositions.total()}. "
            "Nothing of it is buried or lost. Mend the settings or the producers and restart; if all is right, with "
            "ROOMMETER_DEAD_LETTER_LIMIT_PERCENT=100 until this is through",
        )
        await asyncio.Event().wait()

    async def _when_available(self, call: Callable[[], _T]) -> _T:
        """Call the store until it answers: in place, with growing waits, saying so (R22)."""
        attempt = 0
        while True:
            started = time.perf_counter()
            try:
                result = await asyncio.to_thread(call)
            except StoreUnavailable as error:
                self._readiness.unset("clickhouse", str(error))
                self._metrics.store_retries.inc()
                logger.warning("ClickHouse is away, waiting: %s", error)
                await asyncio.sleep(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)])
                attempt += 1
            else:
                self._metrics.store_insert_seconds.observe(time.perf_counter() - started)
                self._readiness.set("clickhouse")
                return result

    async def _bury(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Send dead letters as they came, with their reasons, and wait for the broker (R21)."""
        name = self._topics.dead_letters.name
        async with asyncio.TaskGroup() as sending:
            for letter in dead_letters:
                sending.create_task(self._producer.send(name, letter.key, letter.value, letter.headers))

    async def _after(self, work: Work) -> None:
        """Count what was done, and now and then forget rooms that ended long ago."""
        self._metrics.batches.inc()
        for disposition, count in work.dispositions.items():
            if disposition in (ACCEPTED, IGNORED):
                self._metrics.events.labels(disposition).inc(count)
            else:
                self._metrics.events.labels("dead_letter").inc(count)
                self._metrics.dead_letters.labels(disposition).inc(count)
        now_ms = work.broker_time_ms
        if now_ms >= self._evicted_at_ms + EVICT_INTERVAL_MS:
            self._evicted_at_ms = now_ms
            await self.app.changelog(self._table, self.tracker.evict(now_ms))
            rooms, sessions = self.tracker.count()
            self._metrics.rooms_in_memory.set(rooms)
            self._metrics.sessions_open.set(sessions)

    async def _own(self, partitions: set[int]) -> None:
        """Take over partitions whose table is recovered; where the changelog is gone, ask the store."""
        self.tracker.keep_only(partitions)
        unknown = partitions - self.tracker.partitions.keys()
        if unknown:
            await self._rebuild(unknown)
        self._readiness.set("worker")

    async def _rebuild(self, unknown: set[int]) -> None:
        """Read open rooms back from the store: it has all that the offsets say, so joins make this exact."""
        count = self._topics.lifecycle.partitions
        for project, name, room in await self._when_available(lambda: list(self._store.open_rooms())):
            partition = partition_of(f"{project}/{name}".encode(), count)
            if partition in unknown:
                self.tracker.join(partition, (project, name), room)


def _credentials(bootstrap: str) -> Any:
    """Return how Faust is to speak to the brokers; None where there is neither TLS nor a password."""
    tls, mechanism, username, password = security_of(bootstrap)
    if mechanism:
        return faust.SASLCredentials(mechanism=mechanism, username=username, password=password, ssl_context=tls)
    return None if tls is None else faust.SSLCredentials(tls)
