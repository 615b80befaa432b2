"""Reads from the store what detectors look at, as of a moment. Blocking; raises StoreUnavailable, StoreError.

Why counts are asked of the store, and not kept from the lifecycle topic: facts are joins there, so what is repeated,
late or replayed counts once, there is no state to lose or rebuild, and any moment of the past can be looked at again
with the same result. The past is asked for once a day, the last minutes every minute.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.alerts import questions
from pipeline.audit.store import timestamp
from pipeline.limits.store import LimitStore
from pipeline.metering.anomaly.baseline import WEEKS
from pipeline.metering.anomaly.detect import GRACE_MS, due
from pipeline.metering.anomaly.readings import (
    WINDOW_MS,
    WINDOWS,
    Activity,
    Amended,
    Connected,
    Hovering,
    Lengths,
    Part,
    Past,
    Readings,
    Series,
    Share,
    ShareKey,
    day_of,
)
from pipeline.metering.anomaly.statistics import median
from pipeline.metering.limits import Limits, period
from pipeline.metering.meters import Meters
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, hour_of

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

_PAST_MS: Final = 7 * WEEKS * MS_PER_DAY
#: Days of which parts and lengths are usual.
_PARTS_MS: Final = 14 * MS_PER_DAY
#: Sessions shorter than this are never far longer than others.
_LEAST_LONG_MS: Final = MS_PER_HOUR
#: Twins are looked for among sessions of the last hour and a half.
_TWINS_MS: Final = 90 * MS_PER_MINUTE
_HOVER_PERIODS: Final = 5

Key = tuple[str, str]
"""Project and meter."""


class Reader:
    """Reads as of moments that only go forward; what is asked for once a day is kept for the day."""

    def __init__(self, store: "Store", meters: Meters, limits: Limits | None, orphan_after_ms: int) -> None:
        """Wrap an open store."""
        self._store = store
        self._meters = meters
        self._limits = limits
        self._orphan_after_ms = orphan_after_ms
        self._meter_of = {meter.kind: meter.name for meter in meters.values() if meter.kind and not meter.with_number}
        self._day_ms = -1
        self._reported_ms = -1
        self._hours: dict[Key, tuple[dict[int, Past], dict[int, Past]]] = {}
        self._event_hours: dict[str, dict[int, Past]] = {}
        self._reported: dict[Key, Series] = {}
        self._lengths: dict[Key, Lengths] = {}
        self._past: dict[ShareKey, list[Part]] = {}

    def read(self, as_of_ms: int) -> Readings:
        """Return all that the detectors look at that are due."""
        if day_of(as_of_ms) != self._day_ms:
            self._read_past(day_of(as_of_ms))
        detectors = due(as_of_ms)
        is_window, is_hour = "flapping" in detectors, "limit_hovering" in detectors
        return Readings(
            as_of_ms,
            activity=self._activity(as_of_ms),
            servers=self._servers(as_of_ms),
            reported=self._reported_hours(as_of_ms),
            shares=self._shares(as_of_ms) if is_window else {},
            lengths=self._lengths,
            long=self._connected(questions.LONG, as_of_ms, _LEAST_LONG_MS) if is_window else (),
            twins=self._connected(questions.TWINS, as_of_ms, _TWINS_MS) if is_window else (),
            amended=self._amended(as_of_ms) if is_hour else {},
            hovering=self._hovering(as_of_ms) if is_hour else (),
        )

    def _ask(self, sql: str, from_ms: int, to_ms: int, slot_ms: int = WINDOW_MS) -> Sequence[Any]:
        return self._store.query(
            sql,
            from_ms=from_ms,
            to_ms=to_ms,
            slot_ms=slot_ms,
            as_of=timestamp(to_ms),
            to=timestamp(to_ms),
            orphan_after_ms=self._orphan_after_ms,
            project="",
            **{"from": timestamp(from_ms)},
        )

    def _read_past(self, day_ms: int) -> None:
        """Ask for the weeks before a midnight."""
        from_ms = max(0, day_ms - _PAST_MS)
        hours: dict[Key, tuple[dict[int, Past], dict[int, Past]]] = {}
        for project, kind, hour, *sums in self._ask(questions.ACTIVITY_HOURS, from_ms, day_ms):
            if kind in self._meter_of:
                connects, active = hours.setdefault((project, self._meter_of[kind]), ({}, {}))
                connects[from_ms + hour * MS_PER_HOUR] = Past(*sums[:3])
                active[from_ms + hour * MS_PER_HOUR] = Past(*sums[3:])
        event_hours: dict[str, dict[int, Past]] = defaultdict(dict)
        for source, hour, *sums in self._ask(questions.EVENT_HOURS, from_ms, day_ms):
            event_hours[source][from_ms + hour * MS_PER_HOUR] = Past(*sums)
        from_ms = max(0, day_ms - _PARTS_MS)
        self._lengths = {
            (project, self._meter_of[kind]): Lengths(count, *quartiles)
            for project, kind, count, quartiles in self._ask(questions.LENGTHS, from_ms, day_ms)
            if kind in self._meter_of
        }
        past: dict[ShareKey, list[Part]] = defaultdict(list)
        for key, _slot, part in sorted(self._parts(from_ms, day_ms), key=lambda found: -found[1]):
            past[key].append(part)
        self._past, self._event_hours, self._hours, self._day_ms = past, event_hours, hours, day_ms

    def _activity(self, as_of_ms: int) -> dict[Key, Activity]:
        from_ms = as_of_ms - WINDOWS * WINDOW_MS
        windows: dict[Key, tuple[list[int], list[int]]] = {key: ([0] * WINDOWS, [0] * WINDOWS) for key in self._hours}
        for project, kind, slot, connects, active in self._ask(questions.ACTIVITY, from_ms, as_of_ms):
            if kind in self._meter_of:
                key = (project, self._meter_of[kind])
                begun, connected = windows.setdefault(key, ([0] * WINDOWS, [0] * WINDOWS))
                begun[WINDOWS - 1 - slot], connected[WINDOWS - 1 - slot] = connects, active
        nothing: tuple[dict[int, Past], dict[int, Past]] = ({}, {})
        return {
            key: Activity(*map(Series, self._hours.get(key, nothing), counts))
            for key, counts in sorted(windows.items())
        }

    def _servers(self, as_of_ms: int) -> dict[str, Series]:
        windows = {source: [0] * WINDOWS for source in self._event_hours}
        for source, slot, count in self._ask(questions.EVENTS, as_of_ms - WINDOWS * WINDOW_MS, as_of_ms):
            windows.setdefault(source, [0] * WINDOWS)[WINDOWS - 1 - slot] = count
        return {source: Series(self._event_hours.get(source, {}), counts) for source, counts in sorted(windows.items())}

    def _reported_hours(self, as_of_ms: int) -> dict[Key, Series]:
        """Return what is reported by the hour, once the last hour has been emitted; nothing before."""
        hour_ms = hour_of(as_of_ms - GRACE_MS) - MS_PER_HOUR
        if hour_ms != self._reported_ms:
            [[emitted_ms]] = self._store.query(questions.EMITTED)
            if emitted_ms < hour_ms:
                return {}
            found: dict[Key, dict[int, Past]] = defaultdict(dict)
            for project, meter, at_ms, count in self._ask(
                questions.REPORTED, max(0, hour_ms - _PAST_MS), hour_ms + MS_PER_HOUR
            ):
                found[project, meter][at_ms] = Past(count, count)
            self._reported = {key: Series(hours, ()) for key, hours in sorted(found.items())}
            self._reported_ms = hour_ms
        return self._reported

    def _parts(self, from_ms: int, to_ms: int) -> list[tuple[ShareKey, int, Part]]:
        """Return parts by hours counted from a moment."""

        def ask(sql: str) -> Sequence[Any]:
            return self._ask(sql, from_ms, to_ms, MS_PER_HOUR)

        found: list[tuple[ShareKey, int, Part]] = []
        whole: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
        for project, kind, slot, sessions, short, skewed, unbegun, billed, lost in ask(questions.SESSION_PARTS):
            for index, count in enumerate((sessions, skewed, unbegun)):
                whole[project, slot][index] += count
            if meter := self._meter_of.get(kind):
                found.append((("flapping", project, meter), slot, Part(short, sessions)))
                found.append((("rounding_loss", project, meter), slot, Part(lost, billed)))
        for (project, slot), (sessions, skewed, unbegun) in whole.items():
            found.append((("clock_skew", project, ""), slot, Part(skewed, sessions)))
            found.append((("ends_without_starts", project, ""), slot, Part(unbegun, sessions + unbegun)))
        found += [(("duplicates", "", source), slot, Part(*part)) for source, slot, *part in ask(questions.DUPLICATES)]
        found += [(("dead_letters", "", ""), slot, Part(*part)) for slot, *part in ask(questions.DEAD_LETTERS)]
        found += [
            (("reconciliation", project, source), slot, Part(*part))
            for project, source, slot, *part in ask(questions.RECONCILED)
        ]
        return found

    def _shares(self, as_of_ms: int) -> dict[ShareKey, Share]:
        parts = self._parts(as_of_ms - MS_PER_HOUR, as_of_ms)
        return {key: Share(part, self._past.get(key, ())) for key, _, part in parts}

    def _connected(self, sql: str, as_of_ms: int, since_ms: int) -> list[Connected]:
        rows = self._ask(sql, as_of_ms - since_ms, as_of_ms)
        return [
            Connected(project, self._meter_of[kind], *rest) for project, kind, *rest in rows if kind in self._meter_of
        ]

    def _amended(self, as_of_ms: int) -> dict[str, Amended]:
        found = {}
        for project, days, sessions in self._ask(questions.AMENDED, max(0, as_of_ms - 28 * MS_PER_DAY), as_of_ms):
            worst = sessions[0] if sessions else ""
            [[count]] = self._store.query(questions.AMENDMENTS_OF, project=project, session=worst)
            found[project] = Amended(days[0], median(days[1:]), worst, count if worst else 0)
        return found

    def _hovering(self, as_of_ms: int) -> list[Hovering]:
        """Return the last periods of hard limits by the hour and the day; a month has too few of them."""
        limits = self._limits
        if limits is None:
            return []
        used = LimitStore(self._store, self._meters, limits, self._orphan_after_ms).increments_since(
            day_of(as_of_ms) - _HOVER_PERIODS * MS_PER_DAY, as_of_ms
        )
        found = []
        for project in sorted({key[0] for key in used}):
            for limit in limits.of(project):
                if limit.hard is None or limit.per not in ("hour", "day"):
                    continue
                sums: dict[int, int] = defaultdict(int)
                for (owner, meter, hour_ms), count in used.items():
                    if (owner, meter) == (project, limit.meter):
                        sums[period(limit.per, hour_ms)[0]] += count * self._meters[meter].increment
                begin_ms = period(limit.per, as_of_ms)[0]
                length_ms = MS_PER_DAY if limit.per == "day" else MS_PER_HOUR
                starts = [begin_ms - number * length_ms for number in range(1, _HOVER_PERIODS + 1)]
                found.append(Hovering(project, limit, [(start_ms, sums[start_ms]) for start_ms in starts]))
        return found
