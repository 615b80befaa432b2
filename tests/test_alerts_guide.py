"""The guide of infra/alerts.md equals code: what it shows can be typed, and it names every detector and metric."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import orjson
import pytest

from pipeline.alerts.codec import alert_document, alert_table
from pipeline.alerts.loop import read_rules
from pipeline.clickhouse import Store
from pipeline.metering.anomaly.alert import DETECTORS, Alert
from pipeline.metrics import Metrics
from tests.anomaly.builders import NOON_MS, finding
from tests.brokers import TestBroker
from tests.metering.builders import METERS, ROOT

_GUIDE: Final = (ROOT / "infra" / "alerts.md").read_text()
_STORM: Final = Alert(finding(), 1, "open", NOON_MS, "8.03", "USD")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _GUIDE, re.DOTALL | re.MULTILINE)


def _shell(script: str, folder: Path, **environ: str) -> str:
    """Run what the guide says to type; return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "ROOMMETER_STORE": f"chdb://{folder}/clickhouse", **environ}
    done = subprocess.run(["sh", "-euc", script], cwd=folder, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in which acme has one alert."""
    folder = tmp_path_factory.mktemp("alerts")
    # In a process of its own: this one may have the engine's one directory elsewhere.
    script = f"from tests.test_alerts_guide import fill\nfill('chdb://{folder}/clickhouse')"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    return folder


def fill(dsn: str) -> None:
    """Store what the guide's commands are to show."""
    store = Store.open(dsn)
    store.migrate(METERS)
    store.insert("alerts", alert_table([_STORM]))
    store.close()


def test_the_commands_of_the_first_block_show_alerts_and_look_for_more(folder: Path) -> None:
    """As a table, as the document of the schema, and nothing where nothing is stored."""
    shown = _shell(_blocks("sh")[0], folder)
    assert _STORM.id[:8] in shown
    assert [orjson.loads(line) for line in shown.splitlines() if line.startswith("{")] == [
        orjson.loads(orjson.dumps(alert_document(_STORM)))
    ]
    assert "What would be told: none" in shown


def test_the_file_that_the_guide_makes_is_read_and_tried(folder: Path) -> None:
    """Its parameters are those that its comments say."""
    _shell(_blocks("sh")[1], folder)
    rules = read_rules(folder / "alerts.toml")
    assert (rules.of("acme").connection_storm.least, rules.of("acme").flapping.severity) == (500, "info")
    assert (rules.of("globex").clock_skew.enabled, len(rules.of("globex").holidays)) == (False, 2)


def test_muting_is_put_into_the_log_of_decisions(folder: Path, broker: TestBroker, topic_prefix: str) -> None:
    """Whoever runs the alerter reads it there."""
    _shell(_blocks("sh")[2], folder, ROOMMETER_KAFKA=broker.bootstrap, ROOMMETER_TOPIC_PREFIX=topic_prefix)


def test_the_guide_names_every_detector_and_every_metric() -> None:
    """And none that is not there."""
    assert set(re.findall(r"^\| `(\w+)` \|", _GUIDE, re.MULTILINE)) == set(DETECTORS)
    named = set(re.findall(r"`(roommeter_\w+)`", _GUIDE))
    registered = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples}
    assert {name for name in registered if "alert" in name and not name.endswith("_created")} == named
