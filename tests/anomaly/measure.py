"""Runs the detectors over simulated months, minute by minute, and compares what they raise with what was planted."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pipeline.metering.anomaly.alert import Alert, Finding, Story, changes
from pipeline.metering.anomaly.detect import STEP_MS, Detectors, due
from pipeline.metering.anomaly.readings import WINDOWS, WINDOWS_PER_HOUR, Activity, Past, Readings, Series
from pipeline.metering.anomaly.rules import Rules, parse_rules
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE
from tests.anomaly.month import BEGIN_MS, END_MS, START_MS, Array, Counts, Label
from tests.metering.builders import ROOT

SHIPPED: Final = (ROOT / "schemas" / "alerts.toml").read_text()
RULES: Final = parse_rules(SHIPPED, "holidays = [2026-11-20]\n")
METER: Final = "agent_session_minutes"
#: What one anomaly may raise besides: a storm connects sessions, so usage rises too; who is silent has less.
_RELATED: Final = {
    "connection_storm": {"usage_rise"},
    "usage_rise": {"connection_storm"},
    "usage_fall": {"project_silent"},
    "project_silent": {"usage_fall"},
}
#: Whose alert is as good: a rise that begins as a storm, a fall to nothing.
_ALSO: Final = {"usage_rise": {"connection_storm"}, "usage_fall": {"project_silent"}}
#: How long after its end an anomaly may still be seen: sessions that began in it last.
_AFTER_MS: Final = 6 * MS_PER_HOUR


class Book:
    """What was said, as the log of decisions would have it."""

    def __init__(self, rules: Rules) -> None:
        """Begin with nothing said."""
        self._detectors = Detectors(rules)
        self.said: dict[Story, Alert] = {}
        self.raised: list[Alert] = []
        self.resolved: dict[str, int] = {}

    def look(self, readings: Readings) -> None:
        """Look as of the readings' moment."""
        at_ms = readings.as_of_ms
        found: list[Finding] = self._detectors.find(readings)
        for alert in changes(found, self.said, due(at_ms), at_ms):
            self.said[alert.finding.story] = alert
            if alert.revision == 1:
                self.raised.append(alert)
            if alert.status == "resolved":
                self.resolved[alert.id] = at_ms


def series(counts: Array, before: Array | int = 0) -> Iterator[tuple[int, Series]]:
    """Yield a series as of every minute that is measured.

    A window has what is counted in its five minutes, and what there was `before` the first of them.
    """
    summed = np.concatenate(([0], np.cumsum(counts)))
    starts = np.zeros_like(counts) + before
    of_hours = (counts.reshape(-1, 5).sum(1) + starts[::5]).reshape(-1, WINDOWS_PER_HOUR)
    past: dict[int, Past] = {}
    first = (START_MS - BEGIN_MS) // STEP_MS
    for minute in range(first, (END_MS - BEGIN_MS) // STEP_MS):
        for hour in range(len(past), minute // 60):
            windows = of_hours[hour].tolist()
            past[BEGIN_MS + hour * MS_PER_HOUR] = Past(sum(windows), max(windows[1:]), windows[0])
        ends = np.arange(minute, minute - 5 * WINDOWS, -5)
        found = summed[ends] - summed[ends - 5] + starts[ends - 5]
        yield BEGIN_MS + minute * MS_PER_MINUTE, Series(past, found.tolist())


@dataclass
class Score:
    """How one detector did: planted and found, alerts that nothing was planted for, delays in ms."""

    planted: int = 0
    found: int = 0
    hard: int = 0
    hard_found: int = 0
    raised: int = 0
    false: int = 0
    delays_ms: list[int] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def score(
    scores: dict[str, Score], name: str, labels: list[Label], alerts: list[Alert], resolved: dict[str, int]
) -> None:
    """Add one project's alerts to the scores."""
    ends = {alert.id: resolved.get(alert.id, END_MS) for alert in alerts}
    for label in labels:
        mine = scores[label.detector]
        names = {label.detector} | _ALSO.get(label.detector, set())
        hits = [
            alert
            for alert in alerts
            if alert.finding.detector in names
            and label.subject in ("", alert.finding.subject)
            and alert.finding.since_ms <= label.until_ms
            and ends[alert.id] >= label.since_ms
        ]
        seen = min((alert.as_of_ms for alert in hits), default=None)
        if label.is_hard:
            mine.hard += 1
            mine.hard_found += seen is not None
            continue
        mine.planted += 1
        mine.found += seen is not None
        if seen is None:
            mine.missed.append(f"{name} {label}")
        else:
            mine.delays_ms.append(max(0, seen - label.since_ms))
    for alert in alerts:
        mine = scores[alert.finding.detector]
        mine.raised += 1
        if not any(
            alert.finding.detector in {label.detector} | _RELATED.get(label.detector, set())
            and label.subject in ("", alert.finding.subject)
            and label.since_ms - MS_PER_HOUR <= alert.as_of_ms <= label.until_ms + _AFTER_MS
            for label in labels
        ):
            mine.false += 1
            mine.wrong.append(f"{name} {alert.finding.detector} {alert.as_of_ms - START_MS} {alert.finding.message}")


def run_counts(counts: Counts, rules: Rules = RULES) -> tuple[list[Alert], dict[str, int]]:
    """Return what is raised for a project's counts, and when each was resolved."""
    book = Book(rules)
    both = zip(series(counts.connects), series(counts.connects, counts.connected), strict=True)
    for (at_ms, connects), (_, active) in both:
        book.look(Readings(at_ms, activity={(counts.name, METER): Activity(connects, active)}))
    return book.raised, book.resolved


def new_scores() -> dict[str, Score]:
    """Return scores of no detector yet."""
    return defaultdict(Score)
