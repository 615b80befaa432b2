"""All detectors at once: from readings as of a moment to what they found. And which of them look when."""

from collections.abc import Iterator
from itertools import chain
from typing import Final, cast

from pipeline.metering.anomaly.alert import Detector, Finding
from pipeline.metering.anomaly.baseline import Baseline, History
from pipeline.metering.anomaly.conduct import amendments, hovering
from pipeline.metering.anomaly.rates import Subject, fall, reported_change, rise, silence
from pipeline.metering.anomaly.readings import (
    WINDOW_MS,
    WINDOWS,
    WINDOWS_PER_HOUR,
    Activity,
    Readings,
    Series,
    Share,
    ShareKey,
    day_of,
)
from pipeline.metering.anomaly.rules import Rules
from pipeline.metering.anomaly.sessions import long_session, twins
from pipeline.metering.anomaly.shares import WORDS, Usual, share, usual_part
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, hour_of

#: Moments are looked at on this grid: every alerter looks as of the same ones, and finds the same.
STEP_MS: Final = MS_PER_MINUTE
#: How often each group of detectors looks, in ms.
EVERY_STEP: Final[frozenset[Detector]] = frozenset(
    {"connection_storm", "usage_rise", "usage_fall", "project_silent", "server_silent"}
)
_EVERY_WINDOW: Final[frozenset[Detector]] = frozenset({*WORDS, "long_session", "overlapping_twins"})
_EVERY_HOUR: Final[frozenset[Detector]] = frozenset({"frequent_amendments", "limit_hovering"})
#: How long after its end an hour of what is reported is looked at, as for its rollup (R18).
GRACE_MS: Final = 5 * MS_PER_MINUTE

HistoryKey = tuple[str, str, str]
"""What is counted, and of whom."""


def due(as_of_ms: int) -> frozenset[Detector]:
    """Return the detectors that look as of a moment of the grid."""
    found = EVERY_STEP
    if as_of_ms % WINDOW_MS == 0:
        found |= _EVERY_WINDOW
    if as_of_ms % MS_PER_HOUR == 0:
        found |= _EVERY_HOUR
    return found


class Detectors:
    """Detectors with their rules; what they learn of the days that are over is kept for the day (UTC)."""

    def __init__(self, rules: Rules) -> None:
        """Begin without knowing anything."""
        self._rules = rules
        self._day_ms = 0
        self._histories: dict[HistoryKey, History] = {}
        self._usual: dict[ShareKey, Usual | None] = {}

    def find(self, readings: Readings) -> list[Finding]:
        """Return what the detectors that are due as of the readings' moment have found, and are told to look for."""
        day_ms = day_of(readings.as_of_ms)
        if self._day_ms != day_ms:
            self._day_ms = day_ms
            self._histories.clear()
            self._usual.clear()
        detectors = due(readings.as_of_ms)
        found = chain(
            *(self._activity(*key, activity, readings.as_of_ms) for key, activity in readings.activity.items()),
            *(self._server(source, series, readings.as_of_ms) for source, series in readings.servers.items()),
            *(self._reported(*key, series, readings.as_of_ms) for key, series in readings.reported.items()),
            self._shares(readings) if "flapping" in detectors else (),
            self._sessions(readings) if "long_session" in detectors else (),
            self._conduct(readings) if "limit_hovering" in detectors else (),
        )
        rules = self._rules
        return [one for one in found if one is not None and rules.of(one.project).rule(one.detector).enabled]

    def _activity(self, project: str, meter: str, activity: Activity, as_of_ms: int) -> Iterator[Finding | None]:
        rules = self._rules.of(project)
        look_at = f"roommeter sessions --project {project}"
        began = Subject(project, meter, "", "sessions began", "session", look_at)
        connected = Subject(project, meter, "", "sessions were connected", "session", look_at)
        connects, active = activity.connects.windows, activity.active.windows
        usual = self._baselines(("connects", project, meter), activity.connects, as_of_ms)
        silent = silence("project_silent", began, connects, usual, as_of_ms, rules.project_silent)
        yield silent
        yield rise("connection_storm", began, connects, usual, as_of_ms, rules.connection_storm)
        usual = self._baselines(("active", project, meter), activity.active, as_of_ms)
        # A session that is connected in a window begins an increment a minute, five in all.
        yield rise("usage_rise", connected, active, usual, as_of_ms, rules.usage_rise, 500)
        if fallen := fall(connected, active, usual, as_of_ms, rules.usage_fall, 500):
            # Silence says the same, and more gravely.
            yield fallen._replace(is_new=fallen.is_new and not (silent and silent.is_new))

    def _server(self, source: str, series: Series, as_of_ms: int) -> Iterator[Finding | None]:
        subject = Subject("", "", source, "event came", "event", "roommeter reconcile --help")
        usual = self._baselines(("events", "", source), series, as_of_ms)
        yield silence("server_silent", subject, series.windows, usual, as_of_ms, self._rules.of("").server_silent)

    def _reported(self, project: str, meter: str, series: Series, as_of_ms: int) -> Iterator[Finding]:
        """Look at the last hour that is over."""
        rules = self._rules.of(project)
        hour_ms = hour_of(as_of_ms - GRACE_MS) - MS_PER_HOUR
        subject = Subject(project, meter, "", meter, "increment", f"roommeter usage --project {project}")
        history = self._history(("reported", project, meter), series, 1)
        usual = history.baseline(hour_ms, holiday=self._is_holiday(project, hour_ms))
        total = series.hours[hour_ms].total if hour_ms in series.hours else 0
        yield from reported_change(subject, total, usual, hour_ms, rules.usage_rise, rules.usage_fall)

    def _shares(self, readings: Readings) -> Iterator[Finding]:
        flapping = set()
        for key, part in sorted(readings.shares.items()):
            detector, project, subject = cast("Detector", key[0]), *key[1:]
            rule = self._rules.of(project).share(detector)
            finding = share(detector, project, subject, part, self._usual_of(key, part), readings.as_of_ms, rule)
            if finding is not None:
                if detector == "flapping" and finding.is_new:
                    flapping.add((project, subject))
                # Very short sessions lose most by rounding: one alert says both.
                is_echo = detector == "rounding_loss" and (project, subject) in flapping
                yield finding._replace(is_new=finding.is_new and not is_echo)

    def _sessions(self, readings: Readings) -> Iterator[Finding | None]:
        for one in readings.long:
            lengths = readings.lengths.get((one.project, one.meter))
            yield long_session(one, lengths, self._rules.of(one.project).long_session)
        yield from twins(readings.twins, readings.as_of_ms, lambda name: self._rules.of(name).overlapping_twins)

    def _conduct(self, readings: Readings) -> Iterator[Finding | None]:
        for project, amended in readings.amended.items():
            yield from amendments(project, amended, readings.as_of_ms, self._rules.of(project).frequent_amendments)
        for near in readings.hovering:
            yield hovering(near, self._rules.of(near.project).limit_hovering)

    def _is_holiday(self, project: str, time_ms: int) -> bool:
        return time_ms // MS_PER_DAY in self._rules.of(project).holidays

    def _baselines(self, key: HistoryKey, series: Series, as_of_ms: int) -> list[Baseline | None]:
        """Return what is usual in each window up to a moment, the newest first."""
        hour_ms = hour_of(as_of_ms)
        history = self._history(key, series, WINDOWS_PER_HOUR)
        of_hour, beyond_ms = divmod(as_of_ms - hour_ms, WINDOW_MS)
        beyond_percent, across_percent = beyond_ms * 100 // WINDOW_MS, 0
        usual: list[Baseline | None] = []
        while len(usual) < WINDOWS:
            holiday = self._is_holiday(key[1], hour_ms)
            if across_percent:
                # The window across a full hour is the earlier hour's, and has a part of the later one's first.
                usual.append(history.baseline(hour_ms, holiday=holiday, first_percent=across_percent))
                of_hour -= 1
            if of_hour:
                usual += [history.baseline(hour_ms, holiday=holiday)] * (of_hour - 1)
                usual.append(history.baseline(hour_ms, holiday=holiday, first_percent=100 - beyond_percent))
            hour_ms, of_hour, across_percent = hour_ms - MS_PER_HOUR, WINDOWS_PER_HOUR, beyond_percent
        return usual[:WINDOWS]

    def _history(self, key: HistoryKey, series: Series, windows_per_hour: int) -> History:
        if key not in self._histories:
            self._histories[key] = History(series, self._day_ms, windows_per_hour)
        return self._histories[key]

    def _usual_of(self, key: ShareKey, found: Share) -> Usual | None:
        if key not in self._usual:
            self._usual[key] = usual_part(found.past)
        return self._usual[key]
