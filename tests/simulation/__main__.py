"""Run the simulation: `python -m tests.simulation --seed 7 --verbose`, or `--seeds 1..500`.

A range prints a table of every fault with how often it happened, and fails when a seed breaks a promise or a fault
never happened. It first proves that it can fail: a canary, the product with a planted bug, has to be caught.
"""

import argparse
import sys
import time
from collections import Counter
from typing import Final

from tests.simulation.faults import EVERY_FAULT
from tests.simulation.planted import BUGS
from tests.simulation.run import Parts, run

_CANARY: Final = "acknowledges before the insert"
#: With fewer seeds than these, a fault that never happened is no finding.
_SEEDS_FOR_EVERY_FAULT: Final = 300


def main() -> int:
    """Return 1 where a promise was broken, 2 where nothing was proved, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one seed")
    which.add_argument("--seeds", help="a range: 1..500")
    parser.add_argument("--plant", choices=BUGS, help="with this bug in the product")
    parser.add_argument("--verbose", "-v", action="store_true", help="print every step")
    arguments = parser.parse_args()
    parts = BUGS[arguments.plant] if arguments.plant else Parts()
    if arguments.seed is not None:
        return _one(arguments.seed, parts, is_traced=arguments.verbose)
    first, _, last = arguments.seeds.partition("..")
    return _many(range(int(first), int(last or first) + 1), parts)


def _one(seed: int, parts: Parts, *, is_traced: bool) -> int:
    report = run(seed, parts, is_traced=is_traced)
    _say(f"seed {seed}: {report.records} records, {report.steps} steps, {sum(report.faults.values())} faults")
    _say(f"BROKEN: {report.violation}" if report.violation else f"all bills agree: {report.digest}")
    return bool(report.violation)


def _many(seeds: range, parts: Parts) -> int:
    if not any(run(seed, BUGS[_CANARY]).violation for seed in seeds[:20]):
        _say(f"the canary lives: {_CANARY!r} was not caught in {len(seeds[:20])} seeds; nothing here proves anything")
        return 2
    faults: Counter[str] = Counter()
    seeds_with: Counter[str] = Counter()
    broken, records, steps, started_s = [], 0, 0, time.monotonic()
    for seed in seeds:
        report = run(seed, parts)
        faults.update(report.faults)
        seeds_with.update(report.faults.keys())
        records, steps = records + report.records, steps + report.steps
        if report.violation:
            broken.append(seed)
            _say(f"BROKEN: {report.violation}\n  replay it with: python -m tests.simulation --seed {seed} --verbose")
    _say(f"{'fault':<58} {'times':>8} {'in seeds':>8}")
    for fault in EVERY_FAULT:
        _say(f"{fault:<58} {faults[fault]:>8} {seeds_with[fault]:>8}")
    absent = [fault for fault in EVERY_FAULT if not faults[fault]]
    speed = len(seeds) / (time.monotonic() - started_s) * 60
    _say(f"{len(seeds)} seeds, {records} records, {steps} steps, {faults.total()} faults; {speed:.0f} seeds a minute")
    _say(f"promises broken: {len(broken)}; canary caught; faults that never happened: {absent or 'none'}")
    if absent and len(seeds) >= _SEEDS_FOR_EVERY_FAULT:
        return 2
    return bool(broken)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
