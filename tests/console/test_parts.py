"""The parts of pages that need no store: words, health, the picture of a session, and the chart library's files."""

import hashlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest

from pipeline.console import health, picture, words
from pipeline.console.access import is_loopback
from pipeline.console.alarms import evidence
from pipeline.console.questions import Alert, Progress
from pipeline.explain.sessions import Explanation, Known, explain
from pipeline.metering.timeline import ORPHAN_AFTER_MS
from pipeline.metering.units import NEVER_MS
from pipeline.metrics import Metrics
from tests.metering.builders import METERS, ROOT, clock, connected, disconnected, facts_of, parsed

if TYPE_CHECKING:
    from prometheus_client import Metric

_STATIC: Final = ROOT / "pipeline" / "console" / "static"
_NOW_MS: Final = clock("14:00:00")
_MINUS: Final = "\N{MINUS SIGN}"
_PROGRESS: Final = Progress(_NOW_MS - 5_000, _NOW_MS - 9_000, 0, 0)


def test_the_chart_library_is_as_its_authors_ship_it() -> None:
    """The digests stand beside it, with its licence."""
    directory = _STATIC / "uplot"
    lines = map(str.split, (directory / "SHA256SUMS").read_text().splitlines())
    listed = {name: digest for digest, name in lines}
    shipped = {path.name for path in directory.iterdir()} - {"SHA256SUMS"}
    assert "MIT" in (directory / "LICENSE").read_text()
    assert listed == {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in shipped}


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_500, "1.5 s"),
        (60_000, "1 min"),
        (7_500_000, "2 h 5 min"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_a_length_is_written_by_its_largest_units(duration_ms: int, text: str) -> None:
    """Two of them."""
    assert words.duration(duration_ms) == text


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [
        (110, 100, "+10 %"),
        (99, 100, f"{_MINUS}1 %"),
        (100, 100, "±0 %"),
        (5, 0, "new"),
        (0, 0, ""),
        (3000, 100, "30 times"),
    ],
)
def test_a_change_is_written_in_percents(now: int, before: int, text: str) -> None:
    """And where that says nothing, in words."""
    assert words.change(now, before) == text


def test_a_number_is_exact_and_in_groups() -> None:
    """No exponent, no rounding."""
    assert words.number(Decimal("1234567.05")).replace("\u202f", " ") == "1 234 567.05"
    assert words.number(-12) == f"{_MINUS}12"


def test_a_meter_is_named_without_its_unit() -> None:
    """In the words of the table of meters."""
    names = [words.label(METERS[name]) for name in ("agent_session_minutes", "data_transfer_gb", "number_rental")]
    assert names == ["agent session", "data transfer", "number rental"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_loopback_is_known(host: str) -> None:
    """All of it."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "::", "", "192.168.0.1", "example.org", "127.0.0.1.example.org"])
def test_what_is_no_loopback_is_known_too(host: str) -> None:
    """An address of a network, all of them, or a name that only looks like it."""
    assert not is_loopback(host)


def _metrics() -> Metrics:
    metrics = Metrics()
    metrics.watermark_seconds.set(_NOW_MS / 1000 - 9)
    metrics.audit_last_success_seconds.set(_NOW_MS / 1000 - 60)
    metrics.ready.labels("broker").set(1)
    return metrics


def _signs(metrics: Metrics) -> dict[str, health.Sign]:
    families: list[Metric] = list(metrics.registry.collect())
    return {sign.name: sign for sign in health.signs(families, _PROGRESS, _NOW_MS)}


def test_a_pipeline_that_works_is_healthy() -> None:
    """Drift 0, nothing held, the watermark young."""
    signs = _signs(_metrics())
    assert (signs["Audit drift"].text, signs["Watermark"].text) == ("0", "9 s behind")
    assert health.verdict(list(signs.values())) == "good"


def test_each_fault_is_named() -> None:
    """By the condition that is not met, the law that does not hold, the watermark that stands still."""
    metrics = _metrics()
    metrics.ready.labels("broker").set(0)
    metrics.conservation_diff.labels("rollups").set(3)
    metrics.watermark_seconds.set(_NOW_MS / 1000 - 3600)
    metrics.emission_lag_seconds.set(7200)
    signs = _signs(metrics)
    assert {sign.name: sign.text for sign in signs.values() if sign.is_good is False} == {
        "Ready": "waiting for broker",
        "Audit drift": "rollups 3",
        "Watermark": "1 h behind",
        "Emission": "2 h overdue",
    }
    assert health.verdict(list(signs.values())) == "bad"


def test_without_metrics_only_the_store_speaks() -> None:
    """And what it cannot know is not called good or bad."""
    signs = {sign.name: sign for sign in health.signs((), _PROGRESS, _NOW_MS)}
    assert {"Watermark", "Newest record", "Hours held back", "Dead letters, 24 h"} == signs.keys()
    assert signs["Watermark"].is_good is None
    assert health.verdict(list(signs.values())) == "unknown"


def test_the_picture_has_the_hours_that_are_billed() -> None:
    """From 13:50 to 15:10 there are three hours, cells as wide as the hours seen, and the bar from end to end."""
    events = [parsed(connected("13:50:00")), parsed(disconnected("15:10:00"))]
    facts = facts_of(events)
    room = facts.rooms["acme", "RM_1"]
    known = Known("acme", "RM_1", "PA_1", room.sessions["PA_1"], room, {}, [])
    explanation = explain(known, METERS, clock("16:00:00"), ORPHAN_AFTER_MS)
    drawn = picture.draw(explanation, METERS, clock("16:00:00"))
    assert drawn is not None
    assert drawn.bar is not None
    assert (drawn.bar.x, drawn.bar.width) == ("4.00%", "92.00%")
    [lane] = drawn.lanes
    assert [(cell.text, cell.width) for cell in lane.cells] == [("10", "11.50%"), ("60", "69.00%"), ("10", "11.50%")]
    assert len(drawn.ticks) <= 9
    assert {tick.text for tick in drawn.ticks} >= {"14:00", "15:00"}


def test_nothing_known_is_no_picture() -> None:
    """A session of which no time is known has none: there is no line to draw it on."""
    nothing = Explanation("acme", "RM_1", "PA_1", "agent", NEVER_MS, NEVER_MS, (), (), (), ())
    assert picture.draw(nothing, METERS, clock("16:00:00")) is None


def test_evidence_that_an_alert_lacks_is_not_shown() -> None:
    """A session without an identity has no line for it; a count of zero has one."""
    nothing: dict[str, Any] = dict.fromkeys(Alert._fields, "")
    alert = Alert(**nothing | {"evidence": '{"identity":"","room":"RM_1","sessions_begun":0,"agent":null}'})
    assert evidence(alert) == [("room", "RM_1"), ("sessions begun", "0")]
