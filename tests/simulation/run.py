"""One run: trouble first, then everything heals and has to converge, then all bills have to be one.

The bound on converging is in steps of everybody together, after the last fault. It is generous where work is left and
small where none is: what keeps turning without getting anywhere does not pass.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from unittest.mock import patch

import pipeline.emitter
import pipeline.kafka
from pipeline.emitter import Emission, Emitter
from pipeline.kafka import KafkaAway, Record
from pipeline.livekit.reconciler import Reconciler
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, NEVER_MS, format_time
from tests.simulation.actors import EmitterProcess, SimulatedWorker, WorkerProcess
from tests.simulation.check import Watch, verify
from tests.simulation.faults import Fault
from tests.simulation.group import Group
from tests.simulation.outside import Producers, ReconcilerProcess
from tests.simulation.store import Database, SimulatedStore
from tests.simulation.world import CURRENT, MORE_PARTITIONS, Process, Violation, World

#: Steps in which a healed installation has to be done: so many, and so many more for each record of the log.
STEPS_TO_CONVERGE: Final = 1_500
STEPS_OF_A_RECORD: Final = 40
_LOOK_EVERY_S: Final = 60.0
#: How often emitters look while nothing happens: for hours, and for weeks.
_QUIET_INTERVAL_S: Final = 7_200.0
_SILENT_INTERVAL_S: Final = 86_400.0


class NoSafetyNet(Emitter):
    """An emitter that looks at all when it starts and never again, at nothing twice: what it misses stays missing."""

    look_at_all_ms = NEVER_MS
    overlap_ms = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the simulation runs: the product; or, where a bug is planted, one part of it that is broken."""

    worker: Callable[[WorkerProcess], SimulatedWorker] = SimulatedWorker
    emitter: Callable[..., Emitter] = NoSafetyNet
    reconciler: Callable[..., Reconciler] = Reconciler
    store: Callable[[Process, Database], SimulatedStore] = SimulatedStore
    database: Callable[[World], Database] = Database


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a seed."""

    seed: int
    violation: str
    faults: Mapping[str, int] = field(default_factory=Counter)
    steps: int = 0
    records: int = 0
    digest: str = ""


class Installation:
    """All parts of one run."""

    def __init__(self, world: World, parts: Parts) -> None:
        """Put the parts together; nothing runs yet."""
        self.world = world
        self.parts = parts
        self.database = parts.database(world)
        world.watch = Watch(self)
        self.producers = Producers(world)
        self.group = Group(world)
        self.processes: list[Process] = []

    def restart(self, dead: Process, start: Callable[[], Process]) -> None:
        """Start a successor of a process that died, after a while."""
        self.processes.remove(dead)

        def begin() -> None:
            if not self.world.is_over:
                self.world.say(dead.name, "starts again")
                self.processes.append(start())

        self.world.loop.call_later(self.world.random.uniform(0.5, 90), begin)

    def any_of(self, kind: type[Process]) -> Process | None:
        """Return one living process of a kind, None where there is none."""
        found = [process for process in self.processes if isinstance(process, kind)]
        return self.world.random.choice(found) if found else None

    async def run(self) -> str:
        """Live through trouble, heal, converge; return the digest of the bill."""
        world, options = self.world, self.world.options
        tasks = [world.loop.create_task(self.group.run())]
        self.producers.spawn(self.producers.run())
        self.processes += [WorkerProcess(self, f"worker-{number}") for number in range(options.workers)]
        self.processes += [EmitterProcess(self, f"emitter-{number}") for number in range(options.emitters)]
        if options.is_reconciled:
            self.processes.append(ReconcilerProcess(self, "reconciler"))
        tasks.append(world.loop.create_task(self._trouble()))
        await _until(lambda: self.producers.is_done)
        tasks.pop().cancel()
        self._heal()
        await self._converge()
        await self._let_hours_pass()
        if options.silence_days:
            await self._be_silent(options.silence_days)
        return verify(self, await self._emit_last())

    async def _trouble(self) -> None:
        """Let things happen to the whole installation, again and again."""
        world = self.world
        while world.options.troubles:
            await asyncio.sleep(world.random.expovariate(1 / world.options.trouble_every_s))
            getattr(self, f"_{world.random.choice(world.options.troubles).replace(' ', '_')}")()

    def _kill(self, kind: type[Process]) -> None:
        process = self.any_of(kind)
        if process is not None:
            if kind is ReconcilerProcess:
                self.world.count(Fault.RECONCILER_KILLED)
            process.kill("killed from outside")

    def _kill_worker(self) -> None:
        self._kill(WorkerProcess)

    def _kill_emitter(self) -> None:
        self._kill(EmitterProcess)

    def _kill_reconciler(self) -> None:
        self._kill(ReconcilerProcess)

    def _pause_worker(self) -> None:
        if process := self.any_of(WorkerProcess):
            process.stand_still()

    def _pause_emitter(self) -> None:
        if process := self.any_of(EmitterProcess):
            process.stand_still()

    def _rebalance(self) -> None:
        self.group.rebalance_soon()

    def _leave(self) -> None:
        process = self.any_of(WorkerProcess)
        if isinstance(process, WorkerProcess) and not process.is_paused:
            self.world.count(Fault.LEAVE, process.name)
            leaving = process.spawn(process.revoke())

            def left(_task: object) -> None:
                self.group.leave(process)
                process.kill("left")

            leaving.add_done_callback(left)

    def _store_away(self) -> None:
        self.world.count(Fault.STORE_AWAY)
        self.database.is_up = False
        self.world.loop.call_later(self.world.random.uniform(1, 600), self.database.come_back)

    def _broker_away(self) -> None:
        self.world.count(Fault.BROKER_AWAY)
        self.world.broker.up.clear()
        self.world.loop.call_later(self.world.random.uniform(1, 600), self.world.broker.up.set)

    def _add_partitions(self) -> None:
        partitions = self.world.broker.lifecycle
        if len(partitions) < MORE_PARTITIONS:
            self.world.count(Fault.PARTITIONS_ADDED)
            partitions += [[] for _ in range(MORE_PARTITIONS - len(partitions))]
            self.group.rebalance_soon()

    def _lose_changelog(self) -> None:
        if self.world.broker.changelog:
            self.world.count(Fault.CHANGELOG_LOST)
            partition = self.world.random.choice(sorted(self.world.broker.changelog))
            self.world.broker.changelog[partition].clear()

    def _compact_changelog(self) -> None:
        self.world.count(Fault.CHANGELOG_COMPACTED)
        self.world.broker.compact()

    def _heal(self) -> None:
        self.world.say("world", "HEALS")
        self.world.is_healed = True
        self.database.come_back()
        self.world.broker.up.set()
        for process in self.processes:
            process.resume()

    async def _converge(self) -> None:
        """Wait until everything sent is processed, stored and committed: within a number of steps."""
        world, broker = self.world, self.world.broker
        records = sum(map(len, broker.lifecycle))
        most = world.steps + STEPS_TO_CONVERGE + STEPS_OF_A_RECORD * records
        while any(broker.committed.get(number, 0) < len(log) for number, log in enumerate(broker.lifecycle)):
            await asyncio.sleep(_LOOK_EVERY_S)
            world.expect(holds=world.steps <= most, what=f"not converged after {most} steps: {broker.committed}")
        world.say("world", "CONVERGED")

    async def _let_hours_pass(self) -> None:
        """Let the reconciler find out who is gone, and every hour become complete and every orphan one."""
        for process in [one for one in self.processes if isinstance(one, ReconcilerProcess)]:
            await _until(lambda process=process: process.passes >= 4)  # type: ignore[misc]
            process.end()
            self.processes.remove(process)
        await self._converge()
        newest_ms = max(session.ended_at_ms for session in self.producers.truth)
        until_ms = max(self.world.now_ms, newest_ms) + self.world.options.orphan_after_ms + 2 * MS_PER_HOUR
        self.world.quiet_interval_s = _QUIET_INTERVAL_S
        await asyncio.sleep((until_ms - self.world.now_ms) / 1000)

    async def _be_silent(self, days: int) -> None:
        """Let weeks pass; then one record comes, and every emitter looks before any worker does."""
        world = self.world
        world.quiet_interval_s = _SILENT_INTERVAL_S
        await asyncio.sleep(days * MS_PER_DAY / 1000)
        world.count(Fault.LONG_SILENCE)
        workers = [process for process in self.processes if isinstance(process, WorkerProcess)]
        for process in workers:
            process.resumed.clear()
        world.quiet_interval_s = _QUIET_INTERVAL_S
        job = {"project": "acme", "room": "RM_after_weeks", "job": "AJ_after_weeks"}  # it bills nothing
        self.producers.send(
            {
                "specversion": "1.0",
                "id": "EV_after_weeks",
                "source": "sim/node-1",
                "type": "job.dispatched",
                "time": format_time(world.now_ms),
                "data": job,
            }
        )
        await self._emit_everywhere()
        for process in workers:
            process.resume()
        await self._converge()

    async def _emit_everywhere(self) -> list[Emission]:
        """Wait until every emitter has looked once more; return what they did."""
        found = []
        for process in self.processes:
            if isinstance(process, EmitterProcess):
                emissions, known = process.emissions, len(process.emissions)
                await _until(lambda emissions=emissions, known=known: len(emissions) > known)  # type: ignore[misc]
                found.append(emissions[-1])
        return found

    async def _emit_last(self) -> int:
        """Let every emitter run twice more, the second time with nothing to say; return the last watermark (R19)."""
        await self._emit_everywhere()
        last = await self._emit_everywhere()
        self.world.expect(holds=len(last) == self.world.options.emitters, what="an emitter did not come back")
        again = [rollup for emission in last for rollup in emission.published]
        self.world.expect(holds=not again, what=f"emitted again: {again}")
        return last[-1].watermark_ms


async def _until(condition: Callable[[], bool]) -> None:
    """Look again and again: nobody says when."""
    while not condition():  # noqa: ASYNC110 - what is waited for is the whole installation's doing
        await asyncio.sleep(_LOOK_EVERY_S)


async def _end_offsets(_bootstrap: str, topic: str) -> dict[int, int]:
    """Take the place of `pipeline.kafka.end_offsets`: what whoever asks is told, at some time on the way."""
    process = CURRENT.get()
    await process.world.broker.up.wait()
    topics = process.world.broker.topics
    ends: dict[int, int] = await process.request(
        "end offsets", lambda: {number: len(log) for number, log in enumerate(topics[topic])}
    )
    return ends


async def _read_topic(
    _bootstrap: str, topic: str, from_offsets: Mapping[int, int] | None = None
) -> AsyncIterator[Record]:
    """Take the place of `pipeline.kafka.read_topic`: it stops at the end, or half way where the broker goes away."""
    process = CURRENT.get()
    if not process.world.broker.up.is_set():
        raise KafkaAway("no broker")
    [log] = process.world.broker.topics[topic]
    records = await process.request("read decisions", lambda: log[(from_offsets or {}).get(0, 0) :])
    for record in records:
        if not process.world.broker.up.is_set():
            raise KafkaAway("no broker any more")
        yield record.read()


@contextmanager
def _on_the_simulated_broker() -> Iterator[None]:
    """Let our own modules read from the simulated broker, and keep them quiet."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with (
        patch.object(pipeline.emitter, "end_offsets", _end_offsets),
        patch.object(pipeline.kafka, "read_topic", _read_topic),
    ):
        yield
    logging.disable(level)


def run(seed: int, parts: Parts | None = None, *, is_traced: bool = False) -> Report:
    """Run one seed to its end, or to the first broken promise."""
    world = World(seed, is_traced=is_traced)
    digest = ""
    with _on_the_simulated_broker():
        world.main = world.loop.create_task(Installation(world, parts or Parts()).run())
        try:
            digest = world.loop.run_until_complete(world.main)
        except (Violation, asyncio.CancelledError):
            assert world.violation is not None
        finally:
            world.is_over = True
            world.loop.run_until_complete(_end_everything())
            world.loop.close()
    records = sum(map(len, world.broker.lifecycle))
    return Report(seed, str(world.violation or ""), world.faults, world.steps, records, digest)


async def _end_everything() -> None:
    """Cancel what is left, so that nothing of this world reaches into the next."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
