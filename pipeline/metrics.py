"""The one registry of metrics: every name, its help and what its labels may be."""

from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.audit import Law
from pipeline.metering.anomaly.alert import DETECTORS, SEVERITIES
from pipeline.metering.events import Reason
from pipeline.metering.limits import THRESHOLDS
from pipeline.signature import Reason as Refusal

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
}
#: Labels bounded by the installation: conditions of readiness.
INSTALLATION_LABELS: Final = frozenset({"condition"})

#: Seconds of one request: a local broker acknowledges in milliseconds, one that is away costs the whole time-out.
_REQUEST_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Seconds of one insert: milliseconds embedded, up to a server that stalls.
_INSERT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All metrics of one process. Each test may have its own."""

    def __init__(self) -> None:
        """Register every metric, at 0, in a registry of its own."""
        self.registry = CollectorRegistry()
        self.events = self._counter(
            "roommeter_events_total",
            "Lifecycle events read, by what became of them: accepted, ignored (unknown type) or dead_letter (R21).",
            "disposition",
        )
        self.dead_letters = self._counter(
            "roommeter_dead_letters_total", "Inputs sent to the dead-letter topic, by reason (R21).", "reason"
        )
        self.batches = self._counter("roommeter_batches_total", "Batches written to the store and committed.")
        self.store_insert_seconds = Histogram(
            "roommeter_store_insert_seconds",
            "Time of one successful insert into the store.",
            buckets=_INSERT_BUCKETS,
            registry=self.registry,
        )
        self.store_retries = self._counter(
            "roommeter_store_retries_total", "Attempts that the store did not answer and that were repeated (R22)."
        )
        self.sessions_open = self._gauge("roommeter_sessions_open", "Sessions in memory without a known end (R8).")
        self.rooms_in_memory = self._gauge("roommeter_rooms_in_memory", "Rooms whose state this worker holds.")
        self.watermark_seconds = self._gauge(
            "roommeter_watermark_seconds",
            "Broker time up to which every partition has been processed, in Unix seconds (R18).",
        )
        self.emission_lag_seconds = self._gauge(
            "roommeter_emission_lag_seconds",
            "How long the oldest hour due is overdue for its first emission; 0 when none is (R18).",
        )
        self.rollups_emitted = self._counter(
            "roommeter_rollups_emitted_total",
            "Rollups emitted: first revisions and corrections (R11, R18).",
            "revision",
        )
        self.spool_bytes = self._gauge("roommeter_spool_bytes", "Bytes that the gateway keeps on disk, of its limit.")
        self.spool_messages = self._gauge(
            "roommeter_spool_messages", "Accepted messages that wait on disk for the brokers (R22)."
        )
        self.spool_age_seconds = self._gauge(
            "roommeter_spool_age_seconds", "How long the oldest message has been waiting on disk; 0 when none is."
        )
        self.spool_refused = self._gauge(
            "roommeter_spool_refused",
            "Messages kept on disk that the brokers will not take; a restart tries them again.",
        )
        self.spooled = self._counter(
            "roommeter_spooled_total",
            "Messages accepted onto the disk because the brokers did not answer in time (R22).",
        )
        self.spool_drained = self._counter(
            "roommeter_spool_drained_total", "Messages that left the disk because the brokers have them."
        )
        self.spool_damaged = self._counter(
            "roommeter_spool_damaged_total",
            "Damaged spool files set aside; each holds messages to be recovered by hand.",
        )
        self.reconcile_passes = self._counter(
            "roommeter_reconcile_passes_total", "Passes of reconciliation, by what the server answered (R9).", "answer"
        )
        self.reconcile_sessions = self._counter(
            "roommeter_reconcile_sessions_total",
            "Sessions found by passes: present, missing once, absent twice in a row, or opened (R9).",
            "finding",
        )
        self.reconcile_last_success_seconds = self._gauge(
            "roommeter_reconcile_last_success_seconds",
            "When the last pass was begun that had a complete answer, in Unix seconds.",
        )
        self.gateway_requests = self._counter(
            "roommeter_gateway_requests_total", "Requests to the gateway, by route and status.", "route", "status"
        )
        self.gateway_request_seconds = Histogram(
            "roommeter_gateway_request_seconds",
            "Time from a request's header to its answer, the brokers' acknowledgement included.",
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.gateway_events = self._counter(
            "roommeter_gateway_events_total",
            "Events in requests whose sender is known, by what became of them: accepted, ignored or dead_letter (R21).",
            "disposition",
        )
        self.gateway_refused = self._counter(
            "roommeter_gateway_refused_total",
            "Requests and events refused because their sender may not say this, by cause; the sender is told less.",
            "cause",
        )
        self.gateway_unknown_fields = self._counter(
            "roommeter_gateway_unknown_fields_total",
            "Fields of LiveKit webhooks that the protocol known here does not name: the server is newer (R21).",
        )
        self.conservation_diff = self._gauge(
            "roommeter_conservation_diff",
            "What the last audit found to differ, by the law that does not hold; 0 is good (R20).",
            "law",
        )
        for law in LABEL_VALUES["law"]:
            self.conservation_diff.labels(law)
        self.audit_last_success_seconds = self._gauge(
            "roommeter_audit_last_success_seconds",
            "When the last audit was begun that came to its end, in Unix seconds.",
        )
        self.hours_held = self._gauge(
            "roommeter_hours_held",
            "Hours of projects whose emission waits because the audit found a difference in them.",
        )
        self.limit_lag_seconds = self._gauge(
            "roommeter_limit_lag_seconds",
            "How long ago the moment is up to which limits have been evaluated; it grows while they are not.",
        )
        self.limit_crossings = self._counter(
            "roommeter_limit_crossings_total",
            "Crossings of limits published, by what happened and the threshold.",
            "crossing",
            "threshold",
        )
        self.limits_past = self._gauge(
            "roommeter_limits_past", "Limits of projects that are past a threshold now.", "threshold"
        )
        for threshold in THRESHOLDS:
            self.limits_past.labels(threshold)
        self.alert_lag_seconds = self._gauge(
            "roommeter_alert_lag_seconds",
            "How long ago the moment is up to which anomalies have been looked for; it grows while they are not.",
        )
        self.alert_revisions = self._counter(
            "roommeter_alert_revisions_total",
            "Alerts on anomalous usage told, by detector and what changed: raised, updated, resolved.",
            "detector",
            "change",
        )
        self.alerts_open = self._gauge(
            "roommeter_alerts_open", "Alerts on anomalous usage that are open now, by severity.", "severity"
        )
        for severity in SEVERITIES:
            self.alerts_open.labels(severity)
        self.ready = self._gauge("roommeter_ready", "1 while a condition of readiness is met, else 0.", "condition")

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        counter = Counter(name, documentation, labels, registry=self.registry)
        for values in product(*(LABEL_VALUES[label] for label in labels)) if labels else ():
            counter.labels(*values)
        return counter

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, registry=self.registry)
