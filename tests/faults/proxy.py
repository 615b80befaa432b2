"""A TCP proxy for tests of faults: it refuses, delays, cuts requests short and drops answers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Self

_CHUNK_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to connections; any number of it at once.

    `refuse`: connections are reset as soon as they are made. `delay_s`: each chunk waits so long.
    `cut_after_bytes`: a connection is reset when so many bytes of requests have passed on it.
    `drop_reply`: the server does what is asked, but its answer is lost and the connection reset.
    """

    refuse: bool = False
    delay_s: float = 0.0
    cut_after_bytes: int | None = None
    drop_reply: bool = False


@dataclass(slots=True)
class _Exchange:
    """Whether one connection waits for an answer."""

    is_waiting: bool = False


class Proxy:
    """A proxy before a port of loopback, in a thread of its own so that tests may block."""

    def __init__(self, target_port: int) -> None:
        """Prepare; entering the context starts it."""
        self.port = 0
        #: How many connections a fault has reset.
        self.resets = 0
        #: How many connections wait for an answer to what was asked last.
        self.unanswered = 0
        self._target_port = target_port
        self._fault = Fault()
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        """Start, on a free port."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop, and reset what is open."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """Let a fault happen to all connections, open and new, while the block runs."""
        asyncio.run_coroutine_threadsafe(self._set(fault), self._loop).result()
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._set(Fault()), self._loop).result()

    async def _set(self, fault: Fault) -> None:
        self._fault = fault
        if fault.refuse:
            self._reset_all()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        self._reset_all()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    def _reset_all(self) -> None:
        for writer in self._connections:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection's bytes both ways until one side ends it or a fault does."""
        if self._fault.refuse:
            self.resets += 1
            writer.transport.abort()
            return
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._connections |= {writer, server_writer}
            exchange = _Exchange()
            ways = {
                asyncio.create_task(self._requests(reader, server_writer, exchange)),
                asyncio.create_task(self._replies(server_reader, writer, exchange)),
            }
            _, waiting = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in waiting:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._note(exchange, is_waiting=False)
            server_writer.transport.abort()
            self._connections -= {writer, server_writer}
        writer.transport.abort()

    def _note(self, exchange: _Exchange, *, is_waiting: bool) -> None:
        self.unanswered += is_waiting - exchange.is_waiting
        exchange.is_waiting = is_waiting

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: _Exchange) -> None:
        passed = 0
        while chunk := await reader.read(_CHUNK_BYTES):
            self._note(exchange, is_waiting=True)
            await asyncio.sleep(self._fault.delay_s)
            most = self._fault.cut_after_bytes
            passed += len(chunk)
            if most is not None and passed > most:
                self.resets += 1
                writer.write(chunk[: most - passed])  # `most - passed` is negative: all but what is too much
                await writer.drain()
                return
            writer.write(chunk)
            await writer.drain()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: _Exchange) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            self._note(exchange, is_waiting=False)
            await asyncio.sleep(self._fault.delay_s)
            if self._fault.drop_reply:
                self.resets += 1
                return
            writer.write(chunk)
            await writer.drain()
