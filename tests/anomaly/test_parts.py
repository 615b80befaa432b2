"""Parts of wholes, single sessions and conduct, on small labelled cases."""

from typing import Any, Final

import pytest

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.anomaly.detect import Detectors
from pipeline.metering.anomaly.readings import Amended, Connected, Hovering, Lengths, Part, Readings, Share
from pipeline.metering.anomaly.rules import parse_rules
from pipeline.metering.anomaly.shares import WORDS
from pipeline.metering.limits import Limit
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE
from tests.anomaly.builders import NOON_MS
from tests.metering.builders import ROOT

_METER: Final = "agent_session_minutes"
#: Two of a hundred, in each of fourteen days' hours.
_USUAL: Final = [Part(2, 100)] * 336


def _find(own: str = "", **readings: Any) -> list[Finding]:
    rules = parse_rules((ROOT / "schemas" / "alerts.toml").read_text(), own)
    return [finding for finding in Detectors(rules).find(Readings(NOON_MS, **readings)) if finding.is_new]


@pytest.mark.parametrize("detector", WORDS)
def test_a_part_far_above_its_usual_is_found_and_the_usual_is_not(detector: str) -> None:
    """70 of 100 where 2 are usual; and 3."""
    key = (detector, "acme", _METER)
    [found] = _find(shares={key: Share(Part(70, 100), _USUAL)})
    assert (found.detector, found.observed, found.expected, found.unit) == (detector, 70_000, 2_000, "percent")
    assert _find(shares={key: Share(Part(3, 100), _USUAL)}) == []


def test_a_part_that_always_varies_has_to_lie_further_out() -> None:
    """Rao and Scott: the more what an hour counts is correlated, the less it says."""
    varied = [Part(2, 100), Part(30, 100), Part(4, 100), Part(40, 100)] * 84
    assert _find(shares={("flapping", "acme", _METER): Share(Part(50, 100), varied)}) == []


def test_what_most_hours_have_none_of_is_usual_all_the_same() -> None:
    """One hour in five has 3 of 300, the others none; 7 of 300 are rare, and no more than the tail of that."""
    seldom = [Part(int(hour % 5 == 0) * 3, 300) for hour in range(336)]
    key = ("clock_skew", "acme", "")
    assert _find(shares={key: Share(Part(7, 300), seldom)}) == []
    [found] = _find(shares={key: Share(Part(30, 300), seldom)})
    assert found.expected > 0


def test_few_where_hardly_any_are_usual_may_be_chance() -> None:
    """5 of 200 where 0.4 are expected: seven binomial deviations, four of the root of the deviance."""
    usual = [Part(1, 500)] * 336
    assert _find(shares={("clock_skew", "acme", ""): Share(Part(5, 200), usual)}) == []
    assert _find(shares={("clock_skew", "acme", ""): Share(Part(12, 200), usual)}) != []


def test_the_same_part_of_a_busy_hour_may_be_what_hours_vary_by() -> None:
    """24 % where 12 % are usual is no chance in 4 000, and nothing new where such hours often have 19 %."""
    key = ("rounding_loss", "acme", _METER)
    alike = [Part(1_200, 10_000)] * 336
    varied = [Part(share * total // 100, total) for share, total in ((5, 4_000), (19, 4_000), (12, 40))] * 112
    assert _find(shares={key: Share(Part(960, 4_000), alike)}) != []
    assert _find(shares={key: Share(Part(960, 4_000), varied)}) == []


def test_while_too_little_is_known_a_fixed_part_decides() -> None:
    """A new project."""
    key = ("flapping", "acme", _METER)
    assert _find(shares={key: Share(Part(50, 100), _USUAL[:5])}) == []
    assert _find(shares={key: Share(Part(70, 100), _USUAL[:5])}) != []


def test_flapping_costs_an_increment_each_and_speaks_for_the_rounding_too() -> None:
    """One cause, one alert."""
    share = Share(Part(70, 100), _USUAL)
    [found] = _find(shares={("flapping", "acme", _METER): share, ("rounding_loss", "acme", _METER): share})
    assert (found.detector, found.meter, found.subject, found.increments) == ("flapping", _METER, "", 68)


def _session(minutes: int, **changes: Any) -> Connected:
    began_ms = NOON_MS - minutes * MS_PER_MINUTE
    return Connected("acme", _METER, "RM_1", "jo", "PA_1", began_ms, NOON_MS, is_open=True)._replace(**changes)


def test_a_session_beyond_the_fence_of_its_like_is_found_while_it_is_open() -> None:
    """Quartiles of 2 and 5 minutes: beyond 5 * (5 / 2) ** 3.2 = 94, and never below four hours."""
    lengths = {("acme", _METER): Lengths(500, 2 * MS_PER_MINUTE, 5 * MS_PER_MINUTE)}
    [found] = _find(long=[_session(300)], lengths=lengths)
    assert (found.subject, found.observed, found.expected, found.increments) == ("PA_1", 300_000, 240_000, 60)
    assert _find(long=[_session(200)], lengths=lengths) == []
    assert _find(long=[_session(300, is_open=False)], lengths=lengths) == []
    wide = {("acme", _METER): Lengths(500, 10 * MS_PER_MINUTE, 40 * MS_PER_MINUTE)}
    assert _find(long=[_session(1_200)], lengths=wide) == []


def test_without_others_to_compare_with_twelve_hours_are_long() -> None:
    """Cold start."""
    assert _find(long=[_session(600)]) == []
    assert _find(long=[_session(800)]) != []


def test_twins_overlap_for_longer_than_a_reconnect_takes() -> None:
    """Of one identity in one room; both are billed."""
    [found] = _find(twins=[_session(60), _session(10, session="PA_2")])
    assert (found.subject, found.observed, found.increments) == ("RM_1/jo", 10_000, 10)
    assert dict(found.evidence) == {"first": "PA_1", "second": "PA_2"}
    assert _find(twins=[_session(60), _session(2, session="PA_2")]) == []
    assert _find(twins=[_session(60), _session(10, session="PA_2", room="RM_2")]) == []
    assert _find(twins=[_session(60), _session(10, session="PA_2", identity="al")]) == []


def test_many_amendments_of_a_day_or_of_one_session_are_found() -> None:
    """R12: against the usual day."""
    assert {one.subject for one in _find(amended={"acme": Amended(60, 3, "PA_1", 5)})} == {"", "PA_1"}
    assert _find(amended={"acme": Amended(9, 1, "PA_1", 2)}) == []
    assert _find(amended={"acme": Amended(60, 40, "PA_1", 2)}) == []


@pytest.mark.parametrize(
    ("percents", "is_found"),
    [([95, 99, 93, 60, 98], True), ([95, 99, 60, 60, 98], False), ([95, 99, 93, 97, 101], False)],
)
def test_usage_that_stays_just_below_a_hard_limit_is_found(percents: list[int], *, is_found: bool) -> None:
    """Four of five days, none of them beyond."""
    limit = Limit(_METER, "day", None, 100 * MS_PER_MINUTE, "minute", MS_PER_MINUTE)
    periods = [(NOON_MS - number * MS_PER_DAY, percent * MS_PER_MINUTE) for number, percent in enumerate(percents)]
    assert bool(_find(hovering=[Hovering("acme", limit, periods)])) == is_found
