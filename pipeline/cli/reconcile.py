"""The command that asks media servers who is connected: reconcile."""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import DURATION, examples, expected_errors, settings_with, store_option
from pipeline.cli.output import print_json

if TYPE_CHECKING:
    from pipeline.gateway.projects import Project
    from pipeline.livekit.reconcile import Run
    from pipeline.settings import Settings


@click.command(
    epilog=examples(
        "roommeter reconcile --project acme                      every minute, until Ctrl-C",
        "roommeter reconcile --project acme --once --dry-run     what would be reported?",
        "roommeter reconcile --project acme --history 20 --json  what was found lately?",
    ),
)
@store_option
@click.option("--project", "name", help="Only this project.  [default: each that has a livekit_url]")
@click.option("--once", is_flag=True, help="Make two passes, --every apart, and end; exit code 1 without an answer.")
@click.option(
    "--every", "every_s", type=DURATION, help="Time between passes.  [default: ROOMMETER_RECONCILE_INTERVAL_MS]"
)
@click.option("--dry-run", is_flag=True, help="Show the events, send and record nothing.")
@click.option("--accept-empty", is_flag=True, help="With --once: believe an answer that knows none of our sessions.")
@click.option("--history", type=click.IntRange(1), help="Show so many recorded passes, newest first, and ask nobody.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for machines.")
@expected_errors
def reconcile(
    store: str | None,
    name: str | None,
    every_s: int | None,
    history: int | None,
    *,
    once: bool,
    dry_run: bool,
    accept_empty: bool,
    as_json: bool,
) -> None:
    """Ask LiveKit servers who is connected, and report who is there and who is not.

    A session that is open here and missing there in two passes in a row is presumed ended at its last sign of life;
    whoever is there and unknown here is opened. No answer, half an answer or a single empty one ends nothing.
    """
    from pipeline.cli.run import configure_logging, run_async
    from pipeline.gateway.projects import InvalidProjects, read_projects
    from pipeline.livekit.api import ApiRefused

    if accept_empty and not once:
        raise click.UsageError("--accept-empty goes with --once: nobody watches the later passes")
    interval_ms = None if every_s is None else every_s * 1_000
    settings = settings_with(store=store, reconcile_interval_ms=interval_ms)
    configure_logging(verbose=False)
    if history is not None:
        _show_history(settings, name or "", history, as_json=as_json)
        return
    try:
        projects = read_projects(settings.projects_file, os.environ)
        names = [name] if name is not None else projects.names()
        found = [project for project in map(projects.by_name, names) if project and (project.livekit_url or name)]
        if not found:
            raise click.ClickException(f"{name or 'a project with livekit_url'} is not in ROOMMETER_PROJECTS_FILE")
        run_async(_reconcile(settings, found, once=once, dry_run=dry_run, accept_empty=accept_empty, as_json=as_json))
    except (InvalidProjects, ApiRefused) as error:
        raise click.ClickException(str(error)) from error


async def _reconcile(
    settings: "Settings", projects: Sequence["Project"], *, once: bool, dry_run: bool, accept_empty: bool, as_json: bool
) -> None:
    """Make passes for each project; all at once, because one server must not keep the others waiting."""
    from contextlib import AsyncExitStack, closing

    from pipeline.clickhouse import Store, StoreUnavailable
    from pipeline.embedded import connected, now_ms
    from pipeline.livekit.reconcile import Outcome
    from pipeline.livekit.reconcile_store import ReconcileStore
    from pipeline.livekit.reconciler import Outlets, Reconciler, reconciling, to_kafka
    from pipeline.metrics import Metrics

    async with AsyncExitStack() as stack:
        if dry_run:
            opened = stack.enter_context(closing(Store.open(settings.store, settings.database, settings.cluster)))
            knowledge, metrics = ReconcileStore(opened), Metrics()
            outlets = Outlets(_print_events, lambda _run: None)
        else:
            # A timer shows health and metrics as every part does; two passes are over before anybody looks.
            system = await stack.enter_async_context(
                connected(settings.model_copy(update={"http_port": 0}) if once else settings)
            )
            knowledge, metrics = ReconcileStore(system.store), system.metrics
            outlets = to_kafka(system.settings, system.producer, knowledge)

        def record(run: "Run") -> None:
            outlets.record(run)
            _say(run, as_json=as_json)

        async def passes(reconciler: Reconciler) -> None:
            if not once:
                await reconciler.run_forever(settings.reconcile_interval_ms, (StoreUnavailable,))
            await reconciler.run_once(accept_empty=accept_empty)
            await asyncio.sleep(settings.reconcile_interval_ms / 1000)
            run = await reconciler.run_once(accept_empty=accept_empty)
            if run.outcome not in (Outcome.COMPLETE, Outcome.PARTIAL):
                raise click.ClickException(f"{run.project}: {run.outcome}: nothing was reconciled")

        told = Outlets(outlets.send, record)
        reconcilers = [
            await stack.enter_async_context(reconciling(project, settings, knowledge, told, metrics, now_ms))
            for project in projects
        ]
        await _until_stopped([passes(reconciler) for reconciler in reconcilers])


async def _until_stopped(running: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait until all are done or one has failed, or somebody stops them."""
    from pipeline.cli.run import stopped

    async def together() -> None:
        await asyncio.gather(*running)

    work, stop = asyncio.create_task(together()), asyncio.create_task(stopped())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not work.done():
        work.cancel()
    with suppress(asyncio.CancelledError):
        await work


async def _print_events(events: Sequence[dict[str, Any]]) -> None:
    """Show what would be sent."""
    for event in events:
        print_json(event)


def _show_history(settings: "Settings", project: str, limit: int, *, as_json: bool) -> None:
    from contextlib import closing

    from pipeline.clickhouse import Store
    from pipeline.livekit.reconcile_store import ReconcileStore

    with closing(Store.open(settings.store, settings.database, settings.cluster)) as opened:
        for run in ReconcileStore(opened).runs(project, limit):
            _say(run, as_json=as_json)


def _say(run: "Run", *, as_json: bool) -> None:
    """Print one pass: a line for people, or an object for machines."""
    from pipeline.metering.units import format_time

    if as_json:
        times = {"asked_at": format_time(run.asked_at_ms), "answered_at": format_time(run.answered_at_ms)}
        others = {key: value for key, value in run._asdict().items() if not key.endswith("_ms")}
        print_json(times | others)
        return
    click.echo(
        f"{format_time(run.asked_at_ms)} {run.project}: {run.outcome}; {run.rooms} rooms ({run.rooms_silent} silent), "
        f"{run.sessions_open} open here, {run.present} of them there, {run.missing} missing for the first time, "
        f"{run.absent} absent twice, {run.opened} opened" + (f": {run.detail}" if run.detail else "")
    )
