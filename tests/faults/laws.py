"""Seeds of the simulation and examples of the laws, in numbers that a suite has no time for."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.engine import Lab, Row
from tests.simulation.faults import EVERY_FAULT
from tests.simulation.planted import BUGS
from tests.simulation.run import Report, run

_CANARY: Final = "acknowledges before the insert"
_FILES: Final = (
    "tests/metering/test_session_laws.py",
    "tests/metering/test_rollup.py",
    "tests/metering/test_timeline.py",
    "tests/metering/test_units.py",
    "tests/metering/test_usage.py",
    "tests/metering/test_events_two_ways.py",
)
#: A test that is given examples, with whatever else decorates it.
_GIVEN: Final = re.compile(r"^@given.*\n(?:[@ )].*\n)*def (test_\w+)", re.MULTILINE)
_PASSED: Final = re.compile(r"- (\d+) passing")
_NO_MORE: Final = "Stopped because nothing left to do"
#: The head of what is said of one test.
_HEAD: Final = re.compile(r"^tests/\S+::.*:$", re.MULTILINE)
_PROCESSES: Final = 2


def seeds(lab: Lab) -> Iterator[Row]:
    """Run the simulation over many seeds on both cores; a planted bug has to be caught first."""
    count = lab.size(60, 10_000)
    first = lab.seed * 100_000
    faults: Counter[str] = Counter()
    broken, records, steps = [], 0, 0
    problems = [] if any(run(seed, BUGS[_CANARY]).violation for seed in range(20)) else ["the canary lives"]
    with ProcessPoolExecutor(_PROCESSES) as pool:
        reports: Iterator[Report] = pool.map(run, range(first, first + count), chunksize=10)
        for number, report in enumerate(reports, 1):
            faults.update(report.faults)
            records, steps = records + report.records, steps + report.steps
            broken += [f"seed {report.seed}: {report.violation}"] if report.violation else []
            if number % 1_000 == 0:
                lab.say(f"{number} of {count} seeds, {len(broken)} broken")
    absent = [str(fault) for fault in EVERY_FAULT if not faults[fault]]
    problems += broken[:5] + ([f"never happened: {', '.join(absent)}"] if absent and count >= 300 else [])
    note = f"{count} seeds, {faults.total()} faults of {len(EVERY_FAULT)} kinds, {steps} steps"
    yield Row(
        "simulated faults, by seeds",
        faults.total(),
        count,
        events=records,
        wrong=len(broken),
        note=note,
        problems=problems,
    )


def laws(lab: Lab) -> Iterator[Row]:
    """Try every law on many random examples, or on all there are."""
    wanted = lab.size(100, 100_000)
    found = [[f"{path}::{name}" for name in _GIVEN.findall(Path(path).read_text())] for path in _FILES]
    # A process for each file, or where each law takes minutes for each law.
    shares = [[law] for laws in found for law in laws] if lab.is_long else found
    passed, whole, problems = 0, 0, []
    with ProcessPoolExecutor(_PROCESSES) as pool:
        for share, tried in zip(shares, pool.map(_try, shares, [wanted] * len(shares)), strict=True):
            passed, whole = passed + tried.passed, whole + tried.whole
            problems += [f"{share[0]}: {tried.wrong}"] if tried.wrong else []
            lab.say(f"{share[0]} and {len(share) - 1} more: {tried.passed} examples")
    note = f"{sum(map(len, found))} laws, each on {wanted} examples"
    note += f"; {whole} of them on fewer, which are all there are" if whole else ""
    yield Row("laws, by examples", passed, wanted, note=note, problems=problems)


class _Tried(NamedTuple):
    """How many examples some laws passed, how many laws on fewer than asked, which are all there are; what is wrong."""

    passed: int
    whole: int
    wrong: str


def _try(laws: Sequence[str], wanted: int) -> _Tried:
    done = _pytest("--hypothesis-show-statistics", *laws, examples=wanted)
    said = _HEAD.split(done.stdout)[1:]
    counts = [sum(int(match[1]) for match in _PASSED.finditer(one)) for one in said]
    fewer = [one for one, passed in zip(said, counts, strict=True) if passed < wanted]
    is_wrong = done.returncode != 0 or len(said) < len(laws) or not all(_NO_MORE in one for one in fewer)
    return _Tried(sum(counts), len(fewer), (done.stdout + done.stderr)[-600:] if is_wrong else "")


def _pytest(*arguments: str, examples: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"ROOMMETER_TEST_EXAMPLES": str(examples)},
    )
