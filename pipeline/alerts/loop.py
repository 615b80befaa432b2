"""The alerter at work: again and again, and beside it what delivers alerts to a webhook, if one is named."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.alerts.alerter import Alerter
from pipeline.alerts.reader import Reader
from pipeline.alerts.store import AlertStore
from pipeline.alerts.webhook import AlertWebhook, read_alert
from pipeline.clickhouse import Store, StoreUnavailable
from pipeline.delivery.deliverer import Counts, Route, Rules, deliver
from pipeline.delivery.delivery import TargetHalted
from pipeline.delivery.file import read_target
from pipeline.delivery.targets import Webhook
from pipeline.http import Readiness
from pipeline.invoices.invoicing import read_plans
from pipeline.kafka import KafkaAway
from pipeline.limits.file import read_limits
from pipeline.metering.anomaly.rules import InvalidRules, parse_rules
from pipeline.metering.anomaly.rules import Rules as AnomalyRules
from pipeline.metering.limits import Limits
from pipeline.metering.meters import Meters
from pipeline.metering.plans import Plans
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.resources import schemas
from pipeline.settings import Settings
from pipeline.topics import topics
from pipeline.watch import alerter_probe, watch_part

_log: Final = logging.getLogger(__name__)

#: A receiver that takes nothing until somebody mends it is asked again after this.
_HALTED_S: Final = 60.0


class Watch(NamedTuple):
    """What an alerter goes by: rules, prices, limits, and who is told over HTTP."""

    meters: Meters
    rules: AnomalyRules
    plans: Plans
    limits: Limits | None
    webhook: AlertWebhook | None


def read_watch(settings: Settings, meters: Meters, secrets: Mapping[str, str]) -> Watch:
    """Read the files that are named; raises InvalidRules, InvalidPlans, InvalidLimits, InvalidTargets, OSError."""
    webhook = None
    if settings.alert_targets_file is not None:
        target = read_target(settings.alert_targets_file, "webhook", secrets, meters)
        assert isinstance(target, Webhook), "it was asked for by its name"
        webhook = AlertWebhook(target)
    return Watch(
        meters,
        read_rules(settings.alerts_file),
        read_plans(settings, meters),
        read_limits(settings.limits_file, meters),
        webhook,
    )


def read_rules(path: Path | None) -> AnomalyRules:
    """Read the rules that ship, and a file of one's own on top; raises InvalidRules, OSError."""
    shipped = (schemas() / "alerts.toml").read_text("utf-8")
    if path is None:
        return parse_rules(shipped)
    try:
        return parse_rules(shipped, path.read_text("utf-8"))
    except (InvalidRules, UnicodeDecodeError) as error:
        raise InvalidRules(f"{path}: {error}") from error


async def alert_forever(
    settings: Settings,
    watch: Watch,
    store: Store,
    producer: Producer,
    metrics: Metrics,
    readiness: Readiness,
    clock: Callable[[], int],
) -> None:
    """Look again and again, and deliver what is told; while brokers or store are away, wait and say so (R22).

    `store` is for this alone: weeks are asked for long.
    """
    reader = Reader(store, watch.meters, watch.limits, settings.orphan_after_ms)
    parts = (reader.read, AlertStore(store), producer, metrics, clock)
    alerter = Alerter(settings, watch.meters, watch.rules, watch.plans, *parts)
    readiness.set("alerter")
    probe = alerter_probe(settings, lambda: alerter.as_of_ms, clock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch_part(readiness, "alerter", probe, settings.stall_after_ms))
        if watch.webhook is not None:
            tasks.create_task(deliver_alerts(settings, watch.webhook, metrics, clock))
        try:
            while True:
                # First of all: whoever starts has more urgent work than anomalies.
                await asyncio.sleep(settings.alert_interval_ms / 1000)
                await _look(alerter, readiness)
        finally:
            await alerter.close()


async def _look(alerter: Alerter, readiness: Readiness) -> None:
    """Look once; cancelled, it returns when the question under way is answered, so that the store can be closed."""
    running = asyncio.create_task(alerter.run_once())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        alerter.stop()
        await asyncio.wait({running})
        raise
    except (StoreUnavailable, KafkaAway) as error:
        readiness.unset("alerter", str(error))
    else:
        readiness.set("alerter")


async def deliver_alerts(settings: Settings, webhook: AlertWebhook, metrics: Metrics, clock: Callable[[], int]) -> None:
    """Deliver alerts for ever, from the first time on; a receiver that wants to be mended is asked again."""
    names = topics(settings)
    route = Route(names.alerts, names.alerts_refused, f"{settings.topic_prefix}deliver-alerts", read_alert)
    while True:
        try:
            await deliver(settings, webhook, route, clock, Counts(metrics=metrics), Rules(), "latest")
        except TargetHalted as error:
            _log.error("alerts: the webhook takes nothing: %s", error)
            await asyncio.sleep(_HALTED_S)
