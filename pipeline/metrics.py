"""The one registry of metrics: every name, what it means, what to do when it looks wrong, what its labels may be.

`infra/metrics.md` is this registry as a table; tests/test_metrics.py compares them.
"""

from importlib.metadata import version
from itertools import product
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from pipeline.audit.laws import Law
from pipeline.gateway.signature import Reason as Refusal
from pipeline.metering.anomaly.alert import DETECTORS, SEVERITIES
from pipeline.metering.events import Reason
from pipeline.metering.limits import THRESHOLDS

#: Values of each label that is a closed list, so that a series exists, at 0, before its first event.
LABEL_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "disposition": ("accepted", "ignored", "dead_letter"),
    "reason": tuple(Reason),
    "revision": ("first", "correction"),
    "route": ("livekit", "janus", "litellm", "events", "openapi", "none"),
    "status": ("200", "400", "401", "403", "404", "405", "408", "413", "415", "429", "500", "503"),
    "cause": (*Refusal, "credentials", "project", "source"),
    "answer": ("complete", "partial", "unconfirmed", "away", "refused"),
    "finding": ("present", "missing", "absent", "opened"),
    "law": tuple(Law),
    "crossing": ("reached", "exceeded", "back_under"),
    "threshold": THRESHOLDS,
    "detector": DETECTORS,
    "change": ("raised", "updated", "resolved"),
    "severity": SEVERITIES,
    "target": ("webhook", "stripe", "openmeter", "alerts"),
    "outcome": ("delivered", "passed_over", "refused", "doubtful"),
}
#: Labels bounded by the installation: conditions of readiness, partitions of the lifecycle topic, our own version.
INSTALLATION_LABELS: Final = frozenset({"condition", "partition", "version"})

#: Seconds of one request: a local broker acknowledges in milliseconds, one that is away costs the whole time-out.
_REQUEST_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Seconds of one insert: milliseconds embedded, up to a server that stalls.
_INSERT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Events of one insert: one where little happens, BATCH_EVENTS where much waits.
_EVENTS_BUCKETS: Final = (1, 10, 100, 1_000, 3_000, 10_000, 30_000, 100_000)

# When each series was made is of no use to anybody, and would be half of the page.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has not annotated it


class Described(NamedTuple):
    """A metric as the guide has it: `unit` is the name's own, `remedy` what to do when it looks wrong."""

    name: str
    type: str
    unit: str
    labels: tuple[str, ...]
    meaning: str
    remedy: str


class Metrics:
    """All metrics of one process. Each test may have its own."""

    def __init__(self) -> None:
        """Register every metric, at 0, in a registry of its own."""
        self.registry = CollectorRegistry()
        #: Every metric here, in the order of the guide.
        self.guide: list[Described] = []
        ProcessCollector(registry=self.registry)
        self.build_info = self._gauge(
            "roommeter_build_info",
            "1, with the version that runs as its label.",
            "Several versions for long: an upgrade stopped half way.",
            "version",
        )
        self.build_info.labels(version("roommeter")).set(1)
        self.ready = self._gauge(
            "roommeter_ready",
            "1 while a condition of readiness is met, else 0.",
            "Ask /readyz of that process: it says why, in words.",
            "condition",
        )
        self._worker()
        self._emitter()
        self._gateway()
        self._reconciler()
        self._limiter()
        self._deliverer()
        self._alerter()

    def _worker(self) -> None:
        self.events = self._counter(
            "roommeter_events_total",
            "Lifecycle events read, by what became of them: accepted, ignored (unknown type) or dead_letter (R21).",
            "No growth while media servers work: look at the consumer lag, then at the gateway.",
            "disposition",
        )
        self.dead_letters = self._counter(
            "roommeter_dead_letters_total",
            "Inputs sent to the dead-letter topic, by reason (R21).",
            "`roommeter dead-letters list`, mend the producer, then `dead-letters replay`.",
            "reason",
        )
        self.consumer_lag_records = self._gauge(
            "roommeter_consumer_lag_records",
            "Records of a partition that this worker has not committed yet; partitions of others have no series.",
            "Grows everywhere: more workers, or a faster store. In one partition: one room is very busy.",
            "partition",
        )
        self.batches = self._counter(
            "roommeter_batches_total",
            "Batches written to the store and committed.",
            "No growth with a lag: the worker stands still, see `progress` in /readyz.",
        )
        self.store_insert_seconds = self._histogram(
            "roommeter_store_insert_seconds",
            "Time of one successful insert into the store.",
            "Slow: look at ClickHouse's merges, disk and memory.",
            _INSERT_BUCKETS,
        )
        self.store_insert_events = self._histogram(
            "roommeter_store_insert_events",
            "Events of one successful insert into the store.",
            "Always at BATCH_EVENTS: the worker is behind.",
            _EVENTS_BUCKETS,
        )
        self.store_retries = self._counter(
            "roommeter_store_retries_total",
            "Attempts that the store did not answer and that were repeated (R22).",
            "Grows: ClickHouse is away; /readyz has its message. Nothing is lost.",
        )
        self.sessions_open = self._gauge(
            "roommeter_sessions_open",
            "Sessions in memory without a known end (R8).",
            "Only grows: ends are lost; look at the gateway and at `roommeter reconcile`.",
        )
        self.rooms_in_memory = self._gauge(
            "roommeter_rooms_in_memory",
            "Rooms whose state this worker holds.",
            "Memory goes with it: more workers, or a smaller EVICT_AFTER_MS.",
        )

    def _emitter(self) -> None:
        self.watermark_seconds = self._gauge(
            "roommeter_watermark_seconds",
            "Broker time up to which every partition has been processed, in Unix seconds (R18).",
            "Stands still: one partition is not processed; look at the consumer lag by partition.",
        )
        self.emission_lag_seconds = self._gauge(
            "roommeter_emission_lag_seconds",
            "How long the oldest hour due is overdue for its first emission; 0 when none is (R18).",
            "Bills are late, not wrong: find what holds the watermark.",
        )
        self.rollups_emitted = self._counter(
            "roommeter_rollups_emitted_total",
            "Rollups emitted: first revisions and corrections (R11, R18).",
            "Many corrections: events come late; look at which sender.",
            "revision",
        )
        self.conservation_diff = self._gauge(
            "roommeter_conservation_diff",
            "What the last audit found to differ, by the law that does not hold; 0 is good (R20).",
            "`roommeter audit` names project and hour; that hour is held, no other.",
            "law",
        )
        for law in LABEL_VALUES["law"]:
            self.conservation_diff.labels(law)
        self.audit_last_success_seconds = self._gauge(
            "roommeter_audit_last_success_seconds",
            "When the last audit was begun that came to its end, in Unix seconds.",
            "Old: the auditor does not come through; its log says why.",
        )
        self.emissions_held = self._gauge(
            "roommeter_emissions_held",
            "Hours of projects whose emission waits because the audit found a difference in them.",
            "Not 0: see `roommeter_conservation_diff`.",
        )

    def _gateway(self) -> None:
        self.gateway_requests = self._counter(
            "roommeter_gateway_requests_total",
            "Requests to the gateway, by route and status.",
            "401: a key is wrong. 429: too many at once. 503: brokers are away and the spool is full.",
            "route",
            "status",
        )
        self.gateway_request_seconds = self._histogram(
            "roommeter_gateway_request_seconds",
            "Time from a request's header to its answer, the brokers' acknowledgement included.",
            "Slow: the brokers acknowledge slowly; beyond ACK_TIMEOUT_MS the spool takes over.",
            _REQUEST_BUCKETS,
        )
        self.gateway_events = self._counter(
            "roommeter_gateway_events_total",
            "Events in requests whose sender is known, by what became of them: accepted, ignored or dead_letter (R21).",
            "No growth: media servers do not post; look at their webhook settings.",
            "disposition",
        )
        self.gateway_refused = self._counter(
            "roommeter_gateway_refused_total",
            "Requests and events refused because their sender may not say this, by cause; the sender is told less.",
            "A key or token does not fit the projects file, or somebody tries.",
            "cause",
        )
        self.gateway_unknown_fields = self._counter(
            "roommeter_gateway_unknown_fields_total",
            "Fields of LiveKit webhooks that the protocol known here does not name: the server is newer (R21).",
            "Harmless; upgrade roommeter when convenient.",
        )
        self.spool_bytes = self._gauge(
            "roommeter_spool_bytes",
            "Bytes that the gateway keeps on disk, of its limit.",
            "Near SPOOL_BYTES: senders will be told 503. Bring the brokers back.",
        )
        self.spool_limit_bytes = self._gauge(
            "roommeter_spool_limit_bytes",
            "The most that the gateway keeps on disk, SPOOL_BYTES; 0 where there is no gateway.",
            "Too little for the outage that you want to ride out: raise SPOOL_BYTES.",
        )
        self.spool_messages = self._gauge(
            "roommeter_spool_messages",
            "Accepted messages that wait on disk for the brokers (R22).",
            "Grows: the brokers are away. Safe as long as the disk is.",
        )
        self.spool_age_seconds = self._gauge(
            "roommeter_spool_age_seconds",
            "How long the oldest message has been waiting on disk; 0 when none is.",
            "Beyond CORRECTION_WINDOW_MS its events are too late to count (R11).",
        )
        self.spool_refused = self._gauge(
            "roommeter_spool_refused",
            "Messages kept on disk that the brokers will not take; a restart tries them again.",
            "The log says why: too large for its topic, or not allowed. Mend that, then restart.",
        )
        self.spooled = self._counter(
            "roommeter_spooled_total",
            "Messages accepted onto the disk because the brokers did not answer in time (R22).",
            "Now and then is what the spool is for; often: look at the brokers.",
        )
        self.spool_drained = self._counter(
            "roommeter_spool_drained_total",
            "Messages that left the disk because the brokers have them.",
            "No growth while messages wait: the brokers do not acknowledge.",
        )
        self.spool_damaged = self._counter(
            "roommeter_spool_damaged_total",
            "Damaged spool files set aside; each holds messages to be recovered by hand.",
            "The disk is failing: replace it, keep the files that the log names.",
        )

    def _reconciler(self) -> None:
        self.reconcile_passes = self._counter(
            "roommeter_reconcile_passes_total",
            "Passes of reconciliation, by what the server answered (R9).",
            "Never complete: the media server's API or its key.",
            "answer",
        )
        self.reconcile_sessions = self._counter(
            "roommeter_reconcile_sessions_total",
            "Sessions found by passes: present, missing once, absent twice in a row, or opened (R9).",
            "Many absent or opened: webhooks get lost.",
            "finding",
        )
        self.reconcile_last_success_seconds = self._gauge(
            "roommeter_reconcile_last_success_seconds",
            "When the last pass was begun that had a complete answer, in Unix seconds.",
            "Old: as for passes that are never complete.",
        )

    def _limiter(self) -> None:
        self.limit_lag_seconds = self._gauge(
            "roommeter_limit_lag_seconds",
            "How long ago the moment is up to which limits have been evaluated; it grows while they are not.",
            "Limits are not watched meanwhile: /readyz of the limiter says why.",
        )
        self.limit_crossings = self._counter(
            "roommeter_limit_crossings_total",
            "Crossings of limits published, by what happened and the threshold.",
            "Many of one kind: a limit is hovered at; set its soft threshold apart.",
            "crossing",
            "threshold",
        )
        self.limits_past = self._gauge(
            "roommeter_limits_past",
            "Limits of projects that are past a threshold now.",
            "`roommeter limits` names them.",
            "threshold",
        )
        for threshold in THRESHOLDS:
            self.limits_past.labels(threshold)

    def _deliverer(self) -> None:
        self.deliveries = self._counter(
            "roommeter_deliveries_total",
            "Rollups answered for, by target and what became of them; refused and doubtful ones are kept.",
            "Refused or doubtful: they are on usage.rollups.refused with the reason; mend, then `deliver --again`.",
            "target",
            "outcome",
        )
        self.delivery_retries = self._counter(
            "roommeter_delivery_retries_total",
            "Requests that a target did not answer, or put off, and that are repeated.",
            "Grows: the target is away or throttles. Nothing is skipped.",
            "target",
        )
        self.delivery_lag_records = self._gauge(
            "roommeter_delivery_lag_records",
            "Rollups that a target has not got yet; no series where nothing is delivered to it.",
            "Grows: see retries, and the log of `roommeter deliver`.",
            "target",
        )

    def _alerter(self) -> None:
        self.alert_lag_seconds = self._gauge(
            "roommeter_alert_lag_seconds",
            "How long ago the moment is up to which anomalies have been looked for; it grows while they are not.",
            "Above 300: anomalies show late. `/readyz` and the log of the alerter say what it waits for.",
        )
        self.alert_revisions = self._counter(
            "roommeter_alert_revisions_total",
            "Alerts on anomalous usage told, by detector and what changed: raised, updated, resolved.",
            "Many of one detector: raise its parameters (infra/alerts.md), or mute what is known.",
            "detector",
            "change",
        )
        self.alerts_open = self._gauge(
            "roommeter_alerts_open",
            "Alerts on anomalous usage that are open now, by severity.",
            "`roommeter alerts list` has them, with what to look at.",
            "severity",
        )
        for severity in SEVERITIES:
            self.alerts_open.labels(severity)

    def _counter(self, name: str, meaning: str, remedy: str, *labels: str) -> Counter:
        counter = Counter(name, meaning, labels, registry=self.registry)
        for values in product(*(LABEL_VALUES[label] for label in labels)) if labels else ():
            counter.labels(*values)
        self._describe(name, "counter", labels, meaning, remedy)
        return counter

    def _gauge(self, name: str, meaning: str, remedy: str, *labels: str) -> Gauge:
        self._describe(name, "gauge", labels, meaning, remedy)
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, remedy: str, buckets: Any) -> Histogram:
        self._describe(name, "histogram", (), meaning, remedy)
        return Histogram(name, meaning, buckets=buckets, registry=self.registry)

    def _describe(self, name: str, kind: str, labels: tuple[str, ...], meaning: str, remedy: str) -> None:
        word = name.removesuffix("_total").rpartition("_")[2]
        self.guide.append(Described(name, kind, word if word in _UNITS else "", labels, meaning, remedy))


#: Units that names end in; what ends in none is a count.
_UNITS: Final = ("seconds", "bytes", "records", "messages", "events")
