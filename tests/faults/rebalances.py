"""F21, F32: workers that come and go: a storm of rebalances, and a rolling restart."""

import random
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from pipeline.clickhouse import Store
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.engine import Lab, Row
from tests.faults.rig import Rig, rig

_RATE: Final = 500
_EVERY_S: Final = 3.0


def storm(lab: Lab) -> Iterator[Row]:
    """A worker joins or leaves every three seconds, in order or killed, while one stays."""
    seconds = lab.size(30, 300)
    chance = random.Random(lab.seed)  # noqa: S311 - a repeatable choice, not a secret
    changes, killed = 0, 0
    events = feed.simulated_events(seconds * _RATE, lab.seed)
    with rig(lab, "storm") as made:
        made.worker()
        others: list[Process] = []
        with made.sending(events, _RATE):
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                next_s = time.monotonic() + _EVERY_S
                if len(others) < 2 and (not others or chance.random() < 0.5):
                    others.append(made.process())
                    others[-1].start()
                else:
                    killed += _leave(others.pop(0), is_killed=chance.random() < 0.5)
                changes += 1
                time.sleep(max(0.0, next_s - time.monotonic()))
        started_s = time.monotonic()
        made.until_done()
        recovery_s = time.monotonic() - started_s
        found = made.compare()
    note = f"joined or left {changes} times in {seconds} s, {killed} of them killed"
    yield Row("F21 rebalance storm", changes, seconds // 6, recovery_s=recovery_s, note=note).compared(found)


def _leave(worker: Process, *, is_killed: bool) -> bool:
    if is_killed:
        worker.kill()
    else:
        worker.stop()
    return is_killed


def rolling(lab: Lab) -> Iterator[Row]:
    """Restart each of two workers in turn under load; a clean handover replays nothing.

    Known by the rows of the event log: with merges stopped the store keeps what was written twice as two rows.
    """
    rounds = lab.size(2, 10)
    events = feed.simulated_events(2 * rounds * 8 * _RATE, lab.seed)
    stopped = 0
    problems: list[str] = []
    with rig(lab, "rolling") as made:
        workers = [made.worker(), made.worker()]
        _stop_merges(made)
        with made.sending(events, _RATE):
            for number in range(2 * rounds):
                worker = workers[number % 2]
                before = feed.stored(made.settings, made.server.dsn)
                wait_until(lambda: feed.stored(made.settings, made.server.dsn) > before)  # noqa: B023 - called at once
                if code := worker.stop():
                    problems.append(f"exit code {code}")
                stopped += 1
                worker.start()
                wait_until(worker.is_ready)
        made.until_done()
        found = made.compare()
        replayed = _rows(made) - found.events
    note = f"{replayed} records replayed"
    problems += [note] if replayed else []
    yield Row("F32 rolling restart under load", stopped, 2 * rounds, note=note, problems=problems).compared(found)


def _stop_merges(made: Rig) -> None:
    with closing(Store.open(made.server.dsn, made.settings.database)) as store:
        store._client.command("SYSTEM STOP MERGES events")


def _rows(made: Rig) -> int:
    with closing(Store.open(made.server.dsn, made.settings.database)) as store:
        [(count,)] = store.query("SELECT count() FROM events")
    return int(count)
