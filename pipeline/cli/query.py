"""Commands that ask: usage, attribute, sessions, rollups."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.output import print_json, print_table
from pipeline.metering.units import NEVER_MS, format_time

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for machines.")
_project = click.option("--project", help="Only this project.")
_meter = click.option("--meter", help="Only this meter, for example agent_session_minutes.")
_from = click.option("--from", "from_ms", type=TIME, default=0, help="Hours from this time on.  [default: all]")
_to = click.option("--to", "to_ms", type=TIME, help="Hours before this time.  [default: all]")
_as_of = click.option(
    "--as-of", "as_of_ms", type=TIME, default="now", show_default=True, help="As seen at this moment."
)


def _of_usage(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a question about usage: which store, and the fields of a UsageQuery."""
    for option in (_json, _as_of, _meter, _project, _to, _from, store_option):
        command = option(command)
    return command


def open_store(store: str | None) -> "Store":
    """Open the store that is named, or configured; of one that a running `up` has open, ask that."""
    from pipeline.clickhouse import Store, StoreError, StoreInUse, chdb_directory
    from pipeline.invoices.desk_client import RunningUp

    settings = settings_with(store=store)
    directory = chdb_directory(settings.store)
    if directory is not None and not directory.exists():  # a question must not create a store
        raise StoreError(f"{settings.store}: there is no store; `roommeter replay` and `roommeter up` create one")
    try:
        return Store.open(settings.store, settings.database, settings.cluster)
    except StoreInUse:
        running = None if directory is None else RunningUp.find(directory)
        if running is None:
            raise
        return Store.open(running.queries, settings.database)


def _show(title: str, columns: Sequence[str], rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows as JSON lines or as a table; numbers to the right."""
    if as_json:
        for row in rows:
            print_json(row)
    else:
        print_table(title, columns, rows, nothing="nothing. Is this the right store, and has anything been sent?")


@click.command(
    epilog=examples(
        "roommeter usage --project acme --from 2026-09-21 --to 2026-09-22",
        "roommeter usage --store chdb:///var/lib/usage --as-of 2026-09-21T15:30:00Z --json",
    ),
)
@_of_usage
@expected_errors
def usage(store: str | None, *, as_json: bool, **asked: Any) -> None:
    """Show usage per project, meter and hour, computed from all that is stored.

    Increments are what is billed; the open part belongs to sessions whose end is not known yet.
    """
    from pipeline.embedded import load_meters
    from pipeline.rows import UsageQuery

    settings = settings_with(store=store)
    meters = load_meters(settings)
    with closing(open_store(store)) as opened:
        cells = opened.usage(UsageQuery(**asked, orphan_after_ms=settings.orphan_after_ms))
    rows = (
        {
            "project": key[0],
            "meter": key[1],
            "hour": format_time(key[2]),
            "increments": cell.increments,
            "increments_open": cell.increments_open,
            "quantity": f"{meters[key[1]].quantity(cell.increments):f}",
            "unit": meters[key[1]].unit,
        }
        for key, cell in cells
    )
    columns = ("project", "meter", "hour", "increments", "increments_open", "quantity", "unit")
    _show(f"Usage as of {format_time(asked['as_of_ms'])}", columns, rows, as_json=as_json)


@click.command(
    epilog=examples(
        "roommeter attribute --by team --project acme --from 2026-09-01 --to 2026-10-01",
        "roommeter attribute --by model --meter llm_output_tokens --json",
    ),
)
@click.option(
    "--by", type=click.Choice(["team", "key", "model", "endpoint"]), required=True, help="What usage is ascribed to."
)
@_of_usage
@expected_errors
def attribute(store: str | None, by: Any, *, as_json: bool, **asked: Any) -> None:
    """Show whose discrete usage it is (LLM tokens and other reported usage): by team, key, model or endpoint.

    What names nobody stands in a row of its own, so that the rows add up to the usage.
    """
    from pipeline.attribution_store import attributed
    from pipeline.embedded import load_meters
    from pipeline.rows import UsageQuery

    meters = load_meters(settings_with(store=store))
    with closing(open_store(store)) as opened:
        found = attributed(opened, by, UsageQuery(**asked))
    rows = (
        {
            "project": row.project,
            "meter": row.meter,
            by: row.ascribed_to,
            "events": row.events,
            "increments": row.increments,
            "quantity": f"{meters[row.meter].quantity(row.increments):f}",
            "unit": meters[row.meter].unit,
        }
        for row in found
    )
    columns = ("project", "meter", by, "events", "increments", "quantity", "unit")
    _show(f"Usage by {by} as of {format_time(asked['as_of_ms'])}", columns, rows, as_json=as_json)


@click.command(
    epilog=examples("roommeter sessions --project acme", "roommeter sessions --room RM_7Yk3hQpWvTzD --json"),
)
@store_option
@_project
@click.option("--room", help="Only this room.")
@click.option("--session", help="Only this session.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, newest first.")
@_as_of
@_json
@expected_errors
def sessions(
    store: str | None,
    project: str | None,
    room: str | None,
    session: str | None,
    limit: int,
    as_of_ms: int,
    *,
    as_json: bool,
) -> None:
    """Show sessions: when they started and ended, and what had to be inferred or presumed."""
    from pipeline.rows import SessionQuery

    settings = settings_with(store=store)
    with closing(open_store(store)) as opened:
        found = opened.sessions(
            SessionQuery(
                as_of_ms=as_of_ms,
                project=project,
                room=room,
                session=session,
                limit=limit,
                orphan_after_ms=settings.orphan_after_ms,
            ),
        )
    flags = ("is_open", "end_without_start", "start_inferred", "end_presumed", "clock_skew", "reconciled", "amended")
    rows = (
        {
            "project": row.project,
            "room": row.room,
            "session": row.session,
            "kind": row.kind,
            "started_at": None if row.started_at_ms == NEVER_MS else format_time(row.started_at_ms),
            "ended_at": None if row.ended_at_ms == NEVER_MS else format_time(row.ended_at_ms),
            "flags": " ".join(flag for flag in flags if getattr(row, flag)),
        }
        for row in found
    )
    columns = ("project", "room", "session", "kind", "started_at", "ended_at", "flags")
    _show(f"Sessions as of {format_time(as_of_ms)}", columns, rows, as_json=as_json)


@click.command(
    epilog=examples(
        "roommeter rollups --project acme --from 2026-09-21",
        "roommeter rollups --as-of 2026-09-22T00:05:00Z --json      what billing was told by then",
    ),
)
@store_option
@_from
@_to
@_project
@_meter
@click.option("--all-revisions", is_flag=True, help="Every revision, not only the newest of each hour.")
@click.option(
    "--as-of", "as_of_ms", type=TIME, help="As emitted for this moment: the same bytes, with --json.  [default: now]"
)
@_json
@expected_errors
def rollups(
    store: str | None,
    from_ms: int,
    to_ms: int | None,
    project: str | None,
    meter: str | None,
    *,
    all_revisions: bool,
    as_of_ms: int | None,
    as_json: bool,
) -> None:
    """Show what was emitted for billing: hourly rollups with revision and delta.

    A revision never changes, so what was emitted for any moment can be shown again, byte for byte (R20).
    """
    from pipeline.codec import rollup_document
    from pipeline.embedded import load_meters
    from pipeline.explain.sessions import as_emitted
    from pipeline.rows import RollupQuery

    meters = load_meters(settings_with(store=store))
    with closing(open_store(store)) as opened:
        found = opened.rollups(RollupQuery(from_ms=from_ms, to_ms=to_ms, project=project, meter=meter))
    moment_ms = NEVER_MS if as_of_ms is None else as_of_ms
    until_then = [rollup for rollup in found if rollup.as_of_ms <= moment_ms]
    shown = until_then if all_revisions else as_emitted(until_then, moment_ms)
    rows = (rollup_document(rollup, meters) for rollup in shown)
    columns = (
        "project",
        "meter",
        "hour",
        "revision",
        "quantity",
        "quantity_open",
        "delta",
        "unit",
        "sessions",
        "status",
    )
    _show("Rollups", columns, rows, as_json=as_json)
