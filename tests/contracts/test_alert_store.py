"""Alerts in the store: every revision once, and the newest of each."""

from pipeline.alerts.codec import alert_table
from pipeline.clickhouse import Store
from pipeline.metering.anomaly.alert import Alert
from tests.anomaly.builders import NOON_MS, finding


def test_the_newest_revision_is_current_and_all_of_them_are_kept(store: Store) -> None:
    """Written twice and in any order."""
    raised = Alert(finding(), 1, "open", NOON_MS, "8.03", "USD")
    resolved = raised._replace(revision=2, status="resolved", as_of_ms=NOON_MS + 1)
    for alerts in ([resolved], [raised, resolved], [raised]):
        store.insert("alerts", alert_table(alerts))
    rows = store.query("SELECT toString(id), status, revision, toString(cost), currency, evidence FROM current_alerts")
    assert [*map(tuple, rows)] == [(raised.id, "resolved", 2, "8.03", "USD", '{"threshold":61}')]
    assert store.query("SELECT count() FROM alerts FINAL")[0][0] == 2
