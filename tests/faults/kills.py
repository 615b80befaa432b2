"""F1: a worker is killed with SIGKILL at random moments under load.

Half of the kills come at a time drawn at random, the others wait for the next insert that is on its way. How it is
known that a batch was in hand: the worker is first stopped with SIGSTOP; where the proxy before the store then still
waits for the store's answer to an insert, the worker has not seen that answer, and never will, for the SIGKILL comes
next. A kill between two inserts of a batch is not counted, so that the number is a lower bound.
"""

import asyncio
import random
import signal
import threading
import time
from collections.abc import Iterator

from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.engine import Lab, Row
from tests.faults.rig import Rig, rig

#: Longest time from the first insert of a life to its end, in seconds.
_LONGEST_LIFE_S = 0.4
#: A worker has to be ready so soon after its predecessor was killed.
_READY_S = 10.0


def kills(lab: Lab) -> Iterator[Row]:
    """Kill 10 or 100 times, and compare when the last worker has caught up."""
    count, size = lab.size(10, 100), lab.size(60_000, 1_000_000)
    yield killed(lab, count, size)


def killed(lab: Lab, count: int, size: int) -> Row:
    """Return the row of so many kills over so many events."""
    chance = random.Random(lab.seed)  # noqa: S311 - a repeatable choice, not a secret
    events = feed.simulated_events(size, lab.seed, per_session=3)
    share = -(-size // (count + 1))
    ready_s, in_hand, behind = [], 0, 0
    # The session timeout that is a broker's own least as it comes.
    with rig(lab, "kills", session_timeout_ms=6_000) as made:
        worker = made.process()
        for kill in range(count):
            feeding = threading.Thread(target=made.send, args=(events[kill * share : (kill + 1) * share],))
            feeding.start()
            started_s = time.monotonic()
            worker.start()
            wait_until(worker.is_ready)
            ready_s.append(time.monotonic() - started_s)
            in_hand += _kill(made, worker, chance, is_aimed=kill % 2 == 0)
            feeding.join()
            behind += not made.is_done()
            asyncio.run(made.broker.expire_members())
        made.send(events[count * share :])
        worker.start()
        made.until_done(300)
        found = made.compare()
    slow = [f"ready after {most:.1f} s"] if (most := max(ready_s)) > _READY_S else []
    few = [f"only {in_hand} of {count} kills in a batch"] if in_hand < 0.3 * count else []
    few += [f"only {found.sessions} sessions"] if found.sessions < size // 5 else []
    note = f"{in_hand} kills in a batch, {behind} with records left; recovery is the slowest"
    return Row("F1 worker killed -9", count, count, recovery_s=most, note=note, problems=[*slow, *few]).compared(found)


def _kill(made: Rig, worker: Process, chance: random.Random, *, is_aimed: bool) -> bool:
    """Kill a worker; tell whether it waited for the answer to an insert."""
    life_s = chance.uniform(0, _LONGEST_LIFE_S)
    wait_until(lambda: made.proxy.unanswered > 0 or made.is_done())
    assert worker.outlives(life_s), worker.said()[-1_000:]
    deadline_s = time.monotonic() + 2
    while is_aimed and not made.proxy.unanswered and time.monotonic() < deadline_s:
        assert worker.outlives(0.0002), worker.said()[-1_000:]
    worker.signal(signal.SIGSTOP)
    is_in_hand = made.proxy.unanswered > 0
    worker.kill()
    return is_in_hand
