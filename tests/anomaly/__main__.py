"""How well each detector finds what was planted in simulated months, as a table and plots in data/anomaly-report/."""

import argparse
import sys
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib import pyplot as plt

from pipeline.metering.anomaly.alert import Alert
from pipeline.metering.units import MS_PER_DAY
from tests.anomaly import parts
from tests.anomaly.measure import Score, new_scores, run_counts, score
from tests.anomaly.month import LEARNED_DAYS, MEASURED_DAYS, START_MS, Counts, Label, counts
from tests.metering.builders import ROOT

_FIRST_SEED: Final = 6_001
_PROJECTS: Final = 100
_HELP: Final = """\
Each project is one seed. Parameters were chosen with 1 to 200 and 1001 to 1144; 5001 to 5040, 6001 to 6060 and some of
2001 to 2020 have been looked at: judge on others, and after any change on a block that nobody has looked at.

examples:
  make anomaly-report
  make anomaly-report PROJECTS=60 SEED=6001
  python -m tests.anomaly 2 --first-seed 1
"""
_FOLDER: Final = ROOT / "data" / "anomaly-report"
_RECALL: Final = 0.95
_FALSE_PER_1000: Final = 1.0
#: Storms and spikes have to be told so soon, of 95 in 100.
_DELAY_MINUTES: Final = 5
_PROMPT: Final = frozenset({"connection_storm", "usage_rise"})
#: How wide a line of words is in the picture of a month.
_NEAR_DAYS: Final = 0.35

_HEADS: Final = (
    *("detector", "planted", "recall", "precision", "false per 1 000 project-days", "delay, min (median)", "(95 %)"),
    *("small or in quiet hours: found", "meets"),
)

Found = tuple[str, list[Label], list[Alert], dict[str, int]]


def _project(seed: int) -> list[Found]:
    """Return what was planted in one project's month and what was raised, by groups of detectors."""
    name = f"p{seed}"
    month = counts(name, seed)
    found: list[Found] = [(name, month.labels, *run_counts(month))]
    found += [(name, labels, raised, resolved) for _, labels, raised, resolved in parts.shares(month, seed)]
    found.append((name, *parts.servers(name, seed)))
    found.append((name, *parts.long_sessions(month, seed)))
    found.append((name, *parts.twins(name, seed)))
    found.append((name, *parts.conduct(name, seed)))
    return found


def _row(name: str, one: Score, project_days: int) -> str:
    recall = one.found / max(1, one.planted)
    precision = 1 - one.false / max(1, one.raised)
    false = one.false * 1000 / project_days
    delays = sorted(one.delays_ms) or [0]
    median, most = (delays[int(len(delays) * part)] / 60_000 for part in (0.5, 0.95))
    is_met = recall >= _RECALL and false <= _FALSE_PER_1000 and (most <= _DELAY_MINUTES or name not in _PROMPT)
    return (
        f"| {name} | {one.planted} | {recall:.3f} | {precision:.3f} | {false:.2f} | {median:.0f} | {most:.0f} "
        f"| {one.hard_found} of {one.hard} | {'yes' if is_met else '**no**'} |"
    )


def _bars(scores: dict[str, Score], project_days: int) -> None:
    names = sorted(scores)
    figure, axes = plt.subplots(1, 3, figsize=(14, 6), sharey=True, layout="constrained")
    recalls = [scores[name].found / max(1, scores[name].planted) for name in names]
    false = [scores[name].false * 1000 / project_days for name in names]
    delays = [sorted(scores[name].delays_ms) or [0] for name in names]
    for axis, values, title, goal in (
        (axes[0], recalls, "recall", _RECALL),
        (axes[1], false, "false alerts per 1 000 project-days", _FALSE_PER_1000),
        (axes[2], [one[len(one) // 2] / 60_000 for one in delays], "median delay, minutes of event time", None),
    ):
        axis.bar_label(axis.barh(names, values, color="#4477aa"), fmt="{:,.4g}", padding=3, fontsize=8)
        axis.set_title(title)
        if goal is not None:
            axis.axvline(goal, color="#cc3311", linestyle="--", label="goal")
            axis.legend()
    axes[0].set_xlim(0, 1.15)
    axes[1].set_xlim(0, 1.15 * max(1.2, *false))
    axes[2].set_xscale("symlog")
    figure.savefig(_FOLDER / "detectors.png", dpi=110)
    plt.close(figure)


def _together(raised: Sequence[Alert]) -> list[tuple[float, list[str]]]:
    """Return when alerts were raised, in days, and by which detectors: those too near for words side by side as one."""
    found: list[tuple[float, list[str]]] = []
    for alert in sorted(raised, key=lambda alert: alert.as_of_ms):
        at = (alert.as_of_ms - START_MS) / MS_PER_DAY
        if not found or at - found[-1][0] > _NEAR_DAYS:
            found.append((at, []))
        name = alert.finding.detector.replace("_", " ")
        if name not in found[-1][1]:
            found[-1][1].append(name)
    return found


def _timeline(month: Counts, labels: Sequence[Label], raised: Sequence[Alert]) -> None:
    """Draw one project's month: sessions connected, what was planted, what was raised."""
    first = LEARNED_DAYS * 1_440
    figure, axis = plt.subplots(figsize=(14, 5), layout="constrained")
    hours = month.connected[first:].reshape(-1, 15).mean(1)
    axis.plot([number / 96 for number in range(len(hours))], hours, linewidth=0.7, color="#4477aa", label="connected")
    top = max(hours)
    for label in labels:
        planted = ((at_ms - START_MS) / MS_PER_DAY for at_ms in (label.since_ms, label.until_ms))
        axis.axvspan(*planted, color="#ee7733", alpha=0.5)
    for at, names in _together(raised):
        axis.plot(at, top * 1.05, marker="v", color="#cc3311")
        axis.text(at, top * 1.1, ", ".join(names), rotation=90, ha="center", va="bottom", fontsize=8)
    axis.set_ylim(0, top * 2)
    axis.set_xlabel("day that is measured; orange: planted, triangles: raised")
    axis.set_title(f"{month.name}: sessions connected")
    figure.savefig(_FOLDER / "month.png", dpi=110)
    plt.close(figure)


def main(projects: int, first_seed: int) -> int:
    """Measure, print the table, draw the plots; 1 where a detector does not meet its figures."""
    mpl.use("Agg")
    _FOLDER.mkdir(parents=True, exist_ok=True)
    scores = new_scores()
    with Pool(2) as pool:
        for done, found in enumerate(pool.imap_unordered(_project, range(first_seed, first_seed + projects)), 1):
            for name, labels, raised, resolved in found:
                score(scores, name, labels, raised, resolved)
            print(f"\r{done} of {projects} projects", end="", file=sys.stderr)  # noqa: T201 - a program
    days = projects * MEASURED_DAYS
    lines = [
        "",
        f"{projects} projects, {days} project-days, seeds {first_seed} to {first_seed + projects - 1}",
        "",
        f"| {' | '.join(_HEADS)} |",
        "|---" * len(_HEADS) + "|",
        *(_row(name, scores[name], days) for name in sorted(scores)),
        "",
        *(f"missed: {text}" for one in scores.values() for text in one.missed[:3]),
        *(f"false: {text}" for one in scores.values() for text in one.wrong[:3]),
    ]
    text = "\n".join(lines) + "\n"
    Path(_FOLDER / "table.md").write_text(text)
    print(text)  # noqa: T201
    _bars(scores, days)
    month = counts(f"p{first_seed}", first_seed)
    _timeline(month, month.labels, run_counts(month)[0])
    return int(any("**no**" in line for line in lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.anomaly",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("projects", type=int, nargs="?", default=_PROJECTS, help="how many projects (default 100)")
    parser.add_argument("--first-seed", type=int, default=_FIRST_SEED, help="of the first one (default 6001)")
    given = parser.parse_args()
    raise SystemExit(main(given.projects, given.first_seed))
