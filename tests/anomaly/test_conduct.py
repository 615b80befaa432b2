"""What looks like manipulation: from how many amendments on, and how near a limit."""

import pytest

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.anomaly.conduct import amendments, hovering
from pipeline.metering.anomaly.readings import Amended, Hovering
from pipeline.metering.anomaly.rules import AmendmentRule, HoverRule
from pipeline.metering.limits import Limit
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE
from tests.anomaly.builders import NOON_MS

_AMENDED = AmendmentRule(enabled=True, severity="warning", least=10, ratio_percent=500, of_session=4)
_HOVERED = HoverRule(enabled=True, severity="info", from_percent=90, periods=3, of_periods=4)
_LIMIT = Limit("agent_session_minutes", "day", None, 100 * MS_PER_MINUTE, "minute", MS_PER_MINUTE)


def _amended(last_day: int, usual: int, of_session: int = 1) -> list[Finding]:
    return [*amendments("acme", Amended(last_day, usual, "PA_1", of_session), NOON_MS, _AMENDED)]


@pytest.mark.parametrize(
    ("last_day", "usual", "is_new"),
    [
        (10, 0, True),
        (9, 0, False),
        (5, 0, False),
        (4, 0, None),
        (1_000, 200, True),
        (999, 200, False),
        (499, 200, None),
    ],
)
def test_amendments_of_a_day_are_too_many_from_a_ratio_of_the_usual_on(
    last_day: int, usual: int, *, is_new: bool | None
) -> None:
    """R12: five times what is usual and ten at least; from half of that on an alert stays open."""
    assert [found.is_new for found in _amended(last_day, usual)] == ([] if is_new is None else [is_new])


def test_many_amendments_of_a_day_are_told_with_the_usual_number() -> None:
    """In thousandths, since a day ago; they cost nothing by themselves."""
    [found] = _amended(20, 4)
    assert found == Finding(
        "frequent_amendments", "acme", "", "", NOON_MS - MS_PER_DAY, "warning", 20_000, 4_000, "amendment", 0,
        "acme: 20 amendments within a day; 4 are usual", "roommeter sessions --project acme",
    )  # fmt: skip


def test_a_session_that_is_amended_often_is_told_by_its_name() -> None:
    """Once is usual."""
    assert _amended(0, 0, 3) == []
    [found] = _amended(0, 0, 4)
    assert found == Finding(
        "frequent_amendments", "acme", "", "PA_1", NOON_MS - MS_PER_DAY, "warning", 4_000, 1_000, "amendment", 0,
        "acme: PA_1 was amended 4 times", "roommeter explain PA_1 --project acme",
    )  # fmt: skip


def _hovering(*percents: float, limit: Limit = _LIMIT) -> Finding | None:
    """Return what is found of days, the newest first."""
    periods = [(NOON_MS - number * MS_PER_DAY, int(used * MS_PER_MINUTE)) for number, used in enumerate(percents, 1)]
    return hovering(Hovering("acme", limit, periods), _HOVERED)


@pytest.mark.parametrize(
    ("percents", "is_found"),
    [
        ((90, 100, 90, 10), True),
        ((90, 89.9, 90, 10), False),
        ((90, 101, 90, 90), False),
        ((10, 90, 90, 89.9, 90), False),
        ((90, 90, 90, 10, 101), True),
    ],
)
def test_a_limit_is_hovered_at_where_most_of_the_last_periods_end_just_below_it(
    percents: tuple[float, ...], *, is_found: bool
) -> None:
    """Three of four from 90 % on; at the limit is not beyond it, and what was before those four does not matter."""
    assert (_hovering(*percents) is not None) == is_found


def test_hovering_is_told_with_the_newest_quantity_since_the_oldest_such_period() -> None:
    """In thousandths of the limit's unit."""
    found = _hovering(10, 95, 91, 92)
    assert found == Finding(
        "limit_hovering", "acme", "agent_session_minutes", "day", NOON_MS - 4 * MS_PER_DAY, "info", 95_000, 100_000,
        "minute", 0, found.message if found else "", "roommeter limits --project acme",
    )  # fmt: skip
    assert "3 of the last 4 days ended at 90 % or more of the hard limit of 100 minutes" in found.message


def test_a_limit_that_only_warns_is_nothing_to_hover_at() -> None:
    """Nobody is cut off by it."""
    assert _hovering(95, 95, 95, 95, limit=_LIMIT._replace(soft=_LIMIT.hard, hard=None)) is None
