"""What is usual: the level of the last week, and the parts of hours that vary together."""

from typing import Final

import pytest

from pipeline.metering.anomaly.baseline import History
from pipeline.metering.anomaly.readings import WINDOWS_PER_HOUR, Part, Past, Series
from pipeline.metering.anomaly.shares import Usual, usual_part
from pipeline.metering.anomaly.statistics import weighted_median
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR
from tests.anomaly.builders import NOON_MS

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
