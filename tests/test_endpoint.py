"""The endpoint as a second process sees it: a server over a real chDB directory, asked by ordinary clients.

Run as a program, this file is that server: `python test_endpoint.py <directory>`.
"""

import asyncio
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

WAIT_SECONDS = 30.0


class Ports(NamedTuple):
    """One directory served four times: to readers, to a writer, with tight limits, and with a short time to run."""

    reader: int
    writer: int
    tight: int
    brief: int


async def main(directory: Path) -> None:
    """Open the store as a worker does, serve it, print the ports, and stop on SIGTERM."""
    from pipeline.endpoint import Endpoint, Limits
    from pipeline.http import Readiness, make_app, serve
    from pipeline.metrics import Metrics

    store = clickhouse_connect.get_client(dsn=f"chdb://{directory}")
    store.command("CREATE DATABASE IF NOT EXISTS metering ENGINE = Atomic")
    columns = "name String, at DateTime64(3, 'UTC'), increments Int64"
    store.command(f"CREATE TABLE IF NOT EXISTS metering.usage ({columns}) ENGINE = MergeTree ORDER BY name")
    store.command("INSERT INTO metering.usage VALUES ('acme', '2026-09-21 14:00:01.087', 2)")
    endpoints = (
        Endpoint(directory),
        Endpoint(directory, writable=True, limits=Limits(max_body_bytes=33_554_432)),
        Endpoint(directory, limits=Limits(max_concurrent=1, max_result_rows=1000, max_memory_bytes=100_000_000)),
        Endpoint(directory, limits=Limits(max_execution_ms=300)),
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        apps = [make_app(Readiness(metrics), metrics, endpoint) for endpoint in endpoints]
        sys.stdout.write(json.dumps([await stack.enter_async_context(serve(app)) for app in apps]) + "\n")
        sys.stdout.flush()
        await stop.wait()
    assert store.command("EXISTS metering.usage") == 1, "the worker's own handle outlives the endpoint"
    store.close()


@contextmanager
def server(directory: Path) -> Iterator[tuple[Ports, subprocess.Popen[str]]]:
    """Run this file as a server on a directory; yield its ports and the process."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    program = [sys.executable, __file__, str(directory / "clickhouse")]
    with subprocess.Popen(program, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Ports(*json.loads(process.stdout.readline())), process
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)


@pytest.fixture(scope="session")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """One server for all tests of this file."""
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


class Reply(NamedTuple):
    """An answer as curl shows it."""

    status: int
    headers: dict[str, str]
    text: str


def fetch(port: int, body: bytes | None, headers: dict[str, str], parameters: dict[str, str]) -> tuple[Reply, bytes]:
    """Send GET, or POST where there is a body; return the answer, and its body as sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        connection.request("POST" if body else "GET", f"/?{urllib.parse.urlencode(parameters)}", body, headers)
        response = connection.getresponse()
        raw = response.read()
        return Reply(response.status, dict(response.headers), raw.decode(errors="replace")), raw
    finally:
        connection.close()


def ask(port: int, body: bytes | None = None, headers: dict[str, str] | None = None, **parameters: str) -> Reply:
    """Ask as curl does, without any ClickHouse client."""
    return fetch(port, body, headers or {}, parameters)[0]


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    never = threading.Event()
    for _ in range(int(WAIT_SECONDS / 0.02)):
        if holds():
            return
        never.wait(0.02)
    pytest.fail("it did not happen in time")


def running(port: int, text: str) -> bool:
    """Tell whether a query with this text runs."""
    query = "SELECT count() FROM system.processes WHERE query LIKE {text:String} AND query NOT LIKE '%processes%'"
    return ask(port, query=query, param_text=f"%{text}%").text == "1\n"


# What a reader gets


def test_the_ordinary_client_reads_rows(reader: Client) -> None:
    """A second process reads what the worker's process stored."""
    assert reader.query("SELECT name, increments FROM metering.usage").result_rows == [("acme", 2)]


def test_times_arrive_in_utc_to_the_millisecond(reader: Client) -> None:
    """Times are UTC and whole milliseconds."""
    (row,) = reader.query("SELECT at FROM metering.usage", query_tz="UTC").result_rows
    moment = row[0] if row[0].tzinfo else row[0].replace(tzinfo=UTC)
    assert moment == datetime(2026, 9, 21, 14, 0, 1, 87_000, tzinfo=UTC)


def test_get_with_a_query_in_the_url_answers_tab_separated(ports: Ports) -> None:
    """Curl without a format gets ClickHouse's default."""
    reply = ask(ports.reader, query="SELECT name, increments FROM metering.usage")
    assert (reply.status, reply.text, reply.headers["X-ClickHouse-Format"]) == (200, "acme\t2\n", "TabSeparated")


def test_a_post_body_follows_the_query_in_the_url(ports: Ports) -> None:
    """URL and body form one statement, as in ClickHouse."""
    assert ask(ports.reader, b"FROM metering.usage", query="SELECT name").text == "acme\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("JSONEachRow", '{"a":1,"b":"x"}\n'),
        ("CSV", '1,"x"\n'),
        ("TabSeparatedWithNames", "a\tb\n1\tx\n"),
        ("JSONCompactEachRow", '[1, "x"]\n'),
    ],
)
def test_each_format_may_be_asked_for_in_three_ways(ports: Ports, name: str, text: str) -> None:
    """FORMAT in the query, `default_format`, and the X-ClickHouse-Format header mean the same."""
    query = "SELECT 1 AS a, 'x' AS b"
    replies = (
        ask(ports.reader, query=f"{query} FORMAT {name}"),
        ask(ports.reader, query=query, default_format=name),
        ask(ports.reader, headers={"X-ClickHouse-Format": name}, query=query),
    )
    assert {(reply.text, reply.headers["X-ClickHouse-Format"]) for reply in replies} == {(text, name)}


def test_json_says_its_content_type_and_columns(ports: Ports) -> None:
    """JSON is what dashboards ask for."""
    reply = ask(ports.reader, query="SELECT 1 AS a", default_format="JSON")
    assert reply.headers["Content-Type"].startswith("application/json")
    assert json.loads(reply.text)["meta"] == [{"name": "a", "type": "UInt8"}]


def test_the_answer_repeats_the_query_id_and_summarises(ports: Ports) -> None:
    """Headers a client relies on: query id, time zone, summary."""
    reply = ask(ports.reader, query="SELECT * FROM metering.usage", query_id="q-1")
    assert reply.headers["X-ClickHouse-Query-Id"] == "q-1"
    assert "UTC" in reply.headers["X-ClickHouse-Timezone"]
    assert json.loads(reply.headers["X-ClickHouse-Summary"])["result_rows"] == "1"


def test_parameters_are_bound_and_never_become_sql(reader: Client) -> None:
    """A quote in a parameter stays text."""
    values = {"s": "it's \\ a\ttab\nline", "list": [1, 2], "nothing": None}
    query = "SELECT {s:String}, {list:Array(Int64)}, {nothing:Nullable(String)}"
    assert reader.query(query, parameters=values).result_rows == [("it's \\ a\ttab\nline", [1, 2], None)]


def test_parameters_too_long_for_a_url_come_as_a_form(reader: Client) -> None:
    """clickhouse-connect sends long parameters as multipart form fields."""
    assert reader.query("SELECT length({s:String})", parameters={"s": "x" * 100_000}).result_rows == [(100_000,)]


def test_database_chooses_where_names_are_looked_up(ports: Ports) -> None:
    """`database=` is the default database of one request."""
    assert ask(ports.reader, query="SELECT name FROM usage", database="metering").text == "acme\n"
    assert ask(ports.reader, query="SELECT name FROM usage").status == 404


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_results_are_compressed_as_the_client_asks(ports: Ports, compress: bool | str) -> None:  # noqa: FBT001
    """Every encoding carries the same rows."""
    with clickhouse_connect.get_client(host="127.0.0.1", port=ports.reader, compress=compress) as client:
        assert client.query("SELECT number FROM numbers(100000)").result_columns[0][-1] == 99_999


def test_an_answer_is_compressed_only_for_who_accepts_it(ports: Ports) -> None:
    """Content-Encoding answers Accept-Encoding, unless enable_http_compression=0."""
    accepting = {"Accept-Encoding": "lz4"}
    reply, raw = fetch(ports.reader, None, accepting, {"query": "SELECT 1"})
    assert reply.headers["Content-Encoding"] == "lz4"
    assert pa.CompressedInputStream(pa.BufferReader(raw), "lz4").read() == b"1\n"
    assert ask(ports.reader, headers=accepting, query="SELECT 1", enable_http_compression="0").text == "1\n"


def test_columns_of_an_empty_result_are_known(reader: Client) -> None:
    """LIMIT 0 is how a client asks for columns."""
    assert reader.query("SELECT name, increments FROM metering.usage LIMIT 0").column_names == ("name", "increments")


def test_an_empty_result_of_a_command_is_not_mistaken_for_none(reader: Client) -> None:
    """X-ClickHouse-Format tells a result set without rows from no result set."""
    assert reader.command("SELECT name FROM metering.usage WHERE increments > 100") == ""


def test_arrow_tables_are_read(reader: Client) -> None:
    """query_arrow is the fast way out for analysts."""
    assert reader.query_arrow("SELECT name FROM metering.usage").to_pydict() == {"name": ["acme"]}


async def test_the_asynchronous_client_reads(ports: Ports) -> None:
    """Notebooks and services use the asynchronous client."""
    async with await clickhouse_connect.get_async_client(host="127.0.0.1", port=ports.reader) as client:
        assert (await client.query("SELECT increments FROM metering.usage")).result_rows == [(2,)]


@pytest.mark.parametrize(
    "query",
    [
        "SHOW TABLES FROM metering",
        "DESCRIBE TABLE metering.usage",
        "DESCRIBE (SELECT 1)",
        "EXISTS metering.usage",
        "EXPLAIN SELECT 1",
        "WITH 1 AS x SELECT x",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "FROM metering.usage SELECT name",
        "SELECT 1; -- a comment",
        "SELECT 'a file INTO OUTFILE'",
        "SELECT * FROM {d:Identifier}.{t:Identifier}",
    ],
)
def test_everything_that_only_reads_is_allowed(ports: Ports, query: str) -> None:
    """SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS, WITH."""
    assert ask(ports.reader, query=query, param_d="metering", param_t="usage").status == 200


def test_settings_of_how_a_result_looks_may_be_sent(ports: Ports) -> None:
    """The allow-list lets results be shaped."""
    reply = ask(
        ports.reader, query="SELECT 1::UInt64 AS n FORMAT JSONEachRow", output_format_json_quote_64bit_integers="1"
    )
    assert reply.text == '{"n":"1"}\n'


def test_ping_and_an_empty_request_answer_ok(ports: Ports, reader: Client) -> None:
    """What load balancers and clients ask first."""
    assert reader.ping()
    assert ask(ports.reader).text == "Ok.\n"


# What a reader is refused


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file that no query may read."""
    path = tmp_path / "secret.csv"
    path.write_text("a,b\n1,2\n")
    return path


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO metering.usage VALUES ('x', now(), 1)",
        "CREATE TABLE metering.x (a Int8) ENGINE = Memory",
        "CREATE TEMPORARY TABLE x (a Int8)",
        "ALTER TABLE metering.usage DELETE WHERE 1",
        "DELETE FROM metering.usage WHERE 1",
        "TRUNCATE TABLE metering.usage",
        "DROP TABLE metering.usage",
        "OPTIMIZE TABLE metering.usage",
        "SET readonly = 0",
        "SET max_memory_usage = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1 SETTINGS max_execution_time = 0",
        "KILL QUERY WHERE 1",
        "SYSTEM STOP MERGES",
        "BACKUP TABLE metering.usage TO File('SECRET')",
        "SELECT * FROM file('SECRET')",
        "SELECT file('SECRET')",
        "SELECT `\\x66ile`('SECRET')",
        "SELECT file/**/('SECRET')",
        "SELECT arrayMap(file, ['SECRET'])",
        "SELECT arrayMap({f:Identifier}, ['SECRET'])",
        "SELECT * APPLY(file) FROM (SELECT 'SECRET')",
        "SELECT * APPLY `\\x66ile` FROM (SELECT 'SECRET')",
        "WITH (x -> file(x)) AS f SELECT f('SECRET')",
        "SELECT 1 AS `'`, file('SECRET') AS `'`",
        "EXPLAIN SELECT file('SECRET')",
        "DESCRIBE TABLE file('SECRET')",
        "DESCRIBE TABLE url('http://127.0.0.1:1/')",
        "EXISTS TABLE `SECRET`",
        "SELECT * FROM 'SECRET'",
        "SELECT * FROM `SECRET`",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
        "SELECT * FROM remote('127.0.0.1', system.one)",
        "SELECT * FROM executable('id', 'CSV', 'a String')",
        "SELECT * FROM Python(os)",
        "SELECT 1 INTO OUTFILE 'SECRET' TRUNCATE",
        "select 1 into/**/outfile 'SECRET' append format CSV",
        "INSERT INTO FUNCTION file('SECRET', 'CSV', 'a Int8') VALUES (1)",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_but_reading_tables_is_allowed(ports: Ports, secret: Path, query: str, method: str) -> None:
    """Read-only is READONLY (164): no change, no file, no network, and no way out by spelling."""
    sql = query.replace("SECRET", str(secret))
    reply = (
        ask(ports.reader, query=sql, param_f="file")
        if method == "GET"
        else ask(ports.reader, sql.encode(), param_f="file")
    )
    assert (reply.headers.get("X-ClickHouse-Exception-Code"), reply.status) == ("164", 500), reply.text
    assert secret.read_text() == "a,b\n1,2\n"
    assert str(ports.reader) not in reply.text


def test_two_statements_at_once_are_refused(ports: Ports) -> None:
    """The first statement cannot carry a second one in."""
    reply = ask(ports.reader, query="SELECT 1; DROP TABLE metering.usage")
    assert (reply.status, reply.headers["X-ClickHouse-Exception-Code"]) == (400, "62")


@pytest.mark.parametrize("name", ["readonly", "allow_ddl", "additional_table_filters", "format_schema", "x'; DROP"])
def test_settings_beyond_the_allow_list_are_refused(ports: Ports, name: str) -> None:
    """A setting in the URL is one of a closed list."""
    reply, _ = fetch(ports.reader, None, {}, {"query": "SELECT 1", name: "0"})
    assert reply.headers["X-ClickHouse-Exception-Code"] in {"164", "115"}


def test_a_read_only_request_does_not_make_the_next_one_read_only(ports: Ports, writer: Client) -> None:
    """The trap of a handle that stays read-only: each request has its own."""
    assert ask(ports.writer, query="SELECT 1").text == "1\n"
    writer.command("INSERT INTO sink VALUES ('x', 1)")
    assert writer.command("SELECT count() FROM sink") == 1


def test_get_reads_only_even_where_writing_is_allowed(ports: Ports) -> None:
    """GET changes nothing, as in ClickHouse: a link cannot drop a table."""
    reply = ask(ports.writer, query="DROP TABLE metering.usage")
    assert reply.headers["X-ClickHouse-Exception-Code"] == "164"


# Errors


@pytest.mark.parametrize(
    ("query", "status", "code", "name"),
    [
        ("SELECT FROM WHERE", 400, "62", "SYNTAX_ERROR"),
        ("SELECT * FROM metering.nothing", 404, "60", "UNKNOWN_TABLE"),
        ("SELECT nothing", 404, "47", "UNKNOWN_IDENTIFIER"),
        ("SELECT no_such_thing()", 404, "46", "UNKNOWN_FUNCTION"),
        ("SELECT 1 FORMAT Nothing", 404, "73", "UNKNOWN_FORMAT"),
        ("SELECT {p:UInt8}", 400, "456", "UNKNOWN_QUERY_PARAMETER"),
        ("SELECT throwIf(1)", 500, "395", "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ],
)
def test_errors_carry_clickhouses_own_code_text_and_status(
    ports: Ports, query: str, status: int, code: str, name: str
) -> None:
    """A client can tell what went wrong without parsing text."""
    reply = ask(ports.reader, query=query)
    assert (reply.status, reply.headers["X-ClickHouse-Exception-Code"]) == (status, code)
    assert reply.text.startswith(f"Code: {code}. DB::Exception: ")
    assert name in reply.text
    assert "formatQuery" not in reply.text


@pytest.mark.parametrize("name", ["Nothing", "DataFrame", "ArrowTable", "JSON\r\nX-Evil: 1"])
def test_only_formats_of_bytes_can_be_answered(ports: Ports, name: str) -> None:
    """UNKNOWN_FORMAT (73), also for what chDB's Python layer calls a format."""
    assert ask(ports.reader, query="SELECT 1", default_format=name).headers["X-ClickHouse-Exception-Code"] == "73"


def test_a_query_id_that_is_no_header_is_replaced(ports: Ports) -> None:
    """A request cannot write headers of its own into the answer."""
    reply = ask(ports.reader, query="SELECT 1", query_id="a\r\nX-Evil: 1")
    assert (reply.status, "X-Evil" in reply.headers) == (200, False)


def test_the_ordinary_client_raises_with_the_code(reader: Client) -> None:
    """clickhouse-connect finds code and text."""
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE") as caught:
        reader.query("SELECT * FROM metering.nothing")
    assert caught.value.code == 60


def test_a_body_that_is_not_text_is_a_syntax_error(ports: Ports) -> None:
    """Binary rubbish is refused, not a failure of the server."""
    assert ask(ports.reader, b"SELECT '\xff\xfe'").status == 400


# Limits


def test_a_body_over_the_limit_is_413(ports: Ports) -> None:
    """The body is bounded."""
    assert ask(ports.reader, b"SELECT 1 -- " + b"x" * 1_100_000).status == 413


def test_a_body_that_grows_over_the_limit_when_decompressed_is_413(ports: Ports) -> None:
    """A small compressed body cannot fill the memory."""
    bomb = gzip.compress(b"SELECT 1 -- " + b"x" * 50_000_000)
    assert len(bomb) < 1_000_000
    assert ask(ports.reader, bomb, {"Content-Encoding": "gzip"}).status == 413


def test_a_slow_query_is_stopped(ports: Ports) -> None:
    """Execution time is bounded: TIMEOUT_EXCEEDED (159)."""
    reply = ask(ports.brief, query="SELECT count() FROM numbers(1000000000000)")
    assert (reply.status, reply.headers["X-ClickHouse-Exception-Code"]) == (408, "159")


def test_a_request_may_lower_a_limit_but_never_raise_it(ports: Ports) -> None:
    """Limits sent with a request count only where they are lower; 0 does not mean unlimited."""
    for asked, granted in (("0.1", "0.1"), ("3000", "0.3"), ("0", "0.3")):
        reply = ask(ports.brief, query="SELECT getSetting('max_execution_time')", max_execution_time=asked)
        assert reply.text == f"{granted}\n"
    query = "SELECT getSetting('max_result_rows') FORMAT TSV"
    assert ask(ports.tight, query=query, max_result_rows="0.5").text != "0\n"


def test_rows_and_memory_are_bounded(ports: Ports) -> None:
    """TOO_MANY_ROWS_OR_BYTES (396) and MEMORY_LIMIT_EXCEEDED (241), not a dead process."""
    rows = ask(ports.tight, query="SELECT number FROM numbers(1001)")
    memory = ask(ports.tight, query="SELECT length(groupArray(number)) FROM numbers(50000000)")
    assert [reply.headers["X-ClickHouse-Exception-Code"] for reply in (rows, memory)] == ["396", "241"]


def test_one_query_too_many_is_503(ports: Ports) -> None:
    """Concurrent queries are bounded; the next one is told to come again."""
    slow = threading.Thread(target=ask, args=(ports.tight,), kwargs={"query": "SELECT sleep(2), 'slow one'"})
    slow.start()
    eventually(lambda: running(ports.reader, "slow one"))
    reply = ask(ports.tight, query="SELECT 1")
    assert (reply.status, reply.headers["X-ClickHouse-Exception-Code"], reply.headers["Retry-After"]) == (
        503,
        "202",
        "1",
    )
    slow.join()
    assert ask(ports.tight, query="SELECT 1").text == "1\n"


# Where writing is allowed


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


# Stopping


def test_stopping_ends_a_running_query_and_the_process(tmp_path: Path) -> None:
    """A stop waits for no analyst: the query is cancelled (394), answered, and the directory is free again."""
    replies: list[Reply] = []
    query = "SELECT count() FROM numbers(1000000000000)"
    with server(tmp_path) as (ports, process):
        asker = threading.Thread(target=lambda: replies.append(ask(ports.reader, query=query)))
        asker.start()
        eventually(lambda: running(ports.brief, "1000000000000"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS / 3) == 0
        asker.join()
    assert replies[0].headers["X-ClickHouse-Exception-Code"] == "394"
    with server(tmp_path) as (ports, _):
        assert ask(ports.reader, query="SELECT count() FROM metering.usage").text == "2\n"


def test_the_directory_itself_is_closed_to_a_second_process(ports: Ports) -> None:
    """Why the endpoint exists: one process alone may open the directory."""
    path = ask(ports.reader, query="SELECT path FROM system.disks").text.strip()
    program = [sys.executable, "-c", "import chdb, sys; chdb.connect(sys.argv[1])", path]
    outcome = subprocess.run(program, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
    assert "Cannot lock file" in outcome.stderr


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
