"""What a worker depends on goes away in mid-run, in every way we could think of, and comes back (R22)."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.kafka import create_topics
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker, own_candidates, start_broker
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.proxy import Fault, Proxy
from tests.faults.storeserver import StoreServer

_EVENTS: Final = 6_000
_THIRD: Final = _EVENTS // 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A store of this module, with a database for each test."""
    started = StoreServer(tmp_path_factory.mktemp("server"))
    started.start()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def proxy(server: StoreServer) -> Iterator[Proxy]:
    """What stands between the workers and the store."""
    with Proxy(server.port) as started:
        yield started


@contextmanager
def _killed(server: StoreServer, _proxy: Proxy) -> Iterator[None]:
    server.kill()
    yield
    server.start()


def _faulty(fault: Fault) -> Callable[[StoreServer, Proxy], AbstractContextManager[None]]:
    return lambda _server, proxy: proxy.fault(fault)


_OUTAGES: Final[dict[str, Callable[[StoreServer, Proxy], AbstractContextManager[None]]]] = {
    "killed": _killed,
    "refuses": _faulty(Fault(refuse=True)),
    "answers_are_lost": _faulty(Fault(drop_reply=True)),
    "inserts_are_cut_short": _faulty(Fault(cut_after_bytes=20_000)),
}


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of one outage: before, meanwhile (early and late), and after it."""

    reasons: str
    members: list[set[str]]
    committed: list[int]
    stored: int
    sent: int
    dead_letters: int
    is_ready_again: bool
    exit_code: int
    billed: dict[Any, Any]
    due: dict[Any, Any]


@pytest.fixture(scope="module", params=_OUTAGES)
def observed(
    request: pytest.FixtureRequest,
    broker: TestBroker,
    server: StoreServer,
    proxy: Proxy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Observed]:
    """A worker whose store goes away while it writes, and comes back when it has been missed six times."""
    settings = Settings(
        kafka=broker.bootstrap,
        topic_prefix=f"outage-{request.param}.",
        store=f"http://127.0.0.1:{proxy.port}",
        database=request.param,
        session_timeout_ms=broker.session_timeout_ms,
        batch_events=200,
    )
    events = feed.simulated_events(_EVENTS, seed=11)
    worker = Process("worker", settings, tmp_path_factory.mktemp("outage") / "worker.log")
    try:
        worker.start()
        wait_until(worker.is_ready)
        feed.send(settings, events[:_THIRD])
        wait_until(lambda: feed.is_done(settings, server.dsn))
        members = [feed.members(settings)]
        feed.send(settings, events[_THIRD : 2 * _THIRD])
        with _OUTAGES[request.param](server, proxy):
            feed.send(settings, events[2 * _THIRD :])
            wait_until(lambda: worker.metric("roommeter_store_retries_total") >= 5)
            reasons = worker.unready_reasons()
            committed = [feed.committed(settings)]
            wait_until(lambda: worker.metric("roommeter_store_retries_total") >= 6)
            committed.append(feed.committed(settings))
            members.append(feed.members(settings))
        stored = feed.stored(settings, server.dsn)
        wait_until(lambda: feed.is_done(settings, server.dsn))
        wait_until(worker.is_ready)
        billed, due = feed.bills(settings, server.dsn, events)
        yield Observed(
            reasons=reasons,
            members=members,
            committed=committed,
            stored=stored,
            sent=feed.sent(settings),
            dead_letters=feed.dead_letters(settings),
            is_ready_again=worker.is_ready(),
            exit_code=worker.stop(),
            billed=billed,
            due=due,
        )
    finally:
        worker.close()


def test_a_worker_without_its_store_is_not_ready_and_says_why(observed: Observed) -> None:
    """R22: it says so; the metric store_retries, on which the outage waits, says it too."""
    assert observed.reasons.startswith("clickhouse: ClickHouse is not available: ")


def test_a_worker_without_its_store_keeps_its_assignment(observed: Observed) -> None:
    """R22: it keeps its place; the group has the same member as before."""
    assert len(observed.members[0]) == 1
    assert observed.members[1] == observed.members[0]


def test_nothing_is_committed_that_the_store_does_not_have(observed: Observed) -> None:
    """R22: the offsets stand still during the outage, at or below what is stored."""
    assert observed.committed[0] == observed.committed[1]
    assert _THIRD <= observed.committed[1] <= observed.stored
    assert observed.committed[1] < observed.sent


def test_an_outage_of_the_store_makes_no_dead_letter(observed: Observed) -> None:
    """R22: an event is not to blame for a store that is away."""
    assert observed.dead_letters == 0


def test_a_worker_goes_on_by_itself_when_its_store_is_back(observed: Observed) -> None:
    """R22: the same process ends ready, with everything stored, and stops in order."""
    assert observed.is_ready_again
    assert observed.exit_code == 0


def test_an_outage_of_the_store_changes_nothing_on_the_bill(observed: Observed) -> None:
    """R10: what was written twice, in part or not at all is joined into the rules' bill, cell by cell."""
    assert observed.billed == observed.due


def test_slow_answers_are_waited_for(
    broker: TestBroker, server: StoreServer, proxy: Proxy, topic_prefix: str, tmp_path: Path
) -> None:
    """R22: a store that is only slow is not away: no attempt is repeated, and the bill is right."""
    store = f"http://127.0.0.1:{proxy.port}"
    settings = Settings(kafka=broker.bootstrap, topic_prefix=topic_prefix, store=store, database="slow")
    events = feed.simulated_events(_THIRD, seed=12)
    worker = Process("worker", settings, tmp_path / "worker.log")
    try:
        worker.start()
        wait_until(worker.is_ready)
        with proxy.fault(Fault(delay_s=0.1)):
            feed.send(settings, events)
            wait_until(lambda: feed.is_done(settings, server.dsn))
        assert worker.metric("roommeter_store_retries_total") == 0
        billed, due = feed.bills(settings, server.dsn, events)
        assert billed == due
    finally:
        worker.close()


def test_a_broker_killed_in_mid_run_changes_nothing_on_the_bill(
    own_broker: TestBroker, server: StoreServer, tmp_path: Path
) -> None:
    """R22: without its broker the worker says so; the same process goes on when it is back."""
    settings = Settings(
        kafka=own_broker.bootstrap,
        store=server.dsn,
        database="brokerless",
        session_timeout_ms=own_broker.session_timeout_ms,
        batch_events=200,
    )
    events = feed.simulated_events(_EVENTS, seed=13)
    asyncio.run(create_topics(settings.kafka, topics(settings).all()))
    worker = Process("worker", settings, tmp_path / "worker.log")
    try:
        feed.send(settings, events[: 2 * _THIRD])
        worker.start()
        wait_until(lambda: worker.metric("roommeter_batches_total") > 0)
        asyncio.run(own_broker.crash())
        wait_until(lambda: "broker: no broker at" in worker.unready_reasons())
        asyncio.run(own_broker.restart())
        feed.send(settings, events[2 * _THIRD :])
        wait_until(lambda: feed.is_done(settings, server.dsn))
        wait_until(worker.is_ready)
        billed, due = feed.bills(settings, server.dsn, events)
        assert billed == due
        assert feed.dead_letters(settings) == 0
        assert worker.stop() == 0
    finally:
        worker.close()


@pytest.fixture
def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestBroker]:
    """A broker of this test alone, so that its death disturbs no other."""
    if own_candidates() == ["embedded"]:
        reason = "members do not find back to the embedded broker: `up` ends with it, and both start again"
        request.applymarker(pytest.mark.xfail(run=False, reason=reason))
    started = start_broker(own_candidates(), tmp_path, print)
    yield started
    asyncio.run(started.stop())
