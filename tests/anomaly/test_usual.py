"""What is usual: the level of the last week, and the parts of hours that vary together."""

from typing import Final

import pytest

from pipeline.metering.anomaly.baseline import History
from pipeline.metering.anomaly.detect import Detectors
from pipeline.metering.anomaly.readings import WINDOWS, WINDOWS_PER_HOUR, Activity, Part, Past, Readings, Series
from pipeline.metering.anomaly.rules import parse_rules
from pipeline.metering.anomaly.shares import Usual, usual_part
from pipeline.metering.anomaly.statistics import weighted_median
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from tests.anomaly.builders import NOON_MS
from tests.anomaly.measure import SHIPPED

_MIDNIGHT_MS: Final = NOON_MS - NOON_MS % MS_PER_DAY
_DAYS: Final = 35


def _expected(last_week: dict[int, int]) -> int:
    """Return what is expected in an hour after weeks of 120 an hour, some hours of the last week otherwise."""
    totals = dict.fromkeys(range(1, 24 * _DAYS + 1), 120) | last_week
    hours = {_MIDNIGHT_MS - ago * MS_PER_HOUR: Past(total, total // 12) for ago, total in totals.items()}
    baseline = History(Series(hours, ()), _MIDNIGHT_MS, WINDOWS_PER_HOUR).baseline(NOON_MS)
    assert baseline is not None
    return baseline.expected


def test_a_week_of_growth_is_followed() -> None:
    """Half as much again in every hour of the last week is usual from then on."""
    assert _expected(dict.fromkeys(range(1, 169), 180)) == 180_000


def test_storms_on_most_days_of_a_week_are_no_growth() -> None:
    """On five of seven days an hour has fifty times as much, and the days more than three times: yet 120 are usual."""
    assert _expected({24 * day + 10: 6_000 for day in range(5)}) == 120_000


def test_a_weighted_median_has_half_of_the_weight_below() -> None:
    """Edgeworth: a far value of little weight moves nothing; of nothing it is 0."""
    assert weighted_median([(9, 3), (1, 1), (2, 1)]) == 9
    assert weighted_median([(900, 1), (1, 1), (2, 1)]) == 2
    assert weighted_median([]) == 0


@pytest.mark.parametrize(("total", "correlation"), [(100, 0), (1_000, 60_113)])
def test_hours_that_vary_more_than_chance_are_correlated(total: int, correlation: int) -> None:
    """A part of 10 %, by turns of 10 % and 10 %, or of 5 % and 15 %: (2.198 * 27.8 - 1) / 999 are 0.0601."""
    by = 0 if total < 1_000 else total // 20
    past = [Part(total // 10 + (by if hour % 2 else -by), total) for hour in range(336)]
    usual = usual_part(past)
    assert usual is not None
    assert usual.part == 100_000
    assert usual.correlation == pytest.approx(correlation, abs=100)


def test_one_storm_among_quiet_hours_does_not_decide_how_they_vary() -> None:
    """It has most of all that was counted, and all of it as usual; the quiet hours vary."""
    past = [Part(30 if hour % 2 else 10, 100) for hour in range(335)]
    [varied, calm] = [usual_part(hours) for hours in ([*past, Part(40_000, 200_000)], [Part(20, 100)] * 336)]
    assert varied is not None
    assert varied.correlation > 100_000
    assert calm == Usual(200_000, 0)


def _meetings() -> dict[int, Past]:
    """Return weeks in which 60 of an hour's 170 sessions begin in its first window, 10 in each of the others."""
    return {_MIDNIGHT_MS - ago * MS_PER_HOUR: Past(170, 10, 60) for ago in range(1, 24 * _DAYS + 1)}


@pytest.mark.parametrize(("percent", "window"), [(0, 10_000), (40, 30_000), (100, 60_000)])
def test_the_first_window_of_an_hour_has_its_own_part(percent: int, window: int) -> None:
    """Meetings begin at full hours; a window across one has a part of both."""
    baseline = History(Series(_meetings(), ()), _MIDNIGHT_MS, WINDOWS_PER_HOUR).baseline(NOON_MS, first_percent=percent)
    assert baseline is not None
    assert baseline.window == pytest.approx(window, abs=1_000)


def test_a_storm_at_any_time_does_not_make_the_first_window_larger() -> None:
    """Hours of more than twice the usual are left out."""
    hours = _meetings() | {_MIDNIGHT_MS - ago * MS_PER_HOUR: Past(9_170, 10, 9_060) for ago in (30, 60, 90)}
    baseline = History(Series(hours, ()), _MIDNIGHT_MS, WINDOWS_PER_HOUR).baseline(NOON_MS)
    assert baseline is not None
    assert baseline.window == pytest.approx(10_000, abs=100)


@pytest.mark.parametrize(
    ("minutes_past", "newest", "is_storm"), [(5, 90, False), (2, 60, False), (30, 90, True), (5, 400, True)]
)
def test_a_full_hour_is_no_storm_and_hides_none_later(minutes_past: int, newest: int, *, is_storm: bool) -> None:
    """90 in five minutes are little more than usual at the full hour, and nine times the usual half an hour later."""
    windows = [newest, *[10] * (WINDOWS - 1)]
    activity = Activity(Series(_meetings(), windows), Series({}, [0] * WINDOWS))
    readings = Readings(NOON_MS + minutes_past * MS_PER_MINUTE, activity={("acme", "webrtc_minutes"): activity})
    found = Detectors(parse_rules(SHIPPED)).find(readings)
    assert ("connection_storm" in {finding.detector for finding in found if finding.is_new}) == is_storm
