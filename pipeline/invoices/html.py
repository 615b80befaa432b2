"""An invoice as one HTML page: nothing is loaded, nothing runs, every text is escaped; made to be printed too. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

from pipeline.deadletters.text import visible
from pipeline.invoices.document import commands
from pipeline.invoices.text import COLUMNS, Row, facts, heading, number, rows
from pipeline.metering.invoice import Invoice

_STYLE: Final = """
@page { size: A4; margin: 18mm 16mm; }
* { box-sizing: border-box; }
body { max-width: 52rem; margin: 2.5rem auto; padding: 0 1.5rem; background: #fff; color: #1c2024;
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 1.5rem; font-weight: 600; }
h2 { font-size: 1rem; margin: 2.5rem 0 .5rem; }
header { display: flex; flex-wrap: wrap; gap: 1.5rem 2rem; margin-bottom: 2rem; }
header > div { flex: 1 1 12rem; min-width: 0; overflow-wrap: anywhere; }
header > div:last-child { flex-basis: 15rem; }
.label { color: #60646c; font-size: .8rem; text-transform: uppercase; letter-spacing: .04em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dt { color: #60646c; }
dd { margin: 0; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums lining-nums; }
th { text-align: right; font-weight: 600; border-bottom: 2px solid #1c2024; padding: .35rem 0 .35rem 1rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
td { text-align: right; vertical-align: top; padding: .45rem 0 .45rem 1rem; border-top: 1px solid #d9d9e0; }
td + td, th + th { white-space: nowrap; }
tr.detail td { border: 0; color: #60646c; font-size: .87rem; padding-top: 0; }
tr.detail td:first-child { padding-left: 1rem; }
tr { break-inside: avoid; }
tr.detail { break-before: avoid; }
thead { display: table-header-group; }
tfoot { display: table-row-group; }
tfoot td { border-top: 2px solid #1c2024; font-weight: 600; font-size: 1.1rem; }
.pad { visibility: hidden; }
.note { margin-top: 1.5rem; overflow-wrap: anywhere; }
.behind { font-size: .8rem; color: #60646c; }
.behind p { margin: .6rem 0 .1rem; }
code { display: block; font: .75rem/1.4 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
code span { display: inline-block; max-width: 100%; }
@media print { html { font-size: 9.5pt; } body { margin: 0; padding: 0; max-width: none; font-size: 1rem; } }
"""


def to_html(invoice: Invoice) -> str:
    """Return an invoice as a page in UTF-8."""
    return "".join(_page(invoice))


def _page(invoice: Invoice) -> Iterator[str]:
    title = heading(invoice)
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{escape(title)}: {escape(facts(invoice)[0][1])}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    yield f"<h1>{escape(title)}</h1>\n<header>\n"
    yield from _address("From", (invoice.seller.name, *invoice.seller.address))
    yield from _address("To", invoice.bill_to or (facts(invoice)[0][1],))
    yield "<div><dl>\n"
    yield from (f"<dt>{name}</dt><dd>{escape(value)}</dd>\n" for name, value in facts(invoice))
    yield "</dl></div>\n</header>\n<table>\n<thead><tr>"
    yield from (f'<th scope="col">{column}</th>' for column in COLUMNS)
    yield "</tr></thead>\n<tbody>\n"
    listed = list(rows(invoice))
    places = [max(map(_places, column), default=0) for column in list(zip(*listed, strict=True))[2:]]
    yield from (_row(row, places) for row in listed)
    yield f'</tbody>\n<tfoot><tr><td colspan="4">Total, {escape(invoice.currency)}</td>'
    yield f"<td>{number(invoice.total)}</td></tr></tfoot>\n</table>\n"
    if invoice.seller.note:
        yield f'<p class="note">{escape(invoice.seller.note)}</p>\n'
    yield from _behind(invoice)
    yield "</body>\n</html>\n"


def _address(label: str, lines: Sequence[str]) -> Iterator[str]:
    if any(lines):
        yield f'<div><div class="label">{label}</div>{"<br>".join(escape(line) for line in lines)}</div>\n'


def _row(row: Row, places: Sequence[int]) -> str:
    if row.level == "detail" and not any(row[2:]):
        return f'<tr class="detail"><td colspan="5">{escape(row.text)}</td></tr>\n'
    cells = "".join(f"<td>{_aligned(text, most)}</td>" for text, most in zip(row[2:], places, strict=True))
    return f'<tr class="{row.level}"><td>{escape(row.text)}</td>{cells}</tr>\n'


def _aligned(text: str, most: int) -> str:
    """Return a number, with as many invisible digits as put its point below the others'."""
    missing = most - _places(text)
    if not text or not missing:
        return text
    pad = "0" * missing if "." in text else "." + "0" * (missing - 1)
    return f'{text}<span class="pad" aria-hidden="true">{pad}</span>'


def _places(text: str) -> int:
    """Return how many characters follow the whole part, the point included."""
    return len(text) - text.index(".") if "." in text else 0


def _behind(invoice: Invoice) -> Iterator[str]:
    shown = [(line, list(commands(invoice, line))) for line in invoice.lines]
    if any(typed for _, typed in shown):
        yield '<section class="behind">\n<h2>What is behind each line</h2>\n'
        for line, typed in shown:
            if typed:
                yield f"<p>{escape(line.item)}, {line.month}</p>\n{_codes(typed)}"
        yield "</section>\n"


def _codes(typed: Iterable[str]) -> str:
    """Return commands of which no option is broken at its hyphens."""
    words = ([f"<span>{escape(visible(word))}</span>" for word in command.split(" ")] for command in typed)
    return "".join(f"<code>{' '.join(spans)}</code>\n" for spans in words)
