"""The page of alerts."""

from typing import Any, Final

import orjson
from aiohttp import web

from pipeline.console import questions
from pipeline.console.desk import SOON, Desk
from pipeline.console.project import check_project
from pipeline.console.questions import Alert
from pipeline.console.render import Page
from pipeline.gateway.projects import Viewer

_SHOWN: Final = {"open": "Open", "resolved": "Resolved", "": "All"}
_MOST: Final = 200


async def alerts(desk: Desk, viewer: Viewer, request: web.Request) -> Page:
    """Return alerts: of all projects, of one, or of the viewer's own. Raises HTTPNotFound for another's."""
    name = request.query.get("project", viewer.project or "")
    if name or viewer.project is not None:
        check_project(viewer, name)
    status = request.query.get("status", "open")
    status = status if status in _SHOWN else "open"
    found = await desk.asking.ask(
        ("alerts", name, status),
        SOON,
        lambda store: questions.alerts(store, project=name, status=status, most=_MOST + 1),
    )
    rows = [(alert, evidence(alert)) for alert in found[:_MOST]]
    values: dict[str, Any] = {"name": name, "status": status, "shown": _SHOWN}
    return Page("alerts.html", values | {"alerts": rows, "has_more": len(found) > _MOST, "most": _MOST})


def evidence(alert: Alert) -> list[tuple[str, str]]:
    """Return the figures and names behind an alert that it has; what is no object is shown as it is."""
    try:
        document = orjson.loads(alert.evidence)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return [("evidence", alert.evidence)] if alert.evidence else []
    return [(str(name).replace("_", " "), str(value)) for name, value in document.items() if value not in ("", None)]
