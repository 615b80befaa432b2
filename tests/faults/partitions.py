"""F20: partitions are added to the lifecycle topic under load, and the workers restarted.

Rooms then hash to other partitions, so that sessions are split over two; the store joins them. The workers' changelog
has to have as many partitions: a worker that starts sees to that. Those that run have to be restarted.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from aiokafka.admin import NewPartitions

from pipeline.kafka import end_offsets
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.e2e.processes import wait_until
from tests.faults import feed
from tests.faults.engine import Lab, Row
from tests.faults.rig import Rig, rig

#: What a worker says that met more partitions than it knew.
ADVICE: Final = "start every worker again"


def partitions(lab: Lab) -> Iterator[Row]:
    """Add four partitions to four, with two workers running that are then restarted one after the other."""
    size = lab.size(8_000, 100_000)
    with rig(lab, "partitions", partitions=4) as made:
        yield added(made, feed.simulated_events(size, lab.seed))


def added(made: Rig, events: list[feed.Document]) -> Row:
    """Return the row of adding partitions in the midst of the events."""
    third = len(events) // 3
    workers = [made.worker(), made.worker()]
    made.send(events[:third])
    asyncio.run(_add(made.settings, 8))
    made.partitions = 8
    # A producer of its own, as `send` makes one, sees the new partitions at once.
    made.send(events[third : 2 * third])
    split = _split(made)
    started_s = time.monotonic()
    workers[0].stop()
    workers[0].start()
    wait_until(workers[0].is_ready)
    # The other one may have got new partitions: then it says what to do, and has ended with nothing of them done.
    code = workers[1].stop()
    has_advised = code == 1 and ADVICE in workers[1].said()
    problems = [] if code == 0 or has_advised else [f"the other worker ended with {code}, and no advice"]
    workers[1].start()
    for worker in workers:
        wait_until(worker.is_ready)
    made.until_done()
    recovery_s = time.monotonic() - started_s
    made.send(events[2 * third :])
    made.until_done()
    changelog = len(asyncio.run(end_offsets(made.settings.kafka, topics(made.settings).rooms_changelog.name)))
    problems += [f"the changelog has {changelog} partitions"] if changelog != 8 else []
    note = f"4 to 8; {split} records in new partitions before workers were restarted" + "; one advised it" * has_advised
    return Row(
        "F20 partitions added, workers restarted", int(split > 0), recovery_s=recovery_s, note=note, problems=problems
    ).compared(made.compare())


async def _add(settings: Settings, count: int) -> None:
    async with feed.admin_client(settings) as admin:
        await admin.create_partitions({topics(settings).lifecycle.name: NewPartitions(count)})


def _split(made: Rig) -> int:
    ends = asyncio.run(end_offsets(made.settings.kafka, topics(made.settings).lifecycle.name))
    return sum(end for partition, end in ends.items() if partition >= 4)
