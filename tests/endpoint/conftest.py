"""One server for all tests of the endpoint, and ordinary clients of it."""

from collections.abc import Iterator

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from tests.endpoint.server import Ports, server


@pytest.fixture(scope="session")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """One server for all tests of the endpoint."""
    with server(tmp_path_factory.mktemp("endpoint")) as (ports, _):
        yield ports


@pytest.fixture
def reader(ports: Ports) -> Iterator[Client]:
    """The ordinary client, reading."""
    with clickhouse_connect.get_client(host="127.0.0.1", port=ports.reader) as client:
        yield client


@pytest.fixture
def writer(ports: Ports) -> Iterator[Client]:
    """The ordinary client where writing is allowed, with an empty table `sink`."""
    with clickhouse_connect.get_client(host="127.0.0.1", port=ports.writer, database="metering") as client:
        client.command("CREATE OR REPLACE TABLE sink (name String, n Int64) ENGINE = MergeTree ORDER BY n")
        yield client
