"""The fault laboratory: `python -m tests.faults [--long] [--only NAME ...] [--json] [--seed N]`.

Real processes, real faults; a row for each fault as it is done. The exit code is 1 where anything differs from the
rules or a fault did not really happen. `--long` runs the published sizes and writes tests/faults/RESULTS.md.
"""

import argparse
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import orjson
from rich.console import Console

from tests.faults.catalogue import SCENARIOS
from tests.faults.engine import FAILED, Lab, Row, run
from tests.faults.results import headings, write_results, written


def main() -> int:
    """Run what is asked for; return the exit code."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--long", action="store_true", help="the published sizes; writes tests/faults/RESULTS.md")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", action="store_true", help="one JSON document a row")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn at random")
    arguments = parser.parse_args()
    screen = Console(stderr=arguments.json, width=200 if not sys.stdout.isatty() else None)
    # SIGTERM as Ctrl-C: what runs is stopped, what is done is printed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab = Lab(
        is_long=arguments.long,
        seed=arguments.seed,
        home=Path(tempfile.mkdtemp(prefix="roommeter-faults-")),
        say=lambda line: screen.print(line, style="dim", markup=False, highlight=False),
    )

    def show(row: Row) -> None:
        if arguments.json:
            sys.stdout.write(orjson.dumps(asdict(row) | {"verdict": row.verdict}).decode() + "\n")
            sys.stdout.flush()
        else:
            style = "red" if row.verdict == FAILED else None
            screen.print(written(row), style=style, markup=False, highlight=False, soft_wrap=True)

    if not arguments.json:
        screen.print(headings(), style="bold", soft_wrap=True)
    rows: list[Row] = []
    try:
        rows = run(lab, [scenario for scenario in SCENARIOS if scenario.name in arguments.only], show)
    finally:
        lab.close(is_kept=any(row.verdict == FAILED for row in rows))
    if arguments.long:
        write_results(rows, lab.seed, " ".join(["python -m tests.faults", *sys.argv[1:]]))
    failed = [row.fault for row in rows if row.verdict == FAILED]
    screen.print(f"{len(rows)} faults; failed: {', '.join(failed) or 'none'}", markup=False)
    return bool(failed) or not rows


if __name__ == "__main__":
    sys.exit(main())
