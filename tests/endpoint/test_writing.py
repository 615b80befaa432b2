"""The endpoint as a second process sees it, where writing is allowed."""

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from tests.endpoint.server import Ports, ask


def test_rows_are_inserted(writer: Client) -> None:
    """client.insert is how a worker writes."""
    summary = writer.insert("sink", [["a", 1], ["b", 2]], column_names=["name", "n"])
    assert summary.written_rows == 2
    assert writer.query("SELECT * FROM sink ORDER BY n").result_rows == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_many_rows_are_inserted_compressed(ports: Ports, writer: Client, compress: bool | str) -> None:  # noqa: FBT001
    """Each block is a frame of its own, and all of them arrive."""
    with clickhouse_connect.get_client(host="127.0.0.1", port=ports.writer, compress=compress) as client:
        client.insert("metering.sink", [[f"name {n}", n] for n in range(200_000)], column_names=["name", "n"])
    assert writer.command("SELECT count(), sum(n) FROM sink") == ["200000", "19999900000"]


def test_arrow_tables_are_inserted(writer: Client) -> None:
    """insert_arrow is the worker's fast path."""
    writer.insert_arrow("sink", pa.table({"name": ["a", "b"], "n": pa.array([1, 2], pa.int64())}))
    assert writer.command("SELECT sum(n) FROM sink") == 3


def test_rows_are_inserted_by_curl(ports: Ports, writer: Client) -> None:
    """The statement in the URL, its data in the body."""
    ask(ports.writer, b'{"name":"a","n":7}\n', query="INSERT INTO metering.sink FORMAT JSONEachRow")
    assert writer.command("SELECT n FROM sink") == 7


def test_a_command_without_result_returns_its_summary(writer: Client) -> None:
    """DDL has no result set, which X-ClickHouse-Format's absence says."""
    written = writer.command("INSERT INTO sink SELECT 'x', number FROM numbers(5)")
    assert not isinstance(written, str | int)
    assert writer.command("SHOW TABLES LIKE 'sink'") == "sink"


def test_rows_that_do_not_fit_are_refused_whole(ports: Ports, writer: Client) -> None:
    """A broken row fails the insert with its code, and nothing of it stays."""
    reply = ask(ports.writer, b"a,1\nb,x\n", query="INSERT INTO metering.sink FORMAT CSV")
    assert (reply.status, reply.headers["X-ClickHouse-Exception-Code"]) == (400, "117")
    assert writer.command("SELECT count() FROM sink") == 0
