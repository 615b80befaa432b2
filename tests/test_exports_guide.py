"""The guide of infra/exports.md equals code: what it shows can be typed, and columns are those that are written."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, get_args

import click
import pyarrow as pa

from pipeline.cli import main
from pipeline.delivery.delivery import Answer, Later, TargetHalted, judge_status
from pipeline.delivery.file import read_target
from pipeline.delivery.targets import Webhook
from pipeline.export import EXPORTS, QUANTITY, TIME
from pipeline.settings import Settings
from pipeline.sources import Known
from tests.faults.billing import KEY, SECRET
from tests.metering.builders import METERS, ROOT

_GUIDE: Final = (ROOT / "infra" / "exports.md").read_text()
_MOST_LINES: Final = 200


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _GUIDE, re.DOTALL | re.MULTILINE)


def _typed() -> list[list[str]]:
    """Return the words behind `roommeter` of every command to be typed, comments left out."""
    quoted = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", _GUIDE, flags=re.DOTALL | re.MULTILINE))
    lines = [*"\n".join(_blocks("sh")).splitlines(), *quoted]
    return [re.split(r" [#|>]", line)[0].split()[1:] for line in lines if line.startswith("roommeter ")]


def _unknown(words: list[str]) -> list[str]:
    """Return what of a command line does not exist: the command, or its options."""
    command: click.Command = main
    while isinstance(command, click.Group):
        if not words or words[0] not in command.commands:
            return words[:1] or ["a command"]
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in parameter.opts}
    return [word for word in words if word.startswith("--") and word not in known]


def _shell(script: str, folder: Path, **environ: str) -> str:
    """Run what the guide says to type, with this Python's `roommeter`; return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **environ}
    return subprocess.run(
        ["sh", "-euc", script], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout


def test_the_guide_is_short() -> None:
    """Who wants to begin reads it whole."""
    assert len(_GUIDE.splitlines()) <= _MOST_LINES


def test_every_command_and_option_exists() -> None:
    """What the guide shows can be typed."""
    typed = _typed()
    assert {"export", "deliver", "produce"} <= {words[0] for words in typed}
    assert {tuple(words): unknown for words in typed if (unknown := _unknown(words))} == {}


def test_every_environment_variable_is_a_setting() -> None:
    """With or without a value."""
    names = set(re.findall(r"\bROOMMETER_(\w+)", _GUIDE))
    assert {"STORE", "KAFKA"} <= names <= {name.upper() for name in Settings.model_fields}


def test_the_file_of_targets_is_read_as_it_stands(tmp_path: Path) -> None:
    """Every target, with the secrets where it says."""
    [text] = [block for block in _blocks("toml") if "[stripe]" in block]
    (tmp_path / "delivery.toml").write_text(text)
    secrets = {"ROLLUPS_SECRET": SECRET, "STRIPE_KEY": KEY, "OPENMETER_TOKEN": "om"}
    names = ("webhook", "stripe", "openmeter")
    assert [read_target(tmp_path / "delivery.toml", name, secrets, METERS).name for name in names] == list(names)


def test_the_secret_typed_is_a_signing_secret(tmp_path: Path) -> None:
    """As Standard Webhooks wants it: `deliver` itself is left out."""
    [script] = [block for block in _blocks("sh") if "whsec_" in block]
    secret = _shell(script.partition("\n")[0] + '\nprintf %s "$ROLLUPS_SECRET"', tmp_path)
    (tmp_path / "delivery.toml").write_text('[webhook]\nurl = "https://x.example"\nsecret_env = "S"\n')
    assert isinstance(read_target(tmp_path / "delivery.toml", "webhook", {"S": secret}, METERS), Webhook)


def test_the_statuses_told_are_judged_so() -> None:
    """Those that are asked again, and those that stop the delivery."""
    [later] = re.findall(r"^- \*\*([\d, ]+), 5xx and no answer\*\*", _GUIDE, re.MULTILINE)
    [halted] = re.findall(r"^- \*\*([\d, ]+) and redirects", _GUIDE, re.MULTILINE)
    assert _judged(later, Later) == _judged(halted, TargetHalted) == set()


def _judged(statuses: str, expected: type[Exception]) -> set[str]:
    """Return the statuses that are judged otherwise."""
    wrong = set()
    for status in re.findall(r"\d+", statuses):
        try:
            judge_status(Answer(int(status)))
        except expected:
            continue
        wrong.add(status)
    return wrong


def test_every_format_of_llm_usage_is_in_the_table() -> None:
    """And each is one that `produce` knows, proved by a sample."""
    formats = re.findall(r"^\| ([\w-]+) \| .* \| the .*`id` \|$|^\| (otlp) \|", _GUIDE, re.MULTILINE)
    assert {first or second for first, second in formats} == {"litellm", "openai-log", "otlp"} <= set(get_args(Known))
    assert {path.stem for path in (ROOT / "tests" / "data" / "llm").glob("*.json*")} == {
        "litellm",
        "openai-log",
        "otlp",
    }


def test_the_exports_run_as_they_are_typed(tmp_path: Path) -> None:
    """On a store with a recorded call: three files, of which the last went through a pipe."""
    [script] = [block for block in _blocks("sh") if "roommeter export" in block]
    store = f"chdb://{tmp_path}/store"
    replay = f"roommeter replay --project acme {ROOT}/schemas/recordings/livekit-call.jsonl\n"
    _shell(replay + script, tmp_path, ROOMMETER_STORE=store)
    assert (tmp_path / "rollups.parquet").stat().st_size > 0
    assert (tmp_path / "sessions.csv").read_bytes().count(b"\r\n") > 1
    assert gzip.decompress((tmp_path / "usage.csv.gz").read_bytes()).startswith(b"project,meter,hour,")


def test_the_table_of_columns_is_what_is_written() -> None:
    """Every column of every export, once, in the row of its type."""
    kinds = {"string": pa.string(), "timestamp in ms, UTC": TIME, "bool": pa.bool_(), "int64": pa.int64()}
    kinds["decimal128(38, 9)"] = QUANTITY
    rows = [line.strip("|").split("|") for line in _GUIDE.splitlines() if line.startswith("| ")]
    [header, *table] = [[cell.strip() for cell in row] for row in rows if len(row) == 5]
    told: dict[str, dict[str, pa.DataType]] = {what: {} for what in header[:3]}
    for row in table:
        for what, cell in zip(header, row[:3], strict=False):
            names = re.sub(r"\(.*?\)", "", cell).replace(",", " ").split()
            told[what] |= dict.fromkeys(names, kinds[row[3]])
    assert told == {what: {field.name: field.type for field in export.schema} for what, export in EXPORTS.items()}
