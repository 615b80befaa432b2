"""Increments by project, meter and hour as they grow: exact from an hour on, and sums from elsewhere before it."""

from collections import defaultdict
from collections.abc import Mapping

from pipeline.metering.usage import CellKey


class TallyHours:
    """Numbers that others add to and take from; hours before `from_ms` are given whole, and not added to."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.from_ms = 0
        #: Projects of which a number has changed; whoever looks at them empties it.
        self.changed: set[str] = set()
        self._recent: dict[str, defaultdict[tuple[str, int], int]] = {}
        self._before: dict[tuple[str, str], dict[int, int]] = {}
        self._sums: dict[tuple[str, str, int, int], int] = {}
        self._as_of_ms = 0
        self._ahead: defaultdict[CellKey, int] = defaultdict(int)

    def add(self, project: str, meter: str, hour_ms: int, increments: int) -> None:
        """Add increments to an hour, or take some away; what lies ahead counts when its hour has begun."""
        if hour_ms < self.from_ms or increments == 0:
            return
        if hour_ms >= self._as_of_ms:
            self._ahead[project, meter, hour_ms] += increments
            return
        recent = self._recent.get(project)
        if recent is None:
            recent = self._recent[project] = defaultdict(int)
        recent[meter, hour_ms] += increments
        self.changed.add(project)

    def reveal(self, as_of_ms: int) -> None:
        """Count what lay ahead, in the hours that have begun; time does not go back."""
        self._as_of_ms = max(self._as_of_ms, as_of_ms)
        for cell in [cell for cell in self._ahead if cell[2] < self._as_of_ms]:
            self.add(*cell, self._ahead.pop(cell))

    def rebase(self, from_ms: int, before: Mapping[CellKey, int]) -> None:
        """Take the hours before `from_ms` from elsewhere."""
        assert from_ms >= self.from_ms, "what was forgotten is not known any more"
        self.from_ms = from_ms
        self._before = {}
        for (project, meter, hour_ms), increments in before.items():
            if hour_ms < from_ms:
                self._before.setdefault((project, meter), {})[hour_ms] = increments
        self._sums.clear()
        for cells in self._recent.values():
            for cell in [cell for cell in cells if cell[1] < from_ms]:
                del cells[cell]
        self.changed |= self.projects()

    def projects(self) -> set[str]:
        """Return the projects that have any number."""
        return {project for project, _ in self._before} | self._recent.keys()

    def increments(self, project: str, meter: str, period_ms: int, period_end_ms: int) -> int:
        """Return the increments of the hours that start in [period_ms, period_end_ms)."""
        key = (project, meter, period_ms, period_end_ms)
        before = self._sums.get(key)
        if before is None:
            hours = self._before.get((project, meter), {})
            before = self._sums[key] = sum(n for hour_ms, n in hours.items() if period_ms <= hour_ms < period_end_ms)
        return before + sum(
            n
            for (name, hour_ms), n in self._recent.get(project, {}).items()
            if name == meter and period_ms <= hour_ms < period_end_ms
        )
