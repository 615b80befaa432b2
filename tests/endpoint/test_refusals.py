"""The endpoint as a second process sees it: what a reader is refused, and how errors are told."""

from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.endpoint.server import Ports, ask, fetch


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
