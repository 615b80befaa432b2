"""What the gateway costs, beside the same HTTP server doing nothing: `python -m tests.bench.gateway [--json]`.

Signed LiveKit webhooks are posted over loopback; each is verified, converted and acknowledged by a broker before it is
answered. The server is a process of its own, which counts its own CPU; who posts is another.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Final

import uvloop
from aiohttp import web
from rich.console import Console

from pipeline.cli.run import run_async
from pipeline.embedded import load_meters, now_ms
from pipeline.gateway.http_limits import Connection
from pipeline.gateway.outbox import Outbox
from pipeline.gateway.projects import LivekitKey, Project, Projects
from pipeline.gateway.server import Gateway, make_border, serving
from pipeline.janus.memory import JanusMemory
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from tests.bench.load import declare
from tests.brokers import candidates, start_broker
from tests.gateway.signing import CALL, sign_livekit

_SAY: Final = Console(stderr=True)
_KEY: Final = "APIbench"
_SECRET: Final = "bench-secret-0123456789abcdefghijklmnopqrstuv"  # noqa: S105 - signs nothing but this
_CONNECTIONS: Final = 64
_SECONDS: Final = 8.0
#: Webhooks per CPU second that it shall do at least.
_GOAL: Final = 3_000


def measure(kafka: str, requests: int, runs: int) -> dict[str, float]:
    """Return requests per CPU-second of the gateway and of a bare server, and p99 in ms at half of the goal's rate."""
    gateway = statistics.median(_per_cpu_second("gateway", kafka, requests) for _ in range(runs))
    bare = statistics.median(_per_cpu_second("bare", kafka, requests) for _ in range(runs))
    with _server("gateway", kafka) as server:
        rate = _GOAL / 2
        _load(server.port, int(rate * 2), rate)  # warm
        p99_ms = _load(server.port, int(rate * _SECONDS), rate)
    return {"gateway": gateway, "bare": bare, "p99_ms": p99_ms}


def _per_cpu_second(kind: str, kafka: str, requests: int) -> float:
    with _server(kind, kafka) as server:
        _load(server.port, requests // 10)
        before_s = server.cpu_s()
        _load(server.port, requests)
        return requests / (server.cpu_s() - before_s)


class _Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self.input: IO[str] = process.stdin
        self._output: IO[str] = process.stdout
        self.port = int(self._output.readline())

    def cpu_s(self) -> float:
        """Return the CPU time that it has used."""
        self.input.write("\n")
        self.input.flush()
        return float(self._output.readline())


@contextmanager
def _server(kind: str, kafka: str) -> Iterator[_Server]:
    command = [sys.executable, "-m", "tests.bench.gateway", "--serve", kind, kafka]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        server = _Server(process)
        try:
            yield server
        finally:
            server.input.close()


def _load(port: int, requests: int, rate: float = 0.0) -> float:
    """Post from a process of its own; return the p99 of the answers' times in ms."""
    command = [sys.executable, "-m", "tests.bench.gateway", "--post", str(port), str(requests), str(rate)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


async def _serve(kind: str, kafka: str) -> None:
    """Be the server: print the port, then for each line of input the CPU time used."""
    settings = Settings(kafka=kafka, topic_prefix="gateway-bench.", partitions=8, gateway_port=0)
    async with _app(kind, settings) as app, serving(app, settings) as port:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        while await asyncio.to_thread(sys.stdin.readline):
            used = resource.getrusage(resource.RUSAGE_SELF)
            sys.stdout.write(f"{used.ru_utime + used.ru_stime}\n")
            sys.stdout.flush()


@asynccontextmanager
async def _app(kind: str, settings: Settings) -> AsyncIterator[web.Application]:
    if kind == "bare":
        app = web.Application()
        app.router.add_post("/webhooks/livekit", _nothing)
        yield app
        return
    await declare(settings)
    projects = Projects([Project("acme", requests_per_s=1_000_000, livekit=(LivekitKey(_KEY, _SECRET.encode()),))])
    with tempfile.TemporaryDirectory() as directory:
        settings = settings.model_copy(update={"data_dir": Path(directory)})
        ready, metrics = asyncio.Event(), Metrics()
        async with Outbox(settings, metrics, now_ms, on_ok=ready.set) as outbox:
            await ready.wait()
            with JanusMemory(Path(directory) / "janus.sqlite3") as memory:
                border = make_border(settings, load_meters(settings))
                gateway = Gateway(settings, projects, border, outbox, memory, metrics, now_ms, time.monotonic)
                yield gateway.make_app()


async def _nothing(request: web.Request) -> web.Response:
    """Read a body and answer."""
    assert isinstance(request.protocol, Connection)
    request.protocol.begin()
    await request.read()
    request.protocol.end()
    return web.Response(body=b'{"accepted":1}', content_type="application/json")


async def _post(port: int, count: int, rate: float) -> float:
    """Post so many requests over a few connections, at a rate or as fast as they are answered; return the p99 in ms."""
    requests = [_request(body) for body in CALL]
    took_s: list[float] = []
    numbers = iter(range(count))
    began_s = time.perf_counter() + 0.2

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            due_s = began_s + number / rate if rate else time.perf_counter()
            if (ahead_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(ahead_s)
            writer.write(requests[number % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            # From when it was due, not from when it was sent: waiting for a free connection is waiting too.
            took_s.append(time.perf_counter() - due_s)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(_CONNECTIONS)))
    assert len(took_s) == count
    return sorted(took_s)[int(count * 0.99)] * 1_000


def _request(body: bytes) -> bytes:
    signature = sign_livekit(_KEY, _SECRET, body, now_ms() // 1_000)
    return (
        f"POST /webhooks/livekit HTTP/1.1\r\nHost: localhost\r\nUser-Agent: LiveKit\r\nAuthorization: {signature}\r\n"
        f"Content-Type: application/webhook+json\r\nContent-Length: {len(body)}\r\nAccept-Encoding: gzip\r\n\r\n"
    ).encode() + body


def rows(measured: dict[str, float]) -> Sequence[tuple[str, float, str, str]]:
    """Return the lines of the table: what was measured, its value, unit and goal."""
    return (
        (
            "gateway: signature, conversion, acknowledgement",
            measured["gateway"],
            "webhooks/CPU s",
            f">= {_GOAL}",
        ),
        ("  the same HTTP server doing nothing", measured["bare"], "requests/CPU s", ""),
        (f"  p99 at {_GOAL // 2} webhooks a second", measured["p99_ms"], "ms", "< 50"),
    )


def main() -> None:
    """Measure, or be the server or who posts."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--requests", type=int, default=20_000, help="webhooks of one measurement")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--post", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        run_async(_serve(*arguments.serve))
        return
    if arguments.post:
        port, count, rate = arguments.post
        sys.stdout.write(str(uvloop.run(_post(int(port), int(count), float(rate)))))
        return
    with tempfile.TemporaryDirectory() as directory:
        broker = start_broker(candidates(), Path(directory), _SAY.print)
        try:
            measured = measure(broker.bootstrap, arguments.requests, arguments.runs)
        finally:
            asyncio.run(broker.stop())
    if arguments.json:
        sys.stdout.write(json.dumps(measured) + "\n")
        return
    for what, value, unit, goal in rows(measured):
        sys.stdout.write(f"{what:<60} {value:>10,.1f} {unit:<16} {goal}\n")


if __name__ == "__main__":
    main()
