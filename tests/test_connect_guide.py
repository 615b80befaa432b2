"""The guide of infra/connect.md equals code: what it shows can be typed, is read, and is answered as it says."""

import asyncio
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import orjson
import pytest

from pipeline.cli import main
from pipeline.gateway.cloudevents import BATCH, STRUCTURED
from pipeline.gateway.http_limits import CODINGS
from pipeline.gateway.projects import JanusSource, Projects, read_projects
from pipeline.gateway.projects_file import InvalidProjects
from pipeline.livekit import webhooks as livekit
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from tests.gateway.running import TOKEN, Running, running
from tests.metering.builders import ROOT

_GUIDE: Final = (ROOT / "infra" / "connect.md").read_text()
_MOST_LINES: Final = 200
_OPENAPI: Final[dict[str, Any]] = orjson.loads((ROOT / "schemas" / "openapi.json").read_bytes())
#: What the variables that the guide's projects file names could hold.
_ENVIRON: Final = dict.fromkeys(("IDENTITY_KEY", "ACME_LIVEKIT_SECRET", "JANUS_A_PASSWORD"), "0123456789abcdef")
#: Files that a reader makes or has: they are no part of this repository.
_HIS_OWN: Final = frozenset({"projects.toml", "livekit.yaml"})


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _GUIDE, re.DOTALL | re.MULTILINE)


def _quoted() -> list[str]:
    """Return what stands in backticks, outside of blocks."""
    return re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", _GUIDE, flags=re.DOTALL | re.MULTILINE))


def _typed() -> list[list[str]]:
    """Return the words behind `roommeter` of every command to be typed, comments left out."""
    lines = [*"\n".join(_blocks("sh")).splitlines(), *_quoted()]
    return [line.partition(" #")[0].split()[1:] for line in lines if line.startswith("roommeter ")]


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
    """Run what the guide says to type, with this Python as `python`; return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **environ}
    return subprocess.run(
        ["sh", "-euc", script], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout


def _projects(folder: Path, text: str, environ: Mapping[str, str] = _ENVIRON) -> Projects:
    path = folder / "projects.toml"
    path.touch(mode=0o600)
    path.write_text(text)
    return read_projects(path, environ)


def _statuses() -> list[str]:
    return re.findall(r"^\| (\d{3}) \|", _GUIDE, re.MULTILINE)


def test_the_guide_is_short() -> None:
    """Who wants to begin reads it whole."""
    assert len(_GUIDE.splitlines()) <= _MOST_LINES


def test_the_first_block_makes_a_projects_file_with_a_token(tmp_path: Path) -> None:
    """As it is typed, but for the last command: the token opens the project, and only its owner may read the file."""
    script = _blocks("sh")[0].replace("roommeter up\n", 'printf "%s %s" "$TOKEN" "$ROOMMETER_PROJECTS_FILE"\n')
    token, file = _shell(script, tmp_path).split()[-2:]
    project = read_projects(Path(file), {}).by_token(token)
    assert project is not None
    assert project.name == "acme"
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600


def test_the_larger_projects_file_is_read_as_its_comments_say(tmp_path: Path) -> None:
    """Its key and its Janus server lead to the project."""
    [text] = _blocks("toml")
    projects = _projects(tmp_path, text)
    acme = projects.by_name("acme")
    assert projects.by_livekit_key("APIacme") == (acme, _ENVIRON["ACME_LIVEKIT_SECRET"].encode())
    janus = projects.by_janus("janus-a", _ENVIRON["JANUS_A_PASSWORD"])
    assert janus is not None
    assert (janus.project_of("acme-standup", ""), janus.project_of("lobby-1", "")) == ("acme", None)


def test_every_project_setting_but_the_plain_secrets_is_shown() -> None:
    """What a file can say of a project is found here; secrets by name are told in the text."""
    [text] = _blocks("toml")
    document = tomllib.loads(text)
    fields = {"livekit", "livekit_url", "tokens", "agents", "identity", "requests_per_s"}
    assert set(document["projects"]["acme"]) == fields
    assert {"secret", "password", "identity_key", "allow_weak_secrets = true"} <= set(_quoted())


@pytest.mark.parametrize(("pattern", "project"), [("[a-z0-9]+", "acme"), ("[a-z0-9-]+", "acme-eu")])
def test_a_pattern_finds_what_the_guide_says(pattern: str, project: str) -> None:
    """A class with the separator in it takes as much as it can."""
    rule = re.compile(f"(?P<project>{pattern})-")
    source = JanusSource("a", "a", b"", "", "room", rule, frozenset({"acme", "acme-eu"}))
    assert source.project_of("acme-eu-7", "") == project
    assert {pattern, "[a-z0-9]+"} <= set(_quoted())


def test_the_secret_of_a_server_under_trial_is_refused_unless_allowed(tmp_path: Path) -> None:
    """`livekit-server --dev` signs with a word that everybody knows."""
    text = '[projects.acme]\nlivekit = [{key = "devkey", secret = "secret"}]\n'
    with pytest.raises(InvalidProjects, match="allow_weak_secrets = true at the top"):
        _projects(tmp_path, text)
    assert _projects(tmp_path, f"allow_weak_secrets = true\n{text}").by_livekit_key("devkey")


def test_the_events_that_livekit_may_leave_out_are_signs_of_life() -> None:
    """Both are webhooks we know, and nothing begins or ends by them."""
    [block] = _blocks("yaml")
    [names] = re.findall(r"exclude_events: \[(.*?)\]", block)
    room, participant = {"sid": "RM_1"}, {"sid": "PA_1"}
    for name in names.split(", "):
        body = {"event": name, "id": "EV_1", "createdAt": "1790000000", "room": room, "participant": participant}
        assert [event["type"] for event in livekit.canonical(body, "acme")] == ["session.sampled"]


@pytest.fixture
def curl() -> None:
    """Skip where there is no curl."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")


@pytest.mark.usefixtures("curl")
async def test_the_events_sent_with_curl_are_taken(tmp_path: Path) -> None:
    """Typed as they stand: one structured, one binary, a batch of two; each accepted, of the token's project."""
    async with running() as gateway:
        printed = await _typed_at(gateway, tmp_path)
        answers = [orjson.loads(line) for line in printed.replace("}{", "}\n{").splitlines()]
        assert [answer["accepted"] for answer in answers] == [1, 1, 2]
        sent = gateway.outbox.documents()
    assert {event["data"]["project"] for event in sent} == {"acme"}
    assert [event["type"] for event in sent] == ["session.connected", "session.disconnected"] * 2
    assert [event["data"]["session"] for event in sent] == ["c-17", "c-17", "c-18", "c-18"]


async def _typed_at(gateway: Running, folder: Path) -> str:
    [script] = [block for block in _blocks("sh") if "curl" in block]
    script = script.replace(f":{Settings.model_fields['gateway_port'].default}/", f":{gateway.port}/")
    return await asyncio.to_thread(_shell, script, folder, TOKEN=TOKEN)


def test_the_content_types_are_those_that_are_taken() -> None:
    """Structured and batch mode by name, and the codings in OpenAPI's words."""
    assert all(f"Content-Type: {media}" in _GUIDE for media in (STRUCTURED, BATCH, "application/json"))
    assert CODINGS == ("gzip", "deflate")


def test_the_table_of_statuses_is_that_of_the_openapi_document() -> None:
    """Every status that a sender can get, once, in order; those that say when to come again are told so."""
    posts = [path["post"]["responses"] for path in _OPENAPI["paths"].values() if "post" in path]
    assert _statuses() == sorted({status for responses in posts for status in responses})
    components = _OPENAPI["components"]["responses"]
    named = {status: one["$ref"].rpartition("/")[2] for responses in posts for status, one in responses.items()}
    waits = {status for status, name in named.items() if "Retry-After" in components[name].get("headers", {})}
    assert set(re.findall(r"^\| (\d{3}) \|.*Retry-After", _GUIDE, re.MULTILINE)) == waits


def test_the_one_status_of_one_route_is_told_so() -> None:
    """403 is for posted events alone; all others can come from each route."""
    [route] = re.findall(r"^\| 403 \| only `(.*?)`", _GUIDE, re.MULTILINE)
    having = {path for path, item in _OPENAPI["paths"].items() if "403" in item.get("post", {}).get("responses", {})}
    assert having == {route}


def test_the_limits_told_are_the_defaults() -> None:
    """Sizes, times and counts of the table of statuses, and ports."""
    default = {name: field.default for name, field in Settings.model_fields.items()}
    [(body, batch, events)] = re.findall(r"too long \((\d+) KiB; .* (\d+) MiB\), or more than (\d+) events", _GUIDE)
    assert (int(body) << 10, int(batch) << 20) == (default["gateway_body_bytes"], default["gateway_batch_bytes"])
    assert int(events) == default["gateway_batch_events"]
    [body_s] = re.findall(r"the body took more than (\d+) s", _GUIDE)
    assert int(body_s) * 1_000 == default["gateway_body_timeout_ms"]
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", _GUIDE)) == {str(default["http_port"]), str(default["gateway_port"])}


def test_every_command_and_option_exists() -> None:
    """What the guide shows can be typed."""
    typed = _typed()
    assert {"up", "gateway", "usage", "dead-letters", "reconcile"} <= {words[0] for words in typed}
    assert {tuple(words): unknown for words in typed if (unknown := _unknown(words))} == {}


def test_every_file_exists() -> None:
    """Of this repository; those of the reader's own are named."""
    names = {word for word in _quoted() if re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.(md|json|jcfg|toml)|\w+(/\w+)*/", word)}
    assert {"infra/examples/README.md", "schemas/openapi.json", "infra/janus/janus.jcfg"} <= names
    assert {name for name in names - _HIS_OWN if not (ROOT / name).exists()} == set()
    assert {f"infra/janus/{path.name}" for path in (ROOT / "infra" / "janus").iterdir()} <= names


def test_every_environment_variable_is_a_setting() -> None:
    """With or without a value."""
    names = set(re.findall(r"\bROOMMETER_(\w+)", _GUIDE))
    assert {"PROJECTS_FILE", "DATA_DIR"} <= names <= {name.upper() for name in Settings.model_fields}


def test_every_metric_exists() -> None:
    """Of ours, by the name that a dashboard uses."""
    names = set(re.findall(r"\broommeter_\w+", _GUIDE))
    known = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples}
    assert "roommeter_gateway_refused_total" in names
    assert names <= known


def test_every_link_inside_leads_somewhere() -> None:
    """To a heading of the guide."""
    headings = {
        re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^## (.*)$", _GUIDE, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([\w-]+)\)", _GUIDE))
    assert links
    assert links <= headings
