"""The first page, of everything, and the list of projects."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aiohttp import web

from pipeline.console import health, questions, series, words
from pipeline.console.desk import LATER, SOON, Desk
from pipeline.console.health import Sign, Unreadable
from pipeline.console.questions import Moment, Used
from pipeline.console.render import Page
from pipeline.gateway.projects import Viewer
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, hour_of

#: What the chart shows; totals compare its later half with its earlier one.
_HOURS: Final = 48
_DAY: Final = 24
_TOP: Final = 10
_ALERTS: Final = 8
_MOST_LISTED: Final = 500


class Listed(NamedTuple):
    """A project in a list: minutes of all meters of time, rounded up, and how wide its bar is, in percent."""

    name: str
    live: int
    minutes: int
    before: int
    change: str
    bar: str


async def overview(desk: Desk, viewer: Viewer, _request: web.Request) -> Page:
    """Return the first page; who sees one project only is sent there."""
    if viewer.project is not None:
        raise web.HTTPSeeOther(_project_address(viewer.project))
    now = desk.now()
    used, opened, alerts, progress = await asyncio.gather(
        desk.asking.ask("used", LATER, lambda store: _used(store, desk, now)),
        desk.asking.ask("open", SOON, lambda store: questions.open_sessions(store, now)),
        desk.asking.ask("alerts", SOON, lambda store: questions.alerts(store, status="open")),
        desk.asking.ask("progress", SOON, lambda store: questions.progress(store, now.as_of_ms)),
    )
    signs = await pipeline_signs(desk, progress, now)
    kinds: dict[str, int] = {}
    for by_kind in opened.values():
        for kind, count in by_kind.items():
            kinds[kind] = kinds.get(kind, 0) + count
    since_ms = _since_ms(now)
    starts_ms = range(_from_ms(now), now.as_of_ms, MS_PER_HOUR)
    listed = listing(used, opened)
    return Page(
        "overview.html",
        {
            "live": sum(kinds.values()),
            "kinds": sorted(kinds.items(), key=lambda item: -item[1]),
            "minutes": _minutes(sum(recent for recent, _ in used.projects.values())),
            "minutes_change": words.change(
                sum(recent for recent, _ in used.projects.values()), sum(before for _, before in used.projects.values())
            ),
            "table": series.stacked(questions.timed(desk.meters), used.hours, starts_ms, used.live_from_ms),
            "totals": series.totals(desk.meters, used.hours, since_ms),
            "projects": listed[:_TOP],
            "project_count": len(listed),
            "alerts": alerts[:_ALERTS],
            "alert_count": len(alerts),
            "signs": signs,
            "verdict": health.verdict(signs),
        },
    )


async def projects(desk: Desk, viewer: Viewer, request: web.Request) -> Page:
    """Return the list of projects with usage in the last two days, or of those whose names have a text in them."""
    if viewer.project is not None:
        raise web.HTTPSeeOther(_project_address(viewer.project))
    now = desk.now()
    used, opened = await asyncio.gather(
        desk.asking.ask("used", LATER, lambda store: _used(store, desk, now)),
        desk.asking.ask("open", SOON, lambda store: questions.open_sessions(store, now)),
    )
    find = request.query.get("find", "")[:256]
    found = [one for one in listing(used, opened) if find.lower() in one.name.lower()]
    return Page("projects.html", {"projects": found[:_MOST_LISTED], "count": len(found), "find": find})


async def pipeline_signs(desk: Desk, progress: questions.Progress, now: Moment) -> list[Sign]:
    """Return how the pipeline does; metrics that cannot be read are a sign too."""
    try:
        return health.signs(await desk.read_health(), progress, now.as_of_ms)
    except Unreadable as error:
        unread = Sign("Metrics", str(error), is_good=False, meaning="the addresses in ROOMMETER_CONSOLE_METRICS")
        return [unread, *health.signs((), progress, now.as_of_ms)]


def listing(used: Used, opened: Mapping[str, Mapping[str, int]]) -> list[Listed]:
    """Return all projects that used anything or have open sessions, those with the most minutes first."""
    most_ms = max((recent for recent, _ in used.projects.values()), default=0)
    rows = {name: used.projects.get(name, (0, 0)) for name in used.projects.keys() | opened.keys()}
    return [
        Listed(
            name,
            sum(opened.get(name, {}).values()),
            _minutes(recent_ms),
            _minutes(before_ms),
            words.change(recent_ms, before_ms),
            f"{100 * recent_ms // most_ms if most_ms else 0}%",
        )
        for name, (recent_ms, before_ms) in sorted(rows.items(), key=lambda row: (-row[1][0], row[0]))
    ]


def _used(store: Any, desk: Desk, now: Moment) -> Used:
    return questions.used(store, desk.meters, now, _from_ms(now), _since_ms(now))


def _from_ms(now: Moment) -> int:
    return hour_of(now.as_of_ms) - (_HOURS - 1) * MS_PER_HOUR


def _since_ms(now: Moment) -> int:
    return hour_of(now.as_of_ms) - (_DAY - 1) * MS_PER_HOUR


def _minutes(duration_ms: int) -> int:
    return -(-duration_ms // MS_PER_MINUTE)


def _project_address(name: str) -> Any:
    from yarl import URL

    return URL("/project").with_query(name=name)
