"""What strangers may cost: slow, large, packed and many requests are cut, and memory stays flat."""

import asyncio
import contextlib
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

import orjson
import pytest

from pipeline.gateway.projects import LivekitKey, Project, Projects
from tests.gateway.running import KEY, SECRET, STRUCTURED, TOKEN, Running, running
from tests.gateway.signing import CALL, sign_livekit

_ROOT: Final = Path(__file__).parents[2]
#: How much more memory than at its start a gateway under attack may have used, in KiB.
_FLAT_KIB: Final = 24 * 1024
_POST: Final = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
_JSON: Final = b"Content-Type: application/cloudevents+json\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Streams]:
    """Yield a bare connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def dripped(streams: Streams, drop: bytes, limit_s: float) -> bytes:
    """Send a few bytes again and again until the other side answers; return the answer, b'' where it only hangs up."""
    reader, writer = streams
    async with asyncio.timeout(limit_s):
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(reader.read(65_536), 0.05)
            writer.write(drop)


async def test_a_slow_header_is_cut() -> None:
    """A header that drips in does not hold its connection longer than the setting says."""
    async with running(gateway_header_timeout_ms=300) as gateway, connected(gateway.port) as streams:
        streams[1].write(b"POST /webhooks/livekit HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            assert await dripped(streams, b"x", limit_s=8) == b""


async def test_a_slow_header_is_cut_on_a_used_connection_too() -> None:
    """The same for every request of a connection."""
    async with running(gateway_header_timeout_ms=300) as gateway, connected(gateway.port) as streams:
        streams[1].write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"404" in await streams[0].readuntil(b"\r\n\r\n")
        await streams[0].readuntil(b"}")
        streams[1].write(b"GET /")
        with contextlib.suppress(ConnectionError):
            assert await dripped(streams, b"x", limit_s=8) == b""


async def test_a_silent_connection_is_kept_for_the_next_request() -> None:
    """Reverse proxies keep connections open: the time for a header starts with its first byte."""
    async with running(gateway_header_timeout_ms=100) as gateway, connected(gateway.port) as streams:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(streams[0].read(1), 0.3)
            streams[1].write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"404" in await streams[0].readuntil(b"\r\n\r\n")
            await streams[0].readuntil(b"}")


async def test_a_header_timer_does_not_cut_a_request_under_way() -> None:
    """What takes long after the header has limits of its own."""
    async with running(gateway_header_timeout_ms=100, gateway_body_timeout_ms=5_000) as gateway:
        body = orjson.dumps({"specversion": "1.0"})
        async with connected(gateway.port) as streams:
            streams[1].write(_POST + _JSON + b"Content-Length: %d\r\n\r\n" % len(body))
            for at in range(0, len(body), 4):
                streams[1].write(body[at : at + 4])
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(streams[0].read(1) if at + 4 < len(body) else asyncio.Event().wait(), 0.05)
            assert b" 200 " in await streams[0].readuntil(b"\r\n")


async def test_a_slow_body_is_told_and_cut() -> None:
    """408, and the connection ends."""
    async with running(gateway_body_timeout_ms=300) as gateway, connected(gateway.port) as streams:
        streams[1].write(_POST + _JSON + b"Content-Length: 100000\r\n\r\n")
        assert (await dripped(streams, b"x", limit_s=8)).startswith(b"HTTP/1.1 408 ")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in await dripped(streams, b"x", limit_s=8)


async def test_a_body_that_ends_early_is_no_error_of_ours(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A client that goes away in the middle leaves no trace but a count."""
    async with connected(gateway.port) as (_, writer):
        writer.write(_POST + _JSON + b"Content-Length: 100\r\n\r\n{")
        await writer.drain()
    async with asyncio.timeout(30):
        while not gateway.metric("roommeter_gateway_requests_total", route="events", status="400"):
            await gateway.client.get("/nothing")
    assert caplog.text == ""


@pytest.mark.parametrize("length", [b"Content-Length: 300000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_long_body_is_refused(gateway: Running, length: bytes) -> None:
    """413, whether the length is told before or not."""
    async with connected(gateway.port) as (reader, writer):
        writer.write(_POST + _JSON + length + b"\r\n")
        writer.writelines([b"%x\r\n" % 30_000 + b"x" * 30_000 + b"\r\n"] * 10)
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 413 Request Entity Too Large\r\n"


async def test_what_unpacks_to_too_much_is_refused(gateway: Running) -> None:
    """413: what counts is the size unpacked."""
    packed = zlib.compress(b" " * 262_145)
    assert len(packed) < 1_000
    assert (await gateway.post("/v1/events", packed, STRUCTURED | {"Content-Encoding": "deflate"}))[0] == 413


async def test_a_malformed_request_is_not_repeated(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    """400 from the parser: neither answer nor log contains what was sent, it may be a credential."""
    async with connected(gateway.port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nAuthorization: secret\x01\r\n\r\n")
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"application/problem+json" in answer
    assert b"secret" not in answer
    assert "secret" not in caplog.text


async def test_too_many_requests_under_way_are_told_to_come_again() -> None:
    """503 with Retry-After, while those under way go on."""
    async with running(gateway_requests=2) as gateway:
        gateway.outbox.hold.clear()
        under_way = [asyncio.create_task(gateway.webhook(CALL[0])) for _ in range(2)]
        for _ in under_way:
            await gateway.outbox.arrived.get()
        async with gateway.client.get("/openapi.json") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
        gateway.outbox.hold.set()
        assert [status for status, _ in await asyncio.gather(*under_way)] == [200, 200]
        assert (await gateway.webhook(CALL[0]))[0] == 200


async def test_a_project_has_its_own_rate() -> None:
    """429 with Retry-After above it, by a clock that never goes back; a burst of five seconds passes."""
    slow = Project("slow", requests_per_s=2, livekit=(LivekitKey("APIslow", SECRET.encode()),))
    quick = Project("quick", livekit=(LivekitKey(KEY, SECRET.encode()),))
    async with running(projects=Projects([slow, quick])) as gateway:
        headers = {"Authorization": sign_livekit("APIslow", SECRET, CALL[0], gateway.clocks.now_ms // 1000)}
        statuses = [(await gateway.post("/webhooks/livekit", CALL[0], headers))[0] for _ in range(11)]
        assert statuses == [200] * 10 + [429]
        assert (await gateway.webhook(CALL[0]))[0] == 200
        async with gateway.client.post("/webhooks/livekit", data=CALL[0], headers=headers) as response:
            assert response.headers["Retry-After"] == "1"
        gateway.clocks.monotonic_s += 0.5
        assert (await gateway.post("/webhooks/livekit", CALL[0], headers))[0] == 200


class Child:
    """A gateway in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Read its port."""
        assert process.stdin
        assert process.stdout
        self._input: IO[str] = process.stdin
        self._output: IO[str] = process.stdout
        self.port = int(self._output.readline())

    def most_kib(self) -> int:
        """Return the most memory that it has ever used."""
        self._input.write("\n")
        self._input.flush()
        return int(self._output.readline())


@pytest.fixture
def child() -> Iterator[Child]:
    """Run a gateway in a process of its own."""
    command = [sys.executable, "-m", "tests.gateway.running"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Child(process)
        assert process.stdin
        process.stdin.close()


async def _posted(port: int, head: bytes, body: list[bytes]) -> bytes:
    """Post a body in pieces on a connection of its own; return the status line."""
    async with connected(port) as (reader, writer):
        writer.write(head)
        with contextlib.suppress(ConnectionError):
            for piece in body:
                writer.write(piece)
                await writer.drain()
        return await reader.readuntil(b"\r\n")


async def test_bombs_and_floods_leave_memory_flat(child: Child) -> None:
    """30 bodies that unpack to 250 MB each, then 10 of 100 MB as they are: all 413, and nothing grows with them."""
    packing = zlib.compressobj(9)
    bomb = b"".join([*(packing.compress(b" " * 1_000_000) for _ in range(250)), packing.flush()])
    assert len(bomb) < 262_144
    ordinary = await _posted(child.port, _POST + _JSON + b"Content-Length: 262144\r\n\r\n", [b" " * 262_144])
    assert ordinary.startswith(b"HTTP/1.1 200 ")
    before_kib = child.most_kib()
    packed = _POST + _JSON + b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    flood = _POST + _JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % 1_000_000 + b" " * 1_000_000 + b"\r\n"
    answers = [await _posted(child.port, packed, [bomb]) for _ in range(30)]
    answers += [await _posted(child.port, flood, [chunk] * 100) for _ in range(10)]
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 413 "}
    assert child.most_kib() - before_kib < _FLAT_KIB


async def test_slow_senders_leave_memory_flat_and_others_served(child: Child) -> None:
    """400 connections that drip headers or bodies, while a good one is answered at once."""
    before_kib = child.most_kib()
    async with contextlib.AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(connected(child.port)) for _ in range(400)]
        for _, writer in slow[:200]:
            writer.write(b"POST /webhooks/livekit HTTP/1.1\r\nX: ")
        for _, writer in slow[200:]:
            writer.write(_POST + _JSON + b"Content-Length: 100000\r\n\r\n{")
        dripping = [asyncio.create_task(dripped(streams, b"x", limit_s=60)) for streams in slow[200:]]
        good = await _posted(child.port, _POST + _JSON + b"Content-Length: 2\r\n\r\n", [b"{}"])
        assert good.startswith(b"HTTP/1.1 200 ")
        assert not any(task.done() for task in dripping)
        statuses = await asyncio.gather(*dripping)
        assert {status[:13] for status in statuses} == {b"HTTP/1.1 408 "}
    assert child.most_kib() - before_kib < _FLAT_KIB
