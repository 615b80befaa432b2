"""Months are UTC's, whatever the year."""

import pytest

from pipeline.metering.months import Month
from pipeline.metering.units import format_time, parse_time


@pytest.mark.parametrize(
    ("text", "hours", "end"),
    [
        ("2026-10", 744, "2026-11-01T00:00:00.000Z"),
        ("2026-12", 744, "2027-01-01T00:00:00.000Z"),
        ("2027-02", 672, "2027-03-01T00:00:00.000Z"),
        ("2028-02", 696, "2028-03-01T00:00:00.000Z"),
        ("2100-02", 672, "2100-03-01T00:00:00.000Z"),
    ],
)
def test_a_month_has_its_hours_and_ends_where_the_next_begins(text: str, hours: int, end: str) -> None:
    """Leap years have theirs; no clock is set forward or back."""
    month = Month.parse(text)
    assert (month.hours, format_time(month.end_ms), str(month)) == (hours, end, text)


@pytest.mark.parametrize(
    ("time", "month"),
    [
        ("2026-09-30T23:59:59.999Z", "2026-09"),
        ("2026-10-01T00:00:00.000Z", "2026-10"),
        ("2026-12-31T23:59:59.999Z", "2026-12"),
        ("2027-01-01T01:30:00+02:00", "2026-12"),
        ("2026-12-31T22:30:00-02:00", "2027-01"),
    ],
)
def test_a_moment_lies_in_the_month_that_utc_has_then(time: str, month: str) -> None:
    """A customer's New Year in another time zone changes nothing."""
    assert str(Month.at(parse_time(time))) == month


@pytest.mark.parametrize(("months", "expected"), [(1, "2027-01"), (-12, "2025-12"), (14, "2028-02"), (0, "2026-12")])
def test_months_are_counted_over_years(months: int, expected: str) -> None:
    """December is followed by January."""
    assert str(Month(2026, 12).shifted(months)) == expected


@pytest.mark.parametrize("text", ["2026-13", "2026-00", "2026-1", "26-10", "2026-10-01", "1999-12", "२०२६-10", ""])
def test_what_is_no_month_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="is not a month such as 2026-10"):
        Month.parse(text)
