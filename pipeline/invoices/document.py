"""Invoices as JSON: what is issued, kept and never changed, and the invoice again from it. Pure.

Amounts and quantities are texts of decimals, times RFC 3339. The same invoice gives the same bytes.
"""

import shlex
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import orjson

from pipeline.metering.invoice import BASE_FEE, Invoice, Line
from pipeline.metering.months import Month
from pipeline.metering.plans import Seller
from pipeline.metering.pricing import Charge, Part
from pipeline.metering.units import format_time, parse_time

#: Hours of an adjustment that are followed one by one.
_MOST_FOLLOWED: Final = 5


def encode_invoice(invoice: Invoice) -> bytes:
    """Return an invoice as JSON."""
    return orjson.dumps(
        {
            "invoice": invoice.name,
            "number": invoice.number,
            "project": invoice.project,
            "month": str(invoice.month),
            "as_of": format_time(invoice.as_of_ms),
            "currency": invoice.currency,
            "total": format(invoice.total, "f"),
            "seller": {
                "name": invoice.seller.name,
                "address": invoice.seller.address,
                "note": invoice.seller.note,
                "number_prefix": invoice.seller.number_prefix,
            },
            "bill_to": invoice.bill_to,
            "lines": [_line_document(invoice, line) for line in invoice.lines],
        }
    )


def decode_invoice(document: bytes) -> Invoice:
    """Return the invoice of what `encode_invoice` wrote."""
    fields: dict[str, Any] = orjson.loads(document)
    seller = fields["seller"]
    return Invoice(
        project=fields["project"],
        month=Month.parse(fields["month"]),
        currency=fields["currency"],
        as_of_ms=parse_time(fields["as_of"]),
        lines=tuple(_line(line) for line in fields["lines"]),
        seller=Seller(seller["name"], tuple(seller["address"]), seller["note"], seller["number_prefix"]),
        bill_to=tuple(fields["bill_to"]),
        number=fields["number"],
    )


def commands(invoice: Invoice, line: Line) -> Iterator[str]:
    """Yield the commands that show what is behind a line: its hours, and what happened in those that matter.

    As of the moment of the invoice: what arrived later is in the next one.
    """
    if line.item == BASE_FEE:
        return
    which = f"--project {shlex.quote(invoice.project)} --meter {shlex.quote(line.item)}"
    as_of = f"--as-of {format_time(invoice.as_of_ms)}"
    span = f"--from {format_time(line.month.start_ms)} --to {format_time(line.month.end_ms)}"
    yield f"roommeter usage {which} {span} {as_of}"
    for hour_ms, _ in line.changed[:_MOST_FOLLOWED] if line.is_adjustment else line.hours[:1]:
        yield f"roommeter explain {which} --hour {format_time(hour_ms)} {as_of}"


def kind(line: Line) -> str:
    """Return what sort of line it is: base_fee, usage, or adjustment of either."""
    return "adjustment" if line.is_adjustment else "base_fee" if line.item == BASE_FEE else "usage"


def _line_document(invoice: Invoice, line: Line) -> dict[str, Any]:
    return {
        "kind": kind(line),
        "item": line.item,
        "month": str(line.month),
        "meaning": line.meaning,
        "measures": line.measures,
        "unit": line.unit,
        "quantity": format(line.charge.quantity, "f"),
        "included": format(line.charge.included, "f"),
        "parts": [
            {
                "plan": part.plan,
                "from": format_time(part.from_ms),
                "to": format_time(part.to_ms),
                "quantity": format(part.quantity, "f"),
                "unit_price": format(part.unit_price, "f"),
            }
            for part in line.charge.parts
        ],
        "due": format(line.charge.amount, "f"),
        "invoiced": format(line.invoiced, "f"),
        "invoiced_quantity": format(line.invoiced_quantity, "f"),
        "amount": format(line.amount, "f"),
        "hours": [(format_time(hour_ms), increments) for hour_ms, increments in line.hours],
        "changed": [(format_time(hour_ms), by) for hour_ms, by in line.changed],
        "commands": list(commands(invoice, line)),
    }


def _line(fields: dict[str, Any]) -> Line:
    parts = (
        Part(
            part["plan"],
            parse_time(part["from"]),
            parse_time(part["to"]),
            Decimal(part["quantity"]),
            Decimal(part["unit_price"]),
        )
        for part in fields["parts"]
    )
    return Line(
        item=fields["item"],
        month=Month.parse(fields["month"]),
        meaning=fields["meaning"],
        measures=fields["measures"],
        unit=fields["unit"],
        charge=Charge(Decimal(fields["quantity"]), Decimal(fields["included"]), tuple(parts), Decimal(fields["due"])),
        invoiced=Decimal(fields["invoiced"]),
        invoiced_quantity=Decimal(fields["invoiced_quantity"]),
        amount=Decimal(fields["amount"]),
        hours=tuple((parse_time(hour), increments) for hour, increments in fields["hours"]),
        changed=tuple((parse_time(hour), by) for hour, by in fields["changed"]),
        is_adjustment=fields["kind"] == "adjustment",
    )
