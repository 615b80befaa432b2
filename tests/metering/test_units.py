"""Time and rounding in integers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.units import (
    EARLIEST_MS,
    MS_PER_DAY,
    MS_PER_HOUR,
    MS_PER_MINUTE,
    MS_PER_SECOND,
    NEVER_MS,
    NOT_SEEN_MS,
    _minute_ms,
    div_ceil,
    format_time,
    hour_of,
    parse_time,
)

_NOON_MS = 1_789_992_000_000  # 2026-09-21T12:00:00Z


@pytest.mark.parametrize(
    ("dividend", "divisor", "quotient"),
    [
        (0, 60_000, 0),
        (1, 60_000, 1),
        (10_000, 60_000, 1),
        (59_999, 60_000, 1),
        (60_000, 60_000, 1),
        (60_001, 60_000, 2),
        (120_000, 60_000, 2),
        (-1, 60_000, 0),
        (-60_000, 60_000, -1),
        (2**63 - 1, 1, 2**63 - 1),
        (2**63 - 1, 2, 2**62),
    ],
)
def test_div_ceil_rounds_up(dividend: int, divisor: int, quotient: int) -> None:
    """R1: the least n with n * divisor >= dividend, exact for every integer."""
    assert div_ceil(dividend, divisor) == quotient


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**12))
def test_div_ceil_is_the_least_multiple_that_reaches(dividend: int, divisor: int) -> None:
    """R1: one increment less would not cover the quantity."""
    quotient = div_ceil(dividend, divisor)
    assert (quotient - 1) * divisor < dividend <= quotient * divisor


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2026-09-21T12:00:00Z", _NOON_MS),
        ("2026-09-21T12:00:00.000Z", _NOON_MS),
        ("2026-09-21t12:00:00z", _NOON_MS),
        ("2026-09-21 12:00:00Z", _NOON_MS),
        ("2026-09-21T12:00:00+00:00", _NOON_MS),
        ("2026-09-21T12:00:00-00:00", _NOON_MS),
        ("2026-09-21T14:00:00+02:00", _NOON_MS),
        ("2026-09-21T17:30:00+05:30", _NOON_MS),
        ("2026-09-20T20:00:00-16:00", _NOON_MS),
        ("2026-09-21T12:00:00.1Z", _NOON_MS + 100),
        ("2026-09-21T12:00:00.087Z", _NOON_MS + 87),
        ("2026-09-21T12:00:00.0879999Z", _NOON_MS + 87),
        ("2026-09-21T12:00:00.123456789Z", _NOON_MS + 123),
        ("2000-01-01T00:00:00Z", EARLIEST_MS),
        ("2199-12-31T23:59:59.999Z", NEVER_MS - 1),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
    ],
)
def test_an_rfc_3339_time_is_read_to_the_millisecond(text: str, time_ms: int) -> None:
    """Every spelling of RFC 3339 is read: T or t or a space, Z or z or an offset; fractions are rounded down."""
    assert parse_time(text) == time_ms


def test_the_usual_spelling_of_a_time_shares_its_minute() -> None:
    """Nearly all events are written so; reading each time anew would take three times as long."""
    _minute_ms.cache_clear()
    assert parse_time("2026-09-21T12:00:00.087Z") == _NOON_MS + 87
    assert parse_time("2026-09-21T12:00:59.999Z") == _NOON_MS + 59_999
    assert _minute_ms.cache_info()[:2] == (1, 1)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2016-12-31T23:59:60.5Z", "2017-01-01T00:00:00.5Z"),
        ("2017-01-01T05:29:60+05:30", "2017-01-01T00:00:00Z"),
    ],
)
def test_a_leap_second_is_the_first_of_the_next_minute(text: str, same_as: str) -> None:
    """RFC 3339, 5.6: second 60 is legal; it may not refuse an event."""
    assert parse_time(text) == parse_time(same_as)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1789992000",
        "2026-09-21",
        "2026-09-21T12:00:00",
        "2026-09-21T12:00:00.000",
        "2026-09-21T12:00Z",
        "2026-09-21T12:00+02:00",
        "2026-09-21T12:00:00+0200",
        "2026-09-21T12:00:00+02",
        "2026-09-21T12:00:00+02:00:30",
        "2026-09-21T12:00:00,5Z",
        "2026-09-21T12:00:00,087Z",
        "2026-09-21T12:00:00.0870",
        "2026-09-21T12:00:61.087Z",
        "2026-09-21T12:00: 1.087Z",
        "2026-09-21T12:00:01. 87Z",
        "2026-09-21T12:00:0\N{FULLWIDTH DIGIT ONE}.087Z",
        "2026-09-21T12:00:0\N{SUPERSCRIPT ONE}.087Z",
        "2026-09-21T12:00:00.Z",
        "2026-W39-1T12:00:00Z",
        "20260921T120000.0000Z",
        "2026-09-21_12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-02-29T12:00:00Z",
        "2100-02-29T12:00:00Z",
        "2026-09-21T24:00:00Z",
        "2026-09-21T12:60:00Z",
        "2026-09-21T12:00:61Z",
        "2026-09-21T12:00:00+24:00",
        "2026-09-21T12:00:00Z ",
        "2026-09-21T12:00:00Zulu",
        "-026-09-21T12:00:00Z",
        "\N{FULLWIDTH DIGIT TWO}026-09-21T12:00:00Z",
    ],
)
def test_what_is_not_rfc_3339_is_refused(text: str) -> None:
    """R21: a time that has to be guessed is refused; ISO 8601's other spellings are none."""
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-01T00:00:00Z",
        "1999-12-31T23:59:59.999Z",
        "2000-01-01T00:00:00+00:01",
        "2200-01-01T00:00:00Z",
        "2199-12-31T23:59:60Z",
        "2199-12-31T23:59:59-00:01",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_a_time_no_server_has_reported_is_refused(text: str) -> None:
    """R21: impossible times raise ValueError and nothing else, to the ends of the calendar."""
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


@given(st.integers(EARLIEST_MS, NEVER_MS - 1))
def test_a_time_written_is_read_back(time_ms: int) -> None:
    """format_time writes what parse_time reads, to the millisecond."""
    assert parse_time(format_time(time_ms)) == time_ms


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[Z+:.0-9]{0,9}"))
def test_any_other_text_is_read_or_refused_and_never_breaks(text: str) -> None:
    """R21: nothing but a time in range or a ValueError comes out, whatever goes in."""
    try:
        time_ms = parse_time(text)
    except ValueError:
        return
    assert EARLIEST_MS <= time_ms < NEVER_MS


def test_a_time_is_written_in_utc_with_milliseconds_and_a_z() -> None:
    """One spelling for all times that we emit (R20)."""
    assert format_time(_NOON_MS + 7) == "2026-09-21T12:00:00.007Z"


@pytest.mark.parametrize(
    ("time_ms", "hour_ms"),
    [(_NOON_MS, _NOON_MS), (_NOON_MS + 3_599_999, _NOON_MS), (_NOON_MS - 1, _NOON_MS - 3_600_000)],
)
def test_a_time_belongs_to_the_utc_hour_it_lies_in(time_ms: int, hour_ms: int) -> None:
    """Hours are UTC hours: the first millisecond belongs to its hour, the last too."""
    assert hour_of(time_ms) == hour_ms


def test_a_day_has_24_hours_of_60_minutes_of_60_seconds() -> None:
    """UTC as it is counted since 1970: no day is longer or shorter."""
    assert (MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE) == (24 * MS_PER_HOUR, 60 * MS_PER_MINUTE, 60 * MS_PER_SECOND)


def test_the_bottoms_of_times_are_those_of_the_columns() -> None:
    """The defaults in schemas/clickhouse/0001_facts.sql: 1970-01-01 for a maximum, 2200-01-01 for a minimum."""
    assert (format_time(NOT_SEEN_MS), format_time(NEVER_MS)) == ("1970-01-01T00:00:00.000Z", "2200-01-01T00:00:00.000Z")
