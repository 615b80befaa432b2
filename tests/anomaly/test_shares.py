"""Parts of a whole: from where on they are told, how far out an hour lies, and what is usual."""

import math
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.anomaly.readings import Part, Share
from pipeline.metering.anomaly.rules import ShareRule
from pipeline.metering.anomaly.shares import WORDS, Usual, share, usual_part
from pipeline.metering.units import MS_PER_HOUR
from tests.anomaly.builders import NOON_MS

_METER: Final = "webrtc_minutes"
_RULE: Final = ShareRule(
    enabled=True, severity="warning", least=20, percent=10, ratio_percent=300, deviations_percent=1, cold_percent=60
)
#: One of a thousand, and hours that vary by chance alone.
_RARE: Final = Usual(1_000, 0)


def _share(some: int, total: int, usual: Usual | None, rule: ShareRule = _RULE) -> bool | None:
    """Return whether what is found is new, None where nothing is."""
    found = share("flapping", "acme", _METER, Share(Part(some, total), ()), usual, NOON_MS, rule)
    return None if found is None else found.is_new


@pytest.mark.parametrize(
    ("some", "total", "usual", "is_new"),
    [
        (60, 100, None, True),
        (59, 100, None, False),
        (30, 100, None, False),
        (29, 100, None, None),
        (20, 100, _RARE, True),
        (19, 100, _RARE, False),
        (10, 100, _RARE, False),
        (9, 100, _RARE, None),
        (100, 1_000, _RARE, True),
        (99, 1_000, _RARE, False),
        (50, 1_000, _RARE, False),
        (49, 1_000, _RARE, None),
        (300, 1_000, Usual(100_000, 0), True),
        (299, 1_000, Usual(100_000, 0), False),
        (200, 1_000, Usual(100_000, 0), False),
        (199, 1_000, Usual(100_000, 0), None),
        (0, 0, None, None),
    ],
)
def test_a_part_is_told_from_each_of_its_bounds_on_and_kept_open_from_half_of_it_on(
    some: int, total: int, usual: Usual | None, *, is_new: bool | None
) -> None:
    """`cold_percent`, `least`, `percent` and `ratio_percent`; of nothing there is no part."""
    assert _share(some, total, usual) is is_new


@given(st.integers(1, 1_000), st.integers(1, 1_000), st.integers(1, 999_999), st.integers(0, 200_000))
def test_an_hour_lies_as_far_out_as_the_root_of_its_deviance_by_the_design_effect(
    some: int, total: int, part: int, correlation: int
) -> None:
    """Wilks 1938, Rao and Scott 1992; in floats, to a hundredth."""
    usual, others = part / 1e6, total - some
    assume(others >= 0 and some > total * usual)
    deviance = some * math.log(some / (total * usual))
    deviance += others * math.log(others / (total * (1 - usual))) if others else 0
    far = 100 * math.sqrt(2 * deviance / (1 + (total - 1) * correlation / 1e6))
    assume(far > 200)
    anything = replace(_RULE, least=0, percent=0, ratio_percent=100)
    for deviations_percent, is_new in ((int(far * 0.99), True), (int(far * 1.01) + 2, False)):
        rule = replace(anything, deviations_percent=deviations_percent)
        assert _share(some, total, Usual(part, correlation), rule) is is_new


def test_what_is_as_usual_lies_nowhere_out() -> None:
    """Nor what is less."""
    anything = replace(_RULE, least=0, percent=0, ratio_percent=1)
    assert [_share(some, 100, Usual(100_000, 0), anything) for some in (9, 10, 11)] == [None, None, True]


def test_two_parts_are_of_meters() -> None:
    """Each very short session, and each minute that rounding added, is billed."""
    assert {detector for detector, words in WORDS.items() if words.is_of_meter} == {"flapping", "rounding_loss"}


def test_a_part_of_a_meter_is_told_with_what_it_costs() -> None:
    """An increment for each one beyond the usual."""
    found = share("flapping", "acme", _METER, Share(Part(70, 200), (), "RM_1"), Usual(25_999, 0), NOON_MS, _RULE)
    assert found == Finding(
        "flapping", "acme", _METER, "", NOON_MS - MS_PER_HOUR, "warning", 35_000, 2_599, "percent", 65,
        "acme webrtc_minutes: 70 of 200 sessions of an hour ended within 15 s, billed a whole increment each;"
        " 2.5 % are usual",
        "roommeter sessions --project acme", (("detail", "RM_1"), ("some", 70), ("total", 200)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("project", "subject", "name"), [("acme", "", "acme"), ("", "sfu-1", "sfu-1"), ("", "", "all projects")]
)
def test_a_part_of_what_no_meter_counts_costs_nothing(project: str, subject: str, name: str) -> None:
    """Events of a source, inputs of everybody."""
    found = share("duplicates", project, subject, Share(Part(70, 100), ()), None, NOON_MS, _RULE)
    assert found == Finding(
        "duplicates", project, "", subject, NOON_MS - MS_PER_HOUR, "warning", 70_000, 0, "percent", 0,
        f"{name}: 70 of 100 events of an hour had been sent before", "roommeter audit",
        (("detail", ""), ("some", 70), ("total", 100)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("past", "usual"),
    [
        ([Part(5, 50)] * 24, Usual(100_000, 0)),
        ([Part(5, 50)] * 23, None),
        ([Part(1, 25)] * 48, Usual(40_000, 0)),
        ([Part(1, 25)] * 47, None),
        ([], None),
        ([Part(0, 50)] * 24, Usual(1_000_000 // 1_201, 0)),
        ([Part(50, 50)] * 24, Usual(999_999, 0)),
        ([Part(0, 100_000)] * 24, Usual(1, 0)),
        ([*[Part(5, 50)] * 14, *[Part(50, 50)] * 10], Usual(100_000, 0)),
    ],
)
def test_what_is_usual_is_learned_from_a_day_of_fifty_an_hour_at_least(past: list[Part], usual: Usual | None) -> None:
    """Smaller hours are put together; what never or always happened may yet be otherwise; half may be anomalous."""
    assert usual_part(past) == usual


def test_what_an_hour_counts_is_correlated_as_its_deviations_from_chance_have_it() -> None:
    """By turns 5 % and 15 % of a thousand: 27.78 variances of chance; their mean is 2.198 medians of squares."""
    found = usual_part([Part(50, 1_000), Part(150, 1_000)] * 168)
    assert found is not None
    assert found.part == 100_000
    assert found.correlation == pytest.approx((2.198 * 50**2 / 90 - 1) / 999 * 1e6, abs=5)
