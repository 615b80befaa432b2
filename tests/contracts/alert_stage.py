"""What the tests of the alerter share: one installation, and alerters that stop before any step."""

from collections import defaultdict
from typing import Any, Final, cast

import orjson

from pipeline.alerts.alerter import Alerter
from pipeline.alerts.codec import alert_key, encode_decision
from pipeline.alerts.store import AlertStore
from pipeline.clickhouse import Store
from pipeline.decisions import PATIENCE_MS
from pipeline.kafka import read_topic
from pipeline.metering.anomaly.alert import Mute
from pipeline.metering.anomaly.readings import Connected, Readings
from pipeline.metering.anomaly.rules import parse_rules
from pipeline.metering.plans_file import parse_plans
from pipeline.metering.units import MS_PER_MINUTE
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.anomaly.oracle import readings
from tests.contracts.emitter_stage import Stepped, Steps
from tests.metering.builders import METERS, ROOT

#: Nothing is usual yet: twenty sessions in five minutes are a storm.
RULES: Final = parse_rules(
    (ROOT / "schemas" / "alerts.toml").read_text(), "connection_storm.cold_least = 20\nusage_rise.enabled = false\n"
)
PLANS: Final = """
[plans.ship]
currency = "USD"
prices = [{ from = 2026-01-01, meters = { agent_session_minutes = { included = 0, price = 0.01 } } }]
[projects.acme]
plans = [{ plan = "ship", from = 2026-01-01 }]
"""


class AlertStage:
    """One installation: topics, a store, a clock, sessions to look at, any number of alerters."""

    def __init__(self, settings: Settings, store: Store, producer: Producer, now_ms: int) -> None:
        """Begin with nothing on the topics."""
        self.settings = settings
        self.store = store
        self.producer = producer
        self.topics = topics(settings)
        self.now_ms = now_ms - now_ms % MS_PER_MINUTE
        self.metrics = Metrics()
        self.sessions: list[Connected] = []
        self._alerters: list[Alerter] = []
        self.plans = parse_plans(PLANS, METERS)

    def alerter(self, steps: Steps | None = None) -> Alerter:
        """Return a new alerter, as after a start."""
        store, producer = AlertStore(self.store), self.producer
        if steps is not None:
            store = cast("AlertStore", Stepped(store, steps.reach))
            producer = cast("Producer", Stepped(producer, steps.reach))
        parts: tuple[Any, ...] = (self._read, store, producer, self.metrics, lambda: self.now_ms)
        alerter = Alerter(self.settings, METERS, RULES, self.plans, *parts)
        self._alerters.append(alerter)
        return alerter

    async def close(self) -> None:
        """Let all alerters go."""
        for alerter in self._alerters:
            await alerter.close()

    def _read(self, as_of_ms: int) -> Readings:
        return readings(self.sessions, as_of_ms)

    def storm(self, count: int = 30, project: str = "acme", ago_ms: int = 2 * MS_PER_MINUTE) -> None:
        """Let sessions begin and end, in the minute before last."""
        began_ms = self.now_ms - ago_ms
        self.sessions += [
            Connected(
                project, "agent_session_minutes", "RM_1", "", f"PA_{number}", began_ms, began_ms + 1, is_open=False
            )
            for number in range(count)
        ]

    async def mute(self, mute: Mute) -> None:
        """Mute, as the command line does."""
        await self.producer.send(self.topics.alert_decisions.name, None, encode_decision("cli", mute))

    async def published(self) -> list[dict[str, Any]]:
        """Return every revision of the topic, in order."""
        return [
            orjson.loads(record.value or b"")
            async for record in read_topic(self.settings.kafka, self.topics.alerts.name)
        ]

    async def told(self) -> list[str]:
        """Return what was published, in order: detector, status and revision."""
        return [f"{one['detector']} {one['status']} {one['revision']}" for one in await self.published()]

    async def check(self, most: int = 1) -> None:
        """Assert that every revision is published in one content, at most so many times, and stored."""
        copies = defaultdict(list)
        async for record in read_topic(self.settings.kafka, self.topics.alerts.name):
            copies[alert_key(record.value or b"")].append(record.value)
        assert all(len(set(found)) == 1 for found in copies.values())
        assert max(map(len, copies.values())) <= most
        assert AlertStore(self.store).told(0) == copies.keys()

    def wait_out(self) -> None:
        """Let the time pass in which whoever proposed a revision may publish it."""
        self.now_ms += PATIENCE_MS
