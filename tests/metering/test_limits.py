"""Limits: what is told of a threshold, once, and in which words."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.limits import (
    THRESHOLDS,
    Crossing,
    Limit,
    Limits,
    Standing,
    StoryKey,
    crossings,
    decimal,
    follows,
    period,
)
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, NEVER_MS, NOT_SEEN_MS, parse_time
from tests.metering.builders import clock

_MINUTE = 60_000
#: 100 minutes an hour, 120 at most.
HOURLY = Limit("agent_session_minutes", "hour", 100 * _MINUTE, 120 * _MINUTE, "minute", _MINUTE)
_HOUR_MS = clock("14:00:00")


def _stands(minutes: int, hour_ms: int = _HOUR_MS) -> Standing:
    return Standing("acme", HOURLY, hour_ms, hour_ms + MS_PER_HOUR, minutes * _MINUTE)


class _Memory(dict[StoryKey, Crossing]):
    """What was said, as it is read back from the log."""

    def read(self, log: Iterable[Crossing]) -> list[Crossing]:
        """Keep what follows; return it."""
        kept = []
        for crossing in log:
            if follows(crossing, self.get(crossing.story)):
                self[crossing.story] = crossing
                kept.append(crossing)
        return kept

    def say(self, *standings: Standing) -> list[str]:
        """Work out what is to be said, and say it; return event and threshold of each."""
        said = self.read([*crossings(standings, self, _HOUR_MS)])
        return [f"{crossing.event} {crossing.threshold}" for crossing in said]


@pytest.mark.parametrize(
    ("minutes", "told"),
    [
        (49, []),
        (50, ["reached 50"]),
        (80, ["reached 50", "reached 80"]),
        (100, ["reached 50", "reached 80", "reached 100"]),
        (120, ["reached 50", "reached 80", "reached 100"]),
        (121, ["reached 50", "reached 80", "reached 100", "exceeded hard"]),
    ],
)
def test_every_threshold_that_is_passed_is_told(minutes: int, told: list[str]) -> None:
    """Percents count from their quantity on; the hard quantity itself is still allowed."""
    assert _Memory().say(_stands(minutes)) == told


def test_a_threshold_is_told_once() -> None:
    """However often the same or a greater quantity is seen."""
    memory = _Memory()
    assert [memory.say(_stands(minutes)) for minutes in (60, 60, 79)] == [["reached 50"], [], []]


def test_a_correction_that_shrinks_the_quantity_is_told_and_the_next_rise_too() -> None:
    """R9, R12: presumed ends and voids give back; each time is an event of its own."""
    memory = _Memory()
    told = [memory.say(_stands(minutes)) for minutes in (60, 40, 60)]
    assert told == [["reached 50"], ["back_under 50"], ["reached 50"]]


def test_a_new_period_ends_the_stories_of_the_old_one() -> None:
    """The quantity begins at nothing again; what was reached is left."""
    memory = _Memory()
    memory.say(_stands(81))
    assert memory.say(_stands(0, _HOUR_MS + MS_PER_HOUR)) == ["back_under 50", "back_under 80"]
    assert memory.say(_stands(51, _HOUR_MS + MS_PER_HOUR)) == ["reached 50"]


def test_a_limit_that_is_gone_is_left() -> None:
    """Whoever enforces hears that nothing is exceeded any more."""
    memory = _Memory()
    memory.say(_stands(130))
    assert {crossing.quantity for crossing in crossings([], memory, _HOUR_MS)} == {0}
    assert memory.say() == ["back_under 50", "back_under 80", "back_under 100", "back_under hard"]
    assert memory.say() == []


def test_the_id_comes_from_the_story_and_the_number_alone() -> None:
    """Whoever works it out, with whatever quantity and clock, names the same crossing."""
    [one] = crossings([_stands(51)], {}, _HOUR_MS)
    [other] = crossings([_stands(79)], {}, _HOUR_MS + 5)
    assert one.id == other.id == "082fbd73-1fba-57c7-825f-3fcf942f4c2d"


@pytest.mark.parametrize(
    ("minutes", "percent", "state"), [(99, 99, "under"), (100, 100, "reached"), (121, 121, "exceeded")]
)
def test_a_standing_says_its_percent_and_state(minutes: int, percent: int, state: str) -> None:
    """Percents are rounded down, so that 100 is never said too early."""
    standing = _stands(minutes)
    assert (standing.percent, standing.state) == (percent, state)


def test_without_a_soft_quantity_percents_are_of_the_hard_one() -> None:
    """100 % is reached at it, and exceeded behind it."""
    limit = HOURLY._replace(soft=None)
    assert [limit.is_past("100", minutes * _MINUTE) for minutes in (119, 120)] == [False, True]


def test_without_a_hard_quantity_nothing_is_exceeded() -> None:
    """It only warns, however much is used."""
    limit = HOURLY._replace(hard=None)
    assert limit.is_past("hard", 10**9) is False
    assert Standing("acme", limit, _HOUR_MS, _HOUR_MS + MS_PER_HOUR, 10**9).state == "reached"


def test_a_projects_own_limit_replaces_the_common_one() -> None:
    """Of the same meter and period; the others stay."""
    daily = HOURLY._replace(per="day")
    own = HOURLY._replace(hard=None)
    limits = Limits([("*", HOURLY), ("*", daily), ("acme", own)])
    assert (limits.of("acme"), limits.of("globex")) == ([own, daily], [HOURLY, daily])


def test_who_has_limits_is_known_unless_everybody_has() -> None:
    """So that projects without any cost nothing."""
    daily = HOURLY._replace(per="day")
    assert Limits([("acme", HOURLY), ("globex", daily)]).names() == frozenset({"acme", "globex"})
    common = Limits([("*", HOURLY), ("acme", HOURLY), ("acme", daily)])
    assert common.names() is None
    assert common.all() == [HOURLY, HOURLY, daily]
    assert Limits().of("acme") == []


@pytest.mark.parametrize(
    ("per", "begin", "days"), [("hour", "14:00:00", 1 / 24), ("day", "0:00:00", 1), ("month", "-480:00:00", 30)]
)
def test_periods_are_those_of_the_calendar_in_utc(per: str, begin: str, days: float) -> None:
    """September has 30 days, of which 20 had passed."""
    begin_ms = clock(begin)
    assert period(per, clock("14:30:00")) == (begin_ms, begin_ms + int(days * MS_PER_DAY))  # type: ignore[arg-type]


@pytest.mark.parametrize("year", [2026, 2028])
def test_a_month_of_february_ends_where_march_begins(year: int) -> None:
    """In a year without a 29th, and with one."""
    february_ms, march_ms = parse_time(f"{year}-02-01T00:00:00Z"), parse_time(f"{year}-03-01T00:00:00Z")
    october_ms, november_ms = parse_time(f"{year}-10-01T00:00:00Z"), parse_time(f"{year}-11-01T00:00:00Z")
    assert period("month", october_ms) == (october_ms, november_ms)
    assert period("month", february_ms) == period("month", march_ms - 1) == (february_ms, march_ms)


def test_what_is_limited_at_one_moment_has_no_period() -> None:
    """Sessions that are open now: from ever to ever."""
    assert period("now", _HOUR_MS) == (NOT_SEEN_MS, NEVER_MS)


def test_quantities_are_exact_decimals() -> None:
    """No exponent, no rounding."""
    assert [str(decimal(ms, _MINUTE)) for ms in (0, 30_000, 600_000)] == ["0", "0.5", "10"]


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 200), st.booleans(), st.integers(0, 6)), max_size=30),
)
def test_whatever_the_quantities_and_restarts_each_crossing_is_told_once_and_alternates(
    steps: list[tuple[int, int, bool, int]],
) -> None:
    """Two tellers share a log; each may be behind with reading, forget all, and repeat what is in the log."""
    log: list[Crossing] = []
    memories, read = [_Memory(), _Memory()], [0, 0]
    for teller, minutes, restarts, behind in steps:
        if restarts:
            memories[teller], read[teller] = _Memory(), 0
        upto = max(read[teller], len(log) - behind)
        memories[teller].read(log[read[teller] : upto])
        read[teller] = upto
        log += crossings([_stands(minutes)], memories[teller], _HOUR_MS)
    memory = _Memory()
    told = memory.read([*log, *log])
    assert len({crossing.id for crossing in told}) == len(told)
    for threshold in THRESHOLDS:
        numbers = [crossing.number for crossing in told if crossing.threshold == threshold]
        assert numbers == [*range(1, len(numbers) + 1)]
    if steps:
        memory.say(_stands(steps[-1][1]))
        assert {key[-1] for key, last in memory.items() if last.is_past} == {
            threshold for threshold in THRESHOLDS if HOURLY.is_past(threshold, steps[-1][1] * _MINUTE)
        }
