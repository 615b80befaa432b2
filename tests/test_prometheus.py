"""Rules and alerts: valid for Prometheus, tried by its own tool, and about metrics that exist."""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from pipeline.metrics import INSTALLATION_LABELS, LABEL_VALUES, Metrics
from tests.metering.builders import ROOT

_FOLDER: Final = ROOT / "infra" / "prometheus"
_RUNBOOK: Final = (ROOT / "infra" / "runbook.md").read_text()
_ENTRY: Final = ["Means", "Bills", "See", "Do", "Over when"]
#: Prometheus' own labels, and those of prometheus.yml.
_FOREIGN_LABELS: Final = frozenset({"job", "part", "instance", "le", "severity"})


def _rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load((_FOLDER / name).read_text()) for name in ("recording.yml", "alerts.yml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


_ALERTS: Final = [rule for rule in _rules() if "alert" in rule]
_PAGES: Final = [rule for rule in _ALERTS if rule["labels"]["severity"] == "page"]


def unknown_in(expression: str) -> set[str]:
    """Return the metrics, labels and values of labels in an expression that nobody has."""
    guide = {one.name for one in Metrics().guide} | {rule["record"] for rule in _rules() if "record" in rule}
    named = set(re.findall(r"\b(?:\w+:)?roommeter[\w:]*", re.sub(r'"[^"]*"', "", expression)))
    found = {name for name in named if not {name, re.sub("_(bucket|sum|count)$", "", name)} & guide}
    for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', expression):
        if label in LABEL_VALUES:
            wanted = re.compile(value if "~" in operator else re.escape(value))
            found |= set() if any(map(wanted.fullmatch, LABEL_VALUES[label])) else {f"{label}={value}"}
        elif label not in _FOREIGN_LABELS | INSTALLATION_LABELS:
            found.add(label)
    return found


def _ran(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=_FOLDER, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_prometheus_takes_the_configuration_and_the_rules(promtool: str) -> None:
    """As it would at its start."""
    code, said = _ran(promtool, "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert code == 0, said


def test_rules_do_what_their_tests_say(promtool: str) -> None:
    """infra/prometheus/rules_test.yml: each alert fires when it has to, and a quiet night raises none."""
    code, said = _ran(promtool, "test", "rules", "rules_test.yml")
    assert code == 0, said


@pytest.mark.parametrize("rule", _ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_is_tried(rule: dict[str, Any]) -> None:
    """An alert that was never seen to fire may never fire."""
    assert f'alertname="{rule["alert"]}"' in (_FOLDER / "rules_test.yml").read_text()


@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_name_only_what_exists(rule: dict[str, Any]) -> None:
    """A rule about a metric that was renamed stays silent for ever."""
    assert unknown_in(rule["expr"]) == set()


@pytest.mark.parametrize(
    "expression", ["roommeter_nothing", 'roommeter_ready{colour="red"}', 'roommeter_events_total{disposition="lost"}']
)
def test_a_rule_about_what_does_not_exist_is_found(expression: str) -> None:
    """The check itself can fail."""
    assert len(unknown_in(expression)) == 1


@pytest.mark.parametrize("rule", _ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_what_it_is(rule: dict[str, Any]) -> None:
    """Severity decides who is woken; the summary is what they read first."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize("rule", _PAGES, ids=lambda rule: rule["alert"])
def test_every_page_has_its_entry_in_the_runbook(rule: dict[str, Any]) -> None:
    """What it means, what it does to bills, how to see, what to do, how to know that it is over."""
    name = rule["alert"]
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert (ROOT / Path(path)).is_file()
    assert anchor == name.lower()
    entry = _RUNBOOK.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^- \*\*(.+?)\.\*\* \S", entry, re.MULTILINE) == _ENTRY


def test_the_runbook_has_no_entry_of_an_alert_that_is_gone() -> None:
    """Somebody would look for it at night."""
    assert set(re.findall(r"^## (\w+)$", _RUNBOOK, re.MULTILINE)) == {rule["alert"] for rule in _PAGES}


def test_the_runbook_names_metrics_that_exist() -> None:
    """As in the rules."""
    quoted = re.findall(r"`([^`]*roommeter[_:][^`]*)`", _RUNBOOK)
    assert len(quoted) > 5
    assert [name for text in quoted for name in unknown_in(text)] == []
