"""The command that makes invoices: looks at them first, and issues them when told to."""

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.output import print_table
from pipeline.cli.query import open_store
from pipeline.metering.months import Month

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.metering.invoice import Invoice

_FORMATS: Final = ("table", "json", "csv", "html", "pdf")


class _MonthType(click.ParamType):
    name = "month"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Month:
        """Return the month."""
        if isinstance(value, Month):
            return value
        try:
            return Month.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(
    epilog=examples(
        "roommeter invoice --month 2026-10",
        "roommeter invoice --month 2026-10 --project acme --format pdf --out invoices",
        "roommeter invoice --month 2026-10 --plan ship     what it would cost on that plan",
        "roommeter invoice --month 2026-10 --issue --format json",
    ),
)
@store_option
@click.option("--month", type=_MonthType(), required=True, help="The calendar month in UTC, for example 2026-10.")
@click.option("--project", help="Only this project.")
@click.option("--plan", help="Preview every project with usage as if it were on this plan.")
@click.option("--issue", is_flag=True, help="Give numbers and freeze; without it, nothing is written to the store.")
@click.option(
    "--format", "as_format", type=click.Choice(_FORMATS), default="table", show_default=True, help="How to show them."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Write a file for each into this directory."
)
@click.option("--as-of", "as_of_ms", type=TIME, default="now", show_default=True, help="As seen at this moment.")
@expected_errors
def invoice(
    store: str | None,
    month: Month,
    project: str | None,
    plan: str | None,
    as_format: str,
    out: Path | None,
    as_of_ms: int,
    *,
    issue: bool,
) -> None:
    """Make the invoices of a month: its usage, the base fee of the next month, and corrections of earlier ones.

    What is shown is a preview until it is issued with --issue; from then on it is shown as it was issued, for ever.
    Beside a running `up`, that process issues.
    """
    from pipeline.clickhouse import chdb_directory
    from pipeline.embedded import load_meters
    from pipeline.invoices.desk import Order
    from pipeline.invoices.desk_client import RunningUp
    from pipeline.invoices.invoicing import Invoicing, plans_text, read_plans

    if plan is not None and issue:
        raise click.UsageError("--plan is for previews: what is issued is as the plans file says")
    if issue and as_of_ms > time.time_ns() // 1_000_000:
        raise click.UsageError("--as-of lies ahead: what is issued is what is known")
    if as_format in (("html", "pdf") if out is None else ("table",)):
        raise click.UsageError("html and pdf need --out DIR, csv and json can have it; a table is for the terminal")
    settings = settings_with(store=store)
    meters = load_meters(settings)
    plans = read_plans(settings, meters)
    directory = chdb_directory(settings.store)
    running = RunningUp.find(directory) if issue and directory is not None else None
    if running is not None:
        order = Order(month=str(month), project=project, as_of_ms=as_of_ms, plans=plans_text(settings))
        _show(_said(running.issue(order)), as_format, out)
        _warn(running.unassigned())
        return
    with closing(open_store(store)) as opened:
        invoicing = Invoicing(opened, meters, plans, settings, month, as_of_ms)
        if plan is not None:
            found: Iterable[Invoice] = invoicing.trial(plan, project)
        elif issue:
            found = _said(invoicing.issue(project))
        else:
            found = invoicing.preview(project)
        _show(found, as_format, out)
        if plan is None:
            _warn(invoicing.unassigned())


def _said(issued: "Iterable[Invoice]") -> "Iterable[Invoice]":
    """Say of each invoice that it is issued, as soon as it is."""
    from pipeline.deadletters.text import visible

    for one in issued:
        click.echo(f"issued {one.name}: {visible(one.project)}, {one.total} {one.currency}", err=True)
        yield one


def _warn(names: "list[str]") -> None:
    from pipeline.deadletters.text import visible

    if names:
        shown = ", ".join(visible(name) for name in names[:10])
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""  # noqa: PLR2004 - as many as were shown
        click.echo(f"on no plan, though with usage: {shown}{more}", err=True)


def _show(found: "Iterable[Invoice]", as_format: str, out: Path | None) -> None:
    from pipeline.invoices.text import file_name, to_csv

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for one in found:
            path = out / f"{file_name(one)}.{as_format}"
            path.write_bytes(_file(one, as_format))
            click.echo(path)
    elif as_format == "csv":
        click.echo(to_csv(list(found)), nl=False)
    elif as_format == "json":
        for one in found:
            click.echo(_file(one, as_format), nl=False)
    else:
        _tables(list(found))


def _file(one: "Invoice", as_format: str) -> bytes:
    from pipeline.invoices.document import encode_invoice
    from pipeline.invoices.text import to_csv

    if as_format == "html":
        from pipeline.invoices.html import to_html

        return to_html(one).encode()
    if as_format == "pdf":
        from pipeline.invoices.pdf import to_pdf

        return to_pdf(one)
    if as_format == "json":
        return encode_invoice(one) + b"\n"
    return to_csv([one]).encode()


def _tables(found: "list[Invoice]") -> None:
    from rich.markup import escape

    from pipeline.deadletters.text import visible
    from pipeline.invoices.text import COLUMNS, heading, number, rows

    if not found:
        click.echo("Nothing is due.")
    for one in found:
        listed = [*rows(one)]
        title = escape(f"{heading(one)}: {visible(one.project)}, {one.month}, {one.currency}")
        total = ("Total", "", "", "", number(one.total))
        shown = [("  " * (row.level == "detail") + row.text, *row[2:]) for row in listed]
        print_table(title, COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in (*shown, total)])
