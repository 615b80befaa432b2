"""A bad day of a LiveKit server: its gateway dies again and again, and some of what it sends is lost for good."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from aiohttp import ClientSession, ClientTimeout

from pipeline.broker import free_port
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.gateway.projects import LivekitKey
from pipeline.kafka import create_topics, read_topic
from pipeline.livekit.reconcile import Run
from pipeline.livekit.reconcile_store import ReconcileStore
from pipeline.livekit.webhooks import canonical
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE
from pipeline.rows import SessionQuery, SessionRow, UsageQuery
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.e2e.webhooks import is_accepted, key_of, notify, post, secret_of, write_projects
from tests.faults import feed
from tests.faults.livekit_api import FakeLivekit
from tests.livekit_server import LivekitServer
from tests.metering.builders import clock
from tests.oracle import oracle

_ROOMS: Final = 50
_PEOPLE: Final = 6
_WEBHOOKS: Final = 2_000
#: The gateway is killed whenever so many more webhooks were accepted.
_KILLED_EVERY: Final = 250
#: LiveKit's pauses are some seconds; a gateway is back within these: 0.4 s, 0.8 s, 1.6 s, 3.2 s.
_PAUSE_S: Final = 0.4
#: Longer than LiveKit's, where there is no second try: the machine may be busy.
_PATIENCE: Final = ClientTimeout(total=60)
_AS_OF_MS: Final = clock("40:00:00")


def _bodies_of_a_room(number: int) -> list[bytes]:
    """Return 40 webhooks: six people come and go for some minutes; one cannot be understood."""
    server = LivekitServer(f"room-{number}")
    room, hour = f"RM_{number}", 8 + number % 6
    server.room_started(f"{hour}:00:00", room)
    server.job("agent_job_started", f"{hour}:00:01", f"AJ_{number}")
    for person in range(_PEOPLE):
        sid = f"PA_{number}_{person}"
        server.joined(f"{hour}:{50 + person}:{number:02}", sid, kind="AGENT" if person == 0 else "STANDARD")
        for minute in range(4):
            server.published(f"{hour}:{56 + minute}:00", sid)
        server.left(f"{hour + 1}:0{person}:30", sid)
    server.room_finished(f"{hour + 1}:04:00")
    alien = json.loads(server.bodies[2]) | {"id": f"EV_alien_{number}", "participant": {"sid": "PA_x", "kind": "ALIEN"}}
    return [*server.bodies, orjson.dumps(alien)]


@dataclass(frozen=True, slots=True)
class Day:
    """What was sent and what came of each attempt, what arrived (both by body), and the bill."""

    came: dict[bytes, list[int | None]]
    arrived: set[bytes]
    kills: int
    billed: dict[Any, Any]


class _Storm:
    """Sends the webhooks of all rooms at once, each room's in order, while the gateway is being killed."""

    def __init__(self, gateway: Process) -> None:
        self.came: dict[bytes, list[int | None]] = {}
        self.kills = 0
        self._gateway = gateway
        self._url = f"http://127.0.0.1:{gateway.settings.gateway_port}"
        self._accepted = 0
        self._progress = asyncio.Condition()

    async def rage(self) -> None:
        """Return when everything was delivered or given up."""
        killing = asyncio.create_task(self._kill_again_and_again())
        async with ClientSession() as client:
            await asyncio.gather(*(self._play(client, _bodies_of_a_room(number)) for number in range(_ROOMS)))
        killing.cancel()
        await asyncio.wait({killing})

    async def _play(self, client: ClientSession, bodies: list[bytes]) -> None:
        for body in bodies:
            self.came[body] = await notify(client, self._url, "acme", body, _PAUSE_S)
            async with self._progress:
                self._accepted += is_accepted(self.came[body])
                self._progress.notify_all()

    async def _kill_again_and_again(self) -> None:
        for target in count(_KILLED_EVERY, _KILLED_EVERY):
            async with self._progress:
                await self._progress.wait_for(lambda: self._accepted >= target)  # noqa: B023 - asked at once
            self._gateway.kill()
            self.kills += 1
            self._gateway.start()


@pytest.fixture(scope="module", params=["with-brokers", "without-brokers"])
def day(request: pytest.FixtureRequest, broker: TestBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """2 000 webhooks of 300 sessions, through a gateway that is killed every 250; the brokers may come afterwards."""
    home = tmp_path_factory.mktemp("day")
    settings = Settings(
        kafka=broker.bootstrap,
        topic_prefix=f"livekit-day-{request.param}.",
        store=f"chdb://{home / 'store'}",
        data_dir=home / "gateway",
        projects_file=write_projects(home / "projects.toml", ["acme"]),
        # The scripted day keeps its date, whatever day it is today.
        correction_window_ms=3_650 * MS_PER_DAY,
        future_skew_ms=3_650 * MS_PER_DAY,
    )
    gateway, worker = (Process(name, settings, home / f"{name}.log") for name in ("gateway", "worker"))
    asyncio.run(create_topics(settings.kafka, topics(settings).all()))
    met = gateway.settings
    if request.param == "without-brokers":
        gateway.settings = met.model_copy(update={"kafka": f"127.0.0.1:{free_port()}"})
    try:
        gateway.start()
        wait_until(gateway.is_ready)
        storm = _Storm(gateway)
        asyncio.run(storm.rage())
        gateway.kill()
        gateway.settings = met
        gateway.start()
        wait_until(lambda: gateway.is_ready() and gateway.metric("roommeter_spool_messages") == 0)
        worker.start()
        wait_until(lambda: worker.is_ready() and feed.is_done(settings, worker.address))
        with closing(Store.open(worker.address)) as store:
            billed = {key: tuple(cell) for key, cell in store.usage(UsageQuery(as_of_ms=_AS_OF_MS))}
        yield Day(storm.came, asyncio.run(_arrived(settings, set(storm.came))), storm.kills, billed)
    finally:
        gateway.close()
        worker.close()


async def _arrived(settings: Settings, sent: set[bytes]) -> set[bytes]:
    """Return those bodies whose events are in the lifecycle topic, all of them, or in the dead letters."""
    names = topics(settings)
    events = {
        orjson.loads(record.value or b"")["id"] async for record in read_topic(settings.kafka, names.lifecycle.name)
    }
    letters = {
        dict(record.headers)["sha256"].decode() async for record in read_topic(settings.kafka, names.dead_letters.name)
    }
    return {
        body for body in sent if sha256(orjson.dumps(orjson.loads(body))).hexdigest() in letters or _ids(body) <= events
    }


def _ids(body: bytes) -> set[str]:
    return {document["id"] for document in canonical(json.loads(body), "acme")}


def test_the_day_is_as_bad_as_it_should_be(day: Day) -> None:
    """So that the others mean something: every death cut off webhooks that had to be sent again."""
    assert len(day.came) == _WEBHOOKS
    assert day.kills >= _WEBHOOKS // _KILLED_EVERY - 1
    assert sum(None in came for came in day.came.values()) > day.kills


def test_nothing_that_was_answered_is_lost(day: Day) -> None:
    """2xx is a promise: the event is in the lifecycle topic, or in the dead letters."""
    assert {body for body, came in day.came.items() if is_accepted(came)} <= day.arrived


def test_nothing_is_there_that_was_refused(day: Day) -> None:
    """Beside what was answered there can only be what the gateway died over, having kept it."""
    assert all(is_accepted(day.came[body]) or None in day.came[body] for body in day.arrived)


def test_no_webhook_is_refused_for_good(day: Day) -> None:
    """LiveKit never tries again after an answer from 400 to 499 (but for 429, which nothing here deserves)."""
    assert {status for came in day.came.values() for status in came} <= {200, 503, None}


def test_the_bill_of_the_day_is_the_oracles(day: Day) -> None:
    """R1, R10: of what arrived, however often it was sent."""
    events = [
        document
        for body in day.arrived
        for document in canonical(json.loads(body), "acme")
        if document["data"].get("kind") != "alien"
    ]
    assert day.billed == oracle(events, _AS_OF_MS)
    assert sum(sessions for _, _, sessions in day.billed.values()) >= _ROOMS * _PEOPLE


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known after the server was asked: sessions by id, and the passes, oldest first; when the test began."""

    sessions: dict[str, SessionRow]
    runs: list[Run]
    began_at_ms: int


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A server that lost the end of one session and the start of another, and answers who is there."""
    return asyncio.run(_ask(tmp_path_factory.mktemp("asked")))


async def _ask(home: Path) -> Asked:
    began_at_ms = now_ms() // 1_000 * 1_000
    async with FakeLivekit(LivekitKey(key_of("acme"), secret_of("acme").encode())) as api:
        api.open_room("support", "RM_1")
        api.join("support", "PA_there", began_at_ms - 10 * MS_PER_MINUTE)
        api.open_room("lobby", "RM_2")
        api.join("lobby", "PA_unknown", began_at_ms - 3 * MS_PER_MINUTE)
        settings = Settings(
            data_dir=home / "data",
            broker_port=free_port(),
            projects_file=write_projects(home / "projects.toml", ["acme"], f'livekit_url = "{api.url}"'),
            reconcile_interval_ms=300,
        )
        up = Process("up", settings, home / "up.log")
        try:
            up.start()
            await asyncio.to_thread(wait_until, up.is_ready)
            async with ClientSession() as client:
                for body in _bodies_without_an_end(began_at_ms):
                    assert (
                        await post(client, f"http://127.0.0.1:{up.settings.gateway_port}", "acme", body, _PATIENCE)
                        == 200
                    )
            await asyncio.to_thread(wait_until, lambda: _is_settled(up.address))
            return await asyncio.to_thread(_read, up.address, began_at_ms)
        finally:
            up.close()


def _bodies_without_an_end(began_at_ms: int) -> list[bytes]:
    """Return the webhooks of two people who came ten minutes ago; PA_lost was last seen five minutes ago."""
    server = LivekitServer()
    server.room_started(_time(began_at_ms - 10 * MS_PER_MINUTE))
    server.joined(_time(began_at_ms - 10 * MS_PER_MINUTE), "PA_there")
    server.joined(_time(began_at_ms - 10 * MS_PER_MINUTE), "PA_lost")
    server.published(_time(began_at_ms - 5 * MS_PER_MINUTE), "PA_lost")
    return server.bodies


def _time(time_ms: int) -> str:
    """Write a moment as a time of the tests' day, however many hours after or before it."""
    hours, rest_ms = divmod(time_ms - clock("0:00:00"), 60 * MS_PER_MINUTE)
    return f"{hours}:{rest_ms // MS_PER_MINUTE}:{rest_ms % MS_PER_MINUTE // 1_000}"


def _read(address: str, began_at_ms: int) -> Asked:
    with closing(Store.open(address)) as store:
        rows = store.sessions(SessionQuery(as_of_ms=now_ms()))
        runs = ReconcileStore(store).runs("acme")
    return Asked({row.session: row for row in rows}, runs[::-1], began_at_ms)


def _is_settled(address: str) -> bool:
    """Tell whether the lost session has ended and the unknown one begun."""
    sessions = _read(address, 0).sessions
    return "PA_unknown" in sessions and "PA_lost" in sessions and not sessions["PA_lost"].is_open


def test_a_session_whose_end_was_lost_is_presumed_ended_at_its_last_sign_of_life(asked: Asked) -> None:
    """R9: five minutes ago."""
    lost = asked.sessions["PA_lost"]
    assert (lost.end_presumed, lost.is_open) == (True, False)
    assert lost.ended_at_ms == asked.began_at_ms - 5 * MS_PER_MINUTE


def test_it_takes_two_passes_that_miss_a_session(asked: Asked) -> None:
    """A single answer ends nothing; both passes are on record."""
    missed = [number for number, run in enumerate(asked.runs) if run.missing]
    absent = [number for number, run in enumerate(asked.runs) if run.absent]
    assert missed == [absent[0] - 1]


def test_a_session_that_is_unknown_here_is_opened_where_it_joined(asked: Asked) -> None:
    """R3: three minutes ago, marked as known from asking alone."""
    unknown = asked.sessions["PA_unknown"]
    assert (unknown.is_open, unknown.reconciled, unknown.start_inferred) == (True, True, True)
    assert unknown.started_at_ms == asked.began_at_ms - 3 * MS_PER_MINUTE


def test_a_session_that_is_known_on_both_sides_stays_open(asked: Asked) -> None:
    """R8."""
    there = asked.sessions["PA_there"]
    assert (there.is_open, there.start_inferred, there.end_presumed) == (True, False, False)
