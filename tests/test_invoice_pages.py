"""An invoice as JSON, CSV, HTML and PDF: the same content, harmless whatever it is made of, the same bytes again."""

import csv
import io
import json
import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from jsonschema import Draft202012Validator

from pipeline.invoices.document import commands, decode_invoice, encode_invoice
from pipeline.invoices.html import to_html
from pipeline.invoices.letters import lacks, markup
from pipeline.invoices.pdf import to_pdf
from pipeline.invoices.text import file_name, rows, to_csv
from pipeline.metering.invoice import Invoice, invoice
from pipeline.metering.months import Month
from pipeline.metering.plans import Seller
from pipeline.metering.units import MS_PER_HOUR
from tests.metering.builders import METERS, ROOT
from tests.metering.plan_texts import account_of

_SEPTEMBER, _OCTOBER = Month(2026, 9), Month(2026, 10)
_HOSTILE = '<script>alert("1")</script>&\x1b[31m$(reboot)`;\'../../x'
_FIRST = """
[[plans.p.prices]]
from = 2026-09-01
base_fee = 50
meters.agent_session_minutes = { included = 10, tiers = [{ up_to = 20, price = 0.5 }, { price = 0.25 }] }
meters.data_transfer_gb = { price = 0.1 }
"""
_CHANGED = """
[[plans.p.prices]]
from = 2026-10-16
base_fee = 80
meters.agent_session_minutes = { price = 1 }
"""


class _Page(HTMLParser):
    """Collects a page's elements and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def _october(project: str = "acme") -> Invoice:
    """Return October's invoice: tiers, a change of prices, a fee in two parts, and an adjustment of September."""
    planned, account = (
        replace(account_of(prices), project=project, bill_to=("Acme & Sons",)) for prices in (_FIRST, _FIRST + _CHANGED)
    )
    seller = Seller("Rooms <Ltd>", ("1 High Street",), "14 days", "RM-")
    late = _OCTOBER.end_ms - MS_PER_HOUR
    usage = {
        "agent_session_minutes": {_SEPTEMBER.start_ms: 12, _OCTOBER.start_ms: 32, late: 5},
        "data_transfer_gb": {_OCTOBER.start_ms: 1_234_567},
    }
    before = {"agent_session_minutes": {_SEPTEMBER.start_ms: 15}}
    first = invoice(
        planned, _SEPTEMBER, METERS, before, [], adjusted_from=_SEPTEMBER, as_of_ms=_OCTOBER.start_ms, seller=seller
    )
    assert first is not None
    second = invoice(
        account,
        _OCTOBER,
        METERS,
        usage,
        [replace(first, number=6)],
        adjusted_from=_SEPTEMBER,
        as_of_ms=_OCTOBER.end_ms,
        seller=seller,
    )
    assert second is not None
    return replace(second, number=7)


@pytest.mark.parametrize("project", ["acme", _HOSTILE, "東京"])
def test_an_invoice_comes_back_from_its_document(project: str) -> None:
    """The same value, and from that the same bytes: what is frozen can be shown for ever."""
    one = _october(project)
    document = encode_invoice(one)
    assert decode_invoice(document) == one
    assert encode_invoice(decode_invoice(document)) == document


def test_a_document_is_as_its_schema_says() -> None:
    """Every field is described, and there is no other."""
    schema = json.loads((ROOT / "schemas" / "invoice.v1.json").read_text())
    validator = Draft202012Validator(schema)
    for one in (_october(), replace(_october(_HOSTILE), number=None)):
        validator.validate(json.loads(encode_invoice(one)))


def test_people_read_parts_and_adjustments_under_their_lines() -> None:
    """Prices on the line where there is one, below it where there are several."""
    assert [tuple(filter(None, row)) for row in rows(_october())] == [
        ("line", "Base fee p, November 2026 in advance", "80", "80.00"),
        ("line", "Adjustment: Base fee p", "15.48"),
        ("detail", "p, 360 of 744 hours: 2026-10-01 00:00 to 2026-10-16 00:00", "50"),
        ("detail", "p, 384 of 744 hours: 2026-10-16 00:00 to 2026-11-01 00:00", "80"),
        ("detail", "Now 65.48 for 744 hours; invoiced before: 50.00 for 744"),
        ("line", "Minutes that agents were connected", "37", "10", "13.00"),
        ("detail", "p: 2026-10-01 00:00 to 2026-10-01 01:00", "10", "0.5"),
        ("detail", "p: 2026-10-01 00:00 to 2026-10-01 01:00", "12", "0.25"),
        ("detail", "p: 2026-10-31 23:00 to 2026-11-01 00:00", "5", "1"),
        ("line", "Data to and from sessions (GB)", "12,345.67", "0.1", "1,234.57"),
        ("line", "Adjustment: Minutes that agents were connected, September 2026", "12", "10", "0.5", "-1.50"),
        ("detail", "Now 1.00 for 12 minutes; invoiced before: 2.50 for 15"),
        ("detail", "Hours that changed: 2026-09-01 00:00 (-3)"),
    ]


def test_a_line_can_be_followed() -> None:
    """Its hours; and the hours that matter, down to the events, as of the moment of the invoice."""
    which, begin = "--project 'a b' --meter agent_session_minutes", "2026-09-01T00:00:00.000Z"
    as_of = "--as-of 2026-11-01T00:00:00.000Z"
    adjustment = _october().lines[-1]
    assert list(commands(_october("a b"), adjustment)) == [
        f"roommeter usage {which} --from {begin} --to 2026-10-01T00:00:00.000Z {as_of}",
        f"roommeter explain {which} --hour {begin} {as_of}",
    ]


def test_a_page_loads_and_runs_nothing() -> None:
    """It is one file: no script, link, picture or address."""
    page = _Page(to_html(_october(_HOSTILE)))
    assert page.elements & {"script", "link", "img", "iframe", "a", "form"} == set()
    assert page.attributes <= {"lang", "charset", "name", "content", "scope", "class", "colspan", "aria-hidden"}


def test_a_page_shows_a_hostile_name_as_text() -> None:
    """What a terminal or a browser would obey is neither obeyed nor lost."""
    page = _Page(to_html(_october(_HOSTILE)))
    assert '<script>alert("1")</script>&\\x1b[31m$(reboot)`' in page.text
    assert "\x1b" not in page.text


def test_a_page_has_every_amount() -> None:
    """And the total below them."""
    one = _october()
    text = _Page(to_html(one)).text
    assert [f"{line.amount:,f}" in text for line in one.lines] == [True] * 5
    assert f"Total, USD{one.total:,f}" in text


def test_decimal_points_of_a_column_stand_below_each_other() -> None:
    """Missing digits are there, unseen."""
    cells = re.findall(r'<td>([\d.]+)<span class="pad" aria-hidden="true">([.\d]+)</span></td>', to_html(_october()))
    assert {("0.5", "0"), ("80", ".00"), ("1", ".00")} <= set(cells)


def test_the_same_invoice_is_the_same_pdf() -> None:
    """Byte for byte, whenever it is made; another one is not."""
    assert to_pdf(_october()) == to_pdf(_october())
    assert to_pdf(_october()) != to_pdf(_october("bolt"))


@pytest.mark.parametrize("project", [_HOSTILE, "x" * 500, "東京 Łódź", "<b>", "&amp;", "شركة 12", "\ud83d\ude00\u200f"])
def test_a_pdf_can_be_made_of_any_name(project: str) -> None:
    """Markup is text, long words are broken, letters that the fonts lack are replaced."""
    project = project.encode("utf-16", "surrogatepass").decode("utf-16")
    assert to_pdf(_october(project)).startswith(b"%PDF-")


@pytest.mark.parametrize(
    ("project", "brought"), [("Müller & Søn", False), ("Łódź", True), ("Αθήνα", True), ("Москва", True)]
)
def test_a_pdf_brings_letters_along_that_not_every_reader_has(project: str, brought: bool) -> None:  # noqa: FBT001
    """And no more than it needs."""
    document = to_pdf(_october(project))
    assert (b"DejaVuSans" in document) == brought
    assert len(document) < 60_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Müller <Söhne>", "Müller &lt;Söhne&gt;"),
        ("Łódź", "Łódź"),
        ("Acme 東京!", "Acme [U+6771 U+4EAC]!"),
        ("שלום 5", "5 םולש"),
        ("لا", "\ufefb"),
    ],
)
def test_a_letter_is_shown_by_a_font_or_by_its_number(text: str, shown: str) -> None:
    """Never as a box, never lost; from right to left where it is read so, and joined where it is written so."""
    assert re.sub("<.*?>", "", markup(text, 9)) == shown


def test_a_page_says_so_where_numbers_stand_for_letters() -> None:
    """And only there."""
    assert [lacks(text) for text in ("東京", "Łódź", "Müller")] == [True, False, False]


def test_options_of_commands_are_not_broken_at_their_hyphens() -> None:
    """What is copied from a page can be typed."""
    assert "<span>--project</span> <span>acme</span>" in to_html(_october())


@pytest.mark.parametrize("times", [1, 30])
def test_a_pdf_has_as_many_pages_as_its_lines_need(times: int) -> None:
    """Lines go on over the page."""
    one = _october()
    pages = len(re.findall(rb"/Type /Page\b", to_pdf(replace(one, lines=one.lines * times))))
    assert (pages > 5) == (times > 1)


def test_csv_has_a_row_for_each_line_that_adds_up() -> None:
    """To the invoice's total."""
    one = _october()
    listed = list(csv.DictReader(io.StringIO(to_csv([one]))))
    assert [row["kind"] for row in listed] == ["base_fee", "adjustment", "usage", "usage", "adjustment"]
    assert sum(Decimal(row["amount"]) for row in listed) == one.total


@pytest.mark.parametrize("project", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_spreadsheet_runs_nothing(project: str) -> None:
    """A name that would be a formula is text."""
    [row, *_] = csv.DictReader(io.StringIO(to_csv([_october(project)])))
    assert row["project"] == f"'{project}"


@pytest.mark.parametrize(
    ("project", "name"), [("acme", "000007-2026-10-acme"), ("../../etc/passwd", "000007-2026-10-______etc_passwd")]
)
def test_a_file_is_named_by_number_month_and_project(project: str, name: str) -> None:
    """It stays in its directory."""
    assert file_name(_october(project)) == name
