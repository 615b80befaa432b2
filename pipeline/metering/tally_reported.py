"""Usage events and rented numbers as they grow (R14, R15): what each adds to which hour, kept up to date.

Of usage events ids are kept as long as their hours are exact: a repetition is known by its id and adds nothing, or the
increase. They are many, so they lie by what they share, and an id costs about 200 bytes. Older reports matter only
where an id reports again in a later hour. Numbers are few, and all of them are kept.
"""

from collections.abc import Collection, Container, Mapping

from pipeline.metering.counted import held_by_hour, reported_by_hour
from pipeline.metering.events import Event, EventType
from pipeline.metering.meters import Meter
from pipeline.metering.quantities import Held, NumberKey, Quantities
from pipeline.metering.tally_hours import TallyHours
from pipeline.metering.units import NEVER_MS, div_ceil, hour_of, month_of, next_month

#: In place of every hour before the exact ones: only the largest report of all of them matters.
_BEFORE_MS = 0
_Cells = dict[tuple[str, int], dict[str, int]]
"""Of one source: by meter and hour, the largest quantity that each id reported."""


class TallyReported:
    """What usage events and numbers add to the hours, for some meters."""

    def __init__(self, meters: Collection[Meter], projects: Container[str] | None, hours: TallyHours) -> None:
        """Begin with nothing known; what is known of `projects` (None: every one) is added to `hours`."""
        self._hours = hours
        self._projects = projects
        self._discrete = {meter.name: meter.increment for meter in meters if meter.measures == "discrete"}
        self._rentals = [meter for meter in meters if meter.measures == "rental"]
        self._sources: dict[tuple[str, str], _Cells] = {}
        self._numbers: dict[NumberKey, Held] = {}
        self._held_hours: dict[NumberKey, frozenset[int]] = {}
        self._touched: set[NumberKey] = set()
        self._due_ms = NEVER_MS

    def observe(self, event: Event) -> None:
        """Join one event of usage or of a number."""
        if event.type is EventType.USAGE_RECORDED:
            if self._discrete:
                self._record(event.project, event.source, event.id, event.meter, event.time_ms, event.quantity or 0)
        elif self._rentals:
            quantities = Quantities()
            quantities.observe(event)
            self._hold(quantities.numbers)

    def join(self, quantities: Quantities) -> None:
        """Join what is known elsewhere, of any projects."""
        for (project, source, name, meter, hour_ms), recorded in quantities.discrete.items():
            if self._discrete and self._is_wanted(project):
                self._record(project, source, name, meter, hour_ms, recorded.quantity)
        if self._rentals:
            self._hold({key: held for key, held in quantities.numbers.items() if self._is_wanted(key[0])})

    def settle(self, as_of_ms: int) -> None:
        """Bring the numbers up to a moment: a number that is held is used again as soon as a month begins."""
        self._hours.reveal(as_of_ms)
        if as_of_ms >= self._due_ms:
            self._touched |= self._numbers.keys()
        if not self._touched:
            return
        self._due_ms = min(
            self._due_ms if as_of_ms < self._due_ms else NEVER_MS, next_month(month_of(as_of_ms - 1)) + 1
        )
        for key in self._touched:
            held = self._numbers[key]
            hours = frozenset(held_by_hour(held, as_of_ms))
            before = self._held_hours.get(key, frozenset())
            for meter in self._rentals:
                units = div_ceil(meter.unit_size, meter.increment)
                for hour_ms in hours - before:
                    self._hours.add(key[0], meter.name, hour_ms, units)
                for hour_ms in before - hours:
                    self._hours.add(key[0], meter.name, hour_ms, -units)
            self._held_hours[key] = hours
            self._due_ms = min([self._due_ms, *(at_ms + 1 for at_ms in held.acquired_ms if at_ms >= as_of_ms)])
        self._touched.clear()

    def forget(self) -> None:
        """Forget the ids of hours that are not exact any more, but of those that have reported again since."""
        for cells in self._sources.values():
            later = set().union(*(ids for (_, hour_ms), ids in cells.items() if hour_ms >= self._hours.from_ms))
            past = [cell for cell in cells if cell[1] < self._hours.from_ms]
            for meter, hour_ms in past:
                ids = cells.pop((meter, hour_ms))
                for name in later.intersection(ids):
                    known = cells.setdefault((meter, _BEFORE_MS), {})
                    known[name] = max(known.get(name, 0), ids[name])
        for key in [key for key, cells in self._sources.items() if not cells]:
            del self._sources[key]

    def _is_wanted(self, project: str) -> bool:
        return self._projects is None or project in self._projects

    def _hold(self, numbers: Mapping[NumberKey, Held]) -> None:
        for key, held in numbers.items():
            known = self._numbers.get(key, Held())
            both = Held(known.acquired_ms | held.acquired_ms, known.released_ms | held.released_ms)
            if both != known:
                self._numbers[key] = both
                self._touched.add(key)

    def _record(self, project: str, source: str, name: str, meter: str, time_ms: int, quantity: int) -> None:
        """Join a report, and add what it changes. Of a time that is not exact it matters where the id has others."""
        hour_ms = hour_of(time_ms) if time_ms >= self._hours.from_ms else _BEFORE_MS
        cells = self._sources.get((project, source))
        if cells is None:
            cells = self._sources[project, source] = {}
        is_known = any(name in ids for ids in cells.values())
        if not is_known:
            if hour_ms != _BEFORE_MS:
                cells.setdefault((meter, hour_ms), {})[name] = quantity
                if meter in self._discrete:
                    self._hours.add(project, meter, hour_ms, div_ceil(quantity, self._discrete[meter]))
            return
        known = cells.get((meter, hour_ms), {}).get(name)
        if known is not None and known >= quantity:
            return
        self._apply(project, cells, name, -1)
        cells.setdefault((meter, hour_ms), {})[name] = quantity
        self._apply(project, cells, name, 1)

    def _apply(self, project: str, cells: _Cells, name: str, sign: int) -> None:
        """Add all that an event adds, or take it away; sent for two meters it counts for that of the greater name."""
        meter = max(meter for (meter, _), ids in cells.items() if name in ids)
        if meter in self._discrete:
            reports = {hour_ms: (ids[name],) for (of, hour_ms), ids in cells.items() if of == meter and name in ids}
            for hour_ms, increments in reported_by_hour(reports, self._discrete[meter], NEVER_MS):
                self._hours.add(project, meter, hour_ms, sign * increments)
