"""Grafana's dashboards, from files that can be read: `python infra/grafana/build.py` makes dashboards/*.json of *.toml.

A panel is a title, what it says, and its queries: PromQL by legend, or one SQL text. Optional are its kind, unit,
width, height, and `worst`, the value from which on it is red. Panels flow from left to right, 24 columns wide.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Final

_SOURCES: Final = Path(__file__).parent
_PROMETHEUS: Final = {"type": "prometheus", "uid": "prometheus"}
_CLICKHOUSE: Final = {"type": "grafana-clickhouse-datasource", "uid": "clickhouse"}
_COLUMNS: Final = 24
_PANEL: Final = {"kind": "timeseries", "unit": "short", "width": 8, "height": 8, "worst": None}

Table = dict[str, Any]
"""A table of a file, or an object of a dashboard."""


def _targets(panel: Table) -> list[Table]:
    if "sql" in panel:
        is_series = panel["kind"] == "timeseries"
        query = {"rawSql": panel["sql"], "editorType": "sql", "queryType": "timeseries" if is_series else "table"}
        return [{"refId": "A", "datasource": _CLICKHOUSE, "format": 0 if is_series else 1, **query}]
    return [
        {"refId": chr(ord("A") + number), "datasource": _PROMETHEUS, "expr": expression, "legendFormat": legend}
        for number, (legend, expression) in enumerate(panel["queries"].items())
    ]


def _panel(number: int, panel: Table, x: int, y: int) -> Table:
    steps = [{"color": "green", "value": None}]
    if panel["worst"] is not None:
        steps.append({"color": "red", "value": panel["worst"]})
    defaults = {"unit": panel["unit"], "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "id": number,
        "type": panel["kind"],
        "title": panel["title"],
        "description": panel["says"],
        "gridPos": {"x": x, "y": y, "w": panel["width"], "h": panel["height"]},
        "datasource": _CLICKHOUSE if "sql" in panel else _PROMETHEUS,
        "targets": _targets(panel),
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}} if panel["kind"] == "stat" else {},
    }


def _variable(name: str, sql: str) -> Table:
    query = {"rawSql": sql, "editorType": "sql", "queryType": "table", "format": 1, "refId": "A"}
    return {"name": name, "type": "query", "datasource": _CLICKHOUSE, "query": query, "refresh": 2, "multi": False}


def document(uid: str, source: Table) -> Table:
    """Return a dashboard as Grafana reads it."""
    panels, x, y, tallest = [], 0, 0, 0
    for number, panel in enumerate(({**_PANEL, **given} for given in source["panels"]), 1):
        if x + panel["width"] > _COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        panels.append(_panel(number, panel, x, y))
        x, tallest = x + panel["width"], max(tallest, panel["height"])
    return {
        "uid": uid,
        "title": source["title"],
        "tags": ["roommeter"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "utc",
        "time": {"from": f"now-{source['span']}", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [_variable(name, sql) for name, sql in source.get("variables", {}).items()]},
        "panels": panels,
    }


def files() -> dict[Path, str]:
    """Return every dashboard's file and what has to be in it."""
    sources = {f"roommeter-{path.stem}": tomllib.loads(path.read_text()) for path in sorted(_SOURCES.glob("*.toml"))}
    return {
        _SOURCES / "dashboards" / f"{uid}.json": json.dumps(document(uid, source), indent=1) + "\n"
        for uid, source in sources.items()
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
