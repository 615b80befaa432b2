"""Reconciliation with a store: what it reads there is what the core says, and its passes are kept there."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from pipeline.clickhouse import Store
from pipeline.embedded import load_meters, now_ms
from pipeline.kafka import LogReader, create_topics
from pipeline.livekit.reconcile import Run
from pipeline.livekit.reconcile_store import MOST_IDS, ReconcileStore
from pipeline.livekit.reconciler import reconciling, to_kafka
from pipeline.metering.session import Facts
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.rows import Batch
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.faults.livekit_api import KEY, FakeLivekit, Fault
from tests.gateway.ledger import Ledger
from tests.metering.builders import ROOT, Document, clock, connected, disconnected, of_room, sampled

_COMMAND = "from pipeline.cli.reconcile import reconcile; reconcile()"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An embedded store with the current schema."""
    with closing(Store.open(f"chdb://{tmp_path_factory.mktemp('store')}")) as opened:
        opened.migrate(load_meters(Settings()))
        yield opened


def _write(store: Store, facts: Facts) -> None:
    store.write(
        Batch(
            sessions=[(project, room, name, session) for (project, room), name, session in facts.sessions()],
            rooms=[(project, room, known) for (project, room), known in facts.rooms.items()],
            restarts=list(facts.restarts_ms.items()),
        )
    )


def _log(project: str) -> list[Document]:
    """Return one session of each fate."""
    documents = [
        connected("14:00:00", "PA_open", "livekit"),
        connected("14:00:00", "PA_reported", "livekit/eu-1"),
        connected("14:00:00", "PA_janus", "janus/eu-1"),
        connected("14:00:00", "PA_ended", "livekit"),
        disconnected("14:01:00", "PA_ended", "livekit"),
        connected("14:00:00", "PA_silent", "livekit", room="RM_2"),
        of_room("room.started", "14:02:00", "livekit", room="RM_2"),
        sampled("14:03:00", "PA_pending", "livekit", kind="participant"),
        sampled("14:03:00", "PA_opened", "reconcile/sfu", kind="sip", connected_at="2026-09-21T14:00:00.000Z"),
    ]
    return [document | {"data": document["data"] | {"project": project}} for document in documents]


def test_what_the_store_says_is_open_is_what_the_core_says(store: Store) -> None:
    """Of LiveKit's servers, of this project, as of the moment of the question."""
    ledger = Ledger(*_log("acme"), *_log("other"))
    _write(store, ledger.facts)
    as_of_ms = clock("14:05:00")
    found = ReconcileStore(store).open_sessions("acme", as_of_ms, MS_PER_DAY)
    assert found == ledger.open_sessions("acme", as_of_ms, MS_PER_DAY)
    assert [session.session for session in found] == ["PA_open", "PA_opened", "PA_reported"]


def test_what_the_store_knows_of_sessions_is_what_the_core_knows(store: Store) -> None:
    """Started or not, over or not, and in which room; of any number of ids."""
    ledger = Ledger(*_log("acme"))
    _write(store, ledger.facts)
    ids = [f"PA_{number}" for number in range(MOST_IDS)] + [
        "PA_open",
        "PA_ended",
        "PA_silent",
        "PA_pending",
        "PA_opened",
    ]
    known = {
        (session.room, session.session): (session.has_started(), session.is_over())
        for session in ReconcileStore(store).known_sessions("acme", ids)
    }
    assert known == {
        (session.room, session.session): (session.has_started(), session.is_over())
        for session in ledger.known_sessions("acme", ids)
    }
    assert known["RM_1", "PA_ended"] == (True, True)
    assert known["RM_2", "PA_silent"] == (True, True)
    assert known["RM_1", "PA_pending"] == (False, False)


def test_passes_are_kept_and_shown_newest_first(store: Store) -> None:
    """Why an end is presumed can be looked up; keeping a pass twice changes nothing."""
    kept = ReconcileStore(store)
    asked_at_ms = now_ms()
    runs = [
        Run("kept", "reconcile/sfu", at_ms, at_ms + 20, "complete", 3, 1, 9, 7, 1, 1, 0, "")
        for at_ms in (asked_at_ms, asked_at_ms + MS_PER_MINUTE)
    ]
    for run in (*runs, runs[0]):
        kept.record(run)
    assert kept.runs("kept") == runs[::-1]
    assert kept.runs("kept", limit=1) == runs[1:]


@pytest.fixture
async def server() -> AsyncIterator[FakeLivekit]:
    """A server on which one call has been going on for ten minutes."""
    async with FakeLivekit() as fake:
        fake.join("support", "PA_1", now_ms() - 10 * MS_PER_MINUTE)
        yield fake


async def test_what_a_pass_found_is_in_the_lifecycle_topic_when_it_is_recorded(
    server: FakeLivekit, store: Store, broker: TestBroker, topic_prefix: str
) -> None:
    """Keyed by room, so that a worker reads it with the room's other events."""
    settings = Settings(kafka=broker.bootstrap, topic_prefix=topic_prefix, partitions=1)
    lifecycle = topics(settings).lifecycle
    await create_topics(settings.kafka, [lifecycle])
    kept = ReconcileStore(store)
    async with Producer(settings.kafka) as producer:
        outlets = to_kafka(settings, producer, kept)
        async with reconciling(server.project(name="sent"), settings, kept, outlets, Metrics(), now_ms) as reconciler:
            run = await reconciler.run_once()
    [record] = await LogReader(settings.kafka, lifecycle.name).poll_to_end()
    assert record.key == b"sent/RM_support"
    assert orjson.loads(record.value or b"")["source"] == f"reconcile/{server.url.removeprefix('http://')}"
    assert (run.opened, kept.runs("sent")) == (1, [run])


async def _run(*arguments: str, environment: dict[str, str], fails: bool = False) -> str:
    """Run Python in a process of its own: the embedded engine has one directory a process. Return what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=PIPE, stderr=PIPE, env=os.environ | environment, cwd=ROOT
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), 180)
    assert bool(process.returncode) is fails, stderr.decode()
    return (stderr if fails else stdout).decode()


def _environment(server: FakeLivekit, tmp_path: Path) -> dict[str, str]:
    """Write a projects file with the project `dry`, and return the settings that name it."""
    projects = tmp_path / "projects.toml"
    secret = KEY.secret.decode()
    projects.write_text(
        f'[projects.dry]\nlivekit_url = "{server.url}"\nlivekit = [{{key = "{KEY.key}", secret = "{secret}"}}]\n'
    )
    projects.chmod(0o600)
    return {
        "ROOMMETER_STORE": f"chdb://{tmp_path}/store",
        "ROOMMETER_PROJECTS_FILE": str(projects),
        "ROOMMETER_RECONCILE_INTERVAL_MS": "1",
    }


async def test_a_dry_run_shows_what_would_be_reported(server: FakeLivekit, tmp_path: Path) -> None:
    """Two passes, events on stdout, nothing sent or recorded."""
    environment = _environment(server, tmp_path)
    await _run("-m", "pipeline", "migrate", environment=environment)
    said = await _run("-c", _COMMAND, "--project", "dry", "--once", "--dry-run", "--json", environment=environment)
    lines = [orjson.loads(line) for line in said.splitlines()]
    assert [line["data"]["session"] for line in lines if "data" in line] == ["PA_1", "PA_1"]
    assert [line["opened"] for line in lines if "outcome" in line] == [1, 1]
    assert await _run("-c", _COMMAND, "--history", "9", environment=environment) == ""


async def test_two_passes_without_an_answer_fail(server: FakeLivekit, tmp_path: Path) -> None:
    """A timer that runs `--once` has to see it: exit code 1, with the outcome."""
    environment = _environment(server, tmp_path)
    await _run("-m", "pipeline", "migrate", environment=environment)
    server.faults["ListRooms"] = Fault("unavailable")
    said = await _run("-c", _COMMAND, "--project", "dry", "--once", "--dry-run", fails=True, environment=environment)
    assert "dry: away: nothing was reconciled" in said
