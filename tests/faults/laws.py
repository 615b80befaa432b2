"""Seeds of the simulation and examples of the laws, in numbers that a suite has no time for."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

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
#: As many examples as so many seconds allow are tried of each law, up to the number asked for.
_LAW_SECONDS: Final = 150
_TRIAL: Final = 400
_PASSED: Final = re.compile(r"(\d+) passing examples")
_SPENT: Final = re.compile(r"during generate phase \(([\d.]+) seconds\)")
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
    """Try every law on many random logs; a law that is slow on as many as its time allows, and the row says so."""
    wanted = lab.size(200, 100_000)
    found = _laws()
    with ProcessPoolExecutor(_PROCESSES) as pool:
        tried = list(pool.map(_try, found, [wanted] * len(found)))
    counts = {law.partition("::")[2]: passed for law, (passed, _) in zip(found, tried, strict=True)}
    problems = [f"{law}: {said}" for law, (_, said) in zip(found, tried, strict=True) if said]
    fewer = {law: count for law, count in counts.items() if count < wanted}
    note = f"{len(found)} laws; {len(found) - len(fewer)} on {wanted} examples or all there are"
    if fewer:
        note += "; in the time given: " + ", ".join(f"{law} {count}" for law, count in fewer.items())
    yield Row("laws, by examples", sum(counts.values()), len(found), note=note, problems=problems)


def _laws() -> list[str]:
    """Return the laws: what in the files is given random examples."""
    collected = _pytest("--collect-only", "-q", *_FILES).stdout.splitlines()
    lines = [line.split("[")[0] for line in collected if "::" in line]
    return [law for law in dict.fromkeys(lines) if _is_given(law)]


def _is_given(law: str) -> bool:
    path, _, name = law.partition("::")
    before = Path(path).read_text().partition(f"def {name}(")[0]
    return "@given" in before.rpartition("\n\n\n")[2]


def _try(law: str, wanted: int) -> tuple[int, str]:
    """Return how many examples a law passed, and what is wrong with it."""
    passed, spent_s, wrong = _examples(law, min(wanted, _TRIAL))
    if wrong or wanted <= _TRIAL:
        return passed, wrong
    passed, _, wrong = _examples(law, min(wanted, int(_LAW_SECONDS * passed / max(spent_s, 0.001))))
    return passed, wrong


def _examples(law: str, examples: int) -> tuple[int, float, str]:
    """Return how many examples a law passed of so many, in how many seconds, and what is wrong with it."""
    done = _pytest("--hypothesis-show-statistics", law, examples=examples)
    passed = sum(int(match[1]) for match in _PASSED.finditer(done.stdout))
    spent_s = sum(float(match[1]) for match in _SPENT.finditer(done.stdout))
    is_wrong = done.returncode != 0 or not passed
    return passed, spent_s, (done.stdout + done.stderr)[-600:] if is_wrong else ""


def _pytest(*arguments: str, examples: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"ROOMMETER_TEST_EXAMPLES": str(examples)},
    )
