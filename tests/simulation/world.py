"""One simulated installation: its clock, its chance, its trace, what was counted, and the log with its topics.

Only what lies outside of roommeter is simulated. What a step is: a request to the broker, the store or a media server
goes out (`Process.reach`), takes effect there, and its answer comes back; between any two, whoever sent it may be
killed or paused, and everybody else goes on.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from pipeline.clickhouse import StoreError
from pipeline.kafka import Record
from pipeline.messages import Headers
from pipeline.metering.units import MS_PER_MINUTE, format_time, parse_time
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.simulation.faults import KILL_AT_POINT, Fault, Options, draw_options
from tests.simulation.loop import VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.check import Watch

PARTITIONS: Final = 4
MORE_PARTITIONS: Final = 8
_START_MS: Final = parse_time("2026-09-21T10:00:00Z")
#: One for all worlds: making one costs as much as a tenth of a run, and nothing here looks at it.
METRICS: Final = Metrics()
#: Whose code is running: requests through functions of modules (kafka.read_topic) have no other way to tell.
CURRENT: Final[ContextVar["Process"]] = ContextVar("CURRENT")


class Violation(AssertionError):
    """Something happened that never may."""


class LogRecord(NamedTuple):
    """A record as the worker reads it; `timestamp` is the broker's, in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def read(self) -> Record:
        """Return it as a reader that stops at the end gives it."""
        return Record(*self)


class World:
    """Everything that exists under one seed."""

    def __init__(self, seed: int, *, is_traced: bool = False) -> None:
        """Draw what the seed is like; nothing runs before somebody is started."""
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - a repeatable world, not a secret
        self.options: Options = draw_options(self.random, seed, _START_MS)
        self.is_traced = is_traced
        self.is_healed = False
        #: How often emitters look while nothing happens but time passing; 0 while something does.
        self.quiet_interval_s = 0.0
        self.is_over = False
        self.steps = 0
        self.faults: Counter[str] = Counter()
        self.violation: Violation | None = None
        self.main: asyncio.Task[str] | None = None
        self.loop = VirtualLoop(lambda func: CURRENT.get().thread(func))
        self.settings = Settings(
            kafka="simulated:9092",
            partitions=PARTITIONS,
            max_event_bytes=2_000,
            batch_events=self.options.batch_events,
            orphan_after_ms=self.options.orphan_after_ms,
            correction_window_ms=self.options.correction_window_ms,
            evict_after_ms=self.options.evict_after_ms,
        )
        self.broker = Broker(self)
        self.watch: Watch

    @property
    def now_ms(self) -> int:
        """The time, by a clock that everybody shares with the broker."""
        return _START_MS - MS_PER_MINUTE + int(self.loop.time() * 1_000)

    def violate(self, what: str) -> NoReturn:
        """End the run: the product broke a promise."""
        raise self.note_violation(what)

    def note_violation(self, what: str) -> Violation:
        """Let the run end; return why."""
        if self.violation is None:
            self.violation = Violation(f"seed {self.seed}, {format_time(self.now_ms)}: {what}")
            self.say("VIOLATION", what)
            if self.main is not None:
                self.loop.call_soon(self.main.cancel)
        return self.violation

    def expect(self, *, holds: bool, what: str) -> None:
        """Check something that has to hold now."""
        if not holds:
            self.violate(what)

    def say(self, who: str, what: str) -> None:
        """Write one line of the trace."""
        if self.is_traced:
            print(f"{format_time(self.now_ms)[11:23]} {who:<13} {what}")  # noqa: T201 - this is what was asked for

    def happens(self, rate: float) -> bool:
        """Tell whether a fault of this rate happens now; in a healed world none does."""
        return not self.is_healed and self.random.random() < rate

    def count(self, fault: str, who: str = "world") -> None:
        """Count a fault that happened."""
        self.faults[fault] += 1
        if self.is_traced:
            self.say(who, f"! {fault}")

    async def travel(self) -> None:
        """Let a request or an answer be on its way."""
        delay_s = self.random.uniform(0.001, 0.05 if self.is_healed else self.options.latency_s)
        if self.happens(self.options.slow):
            self.count(Fault.SLOW)
            delay_s *= 50
        await asyncio.sleep(delay_s)


class Broker:
    """The log: topics of partitions, committed offsets, the changelog. It has whatever it acknowledged."""

    def __init__(self, world: World) -> None:
        """Start with empty topics."""
        self._world = world
        self.names = topics(world.settings)
        self.topics: dict[str, list[list[LogRecord]]] = {topic.name: [[]] for topic in self.names.all()}
        self.topics[self.names.lifecycle.name] = [[] for _ in range(PARTITIONS)]
        self.committed: dict[int, int] = {}
        #: By partition: offset, key and value of each entry; compaction leaves gaps.
        self.changelog: dict[int, list[tuple[int, bytes, bytes | None]]] = {}
        self._changelog_ends: Counter[int] = Counter()
        self.up = asyncio.Event()
        self.up.set()
        self.grown = asyncio.Condition()

    @property
    def lifecycle(self) -> list[list[LogRecord]]:
        """The partitions of the topic that workers read."""
        return self.topics[self.names.lifecycle.name]

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int = 0
    ) -> LogRecord:
        """Put a record at a partition's end, with the broker's time."""
        log = self.topics[topic][partition]
        record = LogRecord(topic, partition, len(log), self._world.now_ms, key, value, tuple(headers))
        log.append(record)
        if topic == self.names.lifecycle.name:
            self._world.loop.create_task(self.tell())
        elif topic == self.names.decisions.name:
            self._world.watch.proposed(value or b"")
        elif topic == self.names.rollups.name:
            self._world.watch.was_published(value or b"")
        return record

    async def tell(self) -> None:
        """Wake who waits for something to read."""
        async with self.grown:
            self.grown.notify_all()

    def remember(self, partition: int, entries: list[tuple[bytes, bytes | None]]) -> int:
        """Put entries at the end of a partition of the changelog; return its end."""
        log = self.changelog.setdefault(partition, [])
        for key, value in entries:
            log.append((self._changelog_ends[partition], key, value))
            self._changelog_ends[partition] += 1
        return self._changelog_ends[partition]

    def compact(self) -> None:
        """Keep the newest entry of each key alone; of forgotten keys nothing."""
        for partition, log in self.changelog.items():
            newest = {key: (offset, key, value) for offset, key, value in log}
            self.changelog[partition] = sorted(entry for entry in newest.values() if entry[2] is not None)


class Process:
    """One process of ours on a machine that may die or stand still at any step."""

    #: What kills of this kind of process are counted as; "" where they are not counted by point.
    kind = ""

    def __init__(self, world: World, name: str) -> None:
        """Nothing runs before the first `spawn`."""
        self.world = world
        self.name = name
        self.is_alive = True
        self.tasks: set[asyncio.Task[Any]] = set()
        self.resumed = asyncio.Event()
        self.resumed.set()
        #: What a call in a thread sends to the store, in order: step and effect.
        self.plan: list[tuple[str, Callable[[], None]]] = []

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return not self.resumed.is_set()

    def kill_rate(self) -> float:
        """Return how likely it dies at a step."""
        return 0.0

    def is_stale(self) -> bool:
        """Tell whether it acts for something that others have taken over."""
        return False

    def died(self) -> None:
        """Make the world go on without it."""

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something as part of this process."""
        context = copy_context()
        context.run(CURRENT.set, self)
        task = self.world.loop.create_task(work, context=context)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self.is_alive:
            self.failed(task.exception())

    def failed(self, error: BaseException | None) -> None:
        """Take an error that nobody caught: it ends the process, as it does a real one."""
        if isinstance(error, StoreError):
            self.kill(f"{type(error).__name__}: {error}")
        elif not isinstance(error, Violation):
            self.world.note_violation(f"{self.name} raised {error!r}")

    def kill(self, why: str) -> None:
        """End it at once: nothing of it goes on, except requests that are on their way."""
        if not self.is_alive:
            return
        self.world.say(self.name, f"DIES ({why})")
        self.end()
        self.died()

    def end(self) -> None:
        """End it for good."""
        self.is_alive = False
        for task in list(self.tasks):
            task.cancel()

    def pause(self, fault: Fault, for_s: float) -> None:
        """Stop it at its next step, for a time."""
        if self.is_paused or not self.is_alive:
            return
        self.world.count(fault, self.name)
        self.resumed.clear()
        self.world.loop.call_later(for_s, self.resume)

    def resume(self) -> None:
        """Let it go on."""
        self.resumed.set()

    async def reach(self, step: str) -> None:
        """Come to a step: die or stand still here, or go on."""
        world = self.world
        world.steps += 1
        if world.is_traced:
            world.say(self.name, step)
        point = f"{self.kind} killed: {step}"
        if self.is_alive and world.happens(KILL_AT_POINT if point in world.options.kill_at else self.kill_rate()):
            world.count(point, self.name)
            self.kill(step)
        if not self.is_alive:
            await world.loop.create_future()  # for ever: it is cancelled, as all of a dead process is
        if world.happens(world.options.pause):
            self.stand_still()
        await self.resumed.wait()

    def stand_still(self) -> None:
        """Be paused for a while, where this kind of process can be."""

    async def request(self, step: str, effect: Callable[[], Any]) -> Any:
        """Ask somebody else to do something: killed on the way, it may be done all the same, and later."""
        await self.reach(step)
        try:
            await self.world.travel()
        except asyncio.CancelledError:
            if not self.world.is_over and self.world.random.random() < 0.5:
                self.world.loop.call_later(self.world.random.uniform(0, 60), self._posthumously, step, effect)
            raise
        result = effect()
        await self.world.travel()
        await self.reach(f"{step} answered")
        return result

    def _posthumously(self, step: str, effect: Callable[[], Any]) -> None:
        if not self.world.is_over:
            self.world.count(Fault.WRITE_AFTER_DEATH, self.name)
            self.world.say(self.name, f"{step}, after its death")
            effect()

    async def thread(self, func: Callable[[], Any]) -> Any:
        """Run what was given to a thread: what it reads is read when it arrives, what it writes takes effect in steps.

        An error waits for the effects before it.
        """
        name = _name(func)
        await self.reach(name)
        await self.world.travel()
        error: Exception | None = None
        result: Any = None
        plan: list[tuple[str, Callable[[], None]]] = []
        self.plan = plan
        try:
            result = func()
        except Violation:
            raise
        except Exception as caught:  # noqa: BLE001 - handed on below, whatever it is
            error = caught
        finally:
            self.plan = []
        for step, effect in plan:
            await self.request(step, effect)
        await self.world.travel()
        await self.reach(f"{name} answered")
        if error is not None:
            raise error
        return result


def _name(func: Any) -> str:
    """Return the name of a method behind the wrappings of asyncio.to_thread and partial."""
    while hasattr(func, "func"):
        func = func.args[0] if getattr(func.func, "__name__", "") == "run" else func.func
    return "open_rooms" if func.__name__ == "<lambda>" else str(func.__name__)
