"""The registry of metrics obeys its own rules."""

import re
import subprocess

import pytest
from prometheus_client import Metric, generate_latest

from pipeline.metering.events import Reason
from pipeline.metrics import INSTALLATION_LABELS, LABEL_VALUES, Described, Metrics
from tests.metric_guide import GUIDE, guide

#: Ours: what a process has by itself is named by the library.
ALL = [metric for metric in Metrics().registry.collect() if not metric.name.startswith("process_")]
NAMES = [metric.name for metric in ALL]


@pytest.mark.parametrize("metric", ALL, ids=NAMES)
def test_every_metric_is_named_and_documented(metric: Metric) -> None:
    """`roommeter_<noun>_<unit>`, counters end in _total, help is a sentence."""
    assert re.fullmatch(r"roommeter(_[a-z]+)+", metric.name)
    assert metric.documentation.endswith(".")
    assert len(metric.documentation) > 20


@pytest.mark.parametrize("metric", ALL, ids=NAMES)
def test_every_counter_says_total_on_the_page(metric: Metric) -> None:
    """Prometheus' own convention for counters."""
    page = generate_latest(Metrics().registry).decode()
    ending = "_total" if metric.type == "counter" else ""
    assert f"# TYPE {metric.name}{ending} {metric.type}\n" in page


@pytest.mark.parametrize("described", Metrics().guide, ids=lambda described: described.name)
def test_every_metric_says_what_to_do_when_it_looks_wrong(described: Described) -> None:
    """A metric that nobody can act on is noise."""
    assert len(described.remedy) > 20
    assert described.remedy.endswith((".", "`."))


def test_the_guide_is_the_registry() -> None:
    """infra/metrics.md has every metric with its type, unit and labels."""
    assert GUIDE.read_text() == guide(), "renew it: python -m tests.metric_guide"
    assert {f"{one.name.removesuffix('_total')}" for one in Metrics().guide} == set(NAMES)


def test_prometheus_own_checks_find_nothing(promtool: str) -> None:
    """Names, units and help as Prometheus wants them, on the page as it is served."""
    page = generate_latest(Metrics().registry)
    checked = subprocess.run((promtool, "check", "metrics"), input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_labels_are_bounded() -> None:
    """No label holds a project, room or session: only closed lists and what the installation has."""
    metrics = Metrics()
    labels = {name for metric in vars(metrics).values() for name in getattr(metric, "_labelnames", ())}
    assert labels == set(LABEL_VALUES) | INSTALLATION_LABELS


def test_every_series_of_a_closed_list_exists_from_the_start() -> None:
    """An alert on a rate needs the 0 before the first event."""
    registry = Metrics().registry
    for reason in Reason:
        assert registry.get_sample_value("roommeter_dead_letters_total", {"reason": reason.value}) == 0
    for disposition in ("accepted", "ignored", "dead_letter"):
        assert registry.get_sample_value("roommeter_events_total", {"disposition": disposition}) == 0
    for revision in ("first", "correction"):
        assert registry.get_sample_value("roommeter_rollups_emitted_total", {"revision": revision}) == 0


def test_a_reason_counts_as_itself() -> None:
    """R21: dead letters are counted by reason, and a Reason is its own label."""
    metrics = Metrics()
    metrics.dead_letters.labels(Reason.TOO_OLD).inc()
    assert metrics.registry.get_sample_value("roommeter_dead_letters_total", {"reason": "too_old"}) == 1


def test_each_registry_stands_alone() -> None:
    """Tests and several workers in one process do not count for each other."""
    first, second = Metrics(), Metrics()
    first.batches.inc()
    assert second.registry.get_sample_value("roommeter_batches_total") == 0
