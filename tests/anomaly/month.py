"""A simulated month of one project, with labels: what its sessions are like, and what was planted.

Counts by the minute: daily and weekly pattern, growth, holidays, noise beyond chance, bursts (a meeting that begins),
full hours, heavy tails. By seed; the first weeks are for learning and have no anomalies.
"""

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE

Array = np.ndarray[Any, Any]

DAY: Final = 1_440
HOUR: Final = 60
#: Weeks of learning, then days that are measured.
LEARNED_DAYS: Final = 35
MEASURED_DAYS: Final = 30
DAYS: Final = LEARNED_DAYS + MEASURED_DAYS
#: A Monday: 2026-10-05.
BEGIN_MS: Final = 1_791_158_400_000
#: The 12th day that is measured, a Friday; most projects have far less on it.
HOLIDAY: Final = LEARNED_DAYS + 11
START_MS: Final = BEGIN_MS + LEARNED_DAYS * MS_PER_DAY
END_MS: Final = BEGIN_MS + DAYS * MS_PER_DAY


class Label(NamedTuple):
    """What was planted: the detector that has to find it, of what, from one moment to another in ms.

    `is_hard` where it is small, or lies in quiet hours: told of apart.
    """

    detector: str
    subject: str
    since_ms: int
    until_ms: int
    is_hard: bool = False


@dataclass
class Counts:
    """Sessions that begin in each minute, those that are connected at its start, and what was planted."""

    name: str
    connects: Array
    connected: Array
    usual: Array
    labels: list[Label] = field(default_factory=list)


def ms_of(minute: int) -> int:
    """Return the moment at which a minute of the simulation begins."""
    return BEGIN_MS + minute * MS_PER_MINUTE


def _usual(chance: np.random.Generator) -> Array:
    """Return the expected connects of each minute, before noise."""
    a_day = float(np.clip(chance.lognormal(np.log(900), 1.3), 30, 40_000))
    hours = np.arange(DAYS * 24)
    peak, width = chance.uniform(0, 24), chance.uniform(3, 6)
    distance = np.abs((hours % 24 - peak + 12) % 24 - 12)
    shape = chance.uniform(0.02, 0.3) + np.exp(-((distance / width) ** 2))
    weekend = chance.uniform(0.15, 1.0)
    shape = shape * np.where(hours // 24 % 7 >= 5, weekend, 1)
    growth = (1 + chance.uniform(-0.03, 0.06)) ** (hours / 168)
    days = np.repeat(chance.lognormal(0, chance.uniform(0.03, 0.15), DAYS), 24)
    if chance.random() < 0.7:
        days[HOLIDAY * 24 : HOLIDAY * 24 + 24] *= chance.uniform(0.15, 0.6)
    rate = shape / shape.mean() * growth * days * a_day / DAY
    # Between the hours it goes gradually.
    minutes = np.interp(np.arange(DAYS * DAY), hours * HOUR + HOUR / 2, rate)
    if chance.random() < 0.5:
        at_full_hours = chance.uniform(1.5, 4)
        minutes *= np.where(np.arange(DAYS * DAY) % HOUR < 5, at_full_hours, 1)
    return np.asarray(minutes)


def _noise(chance: np.random.Generator, usual: Array) -> Array:
    """Return connects: more varied than chance, and with bursts whose sizes have a heavy tail."""
    dispersion = chance.uniform(0.1, 0.4)
    slow = np.repeat(chance.gamma(1 / dispersion**2, dispersion**2, len(usual) // 15), 15)
    connects = chance.poisson(usual * slow)
    bursts = chance.poisson(chance.uniform(0, 4) * DAYS)
    at = chance.choice(len(usual), bursts, p=usual / usual.sum())
    sizes = np.minimum(3 + chance.pareto(1.8, bursts) * 3, 40 + usual.max() * 3).astype(int)
    np.add.at(connects, at, sizes)
    return connects


def _connected(connects: Array, median_minutes: float) -> Array:
    """Return the sessions connected at each minute's start: lengths are log-normal, of six hours at most."""
    ages = np.arange(1, 6 * HOUR)
    longer = np.array([_normal_tail(float(np.log(age / median_minutes))) for age in ages])
    expected = np.convolve(connects, longer)[: len(connects)]
    return np.round(np.concatenate(([0], expected[:-1]))).astype(np.int64)


def _normal_tail(value: float) -> float:
    """Return how much of a normal distribution lies above a value."""
    from math import erfc, sqrt

    return erfc(value / sqrt(2)) / 2


def calm(chance: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return a month without anomalies: expected connects, connects and sessions connected, by the minute."""
    usual = _usual(chance)
    connects = _noise(chance, usual)
    return usual, connects, _connected(connects, chance.uniform(2, 8))


def counts(name: str, seed: int) -> Counts:
    """Return a project's month with rises, falls and silences in it."""
    chance = np.random.default_rng(seed)
    usual = _usual(chance)
    connects = _noise(chance, usual)
    labels: list[Label] = []
    busy = usual.reshape(-1, HOUR).mean(1)
    # One anomaly on some days, so that each has its own surroundings.
    for day in range(LEARNED_DAYS, DAYS - 1):
        if day == HOLIDAY or chance.random() > 0.4:
            continue
        minute = day * DAY + int(chance.integers(0, DAY))
        kind = chance.choice(["connection_storm", "usage_rise", "usage_fall", "project_silent"])
        rate = float(busy[minute // HOUR])
        _plant(chance, str(kind), minute, rate, connects, usual, labels)
    connected = _connected(connects, chance.uniform(2, 8))
    return Counts(name, connects, connected, usual, labels)


def _plant(
    chance: np.random.Generator,
    kind: str,
    minute: int,
    rate: float,
    connects: Array,
    usual: Array,
    labels: list[Label],
) -> None:
    """Change the connects from a minute on."""
    is_hard = False
    if kind == "connection_storm":
        length = int(chance.integers(5, 40))
        # Clients in a loop: far more than is usual. Fewer than 15 a minute are lost among bursts.
        extra = max(rate * chance.uniform(5, 40), chance.uniform(8, 60))
        is_hard = extra < 15
    elif kind == "usage_rise":
        length = int(chance.integers(45, 240))
        extra = max(rate * chance.uniform(3, 8), chance.uniform(8, 40))
        is_hard = bool(extra < max(20, 5 * rate))
    else:
        length = int(chance.integers(90, 300))
        extra = 0.0
        is_hard = bool(usual[minute : minute + length].sum() < length)
    span = slice(minute, min(minute + length, len(connects)))
    if kind == "project_silent":
        connects[span] = 0
    elif kind == "usage_fall":
        connects[span] = chance.poisson(usual[span] * chance.uniform(0.05, 0.2))
    else:
        connects[span] += chance.poisson(extra, len(connects[span]))
    labels.append(Label(kind, "", ms_of(minute), ms_of(minute + length), is_hard))
