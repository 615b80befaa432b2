"""What an invoice says to people, as rows of text and numbers, however they are laid out; and as CSV. Pure."""

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from pipeline.deadletters.text import visible
from pipeline.invoices.document import kind
from pipeline.metering.invoice import BASE_FEE, Invoice, Line
from pipeline.metering.months import Month
from pipeline.metering.pricing import Part
from pipeline.metering.units import format_time

COLUMNS: Final = ("Description", "Quantity", "Included", "Unit price", "Amount")
CSV_COLUMNS: Final = (
    *("invoice", "project", "invoice_month", "kind", "item", "month", "unit", "quantity", "included", "billable"),
    *("unit_prices", "due", "invoiced_before", "amount", "currency", "as_of"),
)
#: Hours of an adjustment that are named.
_MOST_NAMED: Final = 3
#: What a spreadsheet would take for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class Row(NamedTuple):
    """One row below the columns: a line of the invoice with its amount, or a detail of the line above it."""

    level: Literal["line", "detail"]
    text: str
    quantity: str = ""
    included: str = ""
    unit_price: str = ""
    amount: str = ""


def rows(invoice: Invoice) -> Iterator[Row]:
    """Yield what an invoice consists of, in its order."""
    for line in invoice.lines:
        parts = line.charge.parts
        is_plain = len(parts) == 1 and (line.item != BASE_FEE or parts[0].quantity == line.month.hours)
        yield Row(
            "line",
            _title(invoice, line),
            "" if line.item == BASE_FEE else number(line.charge.quantity),
            "" if line.item == BASE_FEE or not line.charge.included else number(line.charge.included),
            number(parts[0].unit_price) if is_plain else "",
            number(line.amount),
        )
        if not is_plain:
            yield from (_part(line, part) for part in parts)
        if line.is_adjustment:
            yield Row("detail", _adjusted(line))
        if line.changed:
            yield Row("detail", _changed(line))


def heading(invoice: Invoice) -> str:
    """Return what an invoice is called at its top."""
    return "Preview of an invoice" if invoice.number is None else f"Invoice {invoice.name}"


def facts(invoice: Invoice) -> list[tuple[str, str]]:
    """Return what an invoice says of itself, by name."""
    return [
        ("Project", visible(invoice.project)),
        ("Month", f"{month_name(invoice.month)} (UTC)"),
        ("As of", minute(invoice.as_of_ms) + " UTC"),
        ("Currency", invoice.currency),
    ]


def file_name(invoice: Invoice) -> str:
    """Return a name for an invoice's file without its ending: letters, digits, `-`, `_` and `.`, whatever was given."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in invoice.project)[:100]
    prefix = "preview" if invoice.number is None else f"{invoice.number:06}"
    return f"{prefix}-{invoice.month}-{plain}"


def number(value: Decimal) -> str:
    """Write a decimal for people: 1,234.5."""
    return format(value, ",f")


def month_name(month: Month) -> str:
    """Write a month for people: October 2026."""
    return _moment(month.start_ms).strftime("%B %Y")


def minute(time_ms: int) -> str:
    """Write a moment for people, to the minute, in UTC."""
    return _moment(time_ms).strftime("%Y-%m-%d %H:%M")


def to_csv(invoices: Sequence[Invoice]) -> str:
    """Return a line of CSV for each line of each invoice, under a heading."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for invoice in invoices:
        for line in invoice.lines:
            prices = " ".join(str(price) for price in dict.fromkeys(part.unit_price for part in line.charge.parts))
            writer.writerow(
                (
                    *map(_cell, (invoice.name, invoice.project, str(invoice.month), kind(line), line.item)),
                    *(str(line.month), _cell(line.unit), _plain(line.charge.quantity), _plain(line.charge.included)),
                    *(_plain(line.charge.quantity - line.charge.included), prices, _plain(line.charge.amount)),
                    *(_plain(line.invoiced), _plain(line.amount), invoice.currency, format_time(invoice.as_of_ms)),
                )
            )
    return out.getvalue()


def _title(invoice: Invoice, line: Line) -> str:
    what = f"{line.meaning[:1].upper()}{line.meaning[1:]}"
    if line.item == BASE_FEE:
        plans = ", ".join(dict.fromkeys(part.plan for part in line.charge.parts))
        what = f"{what} {plans}".rstrip()
    elif line.unit not in line.meaning:
        what = f"{what} ({line.unit})"
    when = "" if line.month == invoice.month else f", {month_name(line.month)}"
    advance = " in advance" if line.month > invoice.month else ""
    return visible(f"{'Adjustment: ' if line.is_adjustment else ''}{what}{when}{advance}")


def _part(line: Line, part: Part) -> Row:
    if line.item == BASE_FEE:
        text = f"{part.plan}, {number(part.quantity)} of {line.month.hours} hours: {_span(part)}"
        return Row("detail", visible(text), unit_price=number(part.unit_price))
    text = f"{part.plan}: {_span(part)}"
    return Row("detail", visible(text), quantity=number(part.quantity), unit_price=number(part.unit_price))


def _span(part: Part) -> str:
    return f"{minute(part.from_ms)} to {minute(part.to_ms)}"


def _adjusted(line: Line) -> str:
    now, before = number(line.charge.amount), number(line.invoiced)
    quantities = number(line.charge.quantity), number(line.invoiced_quantity)
    units = f"{line.unit}s" if line.unit.islower() else line.unit
    return f"Now {now} for {quantities[0]} {units}; invoiced before: {before} for {quantities[1]}"


def _changed(line: Line) -> str:
    named = ", ".join(f"{minute(hour_ms)} ({by:+,})" for hour_ms, by in line.changed[:_MOST_NAMED])
    more = len(line.changed) - _MOST_NAMED
    return f"Hours that changed: {named}" + (f" and {more} more" if more > 0 else "")


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms // 1_000, UTC)


def _plain(value: Decimal) -> str:
    return format(value, "f")


def _cell(text: str) -> str:
    """Return text that a spreadsheet shows and does not run."""
    return f"'{text}" if text.startswith(_FORMULA) else text
