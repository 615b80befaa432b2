"""The whole of roommeter under faults, in one thread and on a clock of its own: see tests/simulation.

Here a few hundred seeds; `make simulate SEEDS=1..10000` runs more, and `make simulate SEED=7` shows one step by step.
"""

import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.simulation.faults import EVERY_FAULT
from tests.simulation.planted import BUGS
from tests.simulation.run import Report, run

_SEEDS = range(1, 101)
#: In how many seeds, at most, each planted bug has to be caught.
_SEEDS_TO_CATCH = range(1, 61)


@cache
def _reports() -> list[Report]:
    return [run(seed) for seed in _SEEDS]


def test_no_seed_breaks_a_promise() -> None:
    """R10 to R22: under faults nothing is lost, doubled or early; healed, it converges, and all bills are one."""
    assert [report.violation for report in _reports() if report.violation] == []


def test_every_fault_happened() -> None:
    """Or a promise was kept because nothing tried it."""
    faults = sum((Counter(report.faults) for report in _reports()), Counter[str]())
    assert [fault for fault in EVERY_FAULT if not faults[fault]] == []
    assert faults.keys() <= set(EVERY_FAULT)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str) -> None:
    """A check that a broken product passes guards nothing; the seeds are the same for every bug."""
    assert any(run(seed, BUGS[bug]).violation for seed in _SEEDS_TO_CATCH)


def test_a_seed_is_the_same_run_every_time() -> None:
    """Or nobody could replay what failed: in another process too, where texts have other hashes."""
    program = "from tests.simulation.run import run\nfor seed in (3, 16): print(run(seed))"
    answers = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            check=True,
            timeout=180,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert answers[0].count(b"Report(") == 2
    assert answers[0] == answers[1]
