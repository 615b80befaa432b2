"""Looks again and again whether a part of the pipeline stands still, and takes its readiness while it does.

Seen from outside: how far a worker is, is what its group has committed at the brokers. So it is noticed too when the
worker's own picture of its partitions is what is wrong.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import Final

from pipeline.alerts.alerter import SETTLE_MS
from pipeline.http import Readiness
from pipeline.kafka import KafkaAway, TopicMismatch, backlogs
from pipeline.metering.rollup import complete_until_ms
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND
from pipeline.metrics import Metrics
from pipeline.progress import Look, Progress, Work
from pipeline.settings import Settings
from pipeline.topics import topics

_log: Final = logging.getLogger(__name__)

#: How much longer than a wait something in hand may take: a store that does not answer is given up after 300 s.
_IN_HAND: Final = 4
#: Looks in the time that work may stand still.
_LOOKS: Final = 6

Probe = Callable[[], Awaitable[Look]]
"""Looks at the work of a process; raises KafkaAway or TopicMismatch where that cannot be seen."""


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


async def watch_forever(
    readiness: Readiness, condition: str, excuses: AbstractSet[str], probe: Probe, patience_ms: int
) -> None:
    """Keep a condition of readiness: unmet while something stands still, unless one of `excuses` is unmet already."""
    progress = Progress(patience_ms)
    readiness.set(condition)
    while True:
        await asyncio.sleep(patience_ms / _LOOKS / MS_PER_SECOND)
        try:
            look = await probe()
        except (KafkaAway, TopicMismatch) as error:
            _log.debug("%s is not known: %s", condition, error)
            progress.forget()
            continue
        if readiness.unmet() & excuses:
            progress.forget()
            readiness.set(condition)
        elif reason := progress.judge(look, _monotonic_ms()):
            readiness.unset(condition, reason)
        else:
            readiness.set(condition)


async def watch_part(readiness: Readiness, part: str, probe: Probe, patience_ms: int) -> None:
    """Watch a part: its condition `<part>_progress` is unmet while it stands still, and nothing else says why."""
    excuses = {"broker", "clickhouse", "dead_letter_limit", part}
    await watch_forever(readiness, f"{part}_progress", excuses, probe, patience_ms)


def worker_probe(
    settings: Settings, metrics: Metrics, owned: Callable[[], AbstractSet[int]], has_in_hand: Callable[[], bool]
) -> Probe:
    """Look at a worker's own partitions: what its group has committed, and what it has not. It is the metric too."""
    topic = topics(settings).lifecycle.name

    async def probe() -> Look:
        found = await backlogs(settings.kafka, topic, settings.group)
        work: dict[str, Work] = {}
        metrics.consumer_lag_records.clear()
        for partition in sorted(owned() & found.keys()):
            done, end = found[partition]
            metrics.consumer_lag_records.labels(str(partition)).set(end - done)
            work[f"partition {partition}"] = Work(done, end - done)
        return Look(work, _IN_HAND * settings.stall_after_ms * has_in_hand())

    return probe


def delivery_probe(settings: Settings, metrics: Metrics, target: str, group: str) -> Probe:
    """Look at the rollups that a target has not got yet, by partition; their sum is the metric."""
    topic = topics(settings).rollups.name

    async def probe() -> Look:
        found = await backlogs(settings.kafka, topic, group)
        metrics.delivery_lag_records.labels(target).set(sum(end - done for done, end in found.values()))
        return Look({f"partition {number}": Work(done, end - done) for number, (done, end) in sorted(found.items())})

    return probe


def emitter_probe(
    settings: Settings, reached_ms: Callable[[], int], slack_ms: Callable[[], int], clock: Callable[[], int]
) -> Probe:
    """Look at an emitter: the watermark it stands at, and how many hours are due that lie behind it (R18)."""

    async def probe() -> Look:
        reached, grace_ms = reached_ms(), settings.grace_period_ms
        due = complete_until_ms(clock(), grace_ms) - complete_until_ms(reached, grace_ms)
        work: dict[str, Work] = {"hours due": Work(reached, max(0, due) // MS_PER_HOUR)}
        return Look(work, _IN_HAND * settings.stall_after_ms + slack_ms())

    return probe


def limiter_probe(settings: Settings, as_of_ms: Callable[[], int | None], clock: Callable[[], int]) -> Probe:
    """Look at a limiter: the moment up to which it has evaluated, and the seconds since."""

    async def probe() -> Look:
        as_of = as_of_ms() or 0
        work: dict[str, Work] = {"seconds not evaluated": Work(as_of, max(0, clock() - as_of) // MS_PER_SECOND)}
        return Look(work, _IN_HAND * settings.stall_after_ms)

    return probe


def alerter_probe(settings: Settings, as_of_ms: Callable[[], int], clock: Callable[[], int]) -> Probe:
    """Look at an alerter: the moment up to which it has looked, and the minutes since; 0 is before the first."""

    async def probe() -> Look:
        as_of, now_ms = as_of_ms(), clock()
        waiting_ms = now_ms - SETTLE_MS - as_of if as_of else MS_PER_MINUTE
        work: dict[str, Work] = {"minutes not looked at": Work(as_of, max(0, waiting_ms) // MS_PER_MINUTE)}
        return Look(work, _IN_HAND * settings.stall_after_ms + settings.alert_interval_ms)

    return probe
