"""The command that proves the books: audit."""

import asyncio
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import DURATION, TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.query import open_store

if TYPE_CHECKING:
    from pipeline.audit.auditor import Report
    from pipeline.audit.laws import Checked, Difference
    from pipeline.clickhouse import Store
    from pipeline.metering.meters import Meters
    from pipeline.settings import Settings

#: Exit codes: 0 says that every law holds.
_DIFFERS: Final = 1
_NOT_CHECKED: Final = 2
#: Differences of each law that people are shown.
_SHOWN: Final = 10


@click.command(
    epilog=examples(
        "roommeter audit --store http://127.0.0.1:8130",
        "roommeter audit --from 2026-09-21 --to 2026-09-22 --project acme --json",
        "roommeter audit --every 5m                       again and again, with metrics, holding what differs",
    ),
)
@store_option
@click.option(
    "--from", "from_ms", type=TIME, default=0, help="Hours, and events read, from this time on.  [default: all]"
)
@click.option("--to", "to_ms", type=TIME, help="Hours before this time.  [default: now]")
@click.option("--project", help="Only this project.")
@click.option("--every", "every_s", type=DURATION, help="Audit again and again, and hold the emission of wrong hours.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for machines.")
def audit(
    store: str | None,
    from_ms: int,
    to_ms: int | None,
    project: str | None,
    every_s: int | None,
    *,
    as_json: bool,
) -> None:
    """Prove that nothing was lost, doubled or changed: every conservation law, on all that is stored.

    Exit code 0: every law holds. 1: something differs; it is named. 2: it could not be checked.
    """
    if every_s is not None and (from_ms, to_ms, project) != (0, None, None):
        raise click.UsageError("--every looks at everything: leave out --from, --to and --project")
    try:
        report = _report(store, every_s, from_ms, to_ms, project or "", as_json=as_json)
    except click.ClickException as error:
        error.exit_code = _NOT_CHECKED
        raise
    click.get_current_context().exit(_DIFFERS if report and report.differences else 0)


def _report(
    store: str | None, every_s: int | None, from_ms: int, to_ms: int | None, project: str, *, as_json: bool
) -> "Report | None":
    """Audit once and return what was found, or again and again until somebody stops it."""
    from pipeline.audit.auditor import Auditor
    from pipeline.embedded import load_meters, now_ms

    found: list[Report] = []

    @expected_errors
    def run() -> None:
        settings = settings_with(store=store)
        meters = load_meters(settings)
        with closing(open_store(store)) as opened:
            if every_s is not None:
                _watch(settings, meters, opened, every_s, as_json=as_json)
                return
            auditor = Auditor(settings, meters, opened, lambda wait_ms: time.sleep(wait_ms / 1000))
            found.append(auditor.run(now_ms(), from_ms, to_ms, project))
            _show(found[0], as_json=as_json)

    run()
    return found[0] if found else None


def _watch(settings: "Settings", meters: "Meters", store: "Store", every_s: int, *, as_json: bool) -> None:
    """Audit until somebody stops it, with health and metrics as every part has them."""
    from pipeline.audit.loop import audit_forever
    from pipeline.cli.run import configure_logging, run_async, stopped
    from pipeline.embedded import now_ms
    from pipeline.http import Readiness, make_app, serve
    from pipeline.metrics import Metrics

    async def watching() -> None:
        metrics = Metrics()
        async with serve(make_app(Readiness(metrics), metrics), settings.http_host, settings.http_port):
            work = asyncio.create_task(
                audit_forever(
                    settings,
                    meters,
                    store,
                    metrics,
                    now_ms,
                    every_s * 1_000,
                    told=lambda report: _show(report, as_json=as_json),
                )
            )
            stop = asyncio.create_task(stopped())
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    configure_logging(verbose=False)
    run_async(watching())


def _show(report: "Report", *, as_json: bool) -> None:
    """Print one line for each law, and what differs below it."""
    if as_json:
        import orjson

        for law in report.laws:
            click.echo(orjson.dumps(_document(law)))
        return
    from rich.console import Console
    from rich.table import Table

    from pipeline.audit.laws import NUMBERS
    from pipeline.metering.units import format_time

    table = Table(title=f"Audit as of {format_time(report.as_of_ms)}", title_justify="left")
    for name in ("law", "", "checked", "differences", "the first of them"):
        table.add_column(name, justify="right" if name in ("checked", "differences") else "left", overflow="fold")
    for law in report.laws:
        first = _where(law.differences[0]) if law.differences else ""
        count = len(law.differences)
        table.add_row(NUMBERS[law.law], law.law.replace("_", " "), f"{law.checked:,}", f"{count:,}", first)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for law in report.laws:
        for difference in law.differences[:_SHOWN]:
            console.print(f"{NUMBERS[law.law]} {_where(difference)}: {difference.detail}")
        if len(law.differences) > _SHOWN:
            console.print(f"{NUMBERS[law.law]} ... and {len(law.differences) - _SHOWN} more: --json shows them")
        for note in law.notes:
            console.print(f"{NUMBERS[law.law]} note: {note}")
    wrong = sum(1 for law in report.laws if law.differences)
    console.print(f"{wrong} of {len(report.laws)} laws do not hold" if wrong else "Every law holds.")


def _where(difference: "Difference") -> str:
    """Return where a difference lies, as far as it is known: project, hour, and the rest."""
    from pipeline.metering.units import format_time

    hour = "" if difference.hour_ms is None else format_time(difference.hour_ms)[:16] + "Z"
    names = (difference.project, hour, difference.meter, difference.room, difference.session, difference.fact)
    return " ".join(filter(None, names)) or "-"


def _document(law: "Checked") -> dict[str, Any]:
    from pipeline.audit.laws import NUMBERS
    from pipeline.metering.units import format_time

    def listed(difference: "Difference") -> dict[str, Any]:
        shown = {key: value for key, value in difference._asdict().items() if value and key not in ("law", "holds")}
        hour_ms = shown.pop("hour_ms", None)
        held = [{"project": project, "hour": format_time(at_ms)} for project, at_ms in sorted(difference.holds)]
        return (
            shown | ({"hour": format_time(hour_ms)} if hour_ms is not None else {}) | ({"holds": held} if held else {})
        )

    return {
        "law": law.law,
        "number": NUMBERS[law.law],
        "checked": law.checked,
        "differences": [listed(difference) for difference in law.differences],
        "notes": law.notes,
    }
