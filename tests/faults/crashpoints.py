"""F2: a worker is killed with SIGKILL between any two steps of a batch, each by the launcher tests.faults.crashing."""

import asyncio
import random
import signal
from collections.abc import Iterator

from tests.faults import feed
from tests.faults.crashing import LAST_WORDS, POINTS
from tests.faults.engine import Lab, Row
from tests.faults.rig import rig

_EVENTS: int = 1_000


def crash_points(lab: Lab) -> Iterator[Row]:
    """Kill once or five times at each point, a new slice of the day each time."""
    chance = random.Random(lab.seed)  # noqa: S311 - a repeatable choice, not a secret
    lives = [point for point in POINTS for _ in range(lab.size(1, 5))]
    chance.shuffle(lives)
    events = feed.simulated_events((len(lives) + 1) * _EVENTS, lab.seed)
    reached = 0
    with rig(lab, "points", batch_events=100) as made:
        for number, point in enumerate(lives):
            made.send(events[number * _EVENTS : (number + 1) * _EVENTS])
            # What a slice brings is a batch at least, but no more is certain.
            worker = made.process(program=("tests.faults.crashing", point, "1"))
            worker.start()
            reached += worker.wait() == -signal.SIGKILL and f"{LAST_WORDS} {point}" in worker.said()
            asyncio.run(made.broker.expire_members())
        made.send(events[len(lives) * _EVENTS :])
        made.worker()
        made.until_done()
        found = made.compare()
    note = f"each of {len(POINTS)} points {lab.size(1, 5)} times"
    yield Row("F2 worker killed at named points", reached, len(lives), note=note).compared(found)
