"""What a statement is, from its text alone; that readers cannot get around it is shown over HTTP in tests/endpoint."""

import pytest

from pipeline.statement import Insert, QueryError, engine_error, format_of, parse_insert, reader_settings


@pytest.mark.parametrize(
    ("body", "insert"),
    [
        (b"INSERT INTO t FORMAT Native\n\n\x00", Insert("INSERT INTO t", "Native", b"\n\x00")),
        (b"insert into `a`.`b` (`x`, `y`) format CSV 1,2", Insert("insert into `a`.`b` (`x`, `y`)", "CSV", b"1,2")),
        (b"INSERT INTO t SETTINGS a=1 FORMAT CSV\r\n1", Insert("INSERT INTO t SETTINGS a=1", "CSV", b"1")),
        (b"INSERT INTO t VALUES ('x FORMAT CSV y')", None),
        (b"INSERT INTO t SELECT 1", None),
        (b"SELECT 1 FORMAT CSV", None),
    ],
)
def test_an_insert_is_split_from_its_data(body: bytes, insert: Insert | None) -> None:
    """Data begins right after the format and one line end: more line ends belong to it."""
    assert parse_insert(body) == insert


@pytest.mark.parametrize(
    ("canonical", "name"),
    [
        ("SELECT 1", None),
        ("SELECT 1 FORMAT JSON", "JSON"),
        ("SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "JSON"),
        ("SELECT ' FORMAT JSON'", None),
    ],
)
def test_the_format_a_statement_asks_for_is_known(canonical: str, name: str | None) -> None:
    """FORMAT counts where it is a clause, not where it is text."""
    assert format_of(canonical) == name


def test_limits_stand_unless_lowered() -> None:
    """A reader's own limit counts where it is lower."""
    asked = {"max_result_rows": "5", "max_memory_usage": "9999", "query": "SELECT 1", "param_x": "1"}
    limits = {"max_result_rows": "10", "max_memory_usage": "100"}
    assert reader_settings(asked, limits) == {"max_result_rows": "5", "max_memory_usage": "100"}


@pytest.mark.parametrize("value", ["", "x", "nan", "-1", "1e3", "0.0000001", "1; DROP TABLE t"])
def test_a_limit_that_is_no_plain_number_is_refused(value: str) -> None:
    """Rubbish lifts no limit, and nothing may round to 0, which means unlimited."""
    with pytest.raises(QueryError, match="not a number"):
        reader_settings({"max_execution_time": value}, {"max_execution_time": "30.000"})


def test_an_error_without_a_code_is_still_an_error() -> None:
    """Not all that fails in the engine says which code it is."""
    error = engine_error("out of threads")
    assert (error.code, error.status, str(error)) == (1001, 500, "out of threads")
