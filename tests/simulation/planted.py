"""Bugs planted in the simulation only: each breaks one thing that the product does right, and has to be caught.

A checker that finds nothing in a broken product guards nothing. What is planted is a part in the place of the real one,
for the most part a subclass that leaves out or reorders one step.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar, cast

import pyarrow as pa

import pipeline.emitter
from pipeline.clickhouse import StoreError, StoreUnavailable
from pipeline.emitter import Emission, Emitter
from pipeline.livekit.api import ApiAway, ApiRefused
from pipeline.livekit.reconcile import ListedRoom, Pass, Run
from pipeline.livekit.reconciler import Reconciler
from pipeline.metering.rollup import Rollup, watermark_ms
from pipeline.metering.session import Facts, Room, Session
from pipeline.metering.usage import CellKey
from pipeline.rows import Batch, ChangeQuery, Changes
from pipeline.tracker import ACCEPTED, IGNORED, DeadLetter, Record, Tracker
from pipeline.tracker import Changes as Tracked
from pipeline.work import Work, work_out
from tests.metering.builders import METERS
from tests.simulation.actors import SimulatedWorker, WorkerProcess
from tests.simulation.run import Parts
from tests.simulation.store import Client, Database, SimulatedStore

_T = TypeVar("_T")
_DROPPED: Final = 25
_TABLE_SIZE: Final = 4


class _AcksFirst(SimulatedWorker):
    async def track(self, stream: Any) -> None:
        async for first in stream:
            async with self.app.work(stream, first, self._settings.batch_events) as batches:
                work = work_out(self.tracker, chain.from_iterable(batch.records for batch in batches))
            await self._write(work)

    async def _write(self, work: Work) -> None:
        await self._when_available(partial(self._store.write, work))
        await self._bury(work.dead_letters)
        await self.app.changelog(self._table, work.changelog)


class _AcksOnException(_AcksFirst):
    """What Faust does by itself with an agent that raises."""

    async def track(self, stream: Any) -> None:
        async for first in stream:
            async with self.app.work(stream, first, self._settings.batch_events) as batches:
                work = work_out(self.tracker, chain.from_iterable(batch.records for batch in batches))
                try:
                    await self._write(work)
                except StoreError:
                    continue


class _AcksBeforeDeadLetters(_AcksFirst):
    async def track(self, stream: Any) -> None:
        async for first in stream:
            async with self.app.work(stream, first, self._settings.batch_events) as batches:
                work = work_out(self.tracker, chain.from_iterable(batch.records for batch in batches))
                await self._when_available(partial(self._store.write, work))
            await self._bury(work.dead_letters)


class _SwallowsInsertErrors(SimulatedWorker):
    async def _when_available(self, call: Callable[[], _T]) -> _T:
        def once() -> _T:
            try:
                return call()
            except StoreUnavailable:
                return cast("_T", [])

        return await super()._when_available(once)


class _CommitsWhatItRead(SimulatedWorker):
    """As Kafka's automatic commit does."""

    def offsets(self) -> dict[int, int]:
        waiting = list(cast("Any", self._process.stream.queue)._queue)
        return super().offsets() | {batch.tp.partition: batch.next_offset for batch in waiting}


class _BrokenTracker(Tracker):
    turn = 0

    def apply(self, records: Iterable[Record]) -> Tracked:
        changes = super().apply(records)
        self.spoil(changes)
        return changes

    def spoil(self, changes: Tracked) -> None:
        raise NotImplementedError


class _SkipsOne(_BrokenTracker):
    """The row of one session in so many is left out; the memory has it."""

    def spoil(self, changes: Tracked) -> None:
        kept = []
        for row in changes.sessions:
            self.turn += 1
            if self.turn % _DROPPED:
                kept.append(row)
        changes.sessions[:] = kept


class _DropsWhenFull(_BrokenTracker):
    def spoil(self, changes: Tracked) -> None:
        known = [key for facts in self.partitions.values() for key in facts.rooms][:_TABLE_SIZE]
        changes.sessions[:] = [row for row in changes.sessions if row[:2] in known]


class _DoesNotCountDeadLetters(_BrokenTracker):
    def spoil(self, changes: Tracked) -> None:
        changes.events[:] = [raw for raw in changes.events if raw.disposition in (ACCEPTED, IGNORED)]


class _ForgetsRoomEnds(_BrokenTracker):
    """Rooms are written by the worker that read their sessions' events last: one in two is left to another."""

    def spoil(self, changes: Tracked) -> None:
        self.turn += 1
        if self.turn % 2:
            changes.rooms.clear()


class _WithTracker(SimulatedWorker):
    def __init__(self, tracker: type[Tracker], process: WorkerProcess) -> None:
        super().__init__(process)
        self.tracker = tracker(METERS, self.tracker._policy)


class _BuriesNothing(SimulatedWorker):
    async def _bury(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Lose them."""


class _ProgressFirst(SimulatedStore):
    def write(self, batch: Batch | Work) -> None:
        for name, table in reversed(batch.tables()):
            self.insert(name, table)


class _LastRowWins(Database):
    """A ReplacingMergeTree of sessions."""

    def join_session(self, project: str, room: str, name: str, session: Session) -> None:
        self.facts.rooms.setdefault((project, room), Room()).sessions[name] = session


class _RetryIsADuplicate(Client):
    """A window of insert deduplication that remembers blocks of which only a part was stored."""

    def insert_arrow(self, name: str, table: pa.Table, settings: object = None) -> None:
        blocks = cast("Any", self.database).__dict__.setdefault("blocks", set())
        block = (name, str(table.to_pydict()))
        if block in blocks:
            return
        if self.database.is_up:
            blocks.add(block)
        super().insert_arrow(name, table, settings)


class _DeduplicatingStore(SimulatedStore):
    client = _RetryIsADuplicate


class _PublishesItsOwn(Emitter):
    """Rollups overwrite each other: whoever emits publishes what it found, whatever was decided."""

    async def _propose(self, proposals: list[Rollup]) -> None:
        await super()._propose(proposals)
        self._unrecorded += proposals

    async def _publish_decided(self, emitted: dict[CellKey, Rollup]) -> list[Rollup]:
        self._decisions.next_offsets[0] = 10**9
        return await super()._publish_decided(emitted)


class _NeverRaisesRevisions(Emitter):
    async def _propose(self, proposals: list[Rollup]) -> None:
        await super()._propose([rollup._replace(revision=1) for rollup in proposals])


class _RecordsFirst(Emitter):
    """The record of a publication before the publication."""

    async def _publish_decided(self, emitted: dict[CellKey, Rollup]) -> list[Rollup]:
        producer, held = self._producer, cast("list[tuple[Any, ...]]", [])

        class Held:
            async def send_soon(self, *record: Any) -> None:
                held.append(record)

            async def flush(self) -> None:
                """Later."""

        self._producer = cast("Any", Held())
        try:
            published = await super()._publish_decided(emitted)
        finally:
            self._producer = producer
        for record in held:
            await producer.send_soon(*record)
        return published


class _ForgetsWhatItDidNotRecord(Emitter):
    async def _publish_decided(self, emitted: dict[CellKey, Rollup]) -> list[Rollup]:
        try:
            return await super()._publish_decided(emitted)
        finally:
            self._unrecorded.clear()


class _TrustsItsClock(Emitter):
    async def _watermark_ms(self) -> int:
        return self._clock()


class _AsksForTheTimeLast(Emitter):
    async def _watermark_ms(self) -> int:
        ends = await cast("Any", pipeline.emitter).end_offsets(self._settings.kafka, self._topics.lifecycle.name)
        progress = await asyncio.to_thread(self._store.progress, self._topics.lifecycle.name)
        return watermark_ms(ends, progress, self._clock())


class _ForgetsHowFarItWas(Emitter):
    """The watermark is what can be shown now, however much more was known before."""

    reached_ms: int

    async def run_once(self) -> Emission:
        self.reached_ms = 0
        return await super().run_once()


class _SeesEventsAlone(SimulatedStore):
    """The incremental emitter forgets that an event changes hours long before its own."""

    def changes(self, query: ChangeQuery) -> Changes:
        everything, self._database.facts = self._database.facts, Facts()
        try:
            return super().changes(query)
        finally:
            self._database.facts = everything


class _BelievesErrors(Reconciler):
    """No answer is taken for an empty one."""

    def __init__(self, project: Any, server: Any, *rest: Any, **named: Any) -> None:
        class Forgiving:
            async def rooms(self) -> list[ListedRoom]:
                try:
                    found: list[ListedRoom] = await server.rooms()
                except (ApiAway, ApiRefused):
                    return []
                return found

        super().__init__(project, Forgiving(), *rest, **named)


class _BelievesOneAnswer(Reconciler):
    """One answer without a session is enough."""

    async def run_once(self, *, accept_empty: bool = False) -> Run:
        now_ms = self._clock()
        found = self._knowledge.open_sessions(self._project, now_ms, self._orphan_after_ms)
        self._previous = Pass(now_ms, frozenset((session.room, session.session) for session in found))
        return await super().run_once(accept_empty=accept_empty)


def _tracking(tracker: type[Tracker]) -> Parts:
    return Parts(worker=partial(_WithTracker, tracker))


#: Every bug by name, with the broken parts.
BUGS: Final[dict[str, Parts]] = {
    "acknowledges before the insert": Parts(worker=_AcksFirst),
    "acknowledges on an exception": Parts(worker=_AcksOnException),
    "acknowledges before the dead letters are sent": Parts(worker=_AcksBeforeDeadLetters),
    "swallows insert errors": Parts(worker=_SwallowsInsertErrors),
    "commits what it read": Parts(worker=_CommitsWhatItRead),
    "skips one session's row in 25": _tracking(_SkipsOne),
    "drops what comes when its table is full": _tracking(_DropsWhenFull),
    "does not count dead letters": _tracking(_DoesNotCountDeadLetters),
    "forgets ends of rooms": _tracking(_ForgetsRoomEnds),
    "buries nothing": Parts(worker=_BuriesNothing),
    "writes progress before the facts": Parts(store=_ProgressFirst),
    "the last row of a session wins": Parts(database=_LastRowWins),
    "takes a retry for a duplicate": Parts(store=_DeduplicatingStore),
    "rollups overwrite each other": Parts(emitter=_PublishesItsOwn),
    "never raises a revision": Parts(emitter=_NeverRaisesRevisions),
    "records before it publishes": Parts(emitter=_RecordsFirst),
    "forgets what it did not record": Parts(emitter=_ForgetsWhatItDidNotRecord),
    "trusts its clock alone": Parts(emitter=_TrustsItsClock),
    "asks for the time after the ends": Parts(emitter=_AsksForTheTimeLast),
    "forgets how far it was": Parts(emitter=_ForgetsHowFarItWas),
    "forgets hours before an event": Parts(store=_SeesEventsAlone),
    "takes an error for an empty list": Parts(reconciler=_BelievesErrors),
    "believes one answer": Parts(reconciler=_BelievesOneAnswer),
}
