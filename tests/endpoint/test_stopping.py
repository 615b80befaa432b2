"""The endpoint's process: it stops for nobody's query, and has its directory alone."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.brokers import until
from tests.endpoint.server import WAIT_SECONDS, Ports, Reply, ask, running, server


def test_stopping_ends_a_running_query_and_the_process(tmp_path: Path) -> None:
    """A stop waits for no analyst: the query is cancelled (394), answered, and the directory is free again."""
    replies: list[Reply] = []
    query = "SELECT count() FROM numbers(1000000000000)"
    with server(tmp_path) as (ports, process):
        asker = threading.Thread(target=lambda: replies.append(ask(ports.reader, query=query)))
        asker.start()
        until(lambda: running(ports.brief, "1000000000000"), WAIT_SECONDS)
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
