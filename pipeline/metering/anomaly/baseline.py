"""What is usual: counts of one thing at an hour of the week, and how far its days usually go beyond that.

Expected is the median of the same hour of earlier weeks, times the level of the last week, so that growth is followed.
How far counts may lie from it is learned from each thing's own days: the largest excess (and the largest lack) of each
day, on a scale that evens out noise; beyond what a further day will hardly reach is anomalous. Seasons by medians,
noise by deviations from them: O. Vallis et al., "A Novel Technique for Long-Term Anomaly Detection in the Cloud",
HotCloud 2014 (S-H-ESD).
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pipeline.metering.anomaly.readings import Past, Series
from pipeline.metering.anomaly.statistics import Extremes, extremes, median, stabilised, weighted_median
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR

#: Weeks and days that are looked back at.
WEEKS: Final = 5
_HOURS_PER_WEEK: Final = 168
_HOURS_PER_DAY: Final = 24
_MOST_HOURS: Final = WEEKS * _HOURS_PER_WEEK
#: Weeks from which on hours of the week are compared; before, hours of the day, of working days and weekends apart.
_LEAST_WEEKS: Final = 3
#: Days before which nothing is usual yet.
LEAST_DAYS: Final = 3
#: 1970-01-01 was a Thursday: days since then, plus this, count from a Monday.
_MONDAY: Final = 3
_SATURDAY: Final = 5
#: On a holiday one part of so many is enough.
_HOLIDAY_PARTS: Final = 4
#: The level of the last week, in thousandths, is followed between these.
_LEVELS: Final = (500, 2_000)
#: Parts of an hour, so many that a twelfth is whole.
_PARTS: Final = 1_200_000


class Baseline(NamedTuple):
    """What is usual in an hour, in thousandths: its total, a window of it, and how large excess and lack of a day are.

    `least` is what is to be expected at least: less than `expected` on a holiday. `excess` is of a window, `lack` of a
    whole hour, both on a scale that evens out noise.
    """

    expected: int
    window: int
    least: int
    excess: Extremes
    lack: Extremes


def day_of_week(time_ms: int) -> int:
    """Return the day of the week in UTC; Monday is 0."""
    return (time_ms // MS_PER_DAY + _MONDAY) % 7


class History:
    """Hours of one thing up to a midnight, ready to be compared; made once a day for each."""

    def __init__(self, series: Series, until_ms: int, windows_per_hour: int) -> None:
        """Take the hours before `until_ms`."""
        hours = series.hours
        first_ms = min((hour_ms for hour_ms in hours if hour_ms < until_ms), default=until_ms)
        first_ms = max(first_ms, until_ms - _MOST_HOURS * MS_PER_HOUR)
        span = range(first_ms, until_ms, MS_PER_HOUR)
        found = [hours.get(hour_ms) for hour_ms in span]
        self._totals = [0 if past is None else past.total for past in found]
        self._medians: dict[tuple[int, int], int] = {}
        self._baselines: dict[tuple[int, bool, int], Baseline] = {}
        self.days = len(span) // _HOURS_PER_DAY
        self._by_week = len(span) >= _LEAST_WEEKS * _HOURS_PER_WEEK
        self._seasons: dict[tuple[int, int], list[int]] = {}
        for hour_ms, total in zip(span, self._totals, strict=True):
            self._seasons.setdefault(self._season(hour_ms), []).append(total)
        usual = [self._usual(hour_ms) for hour_ms in span]
        self._level = self._level_of(usual)
        self._first, self._later = _profile(found, usual, windows_per_hour)
        excesses, lacks = [], []
        for past, total, expected in zip(found, self._totals, usual, strict=True):
            peak, first = (0, 0) if past is None else (past.peak, past.first)
            excesses.append(
                max(
                    stabilised(peak * 1_000) - stabilised(expected * self._later * 1_000 // _PARTS),
                    stabilised(first * 1_000) - stabilised(expected * self._first * 1_000 // _PARTS),
                )
            )
            lacks.append(stabilised(expected * 1_000) - stabilised(total * 1_000))
        self._excess = extremes([*_maxima(excesses)])
        self._lack = extremes([*_maxima(lacks)])

    def baseline(self, hour_ms: int, *, holiday: bool = False, first_percent: int = 0) -> Baseline | None:
        """Return what is usual in an hour, None while too little is known; on a holiday it may be a quarter.

        `first_percent` says how much of the window that is looked at lies in the hour's first one.
        """
        if self.days < LEAST_DAYS:
            return None
        # Every minute asks for the same hours again.
        key = (hour_ms, holiday, first_percent)
        if key not in self._baselines:
            expected = self._usual(hour_ms) * self._level
            least = expected // _HOLIDAY_PARTS if holiday else expected
            share = (self._first * first_percent + self._later * (100 - first_percent)) // 100
            self._baselines[key] = Baseline(expected, expected * share // _PARTS, least, self._excess, self._lack)
        return self._baselines[key]

    def _season(self, hour_ms: int) -> tuple[int, int]:
        day = day_of_week(hour_ms)
        return (day if self._by_week else int(day >= _SATURDAY), hour_ms // MS_PER_HOUR % _HOURS_PER_DAY)

    def _usual(self, hour_ms: int) -> int:
        season = self._season(hour_ms)
        if season not in self._medians:
            values = self._seasons.get(season) or [
                value for (_, hour), found in self._seasons.items() if hour == season[1] for value in found
            ]
            self._medians[season] = median(values)
        return self._medians[season]

    def _level_of(self, usual: Sequence[int]) -> int:
        """Return the last week's level in thousandths: the median of its hours' counts to what is usual in them.

        Weighted by what is usual (F. Y. Edgeworth, 1888): neither quiet hours nor a storm in every second day move it.
        """
        if not self._by_week:
            return 1_000
        recent = slice(-_HOURS_PER_WEEK, None)
        ratios = [
            (total * 1_000 // expected, expected)
            for total, expected in zip(self._totals[recent], usual[recent], strict=True)
            if expected
        ]
        least, most = _LEVELS
        return min(max(weighted_median(ratios), least), most) if ratios else 1_000


def _profile(hours: Sequence[Past | None], usual: Sequence[int], windows: int) -> tuple[int, int]:
    """Return the parts of an hour that its first window has, and each of the others, in parts of 1 200 000.

    From hours of at most twice the usual: a storm may begin at any time. The first has no less than its share.
    """
    if windows == 1:
        return _PARTS, _PARTS
    calm = [past for past, expected in zip(hours, usual, strict=True) if past and past.total <= 2 * expected]
    total = sum(past.total for past in calm)
    first = max(sum(past.first for past in calm) * _PARTS // max(1, total), _PARTS // windows)
    return first, (_PARTS - first) // (windows - 1)


def _maxima(values: Sequence[int]) -> Iterator[int]:
    """Yield the largest value of each whole day, the newest first."""
    for end in range(len(values), _HOURS_PER_DAY - 1, -_HOURS_PER_DAY):
        yield max(values[end - _HOURS_PER_DAY : end])
