"""F3, F4: processes that were paused and come back: a worker whose partitions another took, one of two emitters."""

import asyncio
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson

from pipeline.embedded import now_ms
from pipeline.kafka import read_topic
from pipeline.metering.units import hour_of
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.engine import Lab, Row
from tests.faults.rig import Rig, rig
from tests.oracle import oracle
from tests.oracle_counted import read_time

_SLICE: int = 4_000


def zombies(lab: Lab) -> Iterator[Row]:
    """Pause a worker with a batch in hand until the broker has declared it dead and another has its partitions."""
    times = lab.size(2, 10)
    events = feed.simulated_events(2 * times * _SLICE, lab.seed)
    dead = in_hand = 0
    with rig(lab, "zombies") as made:
        one, other = made.worker(), made.worker()
        wait_until(lambda: len(feed.members(made.settings)) == 2)
        for number in range(times):
            first, second = (events[start * _SLICE :][:_SLICE] for start in (2 * number, 2 * number + 1))
            # The paused one is left with the fault in its hand: its insert is on its way, or comes later.
            with made.sending(first, per_second=_SLICE):
                wait_until(lambda: made.proxy.unanswered > 0)
                one.signal(signal.SIGSTOP)
                in_hand += made.proxy.unanswered > 0
            wait_until(lambda: len(feed.members(made.settings)) == 1)
            dead += 1
            made.until_done()
            with made.sending(second, per_second=_SLICE):
                one.signal(signal.SIGCONT)
                wait_until(lambda: len(feed.members(made.settings)) == 2)
            made.until_done()
            one, other = other, one
        found = made.compare()
    note = f"{dead} times declared dead while paused, {in_hand} with an insert on its way"
    yield Row("F3 worker paused, then back", dead, times, note=note).compared(found)


def emitters(lab: Lab) -> Iterator[Row]:
    """Two emitters at once; each is paused or killed in turn while facts change under them."""
    times = lab.size(4, 40)
    chance = random.Random(lab.seed)  # noqa: S311 - a repeatable choice, not a secret
    events = feed.simulated_events((times + 1) * _SLICE // 2, lab.seed)
    share = _SLICE // 2
    with rig(lab, "emitters", grace_period_ms=0, emit_interval_ms=100) as made:
        made.worker()
        pair = [made.process("emitter"), made.process("emitter")]
        for emitter in pair:
            emitter.start()
        for number in range(times):
            made.send(events[number * share : (number + 1) * share])
            made.until_done()
            victim, witness = pair[number % 2], pair[1 - number % 2]
            wait_until(lambda: victim.is_ready() and witness.is_ready())  # noqa: B023 - called at once
            wait_until(lambda: chance.random() < 0.2)
            _disturb(victim, witness, is_pause=number % 4 < 2)
        made.send(events[times * share :])
        made.until_done()
        stored_at_s = now_ms() / 1000
        wait_until(lambda: all(one.metric("roommeter_watermark_seconds") > stored_at_s for one in pair))
        found = made.compare()
        wrong, problems, note = _judge(made, int(pair[0].metric("roommeter_watermark_seconds")) * 1000)
    row = Row("F4 two emitters, paused and killed", times, times, note=note, problems=problems).compared(found)
    yield Row(**{name: getattr(row, name) for name in row.__slots__} | {"wrong": (row.wrong or 0) + wrong})


def _disturb(victim: Process, witness: Process, *, is_pause: bool) -> None:
    """Pause one emitter until the other has gone on for two runs, or kill it and start it anew."""
    if is_pause:
        victim.signal(signal.SIGSTOP)
        before_s = witness.metric("roommeter_watermark_seconds")
        wait_until(lambda: witness.metric("roommeter_watermark_seconds") > before_s)
        victim.signal(signal.SIGCONT)
    else:
        victim.kill()
        victim.start()


def _judge(made: Rig, watermark_ms: int) -> tuple[int, list[str], str]:
    """Return by how many increments rollups are wrong, what else is wrong with them, and what to say."""
    records = asyncio.run(_rollups(made.settings))
    by_id: dict[str, set[bytes]] = defaultdict(set)
    for record in records:
        by_id[orjson.loads(record)["id"]].add(record)
    rollups = [orjson.loads(next(iter(contents))) for contents in by_id.values()]
    until_ms = hour_of(watermark_ms)
    due = {key: cell for key, cell in oracle(made.events, now_ms()).items() if key[2] < until_ms}
    newest: dict[Any, dict[str, Any]] = {}
    deltas: dict[Any, Decimal] = defaultdict(Decimal)
    for rollup in sorted(rollups, key=lambda rollup: rollup["revision"]):
        key = (rollup["project"], rollup["meter"], read_time(rollup["hour"]))
        newest[key] = rollup
        deltas[key] += Decimal(rollup["delta"])
    wrong = 0
    for key in {key for key in newest if key[2] < until_ms} | due.keys():
        emitted = newest.get(key, {"increments": 0, "increments_open": 0, "sessions": 0})
        wrong += abs(emitted["increments"] - due.get(key, (0, 0, 0))[0])
    problems = [f"{count} ids with two contents"] if (count := sum(len(c) > 1 for c in by_id.values())) else []
    if off := [key for key, rollup in newest.items() if deltas[key] != Decimal(rollup["quantity"])]:
        problems.append(f"deltas of {len(off)} cells do not add up")
    revisions = Counter((rollup["project"], rollup["meter"], rollup["hour"]) for rollup in rollups)
    repeated = len(records) - len(by_id)
    return wrong, problems, f"{len(by_id)} rollups of {len(revisions)} cells, {repeated} published again unchanged"


async def _rollups(settings: Settings) -> list[bytes]:
    name = topics(settings).rollups.name
    return [record.value or b"" async for record in read_topic(settings.kafka, name)]
