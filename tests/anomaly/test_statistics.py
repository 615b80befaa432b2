"""Statistics in integers, against the same in floats: far from any bill, these may be compared by a tolerance."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.anomaly.statistics import Extremes, deviation, extremes, log2, median, stabilised

_numbers = st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=9)


@given(_numbers)
def test_the_median_is_the_textbooks_rounded_down(values: list[int]) -> None:
    """Of an even number the mean of the two in the middle."""
    assert median(values) == (statistics.median_low(values) + statistics.median_high(values)) // 2


def test_of_nothing_the_median_is_zero() -> None:
    """Where nothing is known nothing is usual."""
    assert median([]) == 0


@given(_numbers, st.integers(-(10**9), 10**9))
def test_the_deviation_of_normal_noise_is_its_standard_deviation(values: list[int], centre: int) -> None:
    """Hampel 1974: the median absolute deviation, divided by the third quartile of the normal distribution."""
    expected = statistics.median(abs(value - centre) for value in values) / statistics.NormalDist().inv_cdf(0.75)
    assert deviation(values, centre) == pytest.approx(expected, rel=3e-4, abs=2)


@given(st.integers(1, 1 << 120))
def test_logarithms_are_right_to_a_65536th(number: int) -> None:
    """Rounded down, a bit at a time."""
    assert log2(number) / 65_536 == pytest.approx(math.log2(number), abs=1.5 / 65_536)


@pytest.mark.parametrize("power", [0, 1, 15, 64])
def test_logarithms_of_powers_of_two_are_whole(power: int) -> None:
    """Exactly."""
    assert log2(1 << power) == power * 65_536


@given(st.integers(0, 10**9))
def test_counts_are_stabilised_as_anscombe_has_it(thousandths: int) -> None:
    """2/p * asinh(p * sqrt(count + 3/8)), p = 1/8; to half a hundredth of the noise, with 0.693 as ln 2."""
    expected = 16 * 693 * math.asinh(math.sqrt(thousandths / 1_000 + 3 / 8) / 8) / math.log(2)
    assert stabilised(thousandths) == pytest.approx(expected, rel=0, abs=5)


def test_what_is_below_nothing_is_as_rare_as_nothing() -> None:
    """No root of a negative number; the least that there is is more than nothing."""
    assert stabilised(-1_000) == stabilised(0) < stabilised(1)


def test_the_bound_of_extremes_lies_deviations_beyond_their_centre() -> None:
    """Five and a half deviations of 1.483 beyond 12, in thousandths."""
    assert extremes([11_000, 13_000, 12_000]) == Extremes(12_000, 1_483)
    assert Extremes(12_000, 1_483).bound(550) == 12_000 + 8_156
