"""What is usual in an hour: of which earlier hours it is the median, and how far their days went beyond that."""

from collections.abc import Callable
from typing import Final

import pytest

from pipeline.metering.anomaly.baseline import Baseline, History, day_of_week
from pipeline.metering.anomaly.readings import WINDOWS_PER_HOUR, Past, Series, day_of
from pipeline.metering.anomaly.statistics import Extremes, stabilised
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, parse_time
from tests.anomaly.builders import NOON_MS

#: The midnight before a Monday.
_MIDNIGHT_MS: Final = day_of(NOON_MS)


def _history(
    past_of: Callable[[int, int], Past | None], hours: int, windows_per_hour: int = WINDOWS_PER_HOUR
) -> History:
    """Return the history of so many hours up to midnight, of days (1 is yesterday) and hours of the day as given."""
    found = {}
    for ago in range(1, hours + 1):
        past = past_of((ago - 1) // 24 + 1, (_MIDNIGHT_MS // MS_PER_HOUR - ago) % 24)
        if past is not None:
            found[_MIDNIGHT_MS - ago * MS_PER_HOUR] = past
    return History(Series(found, ()), _MIDNIGHT_MS, windows_per_hour)


def _past(total: int) -> Past:
    return Past(total, total // 12)


def _baseline(history: History, day: int = 0, hour: int = 14, *, holiday: bool = False) -> Baseline:
    """Return what is usual at 14:00, or another hour, on so manyth day from the Monday on."""
    found = history.baseline(_MIDNIGHT_MS + day * MS_PER_DAY + hour * MS_PER_HOUR, holiday=holiday)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("time", "day"), [("2026-09-21T00:00:00Z", 0), ("2026-09-20T23:59:59Z", 6), ("2026-09-24T12:00:00Z", 3)]
)
def test_weeks_begin_on_monday_in_utc(time: str, day: int) -> None:
    """1970-01-01 was a Thursday."""
    assert day_of_week(parse_time(time)) == day


@pytest.mark.parametrize(("hours", "is_known"), [(0, False), (71, False), (72, True)])
def test_before_three_days_nothing_is_usual(hours: int, *, is_known: bool) -> None:
    """A new project has fixed numbers until then."""
    assert (_history(lambda _day, _hour: _past(120), hours).baseline(NOON_MS) is not None) == is_known


def test_until_three_weeks_are_known_working_days_are_alike() -> None:
    """On Mondays 100, on other working days 10, at weekends 5: hours of the day, of both kinds of days apart."""

    def past(day: int, _hour: int) -> Past:
        return _past({0: 1_200, 5: 60, 6: 60}.get((7 - day) % 7, 120))

    few = _history(past, 21 * 24 - 1)
    assert [_baseline(few, day).expected for day in (0, 4, 5, 6)] == [120_000, 120_000, 60_000, 60_000]
    many = _history(past, 21 * 24)
    assert [_baseline(many, day).expected for day in (0, 4, 5, 6)] == [1_200_000, 120_000, 60_000, 60_000]


def test_a_kind_of_day_that_has_not_been_yet_is_like_the_others_at_that_hour() -> None:
    """Of Monday to Wednesday a Saturday; each hour has its own."""
    hours = {_MIDNIGHT_MS + number * MS_PER_HOUR: _past(12 * (number % 24)) for number in range(72)}
    history = History(Series(hours, ()), _MIDNIGHT_MS + 3 * MS_PER_DAY, WINDOWS_PER_HOUR)
    assert [_baseline(history, 5, hour).expected for hour in (0, 7, 23)] == [0, 84_000, 276_000]


def test_five_weeks_are_looked_back_at() -> None:
    """What was before them is no longer usual."""
    history = _history(lambda day, _hour: _past(1_200 if day > 21 else 120), 60 * 24)
    assert history.days == 35
    assert _baseline(history).expected == 120_000
    assert _history(lambda _day, _hour: _past(120), 10 * 24 + 5).days == 10


def test_what_is_usual_is_the_median_of_the_same_hour_of_the_weeks() -> None:
    """Of each hour its own; one week of five that was otherwise changes nothing."""
    history = _history(lambda day, hour: _past(12 * hour * (9 if 8 <= day <= 14 else 1)), 35 * 24)
    assert [_baseline(history, day, hour).expected for day, hour in ((0, 14), (3, 1), (6, 23))] == [
        168_000,
        12_000,
        276_000,
    ]


@pytest.mark.parametrize(("newest", "expected"), [(180, 180_000), (1_200, 240_000), (12, 60_000), (120, 120_000)])
def test_the_last_weeks_level_is_followed_from_half_to_double(newest: int, expected: int) -> None:
    """Growth is no anomaly; ten times as much is."""
    history = _history(lambda day, _hour: _past(newest if day <= 7 else 120), 35 * 24)
    assert _baseline(history).expected == expected


def test_before_three_weeks_are_known_no_level_is_followed() -> None:
    """The last week is among so few that it is the usual already."""
    history = _history(lambda day, _hour: _past(180 if day <= 4 else 120), 12 * 24)
    assert _baseline(history).expected == 120_000


def test_where_nothing_is_usual_there_is_no_level() -> None:
    """Nothing times anything is nothing."""
    assert _baseline(_history(lambda _day, _hour: _past(0), 35 * 24)).expected == 0


def test_hours_without_a_count_have_none() -> None:
    """They are left out of what is read."""
    history = _history(lambda _day, hour: None if hour == 3 else _past(120), 35 * 24)
    assert [_baseline(history, hour=hour).expected for hour in (3, 4)] == [0, 120_000]


def test_on_a_holiday_a_quarter_is_enough() -> None:
    """More than usual is still more than usual."""
    history = _history(lambda _day, _hour: _past(120), 35 * 24)
    quiet, usual = _baseline(history, holiday=True), _baseline(history)
    assert (quiet.expected, quiet.least) == (120_000, 30_000)
    assert (usual.expected, usual.least) == (120_000, 120_000)


def test_days_whose_hours_are_all_alike_go_nowhere_beyond() -> None:
    """Neither a window nor an hour."""
    alike = _baseline(_history(lambda _day, _hour: _past(120), 35 * 24))
    assert (alike.excess, alike.lack) == (Extremes(0, 0), Extremes(0, 0))


def test_how_far_days_go_is_their_largest_window_and_their_least_hour() -> None:
    """A window of 30 against the hour's mean of 10; an hour of 60, or of nothing, against 120."""

    def past(day: int, hour: int) -> Past | None:
        if hour == day * 5 % 24:
            return Past(120, 30)
        if hour == (day * 5 + 1) % 24:
            return Past(60, 10) if day % 2 else None
        return Past(120, 10)

    found = _baseline(_history(past, 35 * 24))
    half, nothing = (stabilised(120_000) - stabilised(left) for left in (60_000, 0))
    assert found.excess == Extremes(stabilised(30_000) - stabilised(10_000), 0)
    assert found.lack.centre == half
    assert found.lack.spread == 0
    every_second = _baseline(_history(lambda day, hour: past(day + 1, hour), 34 * 24))
    assert every_second.lack.centre == (half + nothing) // 2


def test_of_what_has_no_windows_whole_hours_are_compared() -> None:
    """Tokens of an hour that is over."""
    history = _history(lambda day, hour: Past(*[300 if hour == day * 5 % 24 else 120] * 2), 35 * 24, 1)
    assert _baseline(history).excess == Extremes(stabilised(300_000) - stabilised(120_000), 0)
