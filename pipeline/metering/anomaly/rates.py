"""Rises, falls and silences: counts of the last minutes against what is usual at this hour of the week."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pipeline.metering.anomaly.alert import Detector, Finding
from pipeline.metering.anomaly.baseline import Baseline
from pipeline.metering.anomaly.readings import WINDOW_MS, WINDOWS_PER_HOUR
from pipeline.metering.anomaly.rules import RateRule, SilenceRule
from pipeline.metering.anomaly.statistics import Extremes, stabilised
from pipeline.metering.units import MS_PER_MINUTE, hour_of

#: How long it has to be calm before an alert is over.
CALM_WINDOWS: Final = 3
#: What keeps an alert open is this part of what raises one, in percent.
_KEEP_PERCENT: Final = 50
#: The longest lack of news that is looked at.
_MOST_SILENT: Final = WINDOWS_PER_HOUR
#: The shortest that is told: sessions come in stretches, and a lull of some minutes is none.
_LEAST_SILENT: Final = 2


class Subject(NamedTuple):
    """What counts are of, and how to say it: "sessions", "session" as their unit, and a command that shows more."""

    project: str
    meter: str
    subject: str
    counted: str
    unit: str
    look_at: str

    @property
    def name(self) -> str:
        """Who it is about."""
        return self.subject or self.project


class _Rise(NamedTuple):
    """How many windows a rise has lasted, the newest observation and what was expected of it, and the whole excess."""

    windows: int
    observed: int
    expected: int
    excess: int
    is_new: bool


def rise(
    detector: Detector,
    subject: Subject,
    windows: Sequence[int],
    baselines: Sequence[Baseline | None],
    as_of_ms: int,
    rule: RateRule,
    increments_percent: int = 100,
) -> Finding | None:
    """Return what is found where the newest windows have far more than is usual.

    `windows` and `baselines` are those of the last hour and a half, the newest first. `increments_percent` says how
    many increments one of the things counted costs.
    """
    found = _rise(windows, baselines, rule)
    if found is None:
        return None
    since_ms = as_of_ms - found.windows * WINDOW_MS
    expected = found.expected
    times = found.observed * 1_000 // max(expected, 1_000)
    usual = f"{times} times the {_told(expected)} usual at this hour" if expected else "where nothing is usual yet"
    return Finding(
        detector,
        subject.project,
        subject.meter,
        subject.subject,
        since_ms,
        rule.severity,
        found.observed * 1_000,
        expected,
        subject.unit,
        found.excess * increments_percent // 100_000,
        f"{subject.name}: {found.observed} {subject.counted} in 5 minutes, {usual}",
        subject.look_at,
        (("windows", found.windows),),
        found.is_new,
    )


def _rise(windows: Sequence[int], baselines: Sequence[Baseline | None], rule: RateRule) -> _Rise | None:
    """Return how a rise stands: raised by the newest window, or kept open by one of the last few."""
    known = [*zip(windows, baselines, strict=True)]
    is_new = _is_high(*known[0], rule, 100)
    if not is_new and not any(_is_high(*one, rule, _KEEP_PERCENT) for one in known[:CALM_WINDOWS]):
        return None
    kept = [_is_high(*one, rule, _KEEP_PERCENT) for one in known]
    lasted = next((number for number in range(1, len(kept)) if not kept[number]), len(kept))
    excess = sum(max(0, count * 1_000 - _expected(baseline)) for count, baseline in known[:lasted])
    return _Rise(lasted, windows[0], _expected(baselines[0]), excess, is_new)


def _expected(baseline: Baseline | None) -> int:
    return 0 if baseline is None else baseline.window


def _least(baselines: Sequence[Baseline | None]) -> int:
    """Return what is to be expected at least in some windows."""
    return sum(baseline.least // WINDOWS_PER_HOUR for baseline in baselines if baseline is not None)


def _is_high(count: int, baseline: Baseline | None, rule: RateRule, percent: int) -> bool:
    """Tell whether a window has far more than is usual; `percent` of what is needed is enough."""
    if baseline is None:
        return count * 100 >= rule.cold_least * percent
    expected = baseline.window
    # Cheapest first: this is asked of every project every minute.
    if (count * 1_000 - expected) * 100 < rule.least * 1_000 * percent:
        return False
    ratio_percent = 100 + (rule.ratio_percent - 100) * percent // 100
    if count * 100_000 < expected * ratio_percent:
        return False
    return (stabilised(count * 1_000) - stabilised(expected)) * 100 >= _needed(baseline.excess, rule) * percent


def fall(
    subject: Subject,
    windows: Sequence[int],
    baselines: Sequence[Baseline | None],
    as_of_ms: int,
    rule: RateRule,
    increments_percent: int = 100,
) -> Finding | None:
    """Return what is found where all windows together have far less than is usual.

    They are those of the last hour and a half: in less time chance, and a quiet quarter of an hour, make as few.
    """
    known = [baseline for baseline in baselines if baseline is not None]
    expected = _least(known)
    observed = sum(windows)
    if len(known) < len(windows) or expected < rule.least * len(windows) * 1_000:
        return None
    # Cheapest first, as for a rise.
    if not _is_far_below(observed, expected, rule, _KEEP_PERCENT):
        return None
    lack = max(_needed(baseline.lack, rule) for baseline in known)
    is_new = _is_low(observed, expected, lack, rule, 100)
    if not is_new and not _is_low(observed, expected, lack, rule, _KEEP_PERCENT):
        return None
    return Finding(
        "usage_fall",
        subject.project,
        subject.meter,
        subject.subject,
        as_of_ms - len(windows) * WINDOW_MS,
        rule.severity,
        observed * 1_000 // len(windows),
        expected // len(windows),
        subject.unit,
        (observed * 1_000 - expected) * increments_percent // 100_000,
        f"{subject.name}: {observed * 100_000 // expected} % of the {subject.counted} that are usual at this hour",
        subject.look_at,
        (),
        is_new,
    )


def _is_far_below(observed: int, expected: int, rule: RateRule, percent: int) -> bool:
    return observed * 100_000 <= expected * (100 - (100 - rule.ratio_percent) * percent // 100)


def _is_low(observed: int, expected: int, lack: int, rule: RateRule, percent: int) -> bool:
    if not _is_far_below(observed, expected, rule, percent):
        return False
    return (stabilised(expected) - stabilised(observed * 1_000)) * 100 >= lack * percent


def silence(
    detector: Detector,
    subject: Subject,
    windows: Sequence[int],
    baselines: Sequence[Baseline | None],
    as_of_ms: int,
    rule: SilenceRule,
) -> Finding | None:
    """Return what is found where nothing came for so long that much would be usual."""
    silent = next((number for number, count in enumerate(windows) if count), len(windows))
    silent = min(silent, _MOST_SILENT)
    known = [baseline for baseline in baselines[:silent] if baseline is not None]
    if not silent or len(known) < silent:
        return None
    expected = _least(known)
    needed = max(_needed(baseline.lack, rule) for baseline in known)
    is_enough = silent >= _LEAST_SILENT and expected >= rule.expected * 1_000
    is_new = is_enough and stabilised(expected) - stabilised(0) >= needed
    return Finding(
        detector,
        subject.project,
        subject.meter,
        subject.subject,
        as_of_ms - silent * WINDOW_MS,
        rule.severity,
        0,
        expected,
        subject.unit,
        0,
        f"{subject.name}: no {subject.counted} for {silent * WINDOW_MS // MS_PER_MINUTE} minutes, in which"
        f" {_told(expected)} are usual",
        subject.look_at,
        (),
        is_new,
    )


def reported_change(
    subject: Subject, total: int, baseline: Baseline | None, hour_ms: int, rises: RateRule, falls: RateRule
) -> Iterator[Finding]:
    """Yield a finding where an hour that is over has far more, or far less, of what is reported than is usual."""
    if baseline is None:
        return
    expected, observed = baseline.expected, total * 1_000
    cases: list[tuple[Detector, RateRule, bool]] = [
        ("usage_rise", rises, _is_hour_high(observed, baseline, rises)),
        ("usage_fall", falls, _is_hour_low(total, baseline, falls)),
    ]
    for detector, rule, is_new in cases:
        if is_new:
            yield Finding(
                detector,
                subject.project,
                subject.meter,
                subject.subject,
                hour_of(hour_ms),
                rule.severity,
                observed,
                expected,
                subject.unit,
                (observed - expected) // 1_000,
                f"{subject.name}: {total} {subject.counted} in an hour, where {_told(expected)} are usual",
                subject.look_at,
            )


def _is_hour_high(observed: int, baseline: Baseline, rule: RateRule) -> bool:
    return (
        observed - baseline.expected >= rule.least * 1_000
        and observed * 100 >= baseline.expected * rule.ratio_percent
        and stabilised(observed) - stabilised(baseline.expected) >= _needed(baseline.excess, rule)
    )


def _is_hour_low(total: int, baseline: Baseline, rule: RateRule) -> bool:
    return baseline.least >= rule.least * 1_000 and _is_low(
        total, baseline.least, _needed(baseline.lack, rule), rule, 100
    )


def _needed(days: Extremes, rule: RateRule | SilenceRule) -> int:
    """Return how far beyond the baseline is anomalous: further than its days go, and than pure chance does."""
    return max(days.bound(rule.deviations_percent), rule.noise_percent * 10)


def _told(thousandths: int) -> str:
    """Write a quantity for people: with one decimal where it is small."""
    return f"{thousandths // 1_000}" if thousandths >= 10_000 else f"{thousandths // 1_000}.{thousandths // 100 % 10}"  # noqa: PLR2004
