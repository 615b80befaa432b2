"""Command that shows: console."""

import os
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import examples, expected_errors, settings_with, store_option
from pipeline.cli.run import configure_logging, run_async, until_stopped, verbose_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import Metric


@click.command(
    epilog=examples(
        "roommeter console --store http://127.0.0.1:8130",
        "roommeter console --store http://127.0.0.1:8130 --metrics http://127.0.0.1:8130/metrics",
        "ROOMMETER_CONSOLE_HOST=0.0.0.0 ROOMMETER_PROJECTS_FILE=projects.toml roommeter console",
    ),
)
@store_option
@click.option(
    "--port", "console_port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.  [default: 8132]"
)
@click.option(
    "--metrics",
    "console_metrics",
    metavar="URLS",
    help="Where worker, emitter and audit show /metrics, with commas.  [default: ROOMMETER_CONSOLE_METRICS]",
)
@verbose_option
@expected_errors
def console(store: str | None, console_port: int | None, console_metrics: str | None, *, verbose: bool) -> None:
    """Serve pages on live sessions, usage, alerts and health, for a browser; `up` does so too.

    On loopback everybody may look; elsewhere a token of the projects file is asked for.
    """
    from pipeline.console.health import read_metrics
    from pipeline.console.serving import console as serving
    from pipeline.embedded import load_meters, now_ms
    from pipeline.gateway.projects import read_projects

    configure_logging(verbose=verbose)
    settings = settings_with(store=store, console_port=console_port, console_metrics=console_metrics)
    urls = [url.strip() for url in settings.console_metrics.split(",") if url.strip()]
    projects = read_projects(settings.projects_file, settings.secrets(os.environ))

    async def read_health() -> "Sequence[Metric]":
        return await read_metrics(urls)

    def tell(port: int) -> None:
        click.echo(f"console: open http://{settings.console_host}:{port} in a browser", err=True)

    run_async(until_stopped(serving(settings, load_meters(settings), projects, now_ms, read_health), tell))
