"""A server over a real chDB directory in a process of its own, and how to ask it without any ClickHouse client.

Run as a program, this module is that server: `python -m tests.endpoint.server <directory>`.
"""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import clickhouse_connect

from tests.metering.builders import ROOT

WAIT_SECONDS = 90.0


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
    """Run this module as a server on a directory; yield its ports and the process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "tests.endpoint.server", str(directory / "clickhouse")]
    with subprocess.Popen(program, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Ports(*json.loads(process.stdout.readline())), process
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)


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


def running(port: int, text: str) -> bool:
    """Tell whether a query with this text runs."""
    query = "SELECT count() FROM system.processes WHERE query LIKE {text:String} AND query NOT LIKE '%processes%'"
    return ask(port, query=query, param_text=f"%{text}%").text == "1\n"


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
