"""The dashboards: made from their sources, laid out, and every PromQL of theirs shown by a real Prometheus."""

import asyncio
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from aiohttp import web
from prometheus_client import generate_latest

from pipeline.broker import free_port, kill_guarded, start_guarded
from pipeline.http import serve
from pipeline.metrics import Metrics
from tests.brokers import until
from tests.dashboards import FOLDER, documents, queries
from tests.metering.builders import ROOT
from tests.test_prometheus import unknown_in

_DOCUMENTS: Final = documents()
_PATIENCE_S: Final = 60.0
_RULES: Final = ROOT / "infra" / "prometheus"


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_a_dashboard_is_what_its_source_makes(name: str) -> None:
    """What is shipped is what can be read."""
    script = "import build, json; print(json.dumps({path.name: text for path, text in build.files().items()}))"
    made = subprocess.run((sys.executable, "-c", script), cwd=FOLDER, capture_output=True, text=True, check=True)
    expected = json.loads(made.stdout)[name]
    assert (FOLDER / "dashboards" / name).read_text() == expected, "renew it: python infra/grafana/build.py"


@pytest.mark.parametrize("document", _DOCUMENTS.values(), ids=_DOCUMENTS)
def test_no_panel_lies_on_another(document: dict[str, Any]) -> None:
    """24 columns; each panel has its own place and number."""
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in document["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"]) > 8


@pytest.mark.parametrize("document", _DOCUMENTS.values(), ids=_DOCUMENTS)
def test_every_panel_says_what_it_shows_and_asks_a_source_that_is_provisioned(document: dict[str, Any]) -> None:
    """A curve without words is a riddle at night."""
    file = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "roommeter.yml").read_text())
    sources = {(source["uid"], source["type"]) for source in file["datasources"]}
    for panel in document["panels"]:
        assert len(panel["description"]) > 5
        assert {(target["datasource"]["uid"], target["datasource"]["type"]) for target in panel["targets"]} <= sources


@pytest.mark.parametrize("asked", queries("prometheus"), ids=lambda asked: asked.where)
def test_a_panel_names_only_metrics_that_exist(asked: Any) -> None:
    """As the rules do."""
    assert unknown_in(asked.text.replace("'", '"')) == set()


def _stir(metrics: Metrics) -> None:
    """Let every metric move, so that rates are there."""
    for metric in vars(metrics).values():
        if not hasattr(metric, "_labelnames"):
            continue
        if metric._labelnames == ("condition",):
            metric.labels("clickhouse").set(0)
            continue
        if metric._labelnames and not metric._metrics:
            metric.labels(*("0" for _ in metric._labelnames))
        for child in list(metric._metrics.values()) if metric._labelnames else [metric]:
            (child.observe if hasattr(child, "observe") else child.inc)(1)


@asynccontextmanager
async def _served() -> AsyncIterator[int]:
    """Serve metrics that move with every look at them."""
    metrics = Metrics()

    async def page(_: web.Request) -> web.Response:
        _stir(metrics)
        return web.Response(body=generate_latest(metrics.registry))

    app = web.Application()
    app.router.add_get("/metrics", page)
    async with serve(app) as port:
        yield port


@contextmanager
def _prometheus(program: str, read: int, directory: Path) -> Iterator[int]:
    """Run a Prometheus with our rules that looks at a port every second; yields its own port."""
    scraped = {"targets": [f"127.0.0.1:{read}"], "labels": {"part": "worker"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(_RULES / "recording.yml"), str(_RULES / "alerts.yml")],
        "scrape_configs": [{"job_name": "roommeter", "static_configs": [scraped]}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = (program, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data")
    process = start_guarded((*command, f"--web.listen-address=127.0.0.1:{port}"), directory / "prometheus.log")
    try:
        yield port
    finally:
        kill_guarded(process)


def _series(port: int, expression: str) -> list[Any]:
    """Return what Prometheus answers; none while it is not there yet. Raises for an expression it does not take."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
            return found
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
            return []
        raise AssertionError(f"{expression}: {error.read().decode()}") from error
    except (urllib.error.URLError, ConnectionError):
        return []


async def test_every_panel_shows_something_in_a_real_prometheus(promtool: str, tmp_path: Path) -> None:
    """Neither an error nor an empty panel, from our own /metrics through our own rules."""
    program = shutil.which("prometheus", path=Path(promtool).parent)
    assert program, "Prometheus comes with promtool"
    left = queries("prometheus")
    assert len(left) > 20
    async with _served() as read:
        with _prometheus(program, read, tmp_path) as port:

            def is_full() -> bool:
                while left and _series(port, left[0].text):
                    del left[0]
                return not left

            with suppress(TimeoutError):
                await asyncio.to_thread(until, is_full, _PATIENCE_S)
    assert left == [], "the first of these stays empty"
