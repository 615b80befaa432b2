"""F6, F8, F9: broker and store go away in every way we could think of, while events come in at a stated rate.

Of each outage: nothing lost, the worker's growth of memory, and how quickly it catches up. What came during the outage
has to be drained in a fifth of the outage's time: five times real time at the stated rate.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from pipeline.embedded import now_ms
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.engine import Lab, Row
from tests.faults.proxy import Fault
from tests.faults.rig import Rig, Watch, rig

#: Events a second while something is away: 43 million a day.
RATE: Final = 500
_MOST_GROWTH_MB: Final = 200
_LEAST_SPEED: Final = 5


@dataclass(frozen=True, slots=True)
class Kind:
    """One way for a store to fail; what makes it, and how long it lasts in seconds, short and long."""

    name: str
    fault: Callable[[Rig], AbstractContextManager[None]]
    short_s: int
    long_s: int
    is_slow: bool = False


@contextmanager
def _killed(made: Rig) -> Iterator[None]:
    made.server.kill()
    yield
    made.server.start()


def _faulty(fault: Fault) -> Callable[[Rig], AbstractContextManager[None]]:
    return lambda made: made.proxy.fault(fault)


KINDS: Final = (
    Kind("F8 store killed, away", _killed, 20, 300),
    Kind("F8 store refuses connections", _faulty(Fault(refuse=True)), 8, 60),
    Kind("F9 store does it, answers are lost", _faulty(Fault(drop_reply=True)), 8, 60),
    Kind("F9 inserts cut short", _faulty(Fault(cut_after_bytes=20_000)), 8, 60),
    Kind("F9 store slow, 500 ms a packet", _faulty(Fault(delay_s=0.5)), 8, 60, is_slow=True),
)


def stores(lab: Lab) -> Iterator[Row]:
    """Let one worker's store fail in each way, one after the other."""
    for number, kind in enumerate(KINDS):
        yield store_outage(lab, kind, lab.size(kind.short_s, kind.long_s), lab.seed + number)


def store_outage(lab: Lab, kind: Kind, seconds: int, seed: int) -> Row:
    """Let the store of one worker fail for so many seconds."""
    settled, meanwhile = 10 * RATE, seconds * RATE
    events = feed.simulated_events(settled + meanwhile, seed)
    with rig(lab, "store") as made:
        worker = made.worker()
        made.send(events[:settled])
        made.until_done()
        problems = []
        with Watch(worker) as memory:
            with kind.fault(made), made.sending(events[settled:], RATE):
                time.sleep(seconds)
                retries = worker.metric("roommeter_store_retries_total")
                committed = feed.committed(made.settings)
            problems += _unsafe(made, committed)
            recovery_s, speed = _drained(made, worker, seconds)
        found = made.compare()
        problems += _too_much(memory.growth_mb, speed)
        problems += ["dead letters"] if feed.dead_letters(made.settings) else []
        problems += ["repeated what was only slow"] if kind.is_slow and retries else []
    times = seconds if kind.is_slow else int(retries)
    return Row(
        kind.name,
        times,
        recovery_s=recovery_s,
        growth_mb=memory.growth_mb,
        note=f"{seconds} s at {RATE} events/s; {retries:.0f} attempts failed; drained at {speed:.0f} x real time",
        problems=problems,
    ).compared(found)


def _unsafe(made: Rig, committed: int) -> list[str]:
    """Compare offsets committed during an outage with what the store has at its end: it only ever gets more."""
    stored = feed.stored(made.settings, made.server.dsn)
    return [f"{committed} committed, {stored} stored"] if committed > stored else []


def _drained(made: Rig, worker: Process, outage_s: float) -> tuple[float, float]:
    """Wait until all is stored and the worker ready; return the seconds it took, and the times of real time."""
    started_s = time.monotonic()
    made.until_done(600)
    wait_until(worker.is_ready)
    took_s = time.monotonic() - started_s
    return took_s, outage_s / max(took_s, 0.001)


def _too_much(growth_mb: int, speed: float) -> list[str]:
    slow = [f"drained at {speed:.1f} x real time"] if speed < _LEAST_SPEED else []
    return slow + ([f"grew by {growth_mb} MB"] if growth_mb > _MOST_GROWTH_MB else [])


def brokers(lab: Lab) -> Iterator[Row]:
    """Kill the broker under load again and again; then let it be away for long."""
    yield broker_killed(lab, lab.size(2, 10))
    yield broker_away(lab, lab.size(20, 300))


def broker_killed(lab: Lab, times: int) -> Row:
    """Kill and restart the broker while the worker has records to do, so many times."""
    events = feed.simulated_events((times + 1) * 4_000, lab.seed)
    slowest_s, behind = 0.0, 0
    with lab.own_broker() as broker, rig(lab, "broker", broker=broker, batch_events=200) as made:
        worker = made.worker()
        for number in range(times):
            made.send(events[number * 4_000 :][:4_000])
            behind += not made.is_done()
            asyncio.run(broker.crash())
            wait_until(lambda: "broker: no broker at" in worker.unready_reasons())
            started_s = time.monotonic()
            asyncio.run(broker.restart())
            made.until_done()
            wait_until(worker.is_ready)
            slowest_s = max(slowest_s, time.monotonic() - started_s)
        made.send(events[times * 4_000 :])
        made.until_done()
        found = made.compare()
        problems = ["dead letters"] if feed.dead_letters(made.settings) else []
    note = f"{behind} times with records left to do; recovery with the broker's own start"
    return Row(
        "F6 broker killed, restarted", times, times, recovery_s=slowest_s, note=note, problems=problems
    ).compared(found)


def broker_away(lab: Lab, seconds: int) -> Row:
    """Let the broker be away; what came meanwhile is sent at once when it is back."""
    settled = 10 * RATE
    events = feed.simulated_events(settled + seconds * RATE, lab.seed)
    with lab.own_broker() as broker, rig(lab, "away", broker=broker) as made:
        worker = made.worker()
        made.send(events[:settled])
        made.until_done()
        with Watch(worker) as memory:
            asyncio.run(broker.crash())
            away_at_ms = now_ms()
            wait_until(lambda: "broker: no broker at" in worker.unready_reasons())
            time.sleep(max(0.0, seconds - (now_ms() - away_at_ms) / 1_000))
            asyncio.run(broker.restart())
            started_s = time.monotonic()
            made.send(events[settled:])
            made.until_done(600)
            wait_until(worker.is_ready)
            took_s = time.monotonic() - started_s
        found = made.compare()
    speed = seconds / took_s
    return Row(
        "F6 broker away",
        1,
        recovery_s=took_s,
        growth_mb=memory.growth_mb,
        note=f"{seconds} s at {RATE} events/s, sent when it was back; drained at {speed:.0f} x real time",
        problems=_too_much(memory.growth_mb, speed),
    ).compared(found)
