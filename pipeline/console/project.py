"""The page of a project: usage beside the previous period, sessions, limits, and the invoice so far."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import web

from pipeline.console import questions, series, words
from pipeline.console.desk import LATER, RARELY, SOON, Desk
from pipeline.console.questions import Moment
from pipeline.console.render import Page
from pipeline.gateway.projects import Viewer
from pipeline.invoices.invoicing import Invoicing, read_plans
from pipeline.limits.store import LimitStore
from pipeline.metering.invoice import Invoice
from pipeline.metering.limits import CONCURRENT, Limits, Standing, decimal
from pipeline.metering.meters import Meters
from pipeline.metering.months import Month
from pipeline.metering.plans import InvalidPlans
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, hour_of
from pipeline.metering.usage import billed
from pipeline.rows import SessionRow

if TYPE_CHECKING:
    from pipeline.clickhouse import Store


class Span(NamedTuple):
    """What is shown: so many hours or days until now."""

    title: str
    bucket_ms: int
    buckets: int


SPANS: Final = {
    "24h": Span("24 hours", MS_PER_HOUR, 24),
    "7d": Span("7 days", MS_PER_HOUR, 7 * 24),
    "30d": Span("30 days", MS_PER_DAY, 30),
}
SHOWN: Final = {"all": "All", "open": "Open", "flagged": "Flagged"}
_SESSIONS: Final = 25
_LAST_PAGE: Final = 400
#: How far back the list of sessions goes.
_SESSIONS_MS: Final = 31 * MS_PER_DAY


class Listed(NamedTuple):
    """A session in the list: how long it was (None: not known), and what it is billed so far of the meter it feeds."""

    row: SessionRow
    length_ms: int | None
    billed: str
    flags: tuple[str, ...]


class Limited(NamedTuple):
    """A limit, its quantities as text, and how far the bar goes, in percent of its width."""

    standing: Standing
    name: str
    quantity: str
    soft: str
    hard: str
    bar: str


async def project(desk: Desk, viewer: Viewer, request: web.Request) -> Page:
    """Return a project's page. Raises HTTPNotFound for a project that the viewer may not see, or none."""
    name = request.query.get("name", "")
    check_project(viewer, name)
    now = desk.now()
    span_name = _choice(request, "span", SPANS, "24h")
    span = SPANS[span_name]
    show = _choice(request, "show", SHOWN, "all")
    find = request.query.get("find", "")[:256]
    page = min(int(text) if (text := request.query.get("page", "1")).isdecimal() and text.isascii() else 1, _LAST_PAGE)
    first_ms = _start(now.as_of_ms, span.bucket_ms) - (span.buckets - 1) * span.bucket_ms
    back_ms = span.buckets * span.bucket_ms

    used, opened, found, alerts, standings, invoice = await asyncio.gather(
        desk.asking.ask(
            ("used", name, span_name),
            LATER,
            lambda store: questions.used_by(store, now, name, first_ms - back_ms, span.bucket_ms),
        ),
        desk.asking.ask(("open", name), SOON, lambda store: questions.open_sessions(store, now, name)),
        desk.asking.ask(
            ("sessions", name, show, find, page),
            SOON,
            lambda store: questions.sessions(
                store,
                now,
                name,
                show=show,
                find=find,
                active_since_ms=now.as_of_ms - _SESSIONS_MS,
                most=_SESSIONS + 1,
                offset=(max(page, 1) - 1) * _SESSIONS,
            ),
        ),
        desk.asking.ask(
            ("alerts", name), SOON, lambda store: questions.alerts(store, project=name, status="open", most=20)
        ),
        _standings(desk, name, now),
        desk.asking.ask(("invoice", name), RARELY, lambda store: _invoice(store, desk, name, now)),
    )
    totals = series.totals(desk.meters, used.buckets, first_ms)
    meter = _chosen(desk.meters, totals, request.query.get("meter", ""))
    starts_ms = range(first_ms, now.as_of_ms, span.bucket_ms)
    live_from_ms = used.live_from_ms - used.live_from_ms % span.bucket_ms
    kinds = opened.get(name, {})
    return Page(
        "project.html",
        {
            "name": name,
            "span_name": span_name,
            "span": span,
            "spans": SPANS,
            "totals": totals,
            "meter": meter,
            "total": next((total for total in totals if meter and total.meter.name == meter.name), None),
            "table": meter and series.compared(meter, used.buckets, starts_ms, back_ms, live_from_ms),
            "live": sum(kinds.values()),
            "kinds": sorted(kinds.items(), key=lambda item: -item[1]),
            "sessions": [_listed(row, desk.meters, now.as_of_ms) for row in found[:_SESSIONS]],
            "has_more": len(found) > _SESSIONS and page < _LAST_PAGE,
            "page": max(page, 1),
            "show": show,
            "shown": SHOWN,
            "find": find,
            "alerts": alerts,
            "limits": None if standings is None else [_limited(standing) for standing in standings],
            "invoice": invoice if isinstance(invoice, Invoice) else None,
            "no_invoice": invoice if isinstance(invoice, str) else "",
        },
    )


def check_project(viewer: Viewer, name: str) -> None:
    """Raise HTTPNotFound for a project that is not the viewer's: whether it exists is not told."""
    if not name or (viewer.project is not None and name != viewer.project):
        raise web.HTTPNotFound


def session_flags(row: SessionRow) -> tuple[str, ...]:
    """Return the flags that a session has, by name."""
    return tuple(flag for flag in words.FLAGS if getattr(row, flag))


async def _standings(desk: Desk, name: str, now: Moment) -> list[Standing] | None:
    """Return how limits stand, from whoever watches them, else computed; None where there are no limits."""
    if desk.limits is None:
        return None
    answer = desk.standings(name)
    if answer is not None:
        return list(answer[1])
    own = Limits((name, limit) for limit in desk.limits.of(name))
    return await desk.asking.ask(
        ("limits", name),
        LATER,
        lambda store: LimitStore(store, desk.meters, own, now.orphan_after_ms).standings(now.as_of_ms, name),
    )


def _invoice(store: "Store", desk: Desk, name: str, now: Moment) -> Invoice | str:
    """Return what the month would be billed as of now, or why there is nothing to show."""
    try:
        plans = read_plans(desk.settings, desk.meters)
        month = Month.at(now.as_of_ms)
        found = Invoicing(store, desk.meters, plans, desk.settings, month, now.as_of_ms).preview(name)
    except InvalidPlans as error:
        return str(error)
    return found[0] if found else "nothing is due for this month yet"


def _limited(standing: Standing) -> Limited:
    limit = standing.limit
    if limit.per == "now":
        name = f"{limit.meter.removeprefix(CONCURRENT)} sessions at once"
    else:
        name = f"{limit.meter.replace('_', ' ')} per {limit.per}"

    def amount(quantity: int | None) -> str:
        return "" if quantity is None else words.number(decimal(quantity, limit.unit_size))

    bar = f"{min(standing.percent, 100)}%"
    return Limited(standing, name, amount(standing.quantity), amount(limit.soft), amount(limit.hard), bar)


def _listed(row: SessionRow, meters: Meters, as_of_ms: int) -> Listed:
    if row.end_without_start:
        return Listed(row, None, "", session_flags(row))
    length_ms = max(0, min(row.ended_at_ms, as_of_ms) - row.started_at_ms)
    if row.started_at_ms > as_of_ms:
        return Listed(row, None, "", session_flags(row))
    meter = next((one for one in meters.values() if one.measures == "session" and one.kind == row.kind), None)
    text = ""
    if meter is not None:
        quantity = meter.quantity(max(1, billed(length_ms, meter.increment)))  # R7
        text = f"{words.number(quantity)} {words.unit(meter, quantity)}"
    return Listed(row, length_ms, text, session_flags(row))


def _chosen(meters: Meters, totals: list[series.Total], wanted: str) -> Any:
    """Return the meter to draw: the one that is wanted, else the one of time with the most usage, else any."""
    if wanted in meters:
        return meters[wanted]
    timed = [total for total in totals if total.meter.measures == "session"]
    return max(timed or totals, key=lambda total: total.quantity).meter if totals else None


def _start(time_ms: int, bucket_ms: int) -> int:
    return hour_of(time_ms) if bucket_ms == MS_PER_HOUR else time_ms - time_ms % bucket_ms


def _choice(request: web.Request, name: str, choices: Any, default: str) -> str:
    wanted = request.query.get(name, default)
    return wanted if wanted in choices else default
