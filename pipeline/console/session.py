"""The page of a session: why it is billed as it is, as a picture, as steps, and as the events behind them."""

from typing import TYPE_CHECKING, Final, NamedTuple

from aiohttp import web

from pipeline.console import picture, words
from pipeline.console.desk import SOON, Desk
from pipeline.console.project import check_project, session_flags
from pipeline.console.questions import Moment
from pipeline.console.render import Page
from pipeline.explain.sessions import Explanation
from pipeline.explain.store import ExplainStore
from pipeline.gateway.projects import Viewer
from pipeline.metering.units import NEVER_MS
from pipeline.rows import SessionQuery, SessionRow

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

_MOST_EVENTS: Final = 200


class _Key(NamedTuple):
    project: str
    room: str
    session: str


async def session(desk: Desk, viewer: Viewer, request: web.Request) -> Page:
    """Return a session's page. Raises HTTPNotFound for one that is not there, or not for the viewer."""
    key = _Key(*(request.query.get(name, "") for name in _Key._fields))
    check_project(viewer, key.project)
    now = desk.now()
    found = await desk.asking.ask(("session", *key), SOON, lambda store: _ask(store, desk, key, now))
    if found is None:
        raise web.HTTPNotFound
    as_of_ms, row, explanation = found
    own_first = sorted(explanation.events, key=lambda source: source.event.session != key.session)
    shown = sorted(own_first[:_MOST_EVENTS], key=lambda source: source.event.time_ms)
    meters, has_start = desk.meters, explanation.started_at_ms != NEVER_MS
    until_ms = min(explanation.ended_at_ms, as_of_ms)
    return Page(
        "session.html",
        {
            **key._asdict(),
            "row": row,
            "explanation": explanation,
            "flags_set": session_flags(row) if row else explanation.flags,
            "has_start": has_start,
            "length_ms": max(0, until_ms - explanation.started_at_ms) if has_start else None,
            "picture": picture.draw(explanation, meters, as_of_ms),
            "shares": [(meters[one.meter], words.label(meters[one.meter]), one) for one in explanation.shares],
            "events": shown,
            "left_out": len(explanation.events) - len(shown),
            "data_as_of_ms": as_of_ms,
        },
    )


def _ask(store: "Store", desk: Desk, key: _Key, now: Moment) -> tuple[int, SessionRow | None, Explanation] | None:
    asked = ExplainStore(store, desk.meters, now.as_of_ms, now.orphan_after_ms)
    explained = [one for one in asked.session(key.session, key.project) if one.room == key.room]
    if not explained:
        return None
    query = SessionQuery(as_of_ms=now.as_of_ms, orphan_after_ms=now.orphan_after_ms, limit=1, **key._asdict())
    rows = store.sessions(query)
    return now.as_of_ms, rows[0] if rows else None, explained[0]
