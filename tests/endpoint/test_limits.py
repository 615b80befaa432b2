"""The endpoint as a second process sees it: nobody takes more of it than its limits."""

import gzip
import threading

from tests.brokers import until
from tests.endpoint.server import WAIT_SECONDS, Ports, ask, running


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
    until(lambda: running(ports.reader, "slow one"), WAIT_SECONDS)
    reply = ask(ports.tight, query="SELECT 1")
    assert (reply.status, reply.headers["X-ClickHouse-Exception-Code"], reply.headers["Retry-After"]) == (
        503,
        "202",
        "1",
    )
    slow.join()
    assert ask(ports.tight, query="SELECT 1").text == "1\n"
