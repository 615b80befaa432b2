"""Kafka behind TLS, passwords and certificates: every client of ours gets in with the right ones, and only then."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote
from uuid import uuid4

import pytest

from pipeline.brokers import Brokers
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.kafka import KafkaAway, create_topics, read_topic
from pipeline.rows import SessionQuery
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import ApacheKafka, TestBroker
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.locks import Locks
from tests.metering.builders import connected

_WAYS: Final = ("SCRAM-SHA-512", "PLAIN", "certificate")


@pytest.fixture(scope="module")
def locks(broker: TestBroker) -> Locks:
    """The keys of the shared broker; Docker's, the embedded one and somebody else's have none."""
    if not isinstance(broker, ApacheKafka):
        pytest.skip(f"{broker.name} has no listener with TLS")
    return broker.locks


def _address(locks: Locks, way: str, password: str = Locks.password) -> str:
    if way == "certificate":
        return (
            f"kafka+ssl://127.0.0.1:{locks.certificate_port}?ca={locks.authority}"
            f"&certificate={locks.client}&key={locks.client}"
        )
    credentials = f"{locks.user}:{quote(password, safe='')}"
    return f"kafka+ssl://{credentials}@127.0.0.1:{locks.password_port}?sasl={way}&ca={locks.authority}"


@pytest.mark.parametrize("way", _WAYS)
def test_records_go_out_and_come_back(locks: Locks, way: str) -> None:
    """Topics are made, written and read."""
    settings = Settings(kafka=_address(locks, way), topic_prefix=f"locked-{uuid4().hex}.", partitions=1)
    names = topics(settings)

    async def there_and_back() -> list[bytes | None]:
        await create_topics(settings.kafka, names.all())
        await asyncio.to_thread(feed.send, settings, [connected(now_ms())])
        return [record.value async for record in read_topic(settings.kafka, names.lifecycle.name)]

    [value] = asyncio.run(there_and_back())
    assert b"session.connected" in (value or b"")


@pytest.fixture(params=["SCRAM-SHA-512", "certificate"])
def worker(locks: Locks, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    """A worker whose only knowledge of the brokers is a file of its directory of secrets."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "roommeter_kafka").write_text(_address(locks, request.param))
    settings = Settings(
        secrets_dir=secrets,
        topic_prefix=f"locked-{uuid4().hex}.",
        partitions=1,
        store=f"chdb://{tmp_path / 'clickhouse'}",
    )
    process = Process("worker", settings, tmp_path / "worker.log")
    process.start()
    yield process
    process.close()


def test_a_worker_meters_and_shows_no_password(locks: Locks, worker: Process) -> None:
    """Faust's consumer and producer get in as ours do, also behind a directory of secrets."""
    wait_until(worker.is_ready)
    trusted = worker.settings.model_copy(update={"kafka": Brokers.parse(_address(locks, "certificate"))})
    feed.send(trusted, [connected(now_ms() - 60_000)])
    wait_until(lambda: worker.metric("roommeter_batches_total") > 0)
    with closing(Store.open(worker.address)) as store:
        assert [row.session for row in store.sessions(SessionQuery(as_of_ms=now_ms()))] == ["PA_1"]
    assert worker.stop() == 0
    assert Locks.password.partition("/")[0] not in worker.said()  # however the rest of it may be written


@pytest.mark.parametrize("way", ["SCRAM-SHA-512", "PLAIN"])
def test_a_wrong_password_is_told_and_not_shown(locks: Locks, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """As long as it is wrong nobody gets in; who is waiting says why (R22)."""
    brokers = Brokers.parse(_address(locks, way, "hunter2"))
    with pytest.raises(KafkaAway) as refused:
        asyncio.run(create_topics(brokers, topics(Settings(topic_prefix="locked.")).all()))
    assert "Authentication failed" in caplog.text
    assert "hunter2" not in f"{refused.value} {caplog.text}"


def test_a_broker_of_another_authority_is_not_trusted(locks: Locks) -> None:
    """Without the authority's certificate the broker could be anybody."""
    brokers = Brokers.parse(f"kafka+ssl://127.0.0.1:{locks.certificate_port}")
    with pytest.raises(KafkaAway):
        asyncio.run(create_topics(brokers, topics(Settings(topic_prefix="locked.")).all()))
