"""Every SQL text of the dashboards runs in ClickHouse and shows something, with what Grafana puts into it.

The macros are those of Grafana's ClickHouse plugin (pkg/macros in its sources); a name in `${name:sqlstring}` comes
quoted, with each quote in it doubled (Grafana's documentation of variable formats).
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import orjson
import pytest

from pipeline.alerts.codec import alert_table
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.invoices.invoicing import Invoicing
from pipeline.metering.anomaly.alert import Alert
from pipeline.metering.meters import Meters
from pipeline.metering.months import Month
from pipeline.metering.rollup import revise
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, hour_of
from pipeline.rows import Batch, UsageQuery
from pipeline.settings import Settings
from pipeline.tracker import Tracker
from tests.anomaly.builders import finding
from tests.dashboards import Asked, queries
from tests.e2e.metered import POLICY, Line
from tests.metering.builders import event
from tests.metering.plan_texts import flat, plans_of

_NOW_MS: Final = now_ms()
_PROJECT: Final = "o'brien"
_METER: Final = "agent_session_minutes"
_TODAY: Final = datetime.fromtimestamp(_NOW_MS / 1000, UTC)
_LAST_MONTH: Final = Month(_TODAY.year - (_TODAY.month == 1), (_TODAY.month - 2) % 12 + 1)
_VALUES: Final = {"project": _PROJECT, "meter": _METER}


def filled(sql: str, values: dict[str, str], from_ms: int, to_ms: int) -> str:
    """Return a query as the plugin sends it to ClickHouse."""
    begin, end = f"toDateTime({from_ms // 1000})", f"toDateTime({to_ms // 1000})"
    macros: dict[str, Callable[[str], str]] = {
        "timeFilter": lambda column: f"{column} >= {begin} AND {column} <= {end}",
        "dateFilter": lambda column: f"{column} >= toDate({begin}) AND {column} <= toDate({end})",
        "fromTime_ms": lambda _: f"fromUnixTimestamp64Milli({from_ms})",
        "toTime_ms": lambda _: f"fromUnixTimestamp64Milli({to_ms})",
    }
    sql = re.sub(r"\$__(\w+)(?:\((\w*)\))?", lambda found: macros[found[1]](found[2] or ""), sql)
    return re.sub(r"\$\{(\w+):sqlstring\}", lambda found: "'" + values[found[1]].replace("'", "''") + "'", sql)


def _emit(store: Store, meters: Meters) -> None:
    usage = dict(store.usage(UsageQuery(as_of_ms=_NOW_MS, to_ms=hour_of(_NOW_MS))))
    store.insert_rollups(list(revise(store.latest_rollups(), usage, _NOW_MS, _NOW_MS)), meters)


@pytest.fixture(scope="module")
def seeded(store_dsn: str, meters: Meters) -> Iterator[Store]:
    """A store with something of everything that a dashboard shows, of a project whose name has a quote."""
    database = f"test_{uuid4().hex}"
    store = Store.open(store_dsn, database)
    store.migrate(meters)
    start_ms = _NOW_MS - 5 * MS_PER_HOUR
    sessions = {
        "ended": Session("agent", connected_at_ms=start_ms, disconnected_at_ms=start_ms + 2 * MS_PER_HOUR),
        "inferred": Session("agent", begun_at_ms=start_ms, disconnected_at_ms=start_ms + MS_PER_MINUTE),
        "open": Session("agent", connected_at_ms=start_ms, last_seen_ms=_NOW_MS - MS_PER_MINUTE),
        "unbilled": Session("agent", disconnected_at_ms=start_ms),
        "last month": Session(
            "agent", connected_at_ms=_LAST_MONTH.start_ms, disconnected_at_ms=_LAST_MONTH.start_ms + MS_PER_HOUR
        ),
    }
    for session in sessions.values():
        session.last_seen_ms = session.last_seen_ms or session.disconnected_at_ms
    store.write(Batch(sessions=[(_PROJECT, f"RM_{name}", name, session) for name, session in sessions.items()]))
    tokens = event("usage.recorded", start_ms, project=_PROJECT, meter="llm_input_tokens", quantity=7, model="m")
    changes = Tracker(meters, POLICY).apply([Line("t", 0, 0, _NOW_MS, b"k", orjson.dumps(tokens))])
    store.write(Batch(events=changes.events, quantities=changes.quantities))
    _emit(store, meters)
    late = Session("agent", connected_at_ms=start_ms, disconnected_at_ms=start_ms + 9 * MS_PER_MINUTE)
    store.write(Batch(sessions=[(_PROJECT, "RM_late", "late", late)]))
    _emit(store, meters)
    store.insert("alerts", alert_table([Alert(finding(project=_PROJECT, since_ms=start_ms), 1, "open", _NOW_MS)]))
    text = (
        f'[plans.p]\ncurrency = "USD"\n{flat()}[projects."{_PROJECT}"]\nplans = [{{ from = 2026-09-01, plan = "p" }}]\n'
    )
    list(Invoicing(store, meters, plans_of(text), Settings.model_construct(), _LAST_MONTH, _NOW_MS).issue())
    yield store
    store._client.command(f"DROP DATABASE {database} SYNC")
    store.close()


@pytest.mark.parametrize("asked", queries("clickhouse"), ids=lambda asked: asked.where)
def test_every_query_shows_something_of_a_seeded_store(seeded: Store, asked: Asked) -> None:
    """Neither an error nor an empty panel."""
    rows = seeded.query(filled(asked.text, _VALUES, _NOW_MS - 7 * MS_PER_DAY, _NOW_MS))
    assert rows
    assert any(any(value not in (0, None, "") for value in row) for row in rows)


@pytest.mark.parametrize(
    "asked", [asked for asked in queries("clickhouse") if "${project" in asked.text], ids=lambda asked: asked.where
)
def test_nothing_of_another_project_is_shown(seeded: Store, asked: Asked) -> None:
    """The chosen project alone, whatever its name."""
    rows = seeded.query(filled(asked.text, {"project": "x' OR 1 = 1 --", "meter": _METER}, 0, _NOW_MS))
    assert not any(value for row in rows for value in row)
