"""The rollup emitter: complete hours out as revisions, the same for everybody (R17 to R20).

Several emitters may run, be killed and be paused anywhere. What makes them agree is the order of
one Kafka partition: an emitter proposes revisions to the decision log, reads the log back, and
publishes what came first for each revision, its own proposal or another's. So no two contents ever
exist for one id, and whatever was decided but not published before a crash is published by the
next run of anybody, with the same bytes.
"""

import asyncio
from collections import ChainMap
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from pipeline import codec
from pipeline.audit.laws import ProjectHour
from pipeline.clickhouse import Store
from pipeline.kafka import LogReader, end_offsets
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup, complete_until_ms, follows, revise, watermark_ms
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, NEVER_MS, hour_of
from pipeline.metering.usage import CellKey, Usage
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.rows import ChangeQuery, UsageQuery
from pipeline.settings import Settings
from pipeline.topics import DECISIONS_KEPT_MS, topics

#: How often everything is looked at, in ms: what `changes` could not see (a store that was changed by hand, a replica
#: that lagged, a clock that was set back) is emitted that much later, and the whole costs a small share of the time.
LOOK_AT_ALL_MS: Final = MS_PER_HOUR
#: How far back what was ingested is looked at again, in ms: an insert is stamped when it begins, seen when it ends.
OVERLAP_MS: Final = 5 * MS_PER_MINUTE

#: How far behind the correction window an hour may lie and still be emitted again: the window is judged when
#: an event arrives (R11), and what was accepted must reach the bill even after days of standstill.
MARGIN_MS: Final = 7 * MS_PER_DAY


@dataclass(frozen=True, slots=True)
class Emission:
    """What one run did: the watermark it stood at (ms), and the rollups it published."""

    watermark_ms: int
    published: list[Rollup]


@dataclass(frozen=True, slots=True)
class Look:
    """What a run looks at: hours from `from_ms` until `until_ms`, as of its watermark; and by which clocks. In ms.

    `store_ms` is the store's clock before it looked, `all_ms` when this emitter's clock last said to look at all.
    """

    from_ms: int
    until_ms: int
    watermark_ms: int
    store_ms: int
    all_ms: int


class Emitter:
    """Emits complete hours; `clock` returns ms since the epoch, on a clock near the broker's.

    A run reads the usage from the earliest hour on that may have changed since the run before, and now and then all.
    """

    look_at_all_ms = LOOK_AT_ALL_MS
    overlap_ms = OVERLAP_MS

    def __init__(
        self,
        settings: Settings,
        meters: Meters,
        store: Store,
        producer: Producer,
        metrics: Metrics,
        clock: Callable[[], int],
        held: Callable[[], AbstractSet[ProjectHour]] = frozenset,
    ) -> None:
        """Keep the parts; nothing is read before the first run. `held` asks which hours have to wait; it may block."""
        self._settings = settings
        self._meters = meters
        self._store = store
        self._producer = producer
        self._metrics = metrics
        self._clock = clock
        self._held = held
        self._topics = topics(settings)
        self._decisions = LogReader(settings.kafka, self._topics.decisions.name)
        #: The watermark that was reached, by this emitter or another, in ms.
        self.reached_ms = 0
        self._unrecorded: list[Rollup] = []
        self._emitted: dict[CellKey, Rollup] | None = None
        self._looked: Look | None = None
        #: The earliest hour to look at again whether or not it changes: of what was held back, and of what was decided
        #: since it was looked at, which may be another emitter's.
        self._again_ms = NEVER_MS

    async def run_once(self) -> Emission:
        """Emit every complete hour that is new or has changed; running it again emits nothing."""
        self.reached_ms = max(self.reached_ms, await self._watermark_ms())
        emitted = await self._load(max(0, self._from_ms() - DECISIONS_KEPT_MS - MARGIN_MS))
        published = await self._publish_decided(emitted)
        # What was reached once, by this emitter or another, stays reached. But it can look less: when a partition
        # that was idle for weeks gets a record, all that is known of it until that is processed is weeks old.
        self.reached_ms = watermark = max([self.reached_ms, *(rollup.watermark_ms for rollup in emitted.values())])
        until_ms = complete_until_ms(watermark, self._settings.grace_period_ms)
        look = await self._look(watermark, until_ms)
        current = await self._usage(look)
        in_window = {key: rollup for key, rollup in emitted.items() if look.from_ms <= rollup.hour_ms < until_ms}
        held = await asyncio.to_thread(self._held)
        revised = [*revise(in_window, current, watermark, watermark)]
        # What was decided before is published all the same: it has its id and may be out already (R19).
        proposals = [rollup for rollup in revised if (rollup.project, rollup.hour_ms) not in held]
        self._metrics.emissions_held.set(len(held))
        decided: list[Rollup] = []
        if proposals:
            await self._propose(proposals)
            decided = await self._publish_decided(emitted)
            published += decided
        # Only now: a run that failed has looked at nothing.
        self._looked = look
        self._again_ms = min((rollup.hour_ms for rollup in (*revised, *decided)), default=NEVER_MS)
        self._metrics.watermark_seconds.set(watermark / 1000)
        due_ms = complete_until_ms(self._clock(), self._settings.grace_period_ms)
        self._metrics.emission_lag_seconds.set((due_ms - until_ms) / 1000)
        return Emission(watermark, published)

    async def _look(self, watermark_ms: int, until_ms: int) -> Look:
        """Return what to look at: from the first hour on whose usage may differ from what was emitted.

        Usage changes by what is ingested, by time (the view `changes` has how), and by hours that become complete.
        """
        now_ms, first_ms, last = self._clock(), self._from_ms(), self._looked
        if last is None or now_ms >= last.all_ms + self.look_at_all_ms:
            last = Look(first_ms, first_ms, watermark_ms, NEVER_MS + self.overlap_ms, now_ms)
        changes = await asyncio.to_thread(
            self._store.changes,
            ChangeQuery(
                since_ms=last.store_ms - self.overlap_ms,
                after_ms=last.watermark_ms,
                until_ms=watermark_ms,
                orphan_after_ms=self._settings.orphan_after_ms,
            ),
        )
        from_ms = max(first_ms, min(last.until_ms, hour_of(changes.earliest_ms), self._again_ms))
        return Look(from_ms, until_ms, watermark_ms, changes.store_ms, last.all_ms)

    async def _usage(self, look: Look) -> dict[CellKey, Usage]:
        """Return the usage of the hours that are looked at."""
        if look.from_ms >= look.until_ms:
            return {}
        query = UsageQuery(
            as_of_ms=look.watermark_ms,
            from_ms=look.from_ms,
            to_ms=look.until_ms,
            orphan_after_ms=self._settings.orphan_after_ms,
        )
        return dict(await asyncio.to_thread(self._store.usage, query))

    def _from_ms(self) -> int:
        """Return the first hour that may still be revised (R11)."""
        return hour_of(max(0, self.reached_ms - self._settings.correction_window_ms - MARGIN_MS))

    async def _load(self, from_ms: int) -> dict[CellKey, Rollup]:
        """Return the newest revision of each cell from an hour on: from the store once, from the log ever after.

        The store is not asked again, because a replica that lags would offer an older revision as the newest.
        """
        if self._emitted is None:
            self._emitted = await asyncio.to_thread(self._store.latest_rollups, from_ms)
        for key in [key for key, rollup in self._emitted.items() if rollup.hour_ms < from_ms]:
            del self._emitted[key]
        return self._emitted

    async def _watermark_ms(self) -> int:
        now_ms = self._clock()  # before the ends are asked for: see watermark_ms
        ends = await end_offsets(self._settings.kafka, self._topics.lifecycle.name)
        progress = await asyncio.to_thread(self._store.progress, self._topics.lifecycle.name)
        return watermark_ms(ends, progress, now_ms)

    async def _propose(self, proposals: list[Rollup]) -> None:
        """Put proposals into the decision log, and wait until it has them."""
        for rollup in proposals:
            await self._producer.send_soon(self._topics.decisions.name, None, codec.encode_decision(rollup))
        await self._producer.flush()

    async def _publish_decided(self, emitted: dict[CellKey, Rollup]) -> list[Rollup]:
        """Publish what the log has decided and nobody has recorded as published; adds it to `emitted`.

        Kafka first, then the record of it: killed in between, the same bytes are published again.
        """
        records = await self._decisions.poll_to_end()
        # Kept until recorded: the log reader does not go back when the store fails below.
        self._unrecorded += [codec.decode_decision(record.value or b"") for record in records]
        decided = []
        newest = ChainMap[CellKey, Rollup]({}, emitted)
        for rollup in self._unrecorded:
            if follows(rollup, newest.get(rollup.key)):
                newest[rollup.key] = rollup
                decided.append(rollup)
        for rollup in decided:
            key = f"{rollup.project}/{rollup.meter}".encode()
            await self._producer.send_soon(self._topics.rollups.name, key, codec.encode_rollup(rollup, self._meters))
        await self._producer.flush()
        await asyncio.to_thread(self._store.insert_rollups, decided, self._meters)
        self._unrecorded.clear()
        emitted |= {rollup.key: rollup for rollup in decided}
        for rollup in decided:
            self._metrics.rollups_emitted.labels("first" if rollup.revision == 1 else "correction").inc()
        self._again_ms = min([self._again_ms, *(rollup.hour_ms for rollup in decided)])
        return decided
