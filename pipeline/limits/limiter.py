"""The limiter: evaluates limits in the stream, and tells every crossing once.

It folds the lifecycle topic itself, so that it neither waits for the worker nor asks the store for each pass: the
store is asked for the sums of past hours, now and then, and while it is away the fold goes on with those it has
(R22). Several limiters may run, be killed and be paused anywhere: decisions.py makes them tell each crossing once.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Final, NamedTuple

from pipeline import codec
from pipeline.clickhouse import StoreUnavailable
from pipeline.decisions import DecisionLog, Form
from pipeline.follower import Follower
from pipeline.kafka import Record, end_offsets
from pipeline.limits import codec as limit_codec
from pipeline.limits.store import LimitStore
from pipeline.metering.events import MAX_QUANTITY, InvalidEvent, check_window
from pipeline.metering.limits import CONCURRENT, THRESHOLDS, Crossing, Limits, Standing, StoryKey, crossings, follows
from pipeline.metering.limits import period as period_of
from pipeline.metering.meters import Meters, discrete_meters
from pipeline.metering.rollup import watermark_ms
from pipeline.metering.session import Facts
from pipeline.metering.tally import Tally
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_SECOND, hour_of
from pipeline.metering.usage import CellKey
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics

#: How often the store is asked for past hours, at most a tenth of the time; and again where it did not answer.
_REFRESH_S: Final = 60
_RETRY_S: Final = 5
#: How many records are joined, or rooms brought up to date, before others on the event loop have their turn.
_STRETCH: Final = 25
#: A story is not begun by a decision that comes so long after its period, and is forgotten after twice the time.
_CLOSED_MS: Final = MS_PER_DAY


_FORM: Final = Form[Crossing](
    encode_decision=limit_codec.encode_decision,
    decode_decision=limit_codec.decode_decision,
    encode=limit_codec.encode_crossing,
    key=lambda crossing: crossing.id,
    key_of=limit_codec.crossing_id,
    story=lambda crossing: crossing.story,
    project=lambda crossing: crossing.project,
)


class _Past(NamedTuple):
    """Increments of the hours before `from_ms`, when they were asked for, and when to ask again (monotonic).

    `older` are reports from before it of usage events that have reported since.
    """

    asked_ms: int
    from_ms: int
    increments: dict[CellKey, int]
    older: Facts
    next_due_s: float


class Limiter:
    """Watches limits; `clock` returns ms since the epoch, on a clock near the broker's."""

    def __init__(
        self,
        settings: Settings,
        meters: Meters,
        limits: Limits,
        store: LimitStore,
        producer: Producer,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        """Keep the parts; nothing is read before the first run."""
        self._settings = settings
        self._meters = meters
        self._limits = limits
        self._store = store
        self._producer = producer
        self._metrics = metrics
        self._clock = clock
        self._topics = topics(settings)
        named = {limit.meter for limit in limits.all()}
        metered = [meter for meter in meters.values() if meter.name in named]
        kinds = {name.removeprefix(CONCURRENT) for name in named if name.startswith(CONCURRENT)}
        self._tally = Tally(metered, limits.names(), settings.orphan_after_ms, kinds)
        self._recorded = discrete_meters(meters)
        self._lifecycle = Follower(settings.kafka, self._topics.lifecycle.name)
        names = self._topics.limit_decisions.name, self._topics.limits.name
        self._decisions = DecisionLog(settings.kafka, *names, producer, clock, _FORM, self._accept)
        self._has_begun = False
        self._said: dict[str, dict[StoryKey, Crossing]] = {}
        self._others: set[StoryKey] = set()
        self._asked: asyncio.Task[_Past] | None = None
        self._asked_ms = 0
        self._ask_due_s = 0.0
        self._doubt_due_s = 0.0
        self._trouble: BaseException | None = None
        self._newest_ms = 0
        #: The moment up to which limits have been evaluated, in ms; None before the first time.
        self.as_of_ms: int | None = None
        started_ms = clock()
        metrics.limit_lag_seconds.set_function(lambda: (clock() - (self.as_of_ms or started_ms)) / MS_PER_SECOND)

    async def run_once(self) -> list[Crossing]:
        """Read on, evaluate what has changed, and publish what is decided; return what was published.

        Raises KafkaAway, and StoreUnavailable once all has been done that can be done without the store. It may be
        called again after any error.
        """
        await self._decisions.read()  # first: what they were decided on is then in the lifecycle topic to be read
        now_ms = max(self._clock(), self._newest_ms)
        if not self._has_begun:
            self._lifecycle.next_offsets = await self._begin(now_ms)
            self._has_begun = True
        await self._read_events()
        trouble = await self._ask_store(now_ms)
        await self._settle(now_ms)
        looked_at, proposals = await self._look(now_ms)
        if proposals:
            await self._decisions.propose(proposals)
        self._tally.changed.difference_update(looked_at)
        if proposals:
            await self._decisions.read()
        published = await self._publish()
        self.as_of_ms = now_ms
        if trouble is not None:
            raise trouble
        return published

    async def close(self) -> None:
        """Wait for the store's answer under way, so that the store can be closed; leave the brokers."""
        if self._asked is not None:
            await asyncio.wait({self._asked})
        await self._lifecycle.close()
        await self._decisions.close()

    def standings(self, project: str) -> list[Standing]:
        """Return how a project's limits stand, from memory; raises RuntimeError before the first evaluation."""
        if self.as_of_ms is None:
            raise RuntimeError("limits have not been evaluated yet")
        return [*self._standings(project, self.as_of_ms)]

    def _standings(self, project: str, as_of_ms: int) -> Iterator[Standing]:
        for limit in self._limits.of(project):
            begin_ms, end_ms = period_of(limit.per, as_of_ms)
            if limit.per == "now":
                quantity = self._tally.open_sessions(project, limit.meter.removeprefix(CONCURRENT))
            else:
                increments = self._tally.increments(project, limit.meter, begin_ms, end_ms)
                # As in the store: what is absurd is shown as the most there is.
                quantity = min(increments * self._meters[limit.meter].increment, MAX_QUANTITY)
            yield Standing(project, limit, begin_ms, end_ms, quantity)

    async def _begin(self, now_ms: int) -> dict[int, int]:
        """Take what is stored; return the offsets from which on the lifecycle topic says everything else."""
        reached_ms, offsets = await self._reached(now_ms)  # before the facts: they are at least those of the offsets
        from_ms = max(self._tally.from_ms, _settled_hour_ms(reached_ms))
        self._tally.rebase(from_ms, {})
        since_ms = max(0, min(from_ms, now_ms - self._settings.orphan_after_ms))
        parts = await asyncio.to_thread(self._store.alive, since_ms, from_ms)
        while (facts := await asyncio.to_thread(next, parts, None)) is not None:
            self._tally.join(facts)
            await self._settle(now_ms)
            self._tally.forget(facts.rooms)
        self._rebase(await self._past_hours(now_ms))
        return offsets

    async def _reached(self, now_ms: int) -> tuple[int, dict[int, int]]:
        """Return the broker time up to which the store has everything, in ms, and from which offsets on it has not."""
        topic = self._topics.lifecycle.name
        ends = await end_offsets(self._settings.kafka, topic)
        progress = await asyncio.to_thread(self._store.progress, topic)
        offsets = {partition: next_offset for partition, (next_offset, _) in progress.items()}
        return watermark_ms(ends, progress, now_ms), offsets

    async def _read_events(self) -> None:
        """Join what came since the last time, up to the ends as they are now."""
        async with aclosing(self._lifecycle.parts()) as parts:
            async for records in parts:
                for first in range(0, len(records), _STRETCH):
                    for record in records[first : first + _STRETCH]:
                        self._take(record)
                    await asyncio.sleep(0)

    def _take(self, record: Record) -> None:
        """Join one event as the worker does; what is none is the worker's to bury."""
        settings = self._settings
        try:
            event = codec.decode_event(record.value, self._recorded, settings.max_event_bytes)
            if event is not None:
                check_window(event, record.timestamp_ms, settings.correction_window_ms, settings.future_skew_ms)
                self._tally.observe(event)
        except InvalidEvent:
            return

    async def _ask_store(self, now_ms: int) -> BaseException | None:
        """Ask for past hours now and then, and at once for rooms that may have left memory; return why it cannot.

        Past hours are many, so nobody waits for them.
        """
        now_s = time.monotonic()
        if self._asked is not None and self._asked.done():
            asked, self._asked = self._asked, None
            self._trouble = asked.exception()
            if self._trouble is None:
                self._rebase(asked.result())
        if self._asked is None and now_s >= self._ask_due_s:
            self._ask_due_s = now_s + _RETRY_S
            self._asked = asyncio.create_task(self._past_hours(now_ms))
        if self._tally.doubtful and now_s >= self._doubt_due_s:
            doubtful = sorted(self._tally.doubtful)
            try:
                found = await asyncio.to_thread(self._store.rooms, doubtful)
            except StoreUnavailable as error:
                self._doubt_due_s = now_s + _RETRY_S
                self._trouble = error
            else:
                for facts in found:
                    self._tally.join(facts)
                self._tally.trust(doubtful)
        return self._trouble

    async def _past_hours(self, now_ms: int) -> _Past:
        """Ask for the sums of past hours; at most a tenth of the time goes into it."""
        started_s = time.monotonic()
        reached_ms, _ = await self._reached(now_ms)
        from_ms = max(self._tally.from_ms, _settled_hour_ms(reached_ms))
        increments = await asyncio.to_thread(self._store.increments, now_ms, from_ms)
        older = await asyncio.to_thread(self._store.older_reports, from_ms)
        ended_s = time.monotonic()
        return _Past(now_ms, from_ms, increments, older, ended_s + max(_REFRESH_S, 9 * (ended_s - started_s)))

    def _rebase(self, past: _Past) -> None:
        self._tally.rebase(past.from_ms, past.increments)
        self._tally.join(past.older)
        self._asked_ms = past.asked_ms
        self._ask_due_s = past.next_due_s

    async def _settle(self, as_of_ms: int) -> None:
        while not self._tally.settle(as_of_ms, _STRETCH):  # noqa: ASYNC110 - it is work, not waiting
            await asyncio.sleep(0)

    async def _look(self, now_ms: int) -> tuple[set[str], list[Crossing]]:
        """Return the projects looked at, where something has changed or a period begins, and what is to be said."""
        if self.as_of_ms is None or hour_of(self.as_of_ms) != hour_of(now_ms):
            self._forget(now_ms)
            self._tally.changed.update(self._tally.projects(), self._said)
        looked_at: set[str] = set()
        found: list[Crossing] = []
        for number, project in enumerate(sorted(self._tally.changed)):
            of_project = [*crossings(self._standings(project, now_ms), self._said.get(project, {}), now_ms)]
            if any(map(self._is_better_known, of_project)):
                self._ask_due_s = 0.0
            else:
                looked_at.add(project)
                found += of_project
            if number % _STRETCH == 0:
                await asyncio.sleep(0)
        return looked_at, found

    def _is_better_known(self, crossing: Crossing) -> bool:
        """Tell whether another limiter spoke of the same after this one asked the store: it may know more."""
        previous = self._said.get(crossing.project, {}).get(crossing.story)
        return previous is not None and crossing.story in self._others and previous.as_of_ms > self._asked_ms

    def _accept(self, crossing: Crossing, is_mine: bool, time_ms: int) -> bool:  # noqa: FBT001 - decisions.Accept
        """Take a proposal of the log; tell whether it is the next crossing of its story."""
        self._newest_ms = max(self._newest_ms, crossing.as_of_ms)
        said = self._said.setdefault(crossing.project, {})
        # Judged by the broker's clock, so that every limiter judges alike, whatever it has forgotten.
        is_late = time_ms > period_of(crossing.per, crossing.period_ms)[1] + _CLOSED_MS
        if not follows(crossing, said.get(crossing.story)) or (is_late and crossing.is_past):
            return False
        said[crossing.story] = crossing
        if is_mine:
            self._others.discard(crossing.story)
        else:
            self._others.add(crossing.story)
            self._tally.changed.add(crossing.project)
        return True

    async def _publish(self) -> list[Crossing]:
        """Publish what is decided, and show how limits stand."""
        due = await self._decisions.publish()
        for crossing in due:
            self._metrics.limit_crossings.labels(crossing.event, crossing.threshold).inc()
        if due or self.as_of_ms is None:
            past = [story[-1] for said in self._said.values() for story, last in said.items() if last.is_past]
            for threshold in THRESHOLDS:
                self._metrics.limits_past.labels(threshold).set(past.count(threshold))
        return due

    def _forget(self, now_ms: int) -> None:
        """Forget stories that have ended with their periods, long enough ago that no decision can go on with them."""
        for project, said in [*self._said.items()]:
            for story in [story for story, last in said.items() if not last.is_past]:
                if period_of(story[2], story[3])[1] + 2 * _CLOSED_MS < now_ms:
                    del said[story]
                    self._others.discard(story)
            if not said:
                del self._said[project]


def _settled_hour_ms(reached_ms: int) -> int:
    """Return the hour before the one that the store has reached: what comes late by minutes still counts at once."""
    return hour_of(max(0, reached_ms - MS_PER_HOUR))
