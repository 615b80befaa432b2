"""Commands that correct a session by hand, with a trail: amend void, set-start, set-end, withdraw, show (R12)."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.output import print_json
from pipeline.cli.query import open_store
from pipeline.metering.events import Amendment, EventType
from pipeline.metering.units import NEVER_MS, format_time

if TYPE_CHECKING:
    from pipeline.clickhouse import Store
    from pipeline.rows import SessionRow
    from pipeline.settings import Settings

#: How long a command waits to see its amendment in the store.
_PATIENCE_S: Final = 10.0
_POLL_S: Final = 0.2
_SOURCE: Final = "roommeter/amend"
_NOTHING: Final = Amendment(0, is_void=False, started_at_ms=NEVER_MS, ended_at_ms=NEVER_MS, actor="", reason="")


@click.group(
    epilog=examples(
        'roommeter amend void PA_eJ8nQ2rUxVbA --actor jo --reason "load test, ticket 4711"',
        "roommeter amend set-end PA_eJ8nQ2rUxVbA 2026-09-21T14:31:00Z --actor jo --reason crash",
        "roommeter amend show PA_eJ8nQ2rUxVbA",
    ),
)
def amend() -> None:
    """Correct what is billed of a session, with a name and a reason; what was observed is kept.

    An amendment is an event like others: it raises the hours it changes to their next revision.
    """


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says which session is meant."""
    for option in (
        store_option,
        click.option("--room", help="Its room, where the session's id is not unique."),
        click.option("--project", help="Its project, where the session's id is not unique."),
        click.argument("session"),
    ):
        command = option(command)
    return command


def _who(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says who amends, and why."""
    for option in (
        click.option("--reason", required=True, help="Why; kept with the amendment."),
        click.option("--actor", required=True, envvar="USER", help="Who amends.  [default: the user's name]"),
    ):
        command = option(command)
    return command


@amend.command(epilog=examples('roommeter amend void PA_eJ8nQ2rUxVbA --actor jo --reason "load test"'))
@_which
@_who
@expected_errors
def void(**given: Any) -> None:
    """Bill nothing of a session."""
    _amend(lambda _: _NOTHING._replace(is_void=True), **given)


@amend.command(
    "set-start", epilog=examples("roommeter amend set-start PA_1 2026-09-21T14:00:00Z --actor jo --reason skew")
)
@_which
@click.argument("at_ms", metavar="TIME", type=TIME)
@_who
@expected_errors
def set_start(at_ms: int, **given: Any) -> None:
    """Bill a session from TIME on; an end that was set stays."""
    _amend(lambda newest: newest._replace(started_at_ms=at_ms, is_void=False), **given)


@amend.command(
    "set-end", epilog=examples("roommeter amend set-end PA_1 2026-09-21T14:31:00Z --actor jo --reason crash")
)
@_which
@click.argument("at_ms", metavar="TIME", type=TIME)
@_who
@expected_errors
def set_end(at_ms: int, **given: Any) -> None:
    """Bill a session until TIME; a start that was set stays."""
    _amend(lambda newest: newest._replace(ended_at_ms=at_ms, is_void=False), **given)


@amend.command(epilog=examples('roommeter amend withdraw PA_1 --actor jo --reason "the wrong session"'))
@_which
@_who
@expected_errors
def withdraw(**given: Any) -> None:
    """Bill a session as it was observed again; earlier amendments stay in the trail."""
    _amend(lambda _: _NOTHING, **given)


@amend.command(epilog=examples("roommeter amend show PA_eJ8nQ2rUxVbA", "roommeter amend show PA_1 --json"))
@_which
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for machines.")
@expected_errors
def show(session: str, project: str | None, room: str | None, store: str | None, *, as_json: bool) -> None:
    """Show every amendment of a session, the one in force last."""
    settings = settings_with(store=store)
    with closing(open_store(store)) as opened:
        row = _find(opened, settings, session, project, room)
        trail = opened.amendments(row.project, row.room, row.session)
    if as_json:
        for amendment in trail:
            print_json({"project": row.project, "room": row.room, "session": session} | _said(amendment))
        return
    click.echo(f"{row.project}/{row.room}/{session}: {_billed(row)}")
    for amendment in trail:
        click.echo("  " + ", ".join(f"{name} {value}" for name, value in _said(amendment).items() if value))
    if not trail:
        click.echo("  never amended")


def _amend(
    change: Callable[[Amendment], Amendment],
    session: str,
    project: str | None,
    room: str | None,
    store: str | None,
    actor: str,
    reason: str,
) -> None:
    """Send one amendment, and wait a moment to show what it did."""
    settings = settings_with(store=store)
    with closing(open_store(store)) as opened:
        row = _find(opened, settings, session, project, room)
        trail = opened.amendments(row.project, row.room, row.session)
        newest = trail[-1] if trail else _NOTHING
        amendment = change(newest)._replace(epoch=newest.epoch + 1, actor=actor, reason=reason)
        starts_at_ms = row.started_at_ms if amendment.started_at_ms == NEVER_MS else amendment.started_at_ms
        if amendment.ended_at_ms < starts_at_ms != NEVER_MS:
            raise click.UsageError(f"the session would end before it starts, at {format_time(starts_at_ms)}")
        data = {"project": row.project, "room": row.room, "session": session} | _said(amendment)
        asyncio.run(_send(settings, data))
        click.echo(f"{row.project}/{row.room}/{session}: amended, epoch {data['epoch']}")
        click.echo(f"  before: {_billed(row)}")
        deadline_s = time.monotonic() + _PATIENCE_S
        while len(opened.amendments(row.project, row.room, row.session)) == len(trail):
            if time.monotonic() > deadline_s:
                click.echo("  it takes effect when a worker has read it (or is a dead letter: see `dead-letters list`)")
                return
            time.sleep(_POLL_S)
        click.echo(f"  now:    {_billed(_find(opened, settings, session, row.project, row.room))}")


def _find(store: "Store", settings: "Settings", session: str, project: str | None, room: str | None) -> "SessionRow":
    """Return the session that is meant. Raises UsageError where there is none, or more than one."""
    from pipeline.embedded import now_ms
    from pipeline.rows import SessionQuery

    query = SessionQuery(
        as_of_ms=now_ms(), project=project, room=room, session=session, orphan_after_ms=settings.orphan_after_ms
    )
    found = store.sessions(query)
    if not found:
        raise click.UsageError(f"there is no session {session!r}; `roommeter sessions` lists them")
    if len(found) > 1:
        places = ", ".join(f"--project {row.project} --room {row.room}" for row in found[:5])
        raise click.UsageError(f"there are {len(found)} sessions {session!r}; say which: {places}")
    return found[0]


async def _send(settings: "Settings", data: dict[str, Any]) -> None:
    from pipeline.embedded import now_ms
    from pipeline.messages import lifecycle_message
    from pipeline.producer import Producer
    from pipeline.topics import topics

    document = {
        "specversion": "1.0",
        "id": f"{data['session']}/{data['epoch']}",
        "source": _SOURCE,
        "type": str(EventType.SESSION_AMENDED),
        "time": format_time(now_ms()),
        "subject": data["session"],
        "data": data,
    }
    async with Producer(settings.kafka, on_wait=lambda reason: click.echo(f"waiting: {reason}", err=True)) as producer:
        await producer.send(*lifecycle_message(topics(settings).lifecycle.name, document))


def _times(amendment: Amendment) -> dict[str, Any]:
    """Return the start and end that an amendment sets."""
    times = {"started_at": amendment.started_at_ms, "ended_at": amendment.ended_at_ms}
    return {name: format_time(at_ms) for name, at_ms in times.items() if at_ms != NEVER_MS}


def _said(amendment: Amendment) -> dict[str, Any]:
    who = {"actor": amendment.actor, "reason": amendment.reason}
    return {"epoch": amendment.epoch, "void": amendment.is_void} | _times(amendment) | who


def _billed(row: "SessionRow") -> str:
    times: Sequence[int] = (row.started_at_ms, row.ended_at_ms)
    started, ended = ("never" if at_ms == NEVER_MS else format_time(at_ms) for at_ms in times)
    return f"{row.kind}, started {started}, ended {'not yet' if row.is_open else ended}"
