"""A running `up` has the embedded store; commands beside it find it by themselves, and it issues for them."""

import json
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pipeline.invoices.desk import desk_path
from pipeline.invoices.desk_client import RunningUp
from pipeline.settings import Settings
from tests.e2e.processes import Process, wait_until
from tests.e2e.test_killed_issuer import books
from tests.metering.builders import ROOT

_MONTH: Final = ("invoice", "--month", "2026-09", "--format", "json")


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, dict[str, str]]]:
    """`up` with a day of twenty projects in its store, and the environment of commands beside it."""
    folder = tmp_path_factory.mktemp("up")
    environment = books(folder, "clickhouse")
    up = Process("up", Settings(data_dir=folder), folder / "up.log")
    up.start()
    wait_until(up.is_ready)
    yield up, environment
    up.stop()


def _run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "pipeline", *command]
    return subprocess.run(program, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_invoices_are_issued_beside_a_running_up_and_never_change(beside: tuple[Process, dict[str, str]]) -> None:
    """One is issued, then all; each once, under numbers without gaps, and a preview shows them as they were issued."""
    _, environment = beside
    one = _run(environment, *_MONTH, "--issue", "--project", "p07")
    assert [json.loads(line)["number"] for line in one.stdout.splitlines()] == [1]
    everyone = _run(environment, *_MONTH, "--issue")
    issued = [json.loads(line) for line in everyone.stdout.splitlines()]
    assert sorted(invoice["number"] for invoice in issued) == list(range(1, 21))
    assert one.stdout in everyone.stdout
    assert "issued 000002: p00, 0.01 USD" in everyone.stderr
    assert _run(environment, *_MONTH).stdout == everyone.stdout


def test_what_may_not_be_issued_is_refused_with_the_same_words(beside: tuple[Process, dict[str, str]]) -> None:
    """A project that the plans file of the command does not name."""
    unknown = _run(beside[1], *_MONTH, "--issue", "--project", "nobody")
    assert (unknown.returncode, unknown.stderr) == (1, "Error: the plans file says nothing of a project 'nobody'\n")


def test_questions_find_the_running_up_too(beside: tuple[Process, dict[str, str]]) -> None:
    """Its store cannot be opened a second time."""
    _, environment = beside
    cells = _run(environment, "usage", "--project", "p03", "--json").stdout.splitlines()
    assert [json.loads(line)["increments"] for line in cells] == [1]


def test_nobody_else_on_the_machine_may_order(beside: tuple[Process, dict[str, str]]) -> None:
    """The socket and its directory are the owner's alone."""
    _, environment = beside
    path = desk_path(Path(environment["ROOMMETER_STORE"].removeprefix("chdb://")))
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"month":"2026-13","project":null,"as_of_ms":1,"plans":""}', b'{"month":"2026-09"}', b"\xff" * 99],
)
def test_a_malformed_order_is_refused_and_the_next_one_taken(
    beside: tuple[Process, dict[str, str]], body: bytes
) -> None:
    """Whatever is sent to the socket."""
    _, environment = beside
    path = desk_path(Path(environment["ROOMMETER_STORE"].removeprefix("chdb://")))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"POST /v1/invoices HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert connection.recv(4096).startswith(b"HTTP/1.0 400")
    assert RunningUp.find(path.parent.parent / "clickhouse") is not None
