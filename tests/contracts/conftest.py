"""Stores for the contract tests: the embedded engine always, a ClickHouse server where there is one.

A server is the address in ROOMMETER_TEST_CLICKHOUSE (http://user:password@host:port), else a container where
a Docker daemon answers. The embedded engine allows one directory per process: one for all tests, a database each.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metering.meters import Meters, parse_meters
from pipeline.metering.units import MS_PER_HOUR, hour_of
from pipeline.producer import Producer
from tests.brokers import TestBroker
from tests.contracts.alert_stage import AlertStage
from tests.contracts.emitter_stage import Stage
from tests.contracts.limit_stage import LimitStage
from tests.databases import Databases, new_name
from tests.lane import declare

_IMAGE = "clickhouse/clickhouse-server:26.9"
_PASSWORD = "roommeter"  # noqa: S105 - of a container that lives as long as the tests
_METERS = Path(__file__).parents[2] / "schemas" / "meters.toml"


@pytest.fixture(scope="session")
def meters() -> Meters:
    """The table of meters that ships."""
    return parse_meters(_METERS.read_text())


@pytest.fixture(scope="session", params=["chdb", "server"])
def store_dsn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Each kind of store in turn."""
    address = os.environ.get("ROOMMETER_TEST_CLICKHOUSE")
    if request.param == "chdb":
        yield f"chdb://{tmp_path_factory.mktemp('clickhouse')}"
    elif address:
        yield address
    else:
        yield from _container()


def _container() -> Iterator[str]:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no ClickHouse server: ROOMMETER_TEST_CLICKHOUSE is not set and no Docker daemon answers")
    server = DockerContainer(_IMAGE, env={"CLICKHOUSE_PASSWORD": _PASSWORD}).with_exposed_ports(8123)
    with server.waiting_for(HttpWaitStrategy(8123, "/ping")):
        yield f"http://default:{_PASSWORD}@{server.get_container_host_ip()}:{server.get_exposed_port(8123)}"


@pytest.fixture(scope="session")
def databases(store_dsn: str) -> Databases | None:
    """Those that can be used again; on a server none is, as its users and grants are not a database's own."""
    return Databases() if store_dsn.startswith("chdb:") else None


@pytest.fixture
def open_store(
    request: pytest.FixtureRequest, store_dsn: str, databases: Databases | None
) -> Iterator[Callable[[], Store]]:
    """Open any number of stores on one database without any rows, which goes when the test ends.

    It is a new one, but for tests that ask for a migrated `store`.
    """
    reused = databases if "store" in request.fixturenames else None
    database = reused.take() if reused else new_name()
    stores: list[Store] = []

    def open_one() -> Store:
        stores.append(Store.open(store_dsn, database))
        return stores[-1]

    yield open_one
    if stores and not (reused and reused.give_back(stores[0])):
        stores[0]._client.command(f"DROP DATABASE {database} SYNC")
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store], databases: Databases | None, meters: Meters) -> Store:
    """A store with an empty, migrated database."""
    opened = open_store()
    if databases:
        databases.make_ready(opened, meters)
    else:
        opened.migrate(meters)
    return opened


@pytest.fixture
async def stage(broker: TestBroker, topic_prefix: str, store: Store, meters: Meters) -> AsyncIterator[Stage]:
    """An installation of its own, on the shared broker."""
    settings = await declare(broker.bootstrap, topic_prefix, partitions=2)
    async with Producer(settings.kafka) as producer:
        yield Stage(settings, meters, store, producer)


@pytest.fixture
async def limit_stage(broker: TestBroker, topic_prefix: str, store: Store) -> AsyncIterator[LimitStage]:
    """An installation of its own, on the shared broker, in the middle of the hour before the last."""
    settings = await declare(broker.bootstrap, topic_prefix, partitions=2)
    async with Producer(settings.kafka) as producer:
        stage = LimitStage(settings, store, producer, hour_of(now_ms()) - 3 * MS_PER_HOUR // 2)
        yield stage
        await stage.close()


@pytest.fixture
async def alert_stage(broker: TestBroker, topic_prefix: str, store: Store) -> AsyncIterator[AlertStage]:
    """An installation of its own, on the shared broker, in the middle of the hour before the last."""
    settings = await declare(broker.bootstrap, topic_prefix, partitions=2)
    async with Producer(settings.kafka) as producer:
        stage = AlertStage(settings, store, producer, hour_of(now_ms()) - 3 * MS_PER_HOUR // 2)
        yield stage
        await stage.close()
