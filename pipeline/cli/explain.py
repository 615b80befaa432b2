"""The command that explains a bill: which sessions, which rules, which events."""

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.query import open_store
from pipeline.metering.units import MS_PER_HOUR, NEVER_MS, format_time, hour_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.explain.sessions import Explanation
    from pipeline.explain.steps import MeterShare

#: Sessions that people are shown of an hour.
_SHOWN: Final = 50


@click.command(
    epilog=examples(
        "roommeter explain --project acme --meter agent_session_minutes --hour 2026-09-21T14:00:00Z",
        "roommeter explain --session PA_eJ8nQ2rUxVbA --json",
    ),
)
@store_option
@click.option("--project", help="The project of the hour; with --session, only there.")
@click.option("--meter", help="The meter of the hour, for example agent_session_minutes.")
@click.option("--hour", "at_ms", type=TIME, help="Any time in the hour.")
@click.option("--session", help="One session, by its id.")
@click.option("--as-of", "as_of_ms", type=TIME, default="now", show_default=True, help="As seen at this moment.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each session, for machines.")
@expected_errors
def explain(
    store: str | None,
    project: str | None,
    meter: str | None,
    at_ms: int | None,
    session: str | None,
    as_of_ms: int,
    *,
    as_json: bool,
) -> None:
    """Explain what is billed, down to the events: an hour of a project and meter, or one session.

    Each session shows the rule and the event that decided its start and end, and its increments with the arithmetic;
    usage events and numbers show what was reported of them.
    """
    from pipeline.embedded import load_meters
    from pipeline.explain.store import ExplainStore
    from pipeline.explain.subjects import SubjectStore
    from pipeline.rows import UsageQuery

    if (session is None) == (at_ms is None) or (at_ms is not None and not (project and meter)):
        raise click.UsageError("give either --session, or --project, --meter and --hour")
    settings = settings_with(store=store)
    meters = load_meters(settings)
    if meter is not None and meter not in meters:
        raise click.UsageError(f"no meter is called {meter!r}: they are {', '.join(meters)}")
    with closing(open_store(store)) as opened:
        reader = ExplainStore(opened, meters, as_of_ms, settings.orphan_after_ms)
        if session is not None:
            found = reader.session(session, project or "")
            if not found:
                raise click.ClickException(f"nothing is known of a session {session!r}")
            _show(found, as_json=as_json)
            return
        assert at_ms is not None
        assert project
        assert meter
        hour_ms = hour_of(at_ms)
        is_of_sessions = meters[meter].measures in ("session", "counter")
        subjects = reader if is_of_sessions else SubjectStore(opened, meters, as_of_ms)
        found = list(subjects.hour(project, meters[meter], hour_ms))
        query = UsageQuery(
            as_of_ms=as_of_ms,
            from_ms=hour_ms,
            to_ms=hour_ms + MS_PER_HOUR,
            project=project,
            meter=meter,
            orphan_after_ms=settings.orphan_after_ms,
        )
        usage = sum(cell.increments for _, cell in opened.usage(query))
    _show(found if as_json else found[:_SHOWN], as_json=as_json)
    total = sum(explanation.increments(meter, hour_ms) for explanation in found)
    if not as_json:
        if len(found) > _SHOWN:
            click.echo(f"... and {len(found) - _SHOWN} more: --json shows them")
        noun = found[0].subject if found else "session"
        click.echo(f"{project} {meter} {format_time(hour_ms)}: {len(found)} {noun}s, {total} increments")
    if total != usage:
        raise click.ClickException(f"`roommeter usage` says {usage} increments, what is listed here gives {total}")


def _show(found: "Sequence[Explanation]", *, as_json: bool) -> None:
    if as_json:
        import orjson

        for explanation in found:
            click.echo(orjson.dumps(_document(explanation)))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for explanation in found:
        flags = f" ({', '.join(explanation.flags)})" if explanation.flags else ""
        room = f", room {explanation.room}" if explanation.room else ""
        console.print(f"{explanation.subject} {explanation.session}{room}, project {explanation.project}{flags}")
        for step in explanation.steps:
            console.print(f"  {step.rule:<4} {step.text}")
        console.print(f"  events ({len(explanation.events)}):")
        for source in explanation.events:
            event = source.event
            console.print(
                f"    {format_time(event.time_ms)} {event.type:<21} {event.id} topic {source.topic} "
                f"partition {source.partition} offset {source.offset}, "
                f"at the broker {format_time(source.broker_time_ms)}"
            )
        console.print()


def _document(explanation: "Explanation") -> dict[str, Any]:
    return {
        "project": explanation.project,
        "subject": explanation.subject,
        "room": explanation.room,
        "session": explanation.session,
        "kind": explanation.kind,
        "started_at": _time(explanation.started_at_ms),
        "ended_at": _time(explanation.ended_at_ms),
        "flags": explanation.flags,
        "steps": [step._asdict() for step in explanation.steps],
        "meters": [
            {
                "meter": share.meter,
                **_amounts(share),
                "increments": share.total,
                "hours": [{"hour": format_time(hour.hour_ms), "increments": hour.increments} for hour in share.hours],
            }
            for share in explanation.shares
        ],
        "events": [
            {
                "id": source.event.id,
                "type": source.event.type,
                "source": source.event.source,
                "time": format_time(source.event.time_ms),
                "topic": source.topic,
                "partition": source.partition,
                "offset": source.offset,
                "broker_time": format_time(source.broker_time_ms),
            }
            for source in explanation.events
        ],
    }


def _amounts(share: "MeterShare") -> dict[str, int]:
    """Return amount and increment under names that say what they count."""
    if share.base == "ms":
        return {"elapsed_ms": share.amount, "increment_ms": share.increment}
    return {share.base: share.amount, "increment": share.increment}


def _time(time_ms: int) -> str | None:
    return None if time_ms == NEVER_MS else format_time(time_ms)
