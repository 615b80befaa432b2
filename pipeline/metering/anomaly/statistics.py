"""Robust statistics in integers: medians, deviations from them, and a scale on which counts can be compared.

Quantities that are not whole are in thousandths.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import isqrt
from typing import Final, NamedTuple

#: How far the median absolute deviation of normal noise lies below its standard deviation: 1.4826, in thousandths.
_NORMAL: Final = 1_483
#: Large counts vary by about one part in this many, beside chance: from day to day, and in bursts.
_PARTS: Final = 8
#: Logarithms are in parts of 1 << this.
LOG_BITS: Final = 16
#: The natural logarithm of 2, in thousandths.
LN_2: Final = 693


def median(values: Iterable[int]) -> int:
    """Return the median, rounded down where two lie in the middle; 0 of nothing."""
    ordered = sorted(values)
    if not ordered:
        return 0
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def weighted_median(values: Iterable[tuple[int, int]]) -> int:
    """Return the least value that, with all below it, has half of the weight; of pairs of value and weight.

    F. Y. Edgeworth, "On a new method of reducing observations relating to several quantities", Phil. Mag. 25 (1888).
    """
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered)
    for value, weight in ordered:
        half -= 2 * weight
        if half <= 0:
            return value
    return 0


def deviation(values: Sequence[int], centre: int) -> int:
    """Return the median absolute deviation, scaled to the standard deviation of normal noise.

    F. R. Hampel, "The influence curve and its role in robust estimation", JASA 69 (1974). Half of the values may be
    wrong by any amount before it is.
    """
    return median(abs(value - centre) for value in values) * _NORMAL // 1_000


def log2(number: int) -> int:
    """Return the logarithm to base 2 of an integer of 1 or more, in 1/65536, by squaring: a bit at a time."""
    whole = number.bit_length() - 1
    mantissa = (number << 32) >> whole
    result = whole << LOG_BITS
    for bit in range(LOG_BITS - 1, -1, -1):
        mantissa = mantissa * mantissa >> 32
        if mantissa >> 33:
            mantissa >>= 1
            result |= 1 << bit
    return result


@lru_cache(maxsize=65_536)
def stabilised(thousandths: int) -> int:
    """Return a count, in thousandths, on a scale on which noise is about 1 whatever the count, in thousandths.

    2/p * asinh(p * sqrt(count + 3/8)): small counts vary by chance, and go by their roots; large ones vary by a part p
    of them, and go by their logarithms. F. J. Anscombe, "The transformation of Poisson, binomial and negative-binomial
    data", Biometrika 35 (1948).
    """
    root = isqrt(max(0, thousandths) * 1_000 + 375_000)
    sine = root + isqrt(root * root + (1_000 * _PARTS) ** 2)
    return 2 * _PARTS * LN_2 * (log2(sine) - _LOG_PARTS) >> LOG_BITS


_LOG_PARTS: Final = log2(1_000 * _PARTS)


class Extremes(NamedTuple):
    """The largest values of blocks (here: of days): their median, and how far they usually lie from it.

    Extremes of blocks have a Gumbel distribution, and are the right thing to set a rate of false alarms by block with:
    E. J. Gumbel, "Statistics of Extremes" (1958); A. Siffer et al., "Anomaly Detection in Streams with Extreme Value
    Theory", KDD 2017. Location and scale are taken robustly, since some days may have been anomalous.
    """

    centre: int
    spread: int

    def bound(self, deviations_percent: int) -> int:
        """Return what the largest value of one more block will hardly exceed."""
        return self.centre + self.spread * deviations_percent // 100


def extremes(values: Sequence[int]) -> Extremes:
    """Return what blocks' largest values are like."""
    centre = median(values)
    return Extremes(centre, deviation(values, centre))
