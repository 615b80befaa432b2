"""The fault laboratory's engine: runs scenarios one after the other and says what came out. It knows none of them."""

import asyncio
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.brokers import TestBroker, candidates, own_candidates, start_broker
from tests.faults.compare import Compared

PASSED: Final = "passed"
FAILED: Final = "FAILED"
NOT_COVERED: Final = "not covered"
#: The problem of a scenario that was stopped from outside.
INTERRUPTED: Final = "interrupted"


@dataclass(frozen=True, slots=True)
class Row:
    """What one fault came to. `needed` is how often it has to happen; what is None was not measured.

    `problems` are whatever else went against a promise; `unavailable` says why the fault cannot be made here.
    """

    fault: str
    times: int = 0
    needed: int = 1
    events: int = 0
    sessions: int = 0
    wrong: int | None = None
    lost: int | None = None
    doubled: int | None = None
    recovery_s: float | None = None
    growth_mb: int | None = None
    note: str = ""
    problems: Sequence[str] = ()
    unavailable: str = ""
    took_s: float = 0.0
    scenario: str = ""

    @property
    def verdict(self) -> str:
        """PASSED, FAILED or NOT_COVERED: a fault that did not happen often enough is a failure."""
        if self.unavailable:
            return NOT_COVERED
        is_right = not (self.wrong or self.lost or self.doubled or self.problems)
        return PASSED if is_right and self.times >= self.needed else FAILED

    def compared(self, found: Compared) -> "Row":
        """Return the row with what a comparison found."""
        return replace(
            self,
            events=found.events,
            sessions=found.sessions,
            wrong=found.wrong,
            lost=found.lost,
            doubled=found.doubled,
        )


@dataclass(slots=True)
class Lab:
    """Where scenarios run: a directory, brokers, a seed, and whether sizes are those of the published figures."""

    is_long: bool
    seed: int
    home: Path
    say: Callable[[str], None]
    _brokers: list[TestBroker] = field(default_factory=list)

    def size(self, short: int, long: int) -> int:
        """Return the size for this run."""
        return long if self.is_long else short

    def directory(self, name: str) -> Path:
        """Return a new directory."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.home))

    @property
    def broker(self) -> TestBroker:
        """The broker that scenarios share; it starts when it is first asked for."""
        if not self._brokers:
            self._brokers.append(start_broker(candidates(), self.directory("broker"), self.say))
        return self._brokers[0]

    @contextmanager
    def own_broker(self) -> Iterator[TestBroker]:
        """Start a broker of one scenario, that may be killed."""
        started = start_broker(own_candidates(), self.directory("broker"), self.say)
        try:
            yield started
        finally:
            asyncio.run(started.stop())

    def close(self, *, is_kept: bool) -> None:
        """Stop the shared broker, and remove the directory unless its logs are to be kept."""
        for broker in self._brokers:
            asyncio.run(broker.stop())
        if is_kept:
            self.say(f"logs are kept in {self.home}")
        else:
            shutil.rmtree(self.home, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named scenario; it yields a row for each fault as soon as it is through with it."""

    name: str
    run: Callable[[Lab], Iterator[Row]]


def run(lab: Lab, scenarios: Sequence[Scenario], show: Callable[[Row], None]) -> list[Row]:
    """Run scenarios and return their rows; one that raises is a failed row, Ctrl-C ends the run with what there is."""
    rows: list[Row] = []

    def take(row: Row, started_s: float) -> None:
        rows.append(replace(row, took_s=time.monotonic() - started_s, scenario=scenario.name))
        show(rows[-1])

    for scenario in scenarios:
        started_s = time.monotonic()
        try:
            for row in scenario.run(lab):
                take(row, started_s)
                started_s = time.monotonic()
        except KeyboardInterrupt:
            take(Row(scenario.name, problems=[INTERRUPTED]), started_s)
            break
        except Exception as error:  # noqa: BLE001 - the others go on
            lab.say(traceback.format_exc())
            take(Row(scenario.name, problems=[f"{type(error).__name__}: {str(error)[:300]}"]), started_s)
    return rows
