"""The whole of infra/compose.yaml, started: an event goes in at the gateway, and Prometheus and Grafana see it.

Only where a Docker daemon answers and images can be had: elsewhere that the containers start is not shown.
"""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.embedded import now_ms
from tests.brokers import own_candidates
from tests.e2e.processes import wait_until
from tests.metering.builders import ROOT, connected
from tests.test_compose import compose_command

pytestmark = pytest.mark.skipif("docker" not in own_candidates(), reason="no Docker daemon answers")

_GATEWAY, _CONSOLE = "http://127.0.0.1:8131", "http://127.0.0.1:8132"
_PROMETHEUS, _GRAFANA = "http://127.0.0.1:9090", "http://127.0.0.1:3000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of what is in git, with secrets of its own, built and up."""
    folder = tmp_path_factory.mktemp("compose")
    files = subprocess.run(("git", "ls-files", "-z"), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    subprocess.run((sys.executable, folder / "infra" / "make_secrets.py"), check=True)
    compose = (*compose_command(), "--file", str(folder / "infra" / "compose.yaml"), "--project-name", "roommeter-test")
    try:
        subprocess.run((*compose, "up", "--build", "--detach", "--wait", "--wait-timeout", "300"), check=True)
        yield folder
    finally:
        subprocess.run((*compose, "down", "--volumes", "--timeout", "5"), check=False)


def _ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own containers
        return json.load(answer)


def _value(query: str) -> float:
    found = _ask(f"{_PROMETHEUS}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    return sum(float(series["value"][1]) for series in found["data"]["result"])


def test_an_event_posted_to_the_gateway_is_metered_and_seen(folder: Path) -> None:
    """From loopback through Kafka and the worker into ClickHouse, counted by Prometheus."""
    event = orjson.dumps(connected(now_ms(), project="demo"))
    token = (folder / "infra" / "secrets" / "demo_token").read_text()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/cloudevents+json"}
    request = urllib.request.Request(f"{_GATEWAY}/v1/events", event, headers)  # noqa: S310 - our own container
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert 200 <= answer.status < 300
    wait_until(lambda: _value("roommeter_events_total{disposition='accepted'}") == 1)


@pytest.mark.usefixtures("folder")
def test_every_part_is_seen_and_ready() -> None:
    """Each answers Prometheus, and none waits for anything."""
    wait_until(lambda: _value("count(up==1)") == _value("count(up)") > 5)
    wait_until(lambda: _value("count(roommeter_ready==0)") == 0)


def test_the_console_shows_every_project_to_whoever_has_its_token(folder: Path) -> None:
    """Read as a user that can only read; and nobody else gets further than the login."""
    token = (folder / "infra" / "secrets" / "console_token").read_text()
    request = urllib.request.Request(f"{_CONSOLE}/projects", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own container
        assert b"demo" in answer.read()
    with urllib.request.urlopen(f"{_CONSOLE}/projects", timeout=30) as answer:  # noqa: S310
        assert urllib.parse.urlsplit(answer.url).path == "/login"


@pytest.mark.usefixtures("folder")
def test_grafana_has_the_dashboards_and_asks_for_a_password() -> None:
    """Its database works, and nobody looks without signing in."""
    assert _ask(f"{_GRAFANA}/api/health")["database"] == "ok"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _ask(f"{_GRAFANA}/api/search")
