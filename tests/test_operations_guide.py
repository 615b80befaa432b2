"""infra/README.md: what it says can be typed, and a backup made as it says brings everything back."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

from pipeline.cli import main
from tests.metering.builders import ROOT
from tests.test_compose import compose_command

_GUIDE: Final = (ROOT / "infra" / "README.md").read_text()
_TYPED: Final = "\n".join(re.findall(r"```sh\n(.*?)```", _GUIDE, re.DOTALL)).replace("\\\n", "")
_INLINE: Final = "\n".join(re.findall(r"`(docker compose [^`]*)`", _GUIDE))
_COMPOSE: Final = re.findall(r"docker compose -f infra/compose\.yaml (\w+)(.*)", f"{_TYPED}\n{_INLINE}")
_SERVICES: Final = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"].keys()

#: What the guide's backup and restore does to a database of the embedded engine, in a process of its own.
_RESTORING: Final = """
import sys
from pathlib import Path
from pipeline.clickhouse import Store
from pipeline.metering.session import Session
from pipeline.rows import Batch, UsageQuery
from tests.metering.builders import METERS

directory, backup, restore = sys.argv[1:]
store = Store.open(f"chdb://{directory}/store?backups.allowed_path={directory}/", "roommeter")
store.migrate(METERS)
store.write(Batch(sessions=[("acme", "RM_1", "PA_1", Session("agent", connected_at_ms=0, disconnected_at_ms=61_000))]))
asked = UsageQuery(as_of_ms=3_600_000)
before = store.usage(asked)
for statement in (backup, *restore.split(";")):
    store._client.command(statement.replace("/backups/", f"{directory}/"))
after = Store.open(f"chdb://{directory}/store?backups.allowed_path={directory}/", "roommeter")
assert before and after.usage(asked) == before, (before, after.usage(asked))
assert after.migrate(METERS) == []
"""


@pytest.mark.parametrize(("command", "rest"), _COMPOSE)
def test_every_docker_compose_line_can_be_typed(command: str, rest: str) -> None:
    """Its command, its options before a service is named, and the service."""
    own = rest.partition("#")[0].split()
    end = next((number for number, word in enumerate(own) if word in _SERVICES), len(own))
    options = {word for word in own[:end] if word.startswith("-")}
    said = subprocess.run((*compose_command(), command, "--help"), capture_output=True, text=True, check=True).stdout
    assert options <= set(re.findall(r"--?[\w-]+", said))
    named = [word for word in own if word in _SERVICES or word.partition(":")[0] in _SERVICES]
    assert named or command in {"up", "ps", "build"}
    assert all(part in _SERVICES for part in re.findall(r"--scale (\w+)=", rest))


def test_the_lines_of_docker_compose_were_found() -> None:
    """Starting, upgrading, backing up, restoring and scaling."""
    assert {"up", "ps", "build", "exec", "cp", "stop", "run"} <= {command for command, _ in _COMPOSE}


def test_every_command_of_ours_exists() -> None:
    """With the options shown."""
    typed = re.findall(r"`roommeter ([\w-]+)([^`]*)`", _GUIDE)
    assert "deliver" in {name for name, _ in typed}
    for name, rest in typed:
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known


def test_the_table_has_everything_in_the_folder_but_for_guides_that_name_themselves() -> None:
    """And nothing that is not there."""
    listed = set(re.findall(r"`([\w./]+)`", "".join(re.findall(r"^\| `.*?\|", _GUIDE, re.MULTILINE))))
    ours = subprocess.run(("git", "ls-files", "infra"), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there = {Path(line).parts[1] for line in ours.splitlines()}
    named = {name.rstrip("/") for name in listed}
    assert {name for name in there if not name.endswith(".md")} <= named <= there


def test_a_backup_made_as_the_guide_says_brings_everything_back(tmp_path: Path) -> None:
    """The same statements, on the engine in process: facts, views and the schema's version are as before."""
    [backup] = re.findall(r'--query "(BACKUP [^"]*)"', _TYPED)
    [restore] = re.findall(r'--query "(DROP [^"]*)"', _TYPED)
    command = (sys.executable, "-c", _RESTORING, str(tmp_path), backup, restore)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
