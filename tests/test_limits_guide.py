"""The guide of infra/limits.md equals code: what it shows can be typed, is read, and is what is said."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.limits.file import parse_limits
from pipeline.metering.session import Session
from pipeline.metrics import Metrics
from pipeline.rows import Batch
from tests.metering.builders import METERS, ROOT

_GUIDE: Final = (ROOT / "infra" / "limits.md").read_text()
_SCHEMA: Final[dict[str, Any]] = orjson.loads((ROOT / "schemas" / "limit.v1.json").read_bytes())
_OPENAPI: Final[dict[str, Any]] = orjson.loads((ROOT / "schemas" / "openapi-limits.json").read_bytes())


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _GUIDE, re.DOTALL | re.MULTILINE)


def _shell(script: str, folder: Path, **environ: str) -> str:
    """Run what the guide says to type; return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **environ}
    return subprocess.run(
        ["sh", "-euc", script], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Type the first block but for its last command; beside it is a store in which acme's agent is open for 8 h."""
    folder = tmp_path_factory.mktemp("limits")
    _shell(_blocks("sh")[0].replace("roommeter up\n", ""), folder)
    script = f"""
from tests.test_limits_guide import fill
fill("chdb://{folder}/clickhouse")
"""
    # In a process of its own: this one may have the engine's one directory elsewhere.
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    return folder


def fill(dsn: str) -> None:
    """Store what the guide's commands are to show."""
    began_ms = now_ms() - 30_000
    store = Store.open(dsn)
    store.migrate(METERS)
    store.write(Batch([("acme", "RM_1", "PA_1", Session("agent", connected_at_ms=began_ms, last_seen_ms=began_ms))]))
    store.close()


def test_the_file_that_the_guide_makes_is_read(folder: Path) -> None:
    """Its limits are those that its comments say."""
    limits = parse_limits((folder / "limits.toml").read_text(), METERS, "limits.toml")
    assert [(limit.meter, limit.soft, limit.hard) for limit in limits.of("acme")] == [
        ("agent_session_minutes", 60_000_000, 72_000_000),
        ("llm_output_tokens", 2_000_000, None),
        ("concurrent_agent", None, 10),
    ]


def test_the_commands_of_the_guide_show_how_limits_stand(folder: Path) -> None:
    """As a table with a bar, and as JSON."""
    environ = {"ROOMMETER_STORE": f"chdb://{folder}/clickhouse", "COLUMNS": "160"}
    table, *lines = (_shell(line, folder, **environ) for line in _blocks("sh")[1].splitlines())
    assert "█░░░░░░░░░ 10 %" in table
    limits = [orjson.loads(line) for line in "".join(lines).splitlines()]
    assert [(limit["meter"], limit["percent"]) for limit in limits] == [
        ("agent_session_minutes", 0),
        ("llm_output_tokens", 0),
        ("concurrent_agent", 10),
    ]


def test_the_event_shown_is_one_of_the_schema() -> None:
    """Whoever reads the guide knows what comes."""
    [block] = _blocks("json")
    assert orjson.loads(block) in _SCHEMA["examples"]


def test_every_event_and_state_is_explained() -> None:
    """And nothing that is none."""
    events = re.findall(r"^\| `(\w+)` \| (?!how|limits|crossings)", _GUIDE, re.MULTILINE)
    assert events == _SCHEMA["properties"]["event"]["enum"]
    states = _OPENAPI["components"]["schemas"]["Standing"]["properties"]["state"]["enum"]
    assert all(f"`{state}`" in _GUIDE for state in states)


def test_every_status_is_explained() -> None:
    """All that the API answers."""
    assert re.findall(r"^\| (\d{3}) \|", _GUIDE, re.MULTILINE) == list(
        _OPENAPI["paths"]["/v1/limits/{project}"]["get"]["responses"]
    )


def test_every_metric_named_exists() -> None:
    """As Prometheus shows it."""
    named = set(re.findall(r"\broommeter_limit\w+", _GUIDE))
    known = {metric.name for metric in Metrics().registry.collect()}
    assert {name.removesuffix("_total") for name in named} == {
        name for name in known if name.startswith("roommeter_limit")
    }


def test_every_file_named_exists() -> None:
    """Of this repository."""
    paths = set(re.findall(r"\b(?:schemas|infra)/[\w./-]*\w", _GUIDE))
    assert {"schemas/limit.v1.json"} <= paths
    assert {path for path in paths if not (ROOT / path).exists()} == set()
