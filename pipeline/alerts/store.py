"""Alerts in the store: what was told, what is muted. Blocking; raises StoreUnavailable, StoreError."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.alerts import questions
from pipeline.alerts.codec import Document, alert_table, mute_table, stored_document
from pipeline.audit.store import timestamp
from pipeline.metering.anomaly.alert import Alert, Mute

if TYPE_CHECKING:
    from pipeline.clickhouse import Store


class AlertStore:
    """The store, as alerts see it."""

    def __init__(self, store: "Store") -> None:
        """Wrap an open store."""
        self._store = store

    def progress(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return, by partition, the offset to process next and the newest broker time processed, in ms."""
        return self._store.progress(topic)

    def insert(self, alerts: Sequence[Alert]) -> None:
        """Keep revisions; storing one twice changes nothing."""
        self._store.insert("alerts", alert_table(alerts))

    def told(self, since_ms: int) -> frozenset[str]:
        """Return what names the revisions that are stored, of alerts with an onset from a moment on."""
        rows = self._store.query(questions.TOLD, **{"from": timestamp(since_ms)})
        return frozenset(f"{alert_id}.{revision}" for alert_id, revision in rows)

    def insert_mutes(self, mutes: Sequence[Mute]) -> None:
        """Keep what was muted, as a trail; twice changes nothing."""
        self._store.insert("alert_mutes", mute_table(mutes))

    def current(
        self, *, project: str = "", detector: str = "", alert_id: str = "", is_all: bool = False, limit: int = 1000
    ) -> list[Document]:
        """Return the newest revision of alerts as documents (schemas/alert.v1.json): the open ones first."""
        rows = self._store.query(
            questions.ALERTS, project=project, detector=detector, id=alert_id, is_all=is_all, limit=limit
        )
        return [stored_document(row) for row in rows]
