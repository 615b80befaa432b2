"""The command that exports: rollups, sessions and usage as Parquet or CSV."""

from contextlib import closing

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.output import progress
from pipeline.cli.query import open_store
from pipeline.metering.units import NEVER_MS

#: More sessions than there can be.
_ALL = 2**62


@click.command(
    epilog=examples(
        "roommeter export rollups --format parquet --from 2026-09-01 --to 2026-10-01 --out rollups.parquet",
        "roommeter export usage --format csv --project acme --out - | gzip > usage.csv.gz",
    ),
)
@click.argument("what", type=click.Choice(["rollups", "sessions", "usage"]))
@store_option
@click.option("--format", "file_format", type=click.Choice(["parquet", "csv"]), required=True, help="Of the file.")
@click.option("--from", "from_ms", type=TIME, default=0, help="Hours, or sessions, from this time on.  [default: all]")
@click.option(
    "--to", "to_ms", type=TIME, default=NEVER_MS, help="Hours, or sessions, before this time.  [default: all]"
)
@click.option("--project", help="Only this project.")
@click.option(
    "--as-of", "as_of_ms", type=TIME, default="now", show_default=True, help="Usage and sessions as seen then."
)
@click.option("--out", required=True, help="The file to write, - for stdout; it is there whole or not at all.")
@expected_errors
def export(
    what: str,
    store: str | None,
    file_format: str,
    from_ms: int,
    to_ms: int,
    project: str | None,
    as_of_ms: int,
    out: str,
) -> None:
    """Write rollups (every revision), sessions or usage to a file, a block at a time.

    Sessions are those of which some part lies in the range. infra/exports.md has the columns.
    """
    from pipeline.embedded import load_meters
    from pipeline.export import EXPORTS, overlapping
    from pipeline.export_files import FORMATS, whole_file
    from pipeline.rows import Query, RollupQuery, SessionQuery, UsageQuery

    settings = settings_with(store=store)
    orphan_after_ms = settings.orphan_after_ms
    queries: dict[str, Query] = {
        "rollups": RollupQuery(from_ms=from_ms, to_ms=to_ms, project=project),
        "sessions": SessionQuery(
            as_of_ms=as_of_ms, active_since_ms=from_ms, project=project, limit=_ALL, orphan_after_ms=orphan_after_ms
        ),
        "usage": UsageQuery(
            as_of_ms=as_of_ms, from_ms=from_ms, to_ms=to_ms, project=project, orphan_after_ms=orphan_after_ms
        ),
    }
    meters, kind = load_meters(settings), EXPORTS[what]
    written = 0
    with (
        closing(open_store(store)) as opened,
        progress("exporting", None) as step,
        whole_file(out) as file,
        FORMATS[file_format](file, kind.schema) as write,
    ):
        for found in opened.blocks(queries[what]):
            in_range = overlapping(found, from_ms, to_ms) if what == "sessions" else found
            if rows := list(kind.rows(in_range, meters)):
                write(rows)
            step(written := written + len(rows))
    click.echo(f"exported {written} {what}", err=True)
