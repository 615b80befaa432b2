"""The one registry of topics: names, partitions, retention and who may write to them."""

from dataclasses import dataclass, field
from typing import Final

from pipeline.metering.units import MS_PER_DAY
from pipeline.settings import Settings

#: Broker time, never event time, is the record's timestamp, so that retention cannot delete a late event unread.
_BROKER_TIME: Final = {"message.timestamp.type": "LogAppendTime"}
#: Decisions are of use until they are recorded in the store, a second later as a rule.
DECISIONS_KEPT_MS: Final = 7 * MS_PER_DAY
#: What was said of limits is remembered by its log: longer than the longest period, and than a limit rests.
_LIMITS_KEPT_MS: Final = 400 * MS_PER_DAY
#: What was told of anomalies is remembered by its log, as that of limits.
_ALERTS_KEPT_MS: Final = 400 * MS_PER_DAY
#: Headroom for a dead letter's headers, so that the largest event fits into its topic with them.
_HEADROOM_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as we declare it; `config` is Kafka's own topic configuration."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of one installation."""

    lifecycle: Topic
    rollups: Topic
    dead_letters: Topic
    decisions: Topic
    limits: Topic
    limit_decisions: Topic
    alerts: Topic
    alert_decisions: Topic
    alerts_refused: Topic
    rooms_changelog: Topic
    refused: Topic

    def all(self) -> list[Topic]:
        """Return every topic, in the order in which to create them."""
        return [
            *(self.lifecycle, self.rollups, self.dead_letters, self.decisions, self.refused),
            *(self.limits, self.limit_decisions, self.alerts, self.alert_decisions, self.alerts_refused),
            self.rooms_changelog,
        ]


def topics(settings: Settings) -> Topics:
    """Return the topics of an installation.

    - lifecycle: canonical events, key `project/room`; kept as long as an event may still count (R11).
    - usage.rollups: what billing reads (R17), key `project/meter`.
    - dead-letters: input that cannot be an event, as it came (R21).
    - usage.rollups.decisions: one partition whose order decides between emitters (R19); internal.
    - usage.rollups.refused: rollups that a billing system did not take, with the reason; kept for ever.
    - usage.limits: crossings of limits (schemas/limit.v1.json), key `project`.
    - usage.limits.decisions: one partition whose order decides between limiters, and their memory; internal.
    - usage.alerts: revisions of alerts on anomalous usage (schemas/alert.v1.json), key `project`.
    - usage.alerts.decisions: one partition whose order decides between alerters, and their memory; internal.
    - usage.alerts.refused: revisions that the webhook's receiver did not take, with the reason.
    - the changelog of the worker's table of rooms; its name is Faust's, its partitions are lifecycle's.
    """

    def topic(name: str, partitions: int, **config: str) -> Topic:
        prefixed = f"{settings.topic_prefix}{name}"
        return Topic(prefixed, partitions, settings.replication_factor, _BROKER_TIME | config)

    window_ms = str(settings.correction_window_ms)
    large = str(max(1_048_588, 2 * settings.max_event_bytes + _HEADROOM_BYTES))
    return Topics(
        lifecycle=topic("lifecycle", settings.partitions, **{"retention.ms": window_ms}),
        rollups=topic("usage.rollups", settings.partitions, **{"retention.ms": "-1"}),
        dead_letters=topic("dead-letters", 1, **{"retention.ms": window_ms, "max.message.bytes": large}),
        decisions=topic("usage.rollups.decisions", 1, **{"retention.ms": str(DECISIONS_KEPT_MS)}),
        limits=topic("usage.limits", settings.partitions, **{"retention.ms": str(_LIMITS_KEPT_MS)}),
        limit_decisions=topic("usage.limits.decisions", 1, **{"retention.ms": str(_LIMITS_KEPT_MS)}),
        alerts=topic("usage.alerts", settings.partitions, **{"retention.ms": str(_ALERTS_KEPT_MS)}),
        alert_decisions=topic("usage.alerts.decisions", 1, **{"retention.ms": str(_ALERTS_KEPT_MS)}),
        alerts_refused=topic("usage.alerts.refused", 1, **{"retention.ms": str(_ALERTS_KEPT_MS)}),
        rooms_changelog=topic(
            "roommeter-rooms-changelog",
            settings.partitions,
            **{"cleanup.policy": "compact", "max.message.bytes": str(8 * 1_048_576)},
        ),
        refused=topic("usage.rollups.refused", 1, **{"retention.ms": "-1"}),
    )
