"""Our own processes: the real Worker, Emitter and Reconciler, each with simulated machines around it.

Nothing that decides is written again here. The worker's agent, its retries, its acknowledging and its recovery are
`pipeline.worker` and `pipeline.fastlane`; what stands in for Faust hands it batches, commits what it acknowledged and
tells it of rebalances, in Faust's order (`fastlane.Consumer.on_partitions_revoked`, `BatchTable`).
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from faust.types import TP

from pipeline import fastlane
from pipeline.clickhouse import StoreUnavailable
from pipeline.http import Readiness
from pipeline.kafka import KafkaAway
from pipeline.messages import Headers
from pipeline.tracker import ChangelogEntry
from pipeline.worker import PartitionsAdded, Worker
from tests.metering.builders import METERS
from tests.simulation.faults import Fault
from tests.simulation.group import SESSION_TIMEOUT_S, StaleMember
from tests.simulation.world import METRICS, Process

if TYPE_CHECKING:
    from pipeline.emitter import Emission, Emitter
    from tests.simulation.run import Installation


class Port:
    """A producer: it gives up on nothing, and what it sent may be in the log twice."""

    def __init__(self, process: Process, steps: Mapping[str, str]) -> None:
        """Send for a process; `steps` names the step of sending to a topic."""
        self._process = process
        self._steps = steps

    async def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Send a record and wait until the log has it."""
        broker, world = self._process.world.broker, self._process.world
        await broker.up.wait()
        append = partial(broker.append, topic, key, value, headers)
        await self._process.request(self._steps[topic], append)
        if world.happens(world.options.sent_again):
            world.count(Fault.SENT_AGAIN, self._process.name)
            await self._process.request(self._steps[topic], append)

    send_soon = send

    async def flush(self) -> None:
        """Wait for what was sent: here it is in the log already."""
        await self._process.reach("flush")


class Acks:
    """Faust's consumer as far as our own code looks at it, with our own way of acknowledging."""

    log = logging.getLogger("tests.simulation.silent")

    def __init__(self, process: "WorkerProcess") -> None:
        """Own nothing."""
        self._process = process
        self.acknowledged: dict[TP, int] = {}
        self.nothing_in_hand = asyncio.Event()
        self.nothing_in_hand.set()
        self.owned: set[TP] = set()
        self.changed = asyncio.Event()
        #: What was committed when reading began, and since: Faust commits nothing below it.
        self.committed: dict[int, int] = {}

    def assignment(self) -> set[TP]:
        """Return the partitions that the process believes to own."""
        return self.owned

    def acknowledge(self, batches: Sequence[fastlane.RecordBatch]) -> None:
        """Take batches as done."""
        fastlane.Consumer.acknowledge(cast("Any", self), batches)
        self.changed.set()

    def offsets(self) -> dict[int, int]:
        """Return what may be committed, by partition."""
        pending = fastlane.Consumer._filter_tps_with_pending_acks(cast("Any", self))
        offsets = {tp.partition: fastlane.Consumer._new_offset(cast("Any", self), tp) for tp in pending}
        known = self.committed
        return {n: offset for n, offset in offsets.items() if offset is not None and offset > known.get(n, -1)}

    async def commit_and_end_transactions(self) -> None:
        """Commit."""
        await self._process.commit()


class Stream:
    """The channel of batches, as an agent reads it."""

    def __init__(self) -> None:
        """Start empty."""
        self.channel = self
        self.queue: asyncio.Queue[fastlane.RecordBatch] = asyncio.Queue(fastlane.QUEUE_BATCHES)

    def __aiter__(self) -> Self:
        """It never ends."""
        return self

    async def __anext__(self) -> fastlane.RecordBatch:
        """Return the next batch."""
        return await self.queue.get()


class SimulatedFaust:
    """The Faust app as the worker's agent uses it."""

    work = fastlane.App.work

    def __init__(self, process: "WorkerProcess") -> None:
        """Stand in for one process's app."""
        self._process = process
        self.consumer = process.consumer

    async def changelog(self, _table: object, entries: Mapping[int, Sequence[ChangelogEntry]]) -> None:
        """Write changelog entries, partition by partition, and wait until the broker has them."""
        for partition, own in entries.items():
            await self._process.world.broker.up.wait()
            await self._process.request("changelog", partial(self._process.remember, partition, list(own)))


class SimulatedWorker(Worker):
    """The worker on the simulated Faust."""

    def __init__(self, process: "WorkerProcess") -> None:
        """Give it what it writes to."""
        self._process = process
        installation = process.installation
        broker = process.world.broker
        names = broker.names
        super().__init__(
            process.world.settings.model_copy(update={"partitions": len(broker.lifecycle)}),
            METERS,
            installation.parts.store(process, installation.database),
            cast("Any", Port(process, {names.dead_letters.name: "bury"})),
            METRICS,
            Readiness(METRICS, "worker", "clickhouse", "dead_letter_limit"),
        )

    def _declare(self) -> fastlane.App:
        self._table = cast("fastlane.BatchTable", None)
        return cast("fastlane.App", SimulatedFaust(self._process))

    async def own(self, partitions: set[int]) -> None:
        """Take partitions over, as when the table is recovered."""
        await self._own(partitions)

    def offsets(self) -> dict[int, int]:
        """Return what is committed: what was acknowledged."""
        return self._process.consumer.offsets()


class WorkerProcess(Process):
    """One worker process, a member of the group."""

    kind = "worker"

    def __init__(self, installation: "Installation", name: str) -> None:
        """Start it and let it join."""
        super().__init__(installation.world, name)
        self.installation = installation
        self.group = installation.group
        self.generation = 0
        self.consumer = Acks(self)
        self.stream = Stream()
        #: Up to where each partition of the changelog is in the tracker.
        self._known: dict[int, int] = {}
        self._taking_over: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self.worker = installation.parts.worker(self)
        self.spawn(self.worker.track(self.stream))
        self.spawn(self._commit_forever())
        self.group.join(self)

    def kill_rate(self) -> float:
        """Return this seed's rate."""
        return self.world.options.worker_kill

    def is_stale(self) -> bool:
        """Tell whether the group has gone on without it."""
        return self.generation != self.group.generation

    def stand_still(self) -> None:
        """Be paused: for long enough to be declared dead, every other time."""
        self.pause(Fault.PAUSED, self.world.random.choice((3.0, 150.0)))
        self.world.loop.call_later(SESSION_TIMEOUT_S, self.group.lose, self)

    def resume(self) -> None:
        """Go on, and find out a little later what happened meanwhile."""
        super().resume()
        if self.is_alive and not self.world.is_over:
            self.spawn(self.heartbeat())

    def died(self) -> None:
        """Be missed after the session's time-out, and started again some time later."""
        self.world.loop.call_later(SESSION_TIMEOUT_S, self.group.lose, self)
        self.installation.restart(self, partial(WorkerProcess, self.installation, self.name))

    def failed(self, error: BaseException | None) -> None:
        """Be started again where partitions were added meanwhile, as the error asks for."""
        if isinstance(error, PartitionsAdded):
            self.kill("partitions added")
        else:
            super().failed(error)

    async def heartbeat(self) -> None:
        """Find out whether it is still a member; join anew where it is not."""
        await asyncio.sleep(self.world.random.uniform(0, 5))
        if self not in self.group.members:
            await self.revoke()
            self.group.join(self)

    async def revoke(self) -> None:
        """Give everything up: finish and commit the batch in hand, for a bounded time."""
        generation = self.generation
        for task in (self._taking_over, self._fetching):
            if task is not None:
                task.cancel()
        queue = self.stream.queue
        while not queue.empty():
            queue.get_nowait()
        await fastlane.Consumer.wait_empty(cast("Any", self.consumer))
        if not self.consumer.nothing_in_hand.is_set():
            self.world.count(Fault.HANDED_OVER_UNFINISHED, self.name)
        if generation == self.generation:  # else its commit took so long that it has been dealt others meanwhile
            self.consumer.acknowledged.clear()
            self.consumer.committed.clear()
            self.consumer.owned = set()

    def take_over_soon(self, generation: int, partitions: set[int]) -> None:
        """Be told which partitions are ours from now on."""
        self.generation = generation
        topic = self.world.broker.names.lifecycle.name
        self.consumer.owned = {TP(topic, number) for number in partitions}
        self.world.say(self.name, f"owns {sorted(partitions)} in generation {generation}")
        self._taking_over = self.spawn(self._take_over(partitions))

    async def _take_over(self, partitions: set[int]) -> None:
        """Recover the table, let the worker take over, and read from what is committed."""
        broker, tracker = self.world.broker, self.worker.tracker
        for number in sorted(partitions):
            known = self._known.get(number, 0) if number in tracker.partitions else 0
            await self.reach("recover")
            entries = [entry for entry in broker.changelog.get(number, []) if entry[0] >= known]
            if entries:
                tracker.recover(number, [(key, value) for _, key, value in entries])
                self._known[number] = entries[-1][0] + 1
        await self.worker.own(partitions)
        positions = {number: broker.committed.get(number, 0) for number in partitions}
        self.consumer.committed = dict(positions)
        self._fetching = self.spawn(self._fetch(positions))

    async def _fetch(self, positions: dict[int, int]) -> None:
        """Read, as long as the partitions are ours."""
        world, broker = self.world, self.world.broker
        topic = broker.names.lifecycle.name
        while True:
            async with broker.grown:
                await broker.grown.wait_for(lambda: any(len(broker.lifecycle[n]) > at for n, at in positions.items()))
            await asyncio.sleep(world.random.uniform(0, 1 if world.is_healed else world.options.linger_s))
            await broker.up.wait()
            await self.reach("poll")
            for number, position in positions.items():
                most = world.random.choice((1, 5, 8_000))
                records = broker.lifecycle[number][position : position + most]
                if records:
                    positions[number] = position + len(records)
                    await self.stream.queue.put(fastlane.RecordBatch(TP(topic, number), records))

    async def _commit_forever(self) -> None:
        """Commit now and then, as Faust's timer does."""
        while True:
            await self.consumer.changed.wait()
            self.consumer.changed.clear()
            await asyncio.sleep(self.world.random.uniform(0.1, self.world.options.commit_s))
            await self.commit()

    async def commit(self) -> None:
        """Commit what is done; who hears that it is not a member any more joins anew."""
        offsets = self.worker.offsets()
        if offsets:
            await self.world.broker.up.wait()
            try:
                await self.request("commit", partial(self.group.commit, self, self.generation, offsets))
            except StaleMember:
                if not self.is_paused and self not in self.group.members:
                    self.spawn(self.heartbeat())
            else:
                self.consumer.committed |= offsets

    def remember(self, partition: int, entries: list[ChangelogEntry]) -> None:
        """Put entries into the changelog."""
        if self.is_stale():
            self.world.count(Fault.STALE_CHANGELOG, self.name)
        self._known[partition] = self.world.broker.remember(partition, entries)


def held() -> frozenset[tuple[str, int]]:
    """Hold no hour: nothing is audited here."""
    return frozenset()


class EmitterProcess(Process):
    """One emitter process: it looks for complete hours again and again."""

    kind = "emitter"

    def __init__(self, installation: "Installation", name: str) -> None:
        """Start it."""
        super().__init__(installation.world, name)
        self.installation = installation
        names = self.world.broker.names
        self.emitter: Emitter = installation.parts.emitter(
            self.world.settings,
            METERS,
            installation.parts.store(self, installation.database),
            cast("Any", Port(self, {names.decisions.name: "propose", names.rollups.name: "publish"})),
            METRICS,
            lambda: self.world.now_ms,
            held,
        )
        self.emissions: list[Emission] = []
        self.spawn(self._emit_forever())

    def kill_rate(self) -> float:
        """Return this seed's rate."""
        return self.world.options.emitter_kill

    def stand_still(self) -> None:
        """Be paused: for a moment, or longer than another takes to emit."""
        self.pause(Fault.EMITTER_PAUSED, self.world.random.choice((10.0, 4_000.0)))

    def died(self) -> None:
        """Be started again."""
        self.installation.restart(self, partial(EmitterProcess, self.installation, self.name))

    async def _emit_forever(self) -> None:
        """Emit as `roommeter emitter` does: what is away is waited for, by the same emitter."""
        while True:
            interval_s = self.world.quiet_interval_s or self.world.options.emit_interval_s
            await asyncio.sleep(interval_s * self.world.random.uniform(0.2, 1))
            await self.world.broker.up.wait()
            try:
                self.emissions.append(await self.emitter.run_once())
            except (StoreUnavailable, KafkaAway) as error:
                self.world.say(self.name, f"waits: {error}")
