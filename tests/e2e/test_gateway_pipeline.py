"""A LiveKit server's call, from signed webhooks to minutes: gateway and worker apart, and all in one as `up`.

The same payloads go to three projects: in order, shuffled, and twice. Everything private in them is looked for
wherever something was kept.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import ClientSession, ClientTimeout

from pipeline.broker import free_port
from pipeline.clickhouse import Store
from pipeline.kafka import Record, read_topic
from pipeline.livekit.webhooks import canonical
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, NEVER_MS
from pipeline.rows import SessionQuery, UsageQuery
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.e2e.webhooks import SECRET, post, write_projects
from tests.faults import feed
from tests.gateway.signing import CALL
from tests.livekit_server import PLANTED, LivekitServer
from tests.metering.builders import clock
from tests.oracle import oracle, oracle_sessions, oracle_verdicts

_PROJECTS: Final = ("in-order", "shuffled", "twice")
_AS_OF_MS: Final = clock("40:00:00")
#: The payloads keep their date, so that they stay as they were sent, whatever day it is today.
_ALWAYS: Final[dict[str, Any]] = {"correction_window_ms": 3_650 * MS_PER_DAY, "future_skew_ms": 3_650 * MS_PER_DAY}
#: What nobody may find: planted by us, or in the recorded call; the API secret, and a signature's first letters.
_PRIVATE: Final = (
    *(PLANTED, SECRET, "eyJhbGciOi", "r4nd0mSecret", "<secret>", "support-4711", "15105550100", "rtmp://", "s3://"),
)
#: Longer than LiveKit's: here is no second try, and the machine may be busy.
_PATIENCE: Final = ClientTimeout(total=60)
#: Minutes begun in the hour from 14:00 and in the hour from 15:00, counted by hand, of both calls.
_BY_HAND: Final = {
    "PA_eJ8nQ2rUxVbA": (2, 0),  # 14:00:01 to 14:01:56
    "PA_wq4ZyBmNcLdT": (2, 0),  # 14:00:04 to 14:01:14
    "PA_Xf5sVhKtR9uE": (2, 0),  # 14:00:05 to 14:01:35
    "EG_Bu37AhhwbBtN": (2, 0),  # 14:00:09 to 14:01:56
    "IN_Qx8yPzR4tWvU@RT_d3F5g7H9jK1l": (2, 0),  # 14:00:18 to 14:01:30
    "PA_agent": (2, 1),  # 140 s from 14:58:40
    "PA_user": (1, 1),  # 61 s from 14:59:30
    "PA_again": (0, 1),  # 10 s from 15:00:32
    "PA_phone": (1, 1),  # 61 s from 14:59:59
    "EG_1": (1, 1),  # 100 s from 14:59:10
    "IN_1@RT_1": (1, 0),  # 60 s from 14:59:20
}
_MINUTES: Final = {
    "agent_session_minutes": (4, 1),
    "webrtc_minutes": (3, 2),
    "telephony_minutes": (3, 1),
    "phone_inbound_minutes": (3, 1),
    "recording_export_minutes": (3, 1),
    "stream_import_minutes": (3, 0),
}


def _call_over_the_hour() -> list[bytes]:
    """Return every kind of webhook of a call around 15:00; the phone's own end is lost."""
    server = LivekitServer("over-the-hour")
    server.room_started("14:58:30")
    server.job("agent_job_pending", "14:58:30", "AJ_1", "JS_PENDING")
    server.job("agent_job_started", "14:58:31", "AJ_1")
    server.joined("14:58:40", "PA_agent", kind="AGENT", kind_details=["CLOUD_AGENT"])
    server.egress("egress_started", "14:59:08", "EGRESS_STARTING", started_at="14:59:08")
    server.egress("egress_updated", "14:59:10", "EGRESS_ACTIVE", started_at="14:59:08", updated_at="14:59:10")
    stream = {"started_at": "14:59:20", "resource_id": "RT_1"}
    server.ingress("ingress_started", "14:59:20", "ENDPOINT_PUBLISHING", **stream)
    server.joined("14:59:30", "PA_user", identity="ada")
    server.published("14:59:31", "PA_user")
    server.signalled("14:59:40", "PA_never")
    number = {"sip.trunkPhoneNumber": "+15105550199", "sip.ruleID": "SDR_1", "sip.phoneNumber": PLANTED}
    server.joined("14:59:59", "PA_phone", kind="SIP", identity=f"sip_{PLANTED}", attributes=number)
    server.aborted("15:00:10", "PA_never", "JOIN_FAILURE")
    server.ingress("ingress_ended", "15:00:20", "ENDPOINT_INACTIVE", ended_at="15:00:20", **stream)
    server.published("15:00:30", "PA_user", "track_unpublished")
    server.left("15:00:31", "PA_user", "STATE_MISMATCH")
    server.joined("15:00:32", "PA_again", identity="ada")
    server.left("15:00:42", "PA_again")
    server.left("15:01:00", "PA_agent", "ROOM_CLOSED")
    server.room_finished("15:01:00")
    server.job("agent_job_ended", "15:01:00", "AJ_1", "JS_SUCCESS")
    server.egress("egress_ended", "15:01:05", "EGRESS_COMPLETE", files=[("14:59:10", "15:00:50")])
    return server.bodies


_BODIES: Final = (*CALL, *_call_over_the_hour())


def _unintelligible() -> list[bytes]:
    """Return bodies of a server that is trusted and cannot be understood."""
    joined = json.loads(_BODIES[len(CALL) + 3])
    without_sid = {name: value for name, value in joined["participant"].items() if name != "sid"}
    return [
        _BODIES[len(CALL) + 3][:-9],
        json.dumps(joined | {"participant": without_sid}).encode(),
        json.dumps(joined | {"participant": joined["participant"] | {"kind": "HOLOGRAM"}}).encode(),
    ]


class System(NamedTuple):
    """What runs: where to post, whom to ask for minutes, the settings that lead to the topics; the gateway is last."""

    gateway_url: str
    store: str
    settings: Settings
    processes: list[Process]


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of it; minutes, sessions and events by project. `kept` is every byte kept, by place."""

    answers: list[int | None]
    usage: dict[str, dict[tuple[str, int], Any]]
    sessions: dict[str, dict[tuple[str, str], Any]]
    letters: list[Record]
    kept: dict[str, bytes]
    exit_codes: list[int]


@contextmanager
def _apart(broker: TestBroker, home: Path) -> Iterator[System]:
    """Run `roommeter gateway` and `roommeter worker`, on the tests' broker."""
    settings = Settings(
        kafka=broker.bootstrap,
        topic_prefix="gateway-pipeline.",
        store=f"chdb://{home / 'store'}",
        data_dir=home / "gateway",
        projects_file=write_projects(home / "projects.toml", _PROJECTS),
        **_ALWAYS,
    )
    gateway = Process("gateway", settings, home / "gateway.log")
    worker = Process("worker", settings, home / "worker.log")
    yield System(_gateway_url(gateway), worker.address, settings, [worker, gateway])


@contextmanager
def _together(_: TestBroker, home: Path) -> Iterator[System]:
    """Run `roommeter up`, which has a broker of its own."""
    projects = write_projects(home / "projects.toml", _PROJECTS)
    settings = Settings(data_dir=home / "data", broker_port=free_port(), projects_file=projects, **_ALWAYS)
    up = Process("up", settings, home / "up.log")
    kafka = f"127.0.0.1:{settings.broker_port}"
    yield System(_gateway_url(up), up.address, settings.model_copy(update={"kafka": kafka}), [up])


_SYSTEMS: Final[dict[str, Callable[[TestBroker, Path], AbstractContextManager[System]]]] = {
    "apart": _apart,
    "up": _together,
}


def _gateway_url(process: Process) -> str:
    return f"http://127.0.0.1:{process.settings.gateway_port}"


@pytest.fixture(scope="module", params=_SYSTEMS)
def observed(
    request: pytest.FixtureRequest, broker: TestBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    """All of it, once for each way to run it."""
    home = tmp_path_factory.mktemp("gateway")
    with _SYSTEMS[request.param](broker, home) as system:
        try:
            for process in system.processes:
                process.start()
            wait_until(lambda: all(process.is_ready() for process in system.processes))
            answers = asyncio.run(_post_everything(system.gateway_url))
            wait_until(lambda: system.processes[-1].metric("roommeter_spool_messages") == 0)
            wait_until(lambda: feed.is_done(system.settings, system.store))
            usage, sessions, rows = _read_store(system.store)
            records = asyncio.run(_read_topics(system.settings))
            exit_codes = [process.stop() for process in system.processes]
            files = {str(path.relative_to(home)): path.read_bytes() for path in _files(home)}
            del files["projects.toml"]
            letters = records[topics(system.settings).dead_letters.name]
            kept = files | rows | {name: repr(found).encode() for name, found in records.items()}
            yield Observed(answers, usage, sessions, letters, kept, exit_codes)
        finally:
            for process in system.processes:
                process.close()


async def _post_everything(url: str) -> list[int | None]:
    """Post all bodies to each project, one after the other; return the answers."""
    shuffled = Random(7).sample(_BODIES, len(_BODIES))  # noqa: S311 - the same order in every run
    sent = {"in-order": [*_BODIES, *_unintelligible()], "shuffled": shuffled, "twice": [*_BODIES, *_BODIES]}
    async with ClientSession() as client:
        return [
            await post(client, url, project, body, _PATIENCE) for project, bodies in sent.items() for body in bodies
        ]


def _read_store(address: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """Return usage and sessions by project, and every row of every table, all over HTTP."""
    usage: dict[str, Any] = {name: {} for name in _PROJECTS}
    sessions: dict[str, Any] = {name: {} for name in _PROJECTS}
    with closing(Store.open(address)) as store:
        for (project, meter, hour_ms), cell in store.usage(UsageQuery(as_of_ms=_AS_OF_MS)):
            usage[project][meter, hour_ms] = tuple(cell)
        for row in store.sessions(SessionQuery(as_of_ms=_AS_OF_MS)):
            ended_at_ms = None if row.ended_at_ms == NEVER_MS else row.ended_at_ms
            flags = (row.start_inferred, row.end_presumed, row.clock_skew)
            started = (row.started_at_ms, ended_at_ms, *flags) if row.started_at_ms != NEVER_MS else None
            sessions[row.project][row.room, row.session] = started
        tables = store.query("SELECT name FROM system.tables WHERE database = 'roommeter' AND engine != 'View'")
        rows = {f"table {name}": repr(store.query(f"SELECT * FROM roommeter.{name}")).encode() for [name] in tables}  # noqa: S608 - names of our own
    return usage, sessions, rows


async def _read_topics(settings: Settings) -> dict[str, list[Record]]:
    names = [topic.name for topic in topics(settings).all()]
    return {name: [record async for record in read_topic(settings.kafka, name)] for name in names}


def _files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def _due() -> list[dict[str, Any]]:
    """Return the canonical events of all bodies, of a project without a name that matters."""
    return [document for body in _BODIES for document in canonical(json.loads(body), "due")]


def _found_in(kept: dict[str, bytes]) -> list[tuple[str, str]]:
    return [(place, secret) for place, found in kept.items() for secret in _PRIVATE if secret.encode() in found]


def test_every_webhook_of_a_trusted_server_is_accepted(observed: Observed) -> None:
    """What cannot be understood, too: refusing it would lose it."""
    assert set(observed.answers) == {200}


@pytest.mark.parametrize("project", _PROJECTS)
def test_the_minutes_are_those_counted_by_hand(observed: Observed, project: str) -> None:
    """R1, R10, R16: for every meter in each of the two hours, in any order, once or twice."""
    hours = [clock("14:00:00"), clock("15:00:00")]
    found = {
        meter: tuple(observed.usage[project].get((meter, hour_ms), (0,))[0] for hour_ms in hours) for meter in _MINUTES
    }
    assert found == _MINUTES


@pytest.mark.parametrize("project", _PROJECTS)
def test_the_minutes_are_the_oracles(observed: Observed, project: str) -> None:
    """R1 to R9, R16: with the number of sessions, and nothing open."""
    due = oracle(_due(), _AS_OF_MS)
    assert observed.usage[project] == {(meter, hour_ms): cell for (_, meter, hour_ms), cell in due.items()}


@pytest.mark.parametrize("project", _PROJECTS)
def test_every_session_starts_and_ends_as_the_oracle_says(observed: Observed, project: str) -> None:
    """R3 to R6, R9: start, end and flags; None for what never connected."""
    due = oracle_verdicts(_due(), _AS_OF_MS)
    assert observed.sessions[project] == {
        (room, session): verdict and tuple(verdict)[:5] for (_, room, session), verdict in due.items()
    }


def test_the_oracle_counts_each_session_as_a_hand_does() -> None:
    """R1, R7: so that the two tests above mean what they say."""
    due: dict[str, dict[int, int]] = {}
    for (_, _, session, hour_ms), (minutes, _) in oracle_sessions(_due(), _AS_OF_MS).items():
        due.setdefault(session, {})[(hour_ms - clock("14:00:00")) // MS_PER_HOUR] = minutes
    assert {session: (hours.get(0, 0), hours.get(1, 0)) for session, hours in due.items()} == _BY_HAND


def test_what_cannot_be_understood_is_a_dead_letter_with_its_reason(observed: Observed) -> None:
    """R21: of the project that sent it."""
    said = [dict(letter.headers) for letter in observed.letters]
    assert [headers["reason"] for headers in said] == [b"not_json", b"missing_field", b"unknown_kind"]
    assert {headers["project"] for headers in said} == {b"in-order"}


def test_nothing_private_is_kept_anywhere(observed: Observed) -> None:
    """Not in a topic, a table, a file of the store, the spool or a log."""
    assert observed.kept.keys() > {"table events", "table session_facts"}
    assert any(name.endswith("spool.sqlite3") for name in observed.kept)
    assert any(b"PA_agent" in found for found in observed.kept.values())
    assert _found_in(observed.kept) == []


def test_all_stop_in_order(observed: Observed) -> None:
    """With exit code 0."""
    assert set(observed.exit_codes) == {0}


def test_a_gateway_that_has_never_met_its_brokers_keeps_everything_but_what_is_private(
    broker: TestBroker, tmp_path: Path
) -> None:
    """R22: it is ready, and what it accepts into its spool survives the process; none of that is private.

    Once the brokers are there everything arrives; on a busy machine some of it twice, which changes nothing (R10).
    """
    settings = Settings(
        kafka=f"127.0.0.1:{free_port()}",
        topic_prefix="brokerless-gateway.",
        data_dir=tmp_path / "gateway",
        projects_file=write_projects(tmp_path / "projects.toml", _PROJECTS),
    )
    gateway = Process("gateway", settings, tmp_path / "gateway.log")
    try:
        gateway.start()
        wait_until(gateway.is_ready)
        assert set(asyncio.run(_post_everything(_gateway_url(gateway)))) == {200}
        gateway.kill()
        kept = {path.name: path.read_bytes() for path in _files(tmp_path) if path.suffix != ".toml"}
        assert b"PA_agent" in b"".join(kept.values())
        assert _found_in(kept) == []
        gateway.settings = gateway.settings.model_copy(update={"kafka": broker.bootstrap})
        gateway.start()
        wait_until(lambda: gateway.is_ready() and gateway.metric("roommeter_spool_messages") == 0)
        records = asyncio.run(_read_topics(gateway.settings))
    finally:
        gateway.close()
    names = topics(gateway.settings)
    arrived = [json.loads(record.value or b"") for record in records[names.lifecycle.name]]
    assert {(event["data"]["project"], event["id"]) for event in arrived} == {
        (project, event["id"]) for project in _PROJECTS for event in _due()
    }
    letters = {dict(record.headers)["sha256"] for record in records[names.dead_letters.name]}
    assert len(letters) == len(_unintelligible())
