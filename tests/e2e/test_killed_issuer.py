"""Issuing invoices, killed with SIGKILL while at it: what is issued stays, and no number is left out or given twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.metering.builders import ROOT, connected, disconnected
from tests.metering.plan_texts import flat

_PROGRAM: Final = (sys.executable, "-m", "pipeline")
_PROJECTS: Final = [f"p{number:02}" for number in range(20)]
_ISSUE: Final = ("invoice", "--month", "2026-09", "--issue", "--format", "json")


def books(folder: Path, store: str = "store") -> dict[str, str]:
    """Store an agent's minute of each project, and return the environment in which they are on a plan."""
    events = [
        one
        for project in _PROJECTS
        for one in (connected("14:00:00", project=project), disconnected("14:00:30", project=project))
    ]
    (folder / "events.jsonl").write_text("\n".join(json.dumps(event) for event in events))
    accounts = "".join(f'[projects.{name}]\nplans = [{{ from = 2026-09-01, plan = "p" }}]\n' for name in _PROJECTS)
    (folder / "plans.toml").write_text(f'[plans.p]\ncurrency = "USD"\n{flat()}{accounts}')
    environment = os.environ | {
        "ROOMMETER_STORE": f"chdb://{folder / store}",
        "ROOMMETER_PLANS_FILE": str(folder / "plans.toml"),
    }
    command = [*_PROGRAM, "replay", str(folder / "events.jsonl")]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment)
    return environment


def test_an_issuer_that_is_killed_is_carried_on_by_the_next(tmp_path: Path) -> None:
    """All projects have their invoice in the end, those said to be issued under the number that was said."""
    environment = books(tmp_path)
    with subprocess.Popen(
        [*_PROGRAM, *_ISSUE], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment
    ) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGKILL)
        said += process.stderr.readlines()
    assert process.returncode == -signal.SIGKILL
    again = subprocess.run([*_PROGRAM, *_ISSUE], check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    issued = [json.loads(line) for line in again.stdout.splitlines()]
    assert [one["number"] for one in issued] == list(range(1, len(_PROJECTS) + 1))
    assert [one["project"] for one in issued] == _PROJECTS
    whole = [line for line in said if line.endswith("\n")]
    assert whole == [f"issued {one['invoice']}: {one['project']}, 0.01 USD\n" for one in issued[: len(whole)]]
