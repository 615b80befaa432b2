"""The month of `make demo-month`, a small one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a month of three projects."""
    return tmp_path_factory.mktemp("demo") / "month"


@pytest.fixture(scope="module")
def said(month: Path) -> str:
    """What the command says; in a process of its own, because the embedded engine has one directory a process."""
    command = ["-m", "pipeline", "demo-month", "--projects", "3", "--events", "2000", "--out", str(month)]
    return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout


def test_each_project_with_something_due_has_an_invoice(said: str, month: Path) -> None:
    """The one on the free plan has none."""
    assert "2 invoices issued" in said
    assert sorted(path.suffix for path in month.glob("0*")) == [".html", ".html", ".pdf", ".pdf"]


def test_the_lines_add_up_to_the_rollups(said: str) -> None:
    """The command fails where one does not."""
    found = re.search(r"Each of (\d+) lines of usage is the sum of its hourly rollups", said)
    assert found is not None
    assert int(found[1]) > 10


def test_an_hour_of_each_kind_of_meter_is_explained_down_to_events(said: str) -> None:
    """Time, counters, discrete usage and rental: all increments, by events that are in the log."""
    explained = re.findall(r"([\d,]+) of ([\d,]+) increments by ([\d,]+) events", said)
    assert len(explained) == 4
    assert all(found == due and events != "0" for found, due, events in explained)


def test_a_directory_that_is_there_is_left_alone(said: str, month: Path) -> None:
    """Somebody may have kept something in it."""
    assert said
    command = ["-m", "pipeline", "demo-month", "--out", str(month)]
    again = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
