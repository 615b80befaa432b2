"""An invoice as PDF; with invoice_letters.py the only importer of reportlab. The same invoice gives the same bytes."""

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Flowable, Paragraph, SimpleDocTemplate, Spacer, Table

from pipeline.deadletters.text import visible
from pipeline.invoices.document import commands
from pipeline.invoices.letters import NOTE, lacks, markup
from pipeline.invoices.text import COLUMNS, facts, heading, number, rows
from pipeline.metering.invoice import Invoice

_GREY: Final = colors.HexColor("#60646c")
_RULE: Final = colors.HexColor("#d9d9e0")
_MARGIN: Final = 18 * mm
#: What the layout leaves free inside its frame.
_FRAME: Final = 6
_WIDTH: Final = A4[0] - 2 * _MARGIN
_TEXT: Final = ParagraphStyle("text", fontName="Helvetica", fontSize=9, leading=12, splitLongWords=1)
_BOLD: Final = ParagraphStyle("bold", _TEXT, fontName="Helvetica-Bold")
_TITLE: Final = ParagraphStyle("title", _BOLD, fontSize=17, leading=22, spaceAfter=6 * mm)
_SMALL: Final = ParagraphStyle("small", _TEXT, fontSize=8, leading=10, textColor=_GREY)
_DETAIL: Final = ParagraphStyle("detail", _SMALL, leftIndent=3 * mm)
_CODE: Final = ParagraphStyle(
    "code", _TEXT, fontName="Courier", fontSize=7, leading=8.5, textColor=_GREY, leftIndent=3 * mm
)
#: Of a name at the foot of a page, which stands at its head in full.
_FOOT_CHARACTERS: Final = 60
#: Widths of the columns, which together are as wide as the page allows.
_COLUMNS: Final = (_WIDTH - 104 * mm, 28 * mm, 26 * mm, 26 * mm, 24 * mm)


def to_pdf(invoice: Invoice) -> bytes:
    """Return an invoice as a PDF file of A4 pages."""
    _, pages = _built(invoice, 0)  # how many there are is known when they are laid out
    document, _ = _built(invoice, pages)
    return document


def _built(invoice: Invoice, pages: int) -> tuple[bytes, int]:
    """Return the file, in which each page says of how many it is one, and how many there are."""
    out = io.BytesIO()
    name = heading(invoice)
    footer = _paragraph(f"{name}, {_shortened(invoice.project)}", _SMALL)
    layout = SimpleDocTemplate(
        out,
        pagesize=A4,
        leftMargin=_MARGIN - _FRAME,
        rightMargin=_MARGIN - _FRAME,
        topMargin=16 * mm,
        bottomMargin=20 * mm,
        title=visible(name),
        author=visible(invoice.seller.name),
        invariant=1,
    )

    def foot(canvas: Canvas, layout: BaseDocTemplate) -> None:
        footer.wrapOn(canvas, _WIDTH - 30 * mm, 10 * mm)
        footer.drawOn(canvas, _MARGIN, 10.3 * mm)
        canvas.setFont("Helvetica", 8)
        canvas.setFillColor(_GREY)
        canvas.drawRightString(A4[0] - _MARGIN, 11 * mm, f"page {layout.page} of {pages}")

    layout.build(_story(invoice), onFirstPage=foot, onLaterPages=foot)
    return out.getvalue(), layout.page


def _story(invoice: Invoice) -> list[Flowable]:
    story: list[Flowable] = [_paragraph(heading(invoice), _TITLE), _header(invoice), Spacer(0, 8 * mm), _lines(invoice)]
    if invoice.seller.note:
        story += [Spacer(0, 6 * mm), _paragraph(invoice.seller.note)]
    if any(map(lacks, _texts(invoice))):
        story += [Spacer(0, 4 * mm), _paragraph(NOTE, _SMALL)]
    shown = [(line, list(commands(invoice, line))) for line in invoice.lines]
    if any(typed for _, typed in shown):
        story += [Spacer(0, 8 * mm), _paragraph("What is behind each line", _BOLD)]
    for line, typed in shown:
        if typed:
            named = ParagraphStyle("named", _SMALL, keepWithNext=1, spaceBefore=2 * mm)
            story += [_paragraph(f"{line.item}, {line.month}", named), *(_paragraph(one, _CODE) for one in typed)]
    return story


def _header(invoice: Invoice) -> Table:
    to = invoice.bill_to or (invoice.project,)
    said = [[_paragraph(name, _SMALL), _paragraph(value)] for name, value in facts(invoice)]
    own = Table(said, colWidths=(16 * mm, None), style=[("VALIGN", (0, 0), (-1, -1), "TOP"), *_NO_PADDING])
    blocks = [_address("From", (invoice.seller.name, *invoice.seller.address)), _address("To", to), own]
    return Table([blocks], colWidths=(_WIDTH / 3,) * 3, style=[("VALIGN", (0, 0), (-1, -1), "TOP"), *_NO_PADDING])


_NO_PADDING: Final = [
    ("LEFTPADDING", (0, 0), (-1, -1), 0),
    ("RIGHTPADDING", (0, 0), (-1, -1), 10),
    ("TOPPADDING", (0, 0), (-1, -1), 0),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 0),
]


def _address(label: str, lines: Sequence[str]) -> list[Flowable]:
    given = [line for line in lines if line]
    return [_paragraph(label, _SMALL), *(_paragraph(line) for line in given)] if given else []


def _lines(invoice: Invoice) -> Table:
    listed = list(rows(invoice))
    cells: list[list[Any]] = [list(COLUMNS)]
    style: list[tuple[Any, ...]] = [
        ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", 9),
        ("ALIGN", (1, 0), (-1, 0), "RIGHT"),
        ("LINEBELOW", (0, 0), (-1, 0), 1.2, colors.black),
        ("FONT", (1, 1), (-1, -1), "Helvetica", 9),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (0, -1), 0),
        ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 3),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
    ]
    for index, row in enumerate(listed, 1):
        is_line = row.level == "line"
        cells.append([_paragraph(row.text, _TEXT if is_line else _DETAIL), *row[2:]])
        if is_line and index > 1:
            style.append(("LINEABOVE", (0, index), (-1, index), 0.5, _RULE))
        if not is_line:
            style += [
                ("FONT", (1, index), (-1, index), "Helvetica", 8),
                ("TEXTCOLOR", (1, index), (-1, index), _GREY),
                ("TOPPADDING", (0, index), (-1, index), 0),
                ("NOSPLIT", (0, index - 1), (0, index)),
            ]
            if not any(row[2:]):
                style.append(("SPAN", (0, index), (-1, index)))
    last = len(cells)
    cells.append([f"Total, {invoice.currency}", "", "", "", number(invoice.total)])
    style += [
        ("LINEABOVE", (0, last), (-1, last), 1.2, colors.black),
        ("FONT", (0, last), (-1, last), "Helvetica-Bold", 11),
        ("NOSPLIT", (0, last - 1), (0, last)),
    ]
    for column in range(1, len(COLUMNS)):
        fractions = [_fraction(row[column + 1]) for row in listed]
        widest = max((stringWidth(text, "Helvetica", 9) for text in fractions), default=0)
        # The point of a number stands where the padding begins, which is as wide as the longest fraction.
        style += [
            ("ALIGN", (column, 1), (column, last - 1), "DECIMAL"),
            ("RIGHTPADDING", (column, 1), (column, last - 1), widest),
        ]
    style += [("RIGHTPADDING", (1, 0), (-1, 0), 0), ("ALIGN", (-1, last), (-1, last), "RIGHT")]
    return Table(cells, colWidths=_COLUMNS, repeatRows=1, style=style)


def _fraction(text: str) -> str:
    """Return a number's point and what follows it."""
    return text[text.index(".") :] if "." in text else ""


def _paragraph(text: str, style: ParagraphStyle = _TEXT) -> Paragraph:
    return Paragraph(markup(text, style.fontSize), style)


def _shortened(text: str) -> str:
    return text if len(text) <= _FOOT_CHARACTERS else f"{text[:_FOOT_CHARACTERS]}..."


def _texts(invoice: Invoice) -> Iterator[str]:
    """Yield every text that others have written."""
    yield from (invoice.project, *invoice.bill_to, invoice.seller.name, *invoice.seller.address, invoice.seller.note)
    yield from (row.text for row in rows(invoice))
