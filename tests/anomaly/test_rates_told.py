"""Rises, falls and silences on baselines made by hand: from where on they are told, kept open, and how."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.anomaly.baseline import Baseline
from pipeline.metering.anomaly.rates import Subject, fall, reported_change, rise, silence
from pipeline.metering.anomaly.readings import WINDOWS
from pipeline.metering.anomaly.rules import RateRule, SilenceRule
from pipeline.metering.anomaly.statistics import Extremes, stabilised
from tests.anomaly.builders import NOON_MS

_SUBJECT: Final = Subject("acme", "webrtc_minutes", "", "sessions began", "session", "roommeter sessions")
_RISES: Final = RateRule(
    enabled=True, severity="warning", least=60, ratio_percent=300, deviations_percent=500, noise_percent=10,
    cold_least=500,
)  # fmt: skip
_FALLS: Final = RateRule(
    enabled=True, severity="info", least=5, ratio_percent=40, deviations_percent=500, noise_percent=10, cold_least=1
)
_SILENCES: Final = SilenceRule(enabled=True, severity="critical", expected=30, deviations_percent=500, noise_percent=10)
_WINDOW_MS: Final = 300_000
#: Of days that are all alike.
_ALIKE: Final = Extremes(0, 0)


def _usual(window: int, *, excess: Extremes = _ALIKE, lack: Extremes = _ALIKE) -> Baseline:
    """Return what is usual where a window has so many."""
    return Baseline(12_000 * window, 1_000 * window, 12_000 * window, excess, lack)


def _rise(
    windows: Sequence[int], usual: Baseline | None, rule: RateRule = _RISES, rest: int = 0, percent: int = 100
) -> Finding | None:
    """Return what is found where the newest windows are as given, and all before had `rest`."""
    counts = [*windows, *[rest] * (WINDOWS - len(windows))]
    return rise("usage_rise", _SUBJECT, counts, [usual] * WINDOWS, NOON_MS, rule, percent)


def _is_new(found: Finding | None) -> bool | None:
    return None if found is None else found.is_new


@pytest.mark.parametrize(
    ("usual", "count", "is_new"),
    [
        (None, 500, True),
        (None, 499, False),
        (None, 250, False),
        (None, 249, None),
        (_usual(0), 60, True),
        (_usual(0), 59, False),
        (_usual(0), 30, False),
        (_usual(0), 29, None),
        (_usual(10), 70, True),
        (_usual(10), 69, False),
        (_usual(10), 40, False),
        (_usual(10), 39, None),
        (_usual(100), 300, True),
        (_usual(100), 299, False),
        (_usual(100), 200, False),
        (_usual(100), 199, None),
    ],
)
def test_a_rise_begins_at_each_of_its_bounds_and_is_kept_open_from_half_of_it_on(
    usual: Baseline | None, count: int, *, is_new: bool | None
) -> None:
    """`cold_least`, `least` and `ratio_percent`: two thresholds, so that what hovers is one alert."""
    assert _is_new(_rise([count], usual)) is is_new


@pytest.mark.parametrize(("more", "is_new"), [(0, True), (1, False)])
def test_a_rise_lies_as_far_out_as_the_days_go_and_five_deviations(more: int, *, is_new: bool) -> None:
    """Median and spread of the days' largest excess; `noise_percent` of the deviation of chance at least."""
    beyond = stabilised(400_000) - stabilised(100_000)
    assert _is_new(_rise([400], _usual(100, excess=Extremes(beyond - 500 + more, 100)))) is is_new
    assert _is_new(_rise([400], _usual(100, excess=Extremes(2 * beyond + more, 0)))) is (None if more else False)
    quiet = RateRule(
        enabled=True, severity="warning", least=1, ratio_percent=101, deviations_percent=1, cold_least=1,
        noise_percent=(stabilised(400_000) - stabilised(100_000)) // 10 + more,
    )  # fmt: skip
    assert _is_new(_rise([400], _usual(100), quiet)) is is_new


def test_the_bounds_of_a_rise_are_exact_however_large() -> None:
    """Not one in a hundred thousand less is enough."""
    large = RateRule(
        enabled=True, severity="warning", least=60_000, ratio_percent=300, deviations_percent=500, noise_percent=10,
        cold_least=500_000,
    )  # fmt: skip
    for usual, enough in ((None, 500_000), (_usual(0), 60_000), (_usual(100_000), 300_000)):
        assert [_is_new(_rise([enough - less], usual, large)) for less in (0, 1)] == [True, False]
        assert _is_new(_rise([enough * 2 // 3 if usual and usual.expected else enough // 2], usual, large)) is False


@pytest.mark.parametrize(
    ("windows", "is_new", "lasted", "excess"),
    [
        ([400, 10, 10, 400], True, 1, 300),
        ([400, 250, 200, 199], True, 3, 300 + 150 + 100),
        ([10, 250, 250, 10], False, 3, 150 + 150),
        ([10, 10, 200, 10], False, 1, 0),
        ([200, 10, 10, 10], False, 1, 100),
    ],
)
def test_a_rise_lasts_as_long_as_its_windows_are_high_and_a_quarter_of_an_hour_more(
    windows: list[int], excess: int, lasted: int, *, is_new: bool
) -> None:
    """Its onset is where they began to be, its excess that of all of them."""
    found = _rise(windows, _usual(100))
    assert found is not None
    assert (found.is_new, found.evidence) == (is_new, (("windows", lasted),))
    assert (found.since_ms, found.increments) == (NOON_MS - lasted * _WINDOW_MS, excess)


def test_a_rise_is_over_after_a_quarter_of_an_hour() -> None:
    """Three calm windows."""
    assert _rise([10, 10, 10, 400], _usual(100)) is None


def test_a_rise_of_all_windows_begins_with_the_first() -> None:
    """No further back is looked."""
    found = _rise([], _usual(100), rest=40_000, percent=500)
    assert found is not None
    assert (found.since_ms, found.increments) == (NOON_MS - WINDOWS * _WINDOW_MS, 39_900 * WINDOWS * 5)


@pytest.mark.parametrize(
    ("usual", "told"),
    [
        (Baseline(120_000, 10_000, 0, _ALIKE, _ALIKE), "400 times the 10 usual at this hour"),
        (Baseline(119_988, 9_999, 0, _ALIKE, _ALIKE), "400 times the 9.9 usual at this hour"),
        (Baseline(6_000, 500, 0, _ALIKE, _ALIKE), "4000 times the 0.5 usual at this hour"),
        (None, "where nothing is usual yet"),
    ],
)
def test_a_rise_is_told_with_what_is_usual(usual: Baseline | None, told: str) -> None:
    """Of a window; small quantities with one decimal."""
    found = _rise([4_000], usual)
    assert found == Finding(
        "usage_rise", "acme", "webrtc_minutes", "", NOON_MS - _WINDOW_MS, "warning", 4_000_000,
        usual.expected // 12 if usual else 0, "session", found.increments if found else 0,
        f"acme: 4000 sessions began in 5 minutes, {told}", "roommeter sessions", (("windows", 1),),
    )  # fmt: skip


def test_each_window_is_compared_with_what_is_usual_in_it() -> None:
    """What is told is that of the newest."""
    usual = [_usual(10), _usual(100), _usual(1_000), *[_usual(0)] * (WINDOWS - 3)]
    found = rise("usage_rise", _SUBJECT, [700, 700, 3_000, *[0] * (WINDOWS - 3)], usual, NOON_MS, _RISES)
    assert found is not None
    assert (found.expected, found.increments) == (10_000, 690 + 600 + 2_000)


def test_who_has_a_name_of_its_own_is_called_by_it() -> None:
    """A server belongs to no project."""
    assert (_SUBJECT.name, _SUBJECT._replace(project="", subject="sfu-1").name) == ("acme", "sfu-1")


def _fall(count: int, usual: Baseline | None, known: int = WINDOWS) -> Finding | None:
    """Return what is found where all windows together have so many, and so many of them have a baseline."""
    counts = [count - WINDOWS + 1, *[1] * (WINDOWS - 1)]
    baselines = [*[usual] * known, *[None] * (WINDOWS - known)]
    return fall(_SUBJECT, counts, baselines, NOON_MS, _FALLS, 500)


@pytest.mark.parametrize(
    ("usual", "count", "is_new"),
    [
        (_usual(10), 72, True),
        (_usual(10), 73, False),
        (_usual(10), 126, False),
        (_usual(10), 127, None),
        (_usual(5), 36, True),
        (_usual(4), 18, None),
        (None, 18, None),
    ],
)
def test_a_fall_begins_at_its_ratio_and_is_kept_open_from_half_of_the_way_on(
    usual: Baseline | None, count: int, *, is_new: bool | None
) -> None:
    """Up to 40 % of an hour and a half in which 90 are usual at least."""
    assert _is_new(_fall(count, usual)) is is_new


@pytest.mark.parametrize(("more", "is_new"), [(0, True), (1, False)])
def test_a_fall_lies_as_far_out_as_the_days_go_and_five_deviations(more: int, *, is_new: bool) -> None:
    """By the hour, and the widest of its hours."""
    below = stabilised(180_000) - stabilised(36_000)
    assert _is_new(_fall(36, _usual(10, lack=Extremes(below - 500 + more, 100)))) is is_new
    assert _is_new(_fall(36, _usual(10, lack=Extremes(2 * below + more, 0)))) is (None if more else False)


def test_a_fall_needs_a_baseline_of_all_windows() -> None:
    """And is told with what is missing."""
    assert _fall(36, _usual(10), WINDOWS - 1) is None
    assert _fall(36, _usual(10)) == Finding(
        "usage_fall", "acme", "webrtc_minutes", "", NOON_MS - WINDOWS * _WINDOW_MS, "info", 2_000, 10_000, "session",
        -144 * 5,
        "acme: 20 % of the sessions began that are usual at this hour", "roommeter sessions",
    )  # fmt: skip


def test_the_bounds_of_a_fall_are_exact_however_large() -> None:
    """Of windows of eighteen millions together; and a rule may ask for a hundredth."""
    usual = [_usual(1_000_000)] * WINDOWS
    for ratio_percent, enough in ((40, 7_200_000), (1, 180_000)):
        rule = replace(_FALLS, ratio_percent=ratio_percent)
        found = [fall(_SUBJECT, [count, *[0] * (WINDOWS - 1)], usual, NOON_MS, rule) for count in (enough, enough + 1)]
        assert [_is_new(one) for one in found] == [True, False]
        assert found[0] is not None
        assert found[0].increments == enough - 18_000_000
    few = _usual(5)._replace(least=12 * 4_999)
    assert _fall(24, few) is None


def test_of_two_hours_the_one_that_varies_more_decides() -> None:
    """An hour and a half of windows lies in two hours of the clock, or three."""
    below = stabilised(180_000) - stabilised(36_000)
    calm, wild, wilder = (_usual(10, lack=Extremes(lack, 0)) for lack in (0, below + 1, 2 * below + 1))
    counts = [2] * WINDOWS
    for other, is_new in ((calm, True), (wild, False), (wilder, None)):
        usual = [*[calm] * 6, *[other] * (WINDOWS - 6)]
        assert _is_new(fall(_SUBJECT, counts, usual, NOON_MS, _FALLS)) is is_new


def test_what_is_missing_counts_once_where_nothing_else_is_said() -> None:
    """An increment each."""
    found = fall(_SUBJECT, [2] * WINDOWS, [_usual(10)] * WINDOWS, NOON_MS, _FALLS)
    assert found is not None
    assert found.increments == -144


def _silence(silent: int, usual: Baseline | None, known: int = WINDOWS) -> Finding | None:
    counts = [*[0] * silent, *[1] * (WINDOWS - silent)]
    baselines = [*[usual] * known, *[None] * (WINDOWS - known)]
    return silence("project_silent", _SUBJECT, counts, baselines, NOON_MS, _SILENCES)


@pytest.mark.parametrize(
    ("silent", "known", "is_new"),
    [(3, 3, True), (3, 2, None), (2, 3, False), (1, 1, False), (0, 3, None), (WINDOWS, 12, True), (WINDOWS, 11, None)],
)
def test_a_silence_begins_when_enough_would_be_usual_and_is_kept_open_until_something_comes(
    silent: int, known: int, *, is_new: bool | None
) -> None:
    """Thirty, at ten a window; what is not known is not usual. An hour of it is looked at."""
    assert _is_new(_silence(silent, _usual(10), known)) is is_new


@pytest.mark.parametrize(("silent", "is_new"), [(1, False), (2, True)])
def test_one_empty_window_is_no_silence_however_much_is_usual_in_it(silent: int, *, is_new: bool) -> None:
    """Sessions come in stretches, and these may be quiet for some minutes."""
    assert _is_new(_silence(silent, _usual(1_000))) is is_new


@pytest.mark.parametrize(("more", "is_new"), [(0, True), (1, False)])
def test_a_silence_lies_as_far_out_as_the_days_go_and_five_deviations(more: int, *, is_new: bool) -> None:
    """Of what would have come in it."""
    below = stabilised(30_000) - stabilised(0)
    assert _is_new(_silence(3, _usual(10, lack=Extremes(below - 500 + more, 100)))) is is_new


def test_a_silence_is_certain_where_each_of_its_hours_would_have_it_so() -> None:
    """And not a thousandth less than what is needed would be usual."""
    below = stabilised(30_000) - stabilised(0)
    calm, wild, less = _usual(10), _usual(10, lack=Extremes(below + 1, 0)), _usual(10)._replace(least=12 * 9_999)
    for other, is_new in ((calm, True), (wild, False), (less, False)):
        counts, usual = [0, 0, 0, *[1] * (WINDOWS - 3)], [calm, calm, other, *[calm] * (WINDOWS - 3)]
        assert _is_new(silence("project_silent", _SUBJECT, counts, usual, NOON_MS, _SILENCES)) is is_new


@pytest.mark.parametrize(("silent", "windows"), [(3, 3), (12, 12), (WINDOWS, 12)])
def test_a_silence_is_told_with_how_long_it_lasts(silent: int, windows: int) -> None:
    """And how many are usual in that time."""
    assert _silence(silent, _usual(10)) == Finding(
        "project_silent", "acme", "webrtc_minutes", "", NOON_MS - windows * _WINDOW_MS, "critical", 0,
        windows * 10_000, "session", 0,
        f"acme: no sessions began for {windows * 5} minutes, in which {windows * 10} are usual", "roommeter sessions",
    )  # fmt: skip


def _reported(total: int, usual: Baseline | None) -> list[Finding]:
    return [*reported_change(_SUBJECT, total, usual, NOON_MS + 1, _RISES, _FALLS)]


def _hour(total: int, *, excess: Extremes = _ALIKE, lack: Extremes = _ALIKE) -> Baseline:
    return Baseline(total * 1_000, total * 1_000, total * 1_000, excess, lack)


@pytest.mark.parametrize(
    ("usual", "total", "detectors"),
    [
        (_hour(0), 60, ["usage_rise"]),
        (_hour(0), 59, []),
        (_hour(20), 80, ["usage_rise"]),
        (_hour(20), 79, []),
        (_hour(100), 300, ["usage_rise"]),
        (_hour(100), 299, []),
        (_hour(100), 40, ["usage_fall"]),
        (_hour(100), 41, []),
        (_hour(5), 2, ["usage_fall"]),
        (_hour(4), 1, []),
        (_hour(100, excess=Extremes(stabilised(400_000) - stabilised(100_000), 0)), 400, ["usage_rise"]),
        (_hour(100, excess=Extremes(stabilised(400_000) - stabilised(100_000) + 1, 0)), 400, []),
        (_hour(100, lack=Extremes(stabilised(100_000) - stabilised(20_000), 0)), 20, ["usage_fall"]),
        (_hour(100, lack=Extremes(stabilised(100_000) - stabilised(20_000) + 1, 0)), 20, []),
        (None, 9_999, []),
    ],
)
def test_what_is_reported_rises_and_falls_at_the_same_bounds(
    usual: Baseline | None, total: int, detectors: list[str]
) -> None:
    """Of an hour that is over, and on a holiday of a quarter."""
    assert [one.detector for one in _reported(total, usual)] == detectors


def test_a_holiday_is_no_fall_of_what_is_reported() -> None:
    """A quarter is to be expected; a rise is still against the whole."""
    assert _reported(30, _hour(100)._replace(least=25_000)) == []
    assert [one.detector for one in _reported(300, _hour(100)._replace(least=25_000))] == ["usage_rise"]


def test_a_change_of_what_is_reported_is_told_with_the_hour_and_the_difference() -> None:
    """In increments, more or fewer."""
    assert _reported(400, _hour(100)) == [
        Finding(
            "usage_rise", "acme", "webrtc_minutes", "", NOON_MS, "warning", 400_000, 100_000, "session", 300,
            "acme: 400 sessions began in an hour, where 100 are usual", "roommeter sessions",
        )
    ]  # fmt: skip
    [less] = _reported(20, _hour(100))
    assert (less.severity, less.increments, less.since_ms) == ("info", -80, NOON_MS)
