"""All detectors at once: which of them look when, with what is usual of which hour, and who speaks for whom."""

from collections.abc import Mapping
from typing import Final

import pytest

from pipeline.metering.anomaly.alert import DETECTORS, Finding
from pipeline.metering.anomaly.detect import Detectors, due
from pipeline.metering.anomaly.readings import (
    WINDOWS,
    Activity,
    Amended,
    Connected,
    Lengths,
    Part,
    Past,
    Readings,
    Series,
    Share,
    day_of,
)
from pipeline.metering.anomaly.rules import parse_rules
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from tests.anomaly.builders import NOON_MS
from tests.metering.builders import ROOT

_SHIPPED: Final = (ROOT / "schemas" / "alerts.toml").read_text()
_METER: Final = "agent_session_minutes"
_FIVE_MINUTES: Final = 5 * MS_PER_MINUTE


def _detectors(own: str = "") -> Detectors:
    return Detectors(parse_rules(_SHIPPED, own))


def _weeks(window_of_hour: Mapping[int, int], until_ms: int = day_of(NOON_MS)) -> dict[int, Past]:
    """Return four weeks that are all alike: of each hour of the day, the count of its windows; 10 of the others."""
    hours = {}
    for hour_ms in range(until_ms - 28 * MS_PER_DAY, until_ms, MS_PER_HOUR):
        window = window_of_hour.get(hour_ms // MS_PER_HOUR % 24, 10)
        hours[hour_ms] = Past(12 * window, window)
    return hours


def _activity(hours: dict[int, Past], newest: list[int], usual: int = 10) -> dict[tuple[str, str], Activity]:
    """Return readings in which the newest windows are as given, both of connects and of those connected."""
    series = Series(hours, [*newest, *[usual] * (WINDOWS - len(newest))])
    return {("acme", _METER): Activity(series, series)}


def _by_detector(found: list[Finding]) -> dict[str, Finding]:
    return {finding.detector: finding for finding in found if finding.is_new}


def test_rates_are_looked_at_every_minute_parts_every_five_and_conduct_every_hour() -> None:
    """What is looked at more seldom costs more, or changes more slowly."""
    often = {"connection_storm", "usage_rise", "usage_fall", "project_silent", "server_silent"}
    seldom = {"frequent_amendments", "limit_hovering"}
    assert due(NOON_MS) == {*DETECTORS}
    assert due(NOON_MS + MS_PER_HOUR) == {*DETECTORS}
    assert due(NOON_MS + _FIVE_MINUTES) == {*DETECTORS} - seldom
    assert due(NOON_MS + MS_PER_MINUTE) == often
    assert due(NOON_MS + 30 * MS_PER_MINUTE) == {*DETECTORS} - seldom


def test_what_is_not_due_is_not_found() -> None:
    """Whatever the readings hold."""
    session = Connected("acme", _METER, "RM_1", "jo", "PA_1", 0, NOON_MS, is_open=True)
    readings = {
        "shares": {("flapping", "acme", _METER): Share(Part(90, 100), ())},
        "long": [session],
        "twins": [session, session._replace(session="PA_2")],
        "amended": {"acme": Amended(60, 3, "PA_1", 1)},
    }
    found = {
        minute: {one.detector for one in _detectors().find(Readings(NOON_MS + minute * MS_PER_MINUTE, **readings))}  # type: ignore[arg-type] # a field each
        for minute in (0, 1, 5)
    }
    often = {"flapping", "long_session", "overlapping_twins"}
    assert found == {0: often | {"frequent_amendments"}, 1: set(), 5: often}


def test_each_window_is_compared_with_its_own_hour() -> None:
    """At 14:20 four windows of six lie in this hour, in which 30 are usual, and two in the one before, with 20."""
    activity = _activity(_weeks({14: 30, 13: 20}), [0] * 6, 20)
    found = _by_detector(_detectors().find(Readings(NOON_MS + 20 * MS_PER_MINUTE, activity=activity)))
    assert found["project_silent"].expected == (4 * 30 + 2 * 20) * 1_000


def test_what_is_usual_is_learned_once_a_day() -> None:
    """From the days that are over: what changes of them is seen on the next day."""
    detectors = _detectors()
    few, many = _weeks({}), _weeks(dict.fromkeys(range(24), 150), day_of(NOON_MS) + MS_PER_DAY)
    storms = [
        "connection_storm" in _by_detector(detectors.find(Readings(at_ms, activity=_activity(hours, [150]))))
        for at_ms, hours in ((NOON_MS, few), (NOON_MS + MS_PER_HOUR, many), (NOON_MS + MS_PER_DAY, many))
    ]
    assert storms == [True, True, False]


@pytest.mark.parametrize(("minutes", "is_found"), [(0, False), (4, False), (5, True), (64, True), (65, False)])
def test_an_hour_of_what_is_reported_is_looked_at_after_its_grace_period(minutes: int, *, is_found: bool) -> None:
    """R18: five minutes after it, until the next one is."""
    hours = {**_weeks({}), NOON_MS - MS_PER_HOUR: Past(60_000, 60_000)}
    readings = Readings(NOON_MS + minutes * MS_PER_MINUTE, reported={("acme", "llm_input_tokens"): Series(hours, ())})
    assert ("usage_rise" in _by_detector(_detectors().find(readings))) == is_found


def test_hours_in_which_nothing_is_reported_have_none() -> None:
    """They are missing in what is read."""
    reported = {("acme", "llm_input_tokens"): Series(_weeks(dict.fromkeys(range(24), 900)), ())}
    fall = _by_detector(_detectors().find(Readings(NOON_MS, reported=reported)))["usage_fall"]
    assert (fall.observed, fall.expected, fall.unit) == (0, 900 * 12_000, "increment")
    assert (fall.meter, fall.subject) == ("llm_input_tokens", "")


def test_an_hour_of_what_is_reported_is_compared_with_whole_hours() -> None:
    """Each day some hour has half as much again: 2.7 times the usual is beyond that all the same."""
    begin_ms = day_of(NOON_MS) - 28 * MS_PER_DAY
    totals = [1_500 if number % 24 == number // 24 * 5 % 24 else 1_000 for number in range(28 * 24)]
    hours = {begin_ms + number * MS_PER_HOUR: Past(total, total) for number, total in enumerate(totals)}
    hours[NOON_MS - 2 * MS_PER_HOUR] = Past(2_700, 2_700)
    readings = Readings(NOON_MS, reported={("acme", "llm_input_tokens"): Series(hours, ())})
    assert _by_detector(_detectors().find(readings)).keys() == {"usage_rise"}


def test_a_holiday_is_its_projects() -> None:
    """A quarter of the usual is enough, for who has it."""
    activity = _activity(_weeks({}), [2] * WINDOWS)
    found = [
        _by_detector(_detectors(f'[[project]]\nname = "{name}"\nholidays = [2026-09-21]').find(readings)).keys()
        for name in ("acme", "globex", "active", _METER)
        for readings in (Readings(NOON_MS, activity=activity),)
    ]
    assert found == [set(), *[{"usage_fall"}] * 3]


def test_a_fall_is_told_until_the_silence_is_certain() -> None:
    """One cause, one alert."""
    quiet = _activity(_weeks({}), [0] * 1 + [1] * 17)
    assert _by_detector(_detectors().find(Readings(NOON_MS, activity=quiet))).keys() == {"usage_fall"}
    silent = _activity(_weeks({}), [0] * 12 + [1] * 6)
    assert _by_detector(_detectors().find(Readings(NOON_MS, activity=silent))).keys() == {"project_silent"}


def test_who_counts_sessions_says_whose_and_where_to_look() -> None:
    """Sessions that began, sessions that were connected, events of a server."""
    readings = Readings(
        NOON_MS,
        activity=_activity(_weeks({}), [150]),
        servers={"sfu-1": Series(_weeks({}), [0] * WINDOWS)},
    )
    found = _by_detector(_detectors().find(readings))
    storm, rise, server = (found[name] for name in ("connection_storm", "usage_rise", "server_silent"))
    assert [(one.project, one.meter, one.subject, one.unit, one.look_at) for one in (storm, server)] == [
        ("acme", _METER, "", "session", "roommeter sessions --project acme"),
        ("", "", "sfu-1", "event", "roommeter reconcile --help"),
    ]
    assert "150 sessions began in 5 minutes" in storm.message
    assert (rise.meter, rise.subject, rise.unit, rise.increments) == (_METER, "", "session", 140 * 5)
    assert "150 sessions were connected in 5 minutes" in rise.message


def _parts(flapping: int, rounding: int, of: str = "acme", meter: str = _METER) -> dict[str, bool]:
    """Return what is found of acme's parts of a hundred, and whether it is new."""
    usual = [Part(2, 100)] * 336
    shares = {
        ("rounding_loss", of, meter): Share(Part(rounding, 100), usual),
        ("flapping", "acme", _METER): Share(Part(flapping, 100), usual),
    }
    return {one.detector: one.is_new for one in _detectors().find(Readings(NOON_MS, shares=shares))}


def test_flapping_speaks_for_the_rounding_of_its_own_meter_alone() -> None:
    """Very short sessions lose most by it: one cause, one alert."""
    assert _parts(70, 70) == {"flapping": True, "rounding_loss": False}
    assert _parts(70, 70, of="globex") == {"flapping": True, "rounding_loss": True}
    assert _parts(70, 70, meter="webrtc_minutes") == {"flapping": True, "rounding_loss": True}
    assert _parts(15, 70) == {"flapping": False, "rounding_loss": True}
    assert _parts(2, 70) == {"rounding_loss": True}


def test_a_part_says_what_was_worst() -> None:
    """Where a reader of readings named anything."""
    shares = {
        (name, "acme", ""): Share(Part(90, 100), (), *detail)
        for name, detail in (("clock_skew", ["sfu-1"]), ("duplicates", []))
    }
    found = _detectors().find(Readings(NOON_MS, shares=shares))
    assert [(one.detector, dict(one.evidence)["detail"]) for one in found] == [
        ("clock_skew", "sfu-1"),
        ("duplicates", ""),
    ]


def test_lengths_are_those_of_the_sessions_project_and_meter() -> None:
    """What others are like says nothing of it."""
    session = Connected("acme", _METER, "RM_1", "jo", "PA_1", NOON_MS - 6 * MS_PER_HOUR, NOON_MS, is_open=True)
    short = Lengths(500, 2 * MS_PER_MINUTE, 5 * MS_PER_MINUTE)
    found = [
        len(_detectors().find(Readings(NOON_MS, long=[session], lengths={key: short})))
        for key in (("acme", _METER), ("acme", "webrtc_minutes"), ("globex", _METER))
    ]
    assert found == [1, 0, 0]


def test_a_detector_that_is_off_finds_nothing() -> None:
    """Of the project it is off for."""
    own = '[[project]]\nname = "acme"\nfrequent_amendments.enabled = false\n'
    amended = {name: Amended(60, 3, "PA_1", 1) for name in ("acme", "globex")}
    assert [one.project for one in _detectors(own).find(Readings(NOON_MS, amended=amended))] == ["globex"]
