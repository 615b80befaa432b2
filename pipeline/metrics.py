"""The one registry of metrics: every name, its help and what its labels may be."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.metering.events import Reason

#: Values of each label that is a closed list, so that a series exists, at 0, before its first event.
LABEL_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "disposition": ("accepted", "ignored", "dead_letter"),
    "reason": tuple(Reason),
    "revision": ("first", "correction"),
}
#: Labels bounded by the installation: conditions of readiness.
INSTALLATION_LABELS: Final = frozenset({"condition"})

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
        self.ready = self._gauge("roommeter_ready", "1 while a condition of readiness is met, else 0.", "condition")

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        counter = Counter(name, documentation, labels, registry=self.registry)
        for label in labels:
            for value in LABEL_VALUES[label]:
                counter.labels(value)
        return counter

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, registry=self.registry)
