"""Rises, falls and silences, on weeks that are all alike: what is anomalous, and what is not."""

from collections.abc import Sequence
from typing import Any, Final

import pytest

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.anomaly.detect import Detectors
from pipeline.metering.anomaly.readings import WINDOWS, Activity, Past, Readings, Series
from pipeline.metering.anomaly.rules import parse_rules
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR
from tests.anomaly.builders import NOON_MS
from tests.metering.builders import ROOT

_SHIPPED: Final = (ROOT / "schemas" / "alerts.toml").read_text()
#: Ten windows' worth of sessions begin in every hour, twenty are connected in every window.
_BEGUN: Final = 10
_CONNECTED: Final = 20


def _hours(window: int, days: int) -> dict[int, Past]:
    """Return days in which every window is alike."""
    midnight_ms = NOON_MS - NOON_MS % MS_PER_DAY
    return {midnight_ms - number * MS_PER_HOUR: Past(12 * window, window) for number in range(1, 24 * days + 1)}


def _find(
    begun: Sequence[int] = (), connected: Sequence[int] = (), days: int = 28, own: str = "", **more: Any
) -> dict[str, Finding]:
    """Return what is found where the newest windows are as given, and those before as always."""
    windows = [*begun, *[_BEGUN] * (WINDOWS - len(begun))], [*connected, *[_CONNECTED] * (WINDOWS - len(connected))]
    activity = Activity(
        Series(_hours(_BEGUN, days), windows[0]),
        Series(_hours(_CONNECTED, days), windows[1]),
    )
    readings = Readings(NOON_MS, activity={("acme", "agent_session_minutes"): activity}, **more)
    found = Detectors(parse_rules(_SHIPPED, own)).find(readings)
    return {finding.detector: finding for finding in found if finding.is_new}


def test_what_is_as_always_is_no_anomaly() -> None:
    """Nor is what is a little more or less."""
    assert _find() == {}
    assert _find([25, 3, 22], [40, 12, 30]) == {}


def test_far_more_sessions_than_usual_are_a_storm() -> None:
    """What was found, against what, since when, and the increments beyond."""
    storm = _find([150, 120])["connection_storm"]
    assert (storm.observed, storm.expected, storm.increments) == (150_000, 10_000, 250)
    assert storm.since_ms == NOON_MS - 2 * 300_000
    assert "150 sessions began in 5 minutes, 15 times the 10 usual" in storm.message


@pytest.mark.parametrize(
    ("own", "is_found"),
    [
        ("", True),
        ("connection_storm.least = 200", False),
        ("connection_storm.ratio_percent = 2000", False),
        ("connection_storm.enabled = false", False),
        ('[[project]]\nname = "acme"\nconnection_storm.least = 200', False),
        ('[[project]]\nname = "globex"\nconnection_storm.least = 200', True),
    ],
)
def test_parameters_decide_for_all_or_for_one_project(own: str, *, is_found: bool) -> None:
    """An operator's file says what is to be otherwise."""
    assert ("connection_storm" in _find([150], own=own)) == is_found


def test_far_more_connected_sessions_are_a_rise_that_costs_five_increments_each() -> None:
    """A session that is connected for five minutes begins five."""
    rise = _find([], [200])["usage_rise"]
    assert (rise.observed, rise.increments) == (200_000, 180 * 5)


def test_far_fewer_connected_sessions_over_an_hour_and_a_half_are_a_fall() -> None:
    """The increments that are missing are negative; on a holiday it is none."""
    fall = _find([], [2] * WINDOWS)["usage_fall"]
    assert (fall.observed, fall.expected, fall.increments) == (2_000, 20_000, -18 * 18 * 5)
    assert _find([], [5] * WINDOWS, own="holidays = [2026-09-21]") == {}


def test_a_quiet_hour_after_an_ordinary_half_is_no_fall_yet() -> None:
    """A quarter of an hour later it is."""
    assert _find([], [2] * 12) == {}
    assert _find([], [2] * 15).keys() == {"usage_fall"}


@pytest.mark.parametrize(("windows", "is_found"), [([2] * 14 + [1] * 4, False), ([2] * 10 + [1] * 8, True)])
def test_a_fall_has_to_be_larger_than_chance_however_alike_the_days_were(windows: list[int], *, is_found: bool) -> None:
    """32 where 108 are usual may be, though days that are all alike never had so few; 28 are a fall."""
    activity = Activity(Series(_hours(6, 28), windows), Series(_hours(6, 28), windows))
    found = Detectors(parse_rules(_SHIPPED)).find(Readings(NOON_MS, activity={("acme", "webrtc_minutes"): activity}))
    assert [finding.detector for finding in found if finding.is_new] == ["usage_fall"] * is_found


def test_no_session_at_all_is_a_silence_and_says_so_instead_of_a_fall() -> None:
    """As soon as so many would be usual that it is no chance."""
    assert _find([], [1] * WINDOWS).keys() == {"usage_fall"}
    found = _find([0] * 6, [1] * WINDOWS)
    assert found.keys() == {"project_silent"}
    assert (found["project_silent"].expected, found["project_silent"].since_ms) == (60_000, NOON_MS - 6 * 300_000)
    assert _find([0, 0]) == {}


def test_a_server_that_sends_nothing_is_silent() -> None:
    """By the events of each source."""
    servers = {"sfu-1": Series(_hours(30, 28), [0] * 6 + [30] * 12), "sfu-2": Series(_hours(30, 28), [30] * 18)}
    silent = _find(servers=servers)["server_silent"]
    assert (silent.project, silent.subject) == ("", "sfu-1")


def test_while_too_little_is_known_fixed_numbers_decide() -> None:
    """A new project has no baseline for three days; it may still be flooded."""
    assert _find([300], days=2) == {}
    assert "nothing is usual yet" in _find([600], days=2)["connection_storm"].message


def test_one_anomalous_day_does_not_hide_the_next() -> None:
    """Medians: a storm in the past makes the same storm no less anomalous."""
    past = _hours(_BEGUN, 28)
    past[NOON_MS - 7 * MS_PER_DAY] = Past(1_000, 500)
    activity = Activity(Series(past, [150] + [_BEGUN] * 17), Series({}, [0] * WINDOWS))
    found = Detectors(parse_rules(_SHIPPED)).find(Readings(NOON_MS, activity={("acme", "webrtc_minutes"): activity}))
    assert "connection_storm" in {finding.detector for finding in found if finding.is_new}


def test_what_is_reported_is_compared_by_the_hour_once_it_is_over() -> None:
    """Tokens and characters have no windows."""
    hours = {ms: Past(past.total * 100, past.total * 100) for ms, past in _hours(10, 28).items()}
    for total, detector in ((80_000, "usage_rise"), (500, "usage_fall"), (11_000, "")):
        of_hour = hours | {NOON_MS - 2 * MS_PER_HOUR: Past(total, total)}
        found = _find(reported={("acme", "llm_input_tokens"): Series(of_hour, ())})
        assert (detector in found) == bool(detector)
