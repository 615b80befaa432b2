"""The endpoint as a second process sees it: what a reader gets."""

import json
from datetime import UTC, datetime

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from tests.endpoint.server import Ports, ask, fetch


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
