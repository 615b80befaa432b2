"""Time and rounding in integers: milliseconds since the epoch in UTC, and ceilings."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

MS_PER_SECOND: Final = 1_000
MS_PER_MINUTE: Final = 60_000
MS_PER_HOUR: Final = 3_600_000
MS_PER_DAY: Final = 86_400_000

#: The bottom of every maximum of times: "not seen".
NOT_SEEN_MS: Final = 0
#: The bottom of every minimum of times, 2200-01-01: "not known to have happened".
#: A sentinel and not None, so that min needs no special case, here or in SQL.
NEVER_MS: Final = 7_258_118_400_000
#: Times outside [2000-01-01, 2200-01-01) are impossible: no server has reported any.
EARLIEST_MS: Final = 946_684_800_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: RFC 3339, 5.6: fromisoformat accepts more (dates alone, weeks, no seconds, no offset).
_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)

#: How seconds and milliseconds are written at the end of 14:00:01.087Z, as ms: looking up beats reading digits.
_SECONDS_MS: Final = {f"{second:02d}.": second * MS_PER_SECOND for second in range(60)}
_MILLISECONDS: Final = {f"{millisecond:03d}Z": millisecond for millisecond in range(MS_PER_SECOND)}


def div_ceil(dividend: int, divisor: int) -> int:
    """Divide integers and round up: the least n with n * divisor >= dividend (R1)."""
    return -(-dividend // divisor)


def hour_of(time_ms: int) -> int:
    """Return the start of the UTC hour that `time_ms` lies in, in ms."""
    return time_ms - time_ms % MS_PER_HOUR


def month_of(time_ms: int) -> int:
    """Return the start of the UTC calendar month that `time_ms` lies in, in ms."""
    first = (_EPOCH + timedelta(milliseconds=time_ms)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first - _EPOCH).days * MS_PER_DAY


def next_month(month_ms: int) -> int:
    """Return the start of the month after the one that starts at `month_ms`: no month is longer than 31 days."""
    return month_of(month_ms + 31 * MS_PER_DAY)


def parse_time(text: str) -> int:
    """Read an RFC 3339 time as milliseconds since the epoch; below a millisecond, round down.

    A leap second (RFC 3339, 5.6: second 60) counts as the first instant of the next minute.
    Raises ValueError for anything else, and for times outside 2000 to 2199.
    """
    # Nearly all times look like 2026-09-21T14:00:01.087Z, and many share their minute.
    try:
        # The minute last: its error would name the minute alone, of a time that may have another shape altogether.
        return _SECONDS_MS[text[17:20]] + _MILLISECONDS[text[20:]] + _minute_ms(text[:17])
    except KeyError:
        return _parse_any_time(text)


@lru_cache(maxsize=16_384)
def _minute_ms(minute: str) -> int:
    """Return the first instant of a minute written as 2026-09-21T14:00: (with both colons), in ms."""
    return _parse_any_time(f"{minute}00Z")


def _parse_any_time(text: str) -> int:
    if _RFC_3339.fullmatch(text) is None:
        msg = f"not an RFC 3339 time: {text[:40]!r}"
        raise ValueError(msg)
    is_leap = text[17:19] == "60"
    moment = datetime.fromisoformat((f"{text[:17]}59{text[19:]}" if is_leap else text).upper())
    elapsed = moment - _EPOCH
    time_ms = elapsed.days * MS_PER_DAY + elapsed.seconds * MS_PER_SECOND + elapsed.microseconds // 1_000
    time_ms += MS_PER_SECOND if is_leap else 0
    if not EARLIEST_MS <= time_ms < NEVER_MS:
        msg = f"a time outside the years 2000 to 2199: {text[:40]!r}"
        raise ValueError(msg)
    return time_ms


def format_time(time_ms: int) -> str:
    """Write milliseconds since the epoch as RFC 3339 in UTC, with milliseconds and a Z."""
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % MS_PER_SECOND:03d}Z"
