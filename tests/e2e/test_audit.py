"""The audit, the explanation and the console of a running system, as an operator asks for them: over HTTP."""

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from pipeline.audit.canary import CANARY, finished_scenario
from pipeline.broker import free_port
from pipeline.cli.audit import audit
from pipeline.cli.canary import canary
from pipeline.cli.explain import explain
from pipeline.cli.query import usage
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_HOUR
from pipeline.rows import Batch, SessionQuery
from pipeline.settings import Settings
from pipeline.simulator import simulate
from tests.e2e.processes import PATIENCE_SECONDS, Process, wait_until
from tests.faults import feed

_EVENTS: Final = 3_000
_METER: Final = "agent_session_minutes"
#: Of each page of the console, with other names in its address.
_MOST_PAGES: Final = 10


def _run(command: Any, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def _rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `up` keeps its data."""
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def up(directory: Path) -> Iterator[Process]:
    """Everything running, with a simulated day in it."""
    settings = Settings(data_dir=directory / "data", broker_port=free_port(), emit_interval_ms=500)
    process = Process("up", settings, directory / "up.log")
    process.start()
    try:
        wait_until(process.is_ready)
        fed = settings.model_copy(update={"kafka": f"127.0.0.1:{settings.broker_port}"})
        feed.send(fed, feed.simulated_events(_EVENTS, seed=31))
        world = simulate(finished_scenario(now_ms() - 3 * MS_PER_HOUR)).events
        feed.send(fed, [document for _, document in world])
        wait_until(lambda: feed.is_done(fed, process.address))
        wait_until(lambda: process.metric('roommeter_rollups_emitted_total{revision="first"}') > 0)
        yield process
    finally:
        process.close()


def test_every_law_holds_of_a_running_system(up: Process) -> None:
    """The store answers read-only; exit code 0, and each law has looked at something."""
    laws = _rows(_run(audit, "--store", up.address, "--json"))
    assert {law["law"]: law["differences"] for law in laws if law["differences"]} == {}
    assert [law["law"] for law in laws if not law["checked"]] == []


def test_a_canary_is_sent_to_be_checked(up: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """C11: its sessions reach the store; the audit judges them when they are over for an hour."""
    monkeypatch.setenv("ROOMMETER_KAFKA", f"127.0.0.1:{up.settings.broker_port}")
    before = _canaries(up)
    [sent] = _rows(_run(canary, "--json"))
    wait_until(lambda: _canaries(up) >= before + sent["sessions"])


def _canaries(up: Process) -> int:
    """Return how many sessions of canaries are known."""
    with closing(Store.open(up.address)) as store:
        return sum(1 for _ in store.sessions(SessionQuery(as_of_ms=4_102_444_800_000, project=CANARY, limit=1_000)))


def test_every_page_of_the_console_answers(up: Process) -> None:
    """From the overview on, whatever links lead to: projects in each span, sessions, alerts."""
    address = f"http://127.0.0.1:{up.settings.console_port}"
    waiting, seen, asked = ["/"], {"/"}, Counter[str]()
    while waiting:
        link = waiting.pop(0)
        path = link.partition("?")[0]
        asked[path] += 1
        if asked[path] > _MOST_PAGES:
            continue
        with urllib.request.urlopen(address + link, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - our own address
            links = re.findall(r'href="(/(?!static/)[^"#]*)', answer.read().decode())
        found = dict.fromkeys(map(unescape, links))
        waiting += [other for other in found if other not in seen]
        seen |= found.keys()
    assert {"/", "/projects", "/project", "/session", "/alerts"} == set(asked)
    assert min(asked["/project"], asked["/session"]) >= _MOST_PAGES


def test_the_explanation_of_every_hour_adds_up_to_its_usage(up: Process) -> None:
    """What `roommeter usage` bills, the sessions of `roommeter explain` are."""
    as_of = "2100-01-01T00:00:00Z"
    cells = _rows(_run(usage, "--store", up.address, "--meter", _METER, "--as-of", as_of, "--json"))
    assert cells
    for cell in cells[:5]:
        asked = ("--project", cell["project"], "--meter", _METER, "--hour", cell["hour"], "--as-of", as_of)
        found = _rows(_run(explain, "--store", up.address, *asked, "--json"))
        hours = [
            hour for row in found for share in row["meters"] if share["meter"] == _METER for hour in share["hours"]
        ]
        assert sum(hour["increments"] for hour in hours if hour["hour"] == cell["hour"]) == cell["increments"]


def test_a_session_is_explained_for_people(up: Process) -> None:
    """The rule, the event, and where it lies."""
    [first, *_] = _rows(_run(explain, "--store", up.address, "--session", _any_session(up), "--json"))
    result = _run(explain, "--store", up.address, "--session", first["session"])
    assert f"session {first['session']}, room {first['room']}, project {first['project']}" in result.stdout
    assert "R3   started at" in result.stdout
    assert "earliest session.connected, event EV_" in result.stdout
    assert "topic lifecycle partition" in result.stdout


def _any_session(up: Process) -> str:
    with closing(Store.open(up.address)) as store:
        rows = store.sessions(SessionQuery(as_of_ms=4_102_444_800_000, limit=100))
        return next(row.session for row in rows if not row.start_inferred and not row.end_without_start)


def test_one_changed_value_ends_with_1_and_its_name(up: Process, directory: Path) -> None:
    """After the system is stopped, on its own store."""
    session = _any_session(up)
    assert up.interrupt() == 0
    dsn = f"chdb://{directory / 'data' / 'clickhouse'}"
    with closing(Store.open(dsn)) as store:
        [row] = store.sessions(SessionQuery(as_of_ms=4_102_444_800_000, session=session))
        changed = Session(connected_at_ms=row.started_at_ms - 1)
        store.write(Batch([(row.project, row.room, session, changed)]))
        result = _run(audit, "--store", dsn, "--project", row.project)
    assert result.exit_code == 1
    assert session in result.stdout
    assert "connected_at is stored as" in result.stdout


def test_what_cannot_be_checked_ends_with_2(directory: Path) -> None:
    """No store, no verdict."""
    result = _run(audit, "--store", f"chdb://{directory / 'nowhere'}")
    assert result.exit_code == 2
    assert "there is no store" in result.stderr
