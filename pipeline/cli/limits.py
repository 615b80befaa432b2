"""Commands about limits: limiter, limits."""

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.output import print_json, print_table
from pipeline.cli.query import open_store
from pipeline.cli.run import ANSWERS, configure_logging, run_system, verbose_option

if TYPE_CHECKING:
    from pipeline.metering.limits import Limits, Standing
    from pipeline.metering.meters import Meters
    from pipeline.settings import Settings

_BAR_CHARACTERS: Final = 10
_limits_file = click.option(
    "--limits-file",
    type=click.Path(exists=True, dir_okay=False),
    help="The limits (TOML).  [default: ROOMMETER_LIMITS_FILE]",
)


def _read(settings: "Settings") -> "tuple[Meters, Limits]":
    """Return meters and limits; raises InvalidLimits where no file is named."""
    from pipeline.embedded import load_meters
    from pipeline.limits.file import InvalidLimits, read_limits

    meters = load_meters(settings)
    limits = read_limits(settings.limits_file, meters)
    if limits is None:
        raise InvalidLimits("no limits: name their file with --limits-file or ROOMMETER_LIMITS_FILE")
    return meters, limits


@click.command(
    epilog=examples("ROOMMETER_KAFKA=kafka:9092 ROOMMETER_STORE=http://clickhouse:8123 roommeter limiter"),
)
@store_option
@_limits_file
@verbose_option
@expected_errors
def limiter(store: str | None, limits_file: str | None, *, verbose: bool) -> None:
    """Watch limits: crossings to Kafka, standings over HTTP. Two at once do no harm; `up` runs one itself."""
    from pipeline import embedded

    configure_logging(verbose=verbose)
    run_system(embedded.limiter(settings_with(store=store, limits_file=limits_file)), "limiter", ANSWERS)


@click.command(
    epilog=examples(
        "roommeter limits --limits-file limits.toml --store http://127.0.0.1:8130",
        "roommeter limits --project acme --json",
    ),
)
@store_option
@_limits_file
@click.option("--project", help="Only this project.")
@click.option("--as-of", "as_of_ms", type=TIME, default="now", show_default=True, help="As seen at this moment.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for machines.")
@expected_errors
def limits(store: str | None, limits_file: str | None, project: str | None, as_of_ms: int, *, as_json: bool) -> None:
    """Show how limits stand, computed from all that is stored."""
    from pipeline.limits.codec import standing_document
    from pipeline.limits.store import LimitStore
    from pipeline.metering.units import format_time

    settings = settings_with(store=store, limits_file=limits_file)
    meters, watched = _read(settings)
    with closing(open_store(store)) as opened:
        standings = LimitStore(opened, meters, watched, settings.orphan_after_ms).standings(as_of_ms, project)
    if as_json:
        for standing in standings:
            print_json({"project": standing.project, **standing_document(standing)})
        return
    columns = ("project", "meter", "per", "quantity", "soft", "hard", "unit", "used", "state")
    print_table(f"Limits as of {format_time(as_of_ms)}", columns, map(_row, standings), nothing="none")


def _row(standing: "Standing") -> dict[str, Any]:
    """Return a row of the table: the bar is full at 100 %."""
    from pipeline.limits.codec import standing_document

    filled = min(_BAR_CHARACTERS, standing.percent * _BAR_CHARACTERS // 100)
    bar = "█" * filled + "░" * (_BAR_CHARACTERS - filled)
    return {"project": standing.project, **standing_document(standing), "used": f"{bar} {standing.percent} %"}
