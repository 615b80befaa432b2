"""How rows are shown: a line each while the laboratory runs, and tests/faults/RESULTS.md after a long run."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.brokers import candidates
from tests.faults.engine import NOT_COVERED, Row

_RESULTS: Final = Path(__file__).with_name("RESULTS.md")
_COLUMNS: Final = (
    ("fault", 36),
    ("times", 8),
    ("events", 9),
    ("sessions", 8),
    ("wrong", 5),
    ("lost", 5),
    ("doubled", 7),
    ("recovery s", 10),
    ("growth MB", 9),
    ("took s", 7),
    ("verdict", 11),
    ("", 0),
)
#: What no scenario makes: said in the results, so that nobody takes silence for a promise.
_NOT_COVERED: Final = (
    "power loss of a machine (fsync is never made to lie), and clusters: one broker, one store",
    "a ClickHouse server under faults: the store is ClickHouse's engine (chDB) behind HTTP, in a process of its own",
    "a slow or cut network between workers and broker; memory pressure and the OOM killer (F26)",
)


def headings() -> str:
    """Return the line above the rows."""
    return _line([name for name, _ in _COLUMNS])


def written(row: Row) -> str:
    """Return a row as a line."""
    return _line(_cells(row))


def write_results(rows: Sequence[Row], seed: int, command: str) -> None:
    """Write the results of a long run, with all that somebody needs to repeat it."""
    commit = subprocess.run(("git", "rev-parse", "--short=12", "HEAD"), check=False, capture_output=True, text=True)
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    gib = int(memory[1]) // 1_048_576 if memory else "?"
    lines = [
        "# Results of the fault laboratory",
        "",
        "Written by `make faults-long`, never by hand.",
        "",
        f"- date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; commit {commit.stdout.strip()}; seed {seed}",
        f"- machine: {os.cpu_count()} cores, {gib} GiB of memory, {model[1] if model else 'unknown CPU'}",
        f"- Python {platform.python_version()}; broker: {candidates()[0]}; store: the embedded engine behind HTTP",
        f"- command: `{command}`",
        "",
        "`wrong` is minutes by which any session's hour on any meter differs from the oracle; `lost` and `doubled` are",
        "records, counted by partition and offset. `recovery` is from the end of the fault to ready and caught up.",
        "",
        "| " + " | ".join(name or "notes" for name, _ in _COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
        *("| " + " | ".join(cell.replace("|", "/") for cell in _cells(row)) + " |" for row in rows),
        "",
        "Not covered:",
        "",
        *(f"- {row.fault}: {row.unavailable}" for row in rows if row.verdict == NOT_COVERED),
        *(f"- {what}" for what in _NOT_COVERED),
    ]
    _RESULTS.write_text("\n".join(lines) + "\n")


def _cells(row: Row) -> list[str]:
    numbers = [str(row.times), *(f"{number or '-'}" for number in (row.events, row.sessions))]
    wrong = ["-" if number is None else str(number) for number in (row.wrong, row.lost, row.doubled)]
    recovery = "-" if row.recovery_s is None else f"{row.recovery_s:.1f}"
    growth = "-" if row.growth_mb is None else str(row.growth_mb)
    few = [f"happened {row.times} times, {row.needed} needed"] if row.times < row.needed else []
    said = "; ".join([row.unavailable] if row.unavailable else [*few, *row.problems, row.note])
    return [row.fault, *numbers, *wrong, recovery, growth, f"{row.took_s:.0f}", row.verdict, said.replace("\n", " ")]


def _line(cells: Sequence[str]) -> str:
    (fault, *middle, said), widths = cells, [width for _, width in _COLUMNS]
    columns = [fault.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))]
    return "  ".join([*columns, said])
