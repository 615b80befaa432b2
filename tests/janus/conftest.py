"""A run of a real Janus server with real participants: as recorded once, and where it can be had, played now.

ROOMMETER_TEST_JANUS=required makes it a failure where no server can be had (CI does that).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.janus.metering import Run

_HERE = Path(__file__).parent
_NAMESPACE = ["unshare", "--net", "--pid", "--fork", "--kill-child"]
#: Longer than the rig gives itself, so that it can say what it waits for.
_LONGEST_S = 240


def _missing() -> str:
    """Return what a real server needs and this machine does not have, '' for nothing."""
    programs = [program for program in ("janus", "ip", "unshare") if shutil.which(program) is None]
    if programs:
        return f"not installed: {', '.join(programs)} (Debian's packages janus, iproute2, util-linux)"
    if os.geteuid() != 0:
        return "only root can make a network namespace"
    probe = subprocess.run([*_NAMESPACE, "ip", "link", "add", "type", "veth"], capture_output=True, check=False)
    return probe.stderr.decode() if probe.returncode else ""


def _played(folder: Path) -> Path:
    """Play the scenario on a real server; return the file with what came of it."""
    output = folder / "run.json"
    command = [*_NAMESPACE, sys.executable, "-m", "tests.janus.rig", str(output)]
    rig = subprocess.run(command, cwd=_HERE.parents[1], capture_output=True, timeout=_LONGEST_S, check=False)
    if rig.returncode:
        log = output.with_suffix(".log")
        said = log.read_text(errors="replace")[-4_000:] if log.exists() else "nothing"
        pytest.fail(f"the rig failed: {rig.stderr.decode()[-4_000:]}\nJanus said: {said}")
    return output


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of a run of a real server before a real gateway."""
    missing = _missing()
    if missing and os.environ.get("ROOMMETER_TEST_JANUS") == "required":
        pytest.fail(f"a real Janus server is required here: {missing}")
    if missing:
        pytest.skip(f"no real Janus server: {missing}")
    found: dict[str, Any] = json.loads(_played(tmp_path_factory.mktemp("janus")).read_text())
    return found


@pytest.fixture(scope="session", params=["recording", "server"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the driver knows of its participants, and what was made of what Janus sent of them."""
    is_recording = request.param == "recording"
    found = json.loads((_HERE / "recording.json").read_text()) if is_recording else request.getfixturevalue("played")
    return Run(found, tmp_path_factory.mktemp("memory"))
