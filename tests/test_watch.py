"""Watching for standstill: what each part shows of its work, and what becomes of its readiness."""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from pipeline.alerts.alerter import SETTLE_MS
from pipeline.http import Readiness
from pipeline.kafka import KafkaAway
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE
from pipeline.metrics import Metrics
from pipeline.progress import Look, Work
from pipeline.settings import Settings
from pipeline.watch import Probe, alerter_probe, emitter_probe, limiter_probe, watch_forever
from tests.lane import eventually

_SETTINGS: Final = Settings.model_construct()
_NOON_MS: Final = 1_789_992_000_000
_PATIENCE_MS: Final = 12
_STUCK: Final = Look({"partition 0": Work(5, 3)})


async def _waiting(reached_ms: int, now_ms: int) -> int:
    look = await emitter_probe(_SETTINGS, lambda: reached_ms, lambda: 0, lambda: now_ms)()
    return look.work["hours due"].waiting


async def test_hours_are_due_when_their_grace_period_is_over_and_the_watermark_is_behind() -> None:
    """R18: an emitter whose watermark goes with the clock has nothing to do."""
    grace_ms = _SETTINGS.grace_period_ms
    assert await _waiting(_NOON_MS, _NOON_MS + grace_ms - 1) == 0
    assert await _waiting(_NOON_MS, _NOON_MS + grace_ms) == 1
    assert await _waiting(_NOON_MS, _NOON_MS + 3 * MS_PER_HOUR + grace_ms) == 4
    assert await _waiting(_NOON_MS + 3 * MS_PER_HOUR, _NOON_MS + 3 * MS_PER_HOUR + MS_PER_MINUTE) == 0


async def test_an_emitter_that_rests_long_between_runs_is_given_that_time() -> None:
    """At most a tenth of its time goes into runs: a long run is followed by a long pause."""
    look = await emitter_probe(_SETTINGS, lambda: 0, lambda: 500_000, lambda: _NOON_MS)()
    assert look.slack_ms == 4 * _SETTINGS.stall_after_ms + 500_000


async def test_a_limiter_shows_the_seconds_that_it_has_not_evaluated() -> None:
    """None while it is up to date within a second."""
    for behind_ms, waiting in ((999, 0), (7_500, 7)):
        look = await limiter_probe(_SETTINGS, lambda: _NOON_MS, lambda: _NOON_MS + behind_ms)()  # noqa: B023
        assert look.work["seconds not evaluated"] == Work(_NOON_MS, waiting)


async def test_an_alerter_shows_the_minutes_that_it_has_not_looked_at() -> None:
    """None while it is up to date; events are given time to arrive, and before the first look one minute waits."""
    for behind_ms, waiting in ((MS_PER_MINUTE + SETTLE_MS - 1, 0), (3 * MS_PER_MINUTE + SETTLE_MS, 3)):
        look = await alerter_probe(_SETTINGS, lambda: _NOON_MS, lambda: _NOON_MS + behind_ms)()  # noqa: B023
        assert look.work["minutes not looked at"] == Work(_NOON_MS, waiting)
    first = await alerter_probe(_SETTINGS, lambda: 0, lambda: _NOON_MS)()
    assert first.work["minutes not looked at"] == Work(0, 1)
    assert first.slack_ms == 4 * _SETTINGS.stall_after_ms + _SETTINGS.alert_interval_ms


async def _watched(probe: Probe, until: Callable[[Readiness], bool], *unmet: str) -> Readiness:
    """Watch until the readiness is so; what is not in `unmet` is met at first."""
    readiness = Readiness(Metrics(), "clickhouse", "progress")
    for condition in {"clickhouse", "progress"} - set(unmet):
        readiness.set(condition)
    watching = asyncio.create_task(watch_forever(readiness, "progress", {"clickhouse"}, probe, _PATIENCE_MS))
    await eventually(lambda: until(readiness))
    watching.cancel()
    return readiness


async def test_what_stands_still_is_not_ready_until_it_moves() -> None:
    """And says so in words."""
    looks = iter(range(1_000_000))

    async def probe() -> Look:
        return _STUCK if next(looks) < 50 else Look({"partition 0": Work(8, 0)})

    said = []

    def moved(readiness: Readiness) -> bool:
        said.extend(readiness.reasons())
        return bool(said) and not readiness.reasons()

    await _watched(probe, moved)
    assert all(re.fullmatch(r"progress: partition 0: nothing done for \d+ s, 3 wait", one) for one in said)


async def test_what_has_its_reason_said_elsewhere_is_not_said_twice() -> None:
    """R22: while the store is away the worker waits, and that is what is wrong."""
    seen = 0

    async def probe() -> Look:
        nonlocal seen
        seen += 1
        return _STUCK

    readiness = await _watched(probe, lambda _: seen > 30, "clickhouse")
    assert readiness.unmet() == {"clickhouse"}


async def test_what_cannot_be_seen_is_not_judged() -> None:
    """R22: without brokers nobody knows how much waits; `broker` says so."""
    seen = 0

    async def probe() -> Look:
        nonlocal seen
        seen += 1
        if seen % 3:
            raise KafkaAway("no brokers")
        return _STUCK

    readiness = await _watched(probe, lambda _: seen > 30)
    assert readiness.unmet() == frozenset()
