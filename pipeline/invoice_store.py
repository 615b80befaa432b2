"""The log of issued invoices in the store, and how a number is given. All SQL is constant. Blocking.

How two issuers agree on numbers is told in schemas/clickhouse/0012_invoices.sql.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa

from pipeline.clickhouse import StoreError, StoreUnavailable
from pipeline.invoice_document import decode_invoice, encode_invoice
from pipeline.metering.invoice import Invoice
from pipeline.metering.months import Month

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

_HEADS: Final = "SELECT number, project, month FROM invoices ORDER BY number"
_DOCUMENTS: Final = """
SELECT document FROM invoices
WHERE project = {project:String} AND month >= {from:String} AND month <= {to:String}
ORDER BY number
"""
_NUMBERED: Final = "SELECT document FROM invoices WHERE number = {number:UInt64}"


class Head(NamedTuple):
    """What an issued invoice is known by."""

    number: int
    project: str
    month: Month


class InvoiceStore:
    """The store, as invoicing sees it. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store") -> None:
        """Wrap an open store."""
        self._store = store

    def heads(self) -> list[Head]:
        """Return all issued invoices in the order of their numbers, which have to be 1, 2, 3 and so on."""
        heads = [Head(number, project, Month.parse(month)) for number, project, month in self._store.query(_HEADS)]
        for expected, head in enumerate(heads, 1):
            if head.number != expected:
                what = "is missing" if head.number > expected else "was given twice"
                number = min(expected, head.number)
                raise StoreError(f"the invoice of number {number} {what}: restore the table `invoices` first")
        return heads

    def invoices(self, project: str, from_month: Month, to_month: Month) -> list[Invoice]:
        """Return a project's invoices of months from one to another, both included, by their numbers."""
        rows = self._store.query(_DOCUMENTS, project=project, **{"from": str(from_month), "to": str(to_month)})
        return [decode_invoice(document.encode()) for (document,) in rows]

    def append(self, invoice: Invoice) -> bool:
        """Issue an invoice under its number; False where that number was given to another one meanwhile."""
        assert invoice.number is not None, "a preview is not issued"
        document = encode_invoice(invoice)
        row = pa.table(
            {
                "number": pa.array([invoice.number], pa.uint64()),
                "project": [invoice.project],
                "month": [str(invoice.month)],
                "currency": [invoice.currency],
                "total": pa.array([invoice.total], pa.decimal128(38, 3)),
                "as_of": pa.array([invoice.as_of_ms], pa.timestamp("ms", "UTC")),
                "document": [document],
            }
        )
        self._store.insert("invoices", row, once=f"invoice {invoice.number}")
        kept = [found.encode() for (found,) in self._store.query(_NUMBERED, number=invoice.number)]
        if not kept:
            raise StoreUnavailable(
                f"number {invoice.number} is given, and its invoice cannot be read here yet: try again"
            )
        return kept == [document]
