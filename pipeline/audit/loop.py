"""The continuous audit: again and again, with metrics, and with the hours held whose emission has to wait."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Final

from pipeline.audit.auditor import Auditor, Report
from pipeline.clickhouse import Store, StoreUnavailable
from pipeline.metering.meters import Meters
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, hour_of
from pipeline.metrics import Metrics
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

#: What is audited every time; everything is once a day, and as long as anything differs.
RECENT_MS: Final = 48 * MS_PER_HOUR
#: Differences that are logged one by one.
_LOGGED: Final = 20


class AuditStopped(RuntimeError):
    """Nobody wants the audit any more."""


async def audit_forever(
    settings: Settings,
    meters: Meters,
    store: Store,
    metrics: Metrics,
    clock: Callable[[], int],
    every_ms: int,
    ends: Callable[[], Mapping[int, int]] = dict,
    told: Callable[[Report], None] = lambda _report: None,
) -> None:
    """Audit again and again; while the store is away, say so and try again (R22).

    `store` is for the audit alone: it is asked for long. At most a tenth of the time goes into it. Cancelled, it
    returns when the question under way is answered.
    """
    stop = threading.Event()

    def pause(wait_ms: int) -> None:
        if stop.wait(wait_ms / 1000) or stop.is_set():
            raise AuditStopped

    auditor = Auditor(settings, meters, store, pause, ends)
    whole_at_ms: int | None = None
    while True:
        started = time.monotonic()
        now_ms = clock()
        is_whole = whole_at_ms is None or now_ms - whole_at_ms >= MS_PER_DAY
        running = asyncio.create_task(asyncio.to_thread(audit_once, auditor, now_ms, is_whole=is_whole))
        try:
            report = await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({running})
            running.exception()  # AuditStopped: asked for, so that asyncio does not complain that nobody did
            raise
        except StoreUnavailable as error:
            logger.warning("The audit waits for the store: %s", error)
        else:
            whole_at_ms = None if report.differences else now_ms if is_whole else whole_at_ms
            show(report, metrics)
            told(report)
        spent = time.monotonic() - started
        await asyncio.sleep(max(every_ms / 1000, 9 * spent))


def audit_once(auditor: Auditor, now_ms: int, *, is_whole: bool) -> Report:
    """Audit everything, or what is recent; hold the hours that have to wait, and let go those that came right.

    While an hour is held everything is audited: only then can it be let go.
    """
    is_whole = is_whole or bool(auditor.held())
    report = auditor.run(now_ms, 0 if is_whole else hour_of(now_ms - RECENT_MS))
    auditor.hold(report, now_ms)
    return report


def show(report: Report, metrics: Metrics) -> None:
    """Set the metrics of an audit, and log what differs."""
    for law in report.laws:
        metrics.conservation_diff.labels(law.law).set(len(law.differences))
    metrics.audit_last_success_seconds.set(report.as_of_ms / 1000)
    differences = list(chain.from_iterable(law.differences for law in report.laws))
    for difference in differences[:_LOGGED]:
        names = " ".join(filter(None, (difference.project, difference.meter, difference.room, difference.session)))
        logger.error("The audit found a difference: %s %s: %s", difference.law, names, difference.detail)
    if len(differences) > _LOGGED:
        logger.error("... and %d more: `roommeter audit` shows them", len(differences) - _LOGGED)
