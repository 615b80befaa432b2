"""The command that delivers rollups to billing systems."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pipeline.cli.options import examples, expected_errors, settings_with
from pipeline.cli.run import configure_logging, run_async, stopped

if TYPE_CHECKING:
    from pipeline.delivery.deliverer import Counts
    from pipeline.kafka import Begin
    from pipeline.settings import Settings

#: With --once: attempts at one rollup, some 30 s in all.
_ATTEMPTS: Final = 5


@click.command(
    epilog=examples(
        "STRIPE_KEY=rk_live_... roommeter deliver --to stripe --begin latest",
        "roommeter deliver --to webhook --once             from cron: exit code 1 when something was refused",
        "roommeter deliver --to stripe --again refused     after mending delivery.toml",
    ),
)
@click.option(
    "--to", "name", type=click.Choice(["webhook", "stripe", "openmeter"]), required=True, help="The billing system."
)
@click.option(
    "--targets",
    type=click.Path(dir_okay=False, path_type=Path),
    default="delivery.toml",
    show_default=True,
    help="The file of targets (TOML); infra/exports.md has one.",
)
@click.option(
    "--begin",
    type=click.Choice(["earliest", "latest"]),
    help="On a target's first run: with the earliest rollup there is, or with the next one.",
)
@click.option("--once", is_flag=True, help="Deliver what there is, then stop; an outage ends it too.")
@click.option(
    "--again",
    type=click.Choice(["refused", "doubtful"]),
    help="Deliver what this target refused, or what may have arrived already; then stop.",
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    help="Serve health, readiness and metrics at this port of ROOMMETER_HTTP_HOST.  [default: not at all]",
)
@click.option("--verbose", "-v", is_flag=True, help="Log more, the libraries too.")
@expected_errors
def deliver(
    name: str,
    targets: Path,
    begin: "Begin | None",
    *,
    once: bool,
    again: str | None,
    http_port: int | None,
    verbose: bool,
) -> None:
    """Deliver the rollups of the topic usage.rollups to a billing system, each at least once, under its id.

    What the target refuses is kept on the topic usage.rollups.refused, with the reason, and stops nothing.
    """
    from pipeline.delivery.deliverer import Counts, Rules, deliver_rollups
    from pipeline.delivery.file import read_target
    from pipeline.embedded import load_meters, now_ms

    settings = settings_with()
    target = read_target(targets, name, settings.secrets(os.environ), load_meters(settings))
    configure_logging(verbose=verbose)
    is_bounded = once or again is not None
    counts = Counts()
    try:
        rules = Rules(attempts=_ATTEMPTS if is_bounded else None)
        work = deliver_rollups(settings, target, now_ms, counts, rules, begin, again)
        run_async(_unless_stopped(work if http_port is None else _seen(work, settings, http_port, name, counts)))
    finally:
        click.echo(
            f"delivered {counts.delivered}, nothing to bill in {counts.passed_over}, "
            f"refused {counts.refused}, doubtful {counts.doubtful}"
        )
    if counts.refused or counts.doubtful:
        raise click.ClickException("some were not delivered: they are kept on usage.rollups.refused, with the reason")


async def _seen(
    work: Coroutine[None, None, None], settings: "Settings", port: int, target: str, counts: "Counts"
) -> None:
    """Work while health, readiness and metrics are served; not ready while nothing is delivered though rollups wait."""
    from pipeline.delivery.deliverer import group_of
    from pipeline.http import Readiness, make_app, serve
    from pipeline.watch import delivery_probe, watch_forever

    condition = "delivery_progress"
    readiness = Readiness(counts.metrics, condition)
    probe = delivery_probe(settings, counts.metrics, target, group_of(settings, target))
    async with serve(make_app(readiness, counts.metrics), settings.http_host, port):
        watching = asyncio.create_task(watch_forever(readiness, condition, frozenset(), probe, settings.stall_after_ms))
        try:
            await work
        finally:
            watching.cancel()


async def _unless_stopped(work: Coroutine[None, None, None]) -> None:
    """Work until it is done, or until Ctrl-C or SIGTERM: then what is done is committed."""
    tasks = [asyncio.create_task(work), asyncio.create_task(stopped())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    if not tasks[0].cancelled():
        tasks[0].result()
