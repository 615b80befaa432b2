"""The limit at which a worker stops rather than bury nearly everything: a misconfiguration drains no topic (R21, R22).

Pure. It is asked before a batch is buried. Looked at are the last records, whole batches of them; so while fewer
than a window have come, whatever they are, nothing stops: that many dead letters can be looked at and replayed.
One producer's bad output is no misconfiguration of ours, however much it sends: projects have to fail as widely
as records. Only where it is the only one to send are the two not to be told apart.
"""

from collections import Counter, deque
from typing import Final, NamedTuple

from pipeline.deadletters import letter as deadletter
from pipeline.tracker import Changes

_WHOLE: Final = 100


class Counts(NamedTuple):
    """How many records of each project were accepted, and how many are dead letters."""

    accepted: Counter[str]
    dead: Counter[str]

    @property
    def records(self) -> int:
        """All of them."""
        return self.accepted.total() + self.dead.total()


def count_by_project(changes: Changes) -> Counts:
    """Count what a batch became; an ignored event is neither (R21). '' is the project of what names none."""
    return Counts(
        Counter(raw.event.project for raw in changes.events if raw.event is not None),
        Counter(deadletter.project_of(letter.key, letter.value, letter.headers) for letter in changes.dead_letters),
    )


class Breaker:
    """Tells when nearly everything fails: more than `limit_percent` of the last `window_records`, and of projects."""

    def __init__(self, limit_percent: int, window_records: int) -> None:
        """Start with an empty window; a limit of 100 never stops anything."""
        assert 0 < limit_percent <= _WHOLE
        assert window_records > 0
        self._limit_percent = limit_percent
        self._window_records = window_records
        self._batches: deque[Counts] = deque()
        self._window = Counts(Counter(), Counter())

    def admits(self, batch: Counts) -> bool:
        """Tell whether a batch may be buried; it counts from now on only if it may."""
        records = self._window.records + batch.records
        while self._batches and records - self._batches[0].records >= self._window_records:
            oldest = self._batches.popleft()
            records -= oldest.records
            self._window = Counts(self._window.accepted - oldest.accepted, self._window.dead - oldest.dead)
        if records >= self._window_records and self._is_over(batch):
            return False
        self._batches.append(batch)
        self._window = Counts(self._window.accepted + batch.accepted, self._window.dead + batch.dead)
        return True

    def _is_over(self, batch: Counts) -> bool:
        """Tell whether too many fail, of records and of projects, with a batch that is not in the window yet."""
        accepted, dead = self._window.accepted + batch.accepted, self._window.dead + batch.dead
        if not self._is_more(dead.total(), accepted.total() + dead.total()):
            return False
        projects = accepted.keys() | dead.keys()
        failing = sum(self._is_more(dead[project], accepted[project] + dead[project]) for project in projects)
        return self._is_more(failing, len(projects))

    def _is_more(self, part: int, whole: int) -> bool:
        return part * _WHOLE > whole * self._limit_percent
