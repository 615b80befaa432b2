"""The log of issued invoices in the store, and how a number is given. All SQL is constant. Blocking.

How two issuers agree on numbers is told in schemas/clickhouse/0012_invoices.sql.
"""

from typing import TYPE_CHECKING, Final

import pyarrow as pa

from pipeline.clickhouse import StoreError, StoreUnavailable
from pipeline.invoices.document import decode_invoice, encode_invoice
from pipeline.metering.invoice import Invoice
from pipeline.metering.months import Month

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

_HEADS: Final = "SELECT number, project, month FROM invoices WHERE number > {after:UInt64} ORDER BY number"
_DOCUMENTS: Final = """
SELECT document FROM invoices
WHERE project = {project:String} AND month >= {from:String} AND month <= {to:String}
ORDER BY number
"""
_NUMBERED: Final = "SELECT document FROM invoices WHERE number = {number:UInt64}"


class InvoiceStore:
    """The store, as invoicing sees it: the log as far as it was read. Methods raise StoreUnavailable or StoreError."""

    def __init__(self, store: "Store") -> None:
        """Wrap an open store; nothing is read yet."""
        self._store = store
        self._months: dict[str, list[Month]] = {}
        #: The last number given, 0 for none, and the first month that was ever invoiced.
        self.last_number = 0
        self.first_month: Month | None = None

    def read(self) -> None:
        """Read what the log has got since it was read last; its numbers have to be 1, 2, 3 and so on."""
        for number, project, text in self._store.query(_HEADS, after=self.last_number):
            if number != self.last_number + 1:
                what = "was given twice" if number == self.last_number else "is missing"
                wrong = min(number, self.last_number + 1)
                raise StoreError(f"the invoice of number {wrong} {what}: restore the table `invoices` first")
            month = Month.parse(text)
            self._months.setdefault(project, []).append(month)
            self.first_month = min(month, self.first_month or month)
            self.last_number = number

    def months(self, project: str) -> list[Month]:
        """Return the months of which a project has invoices."""
        return self._months.get(project, [])

    def projects(self, month: Month) -> set[str]:
        """Return the projects that have an invoice of a month."""
        return {project for project, months in self._months.items() if month in months}

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
