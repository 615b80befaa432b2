"""The spool off the event loop: a thread of its own, and one write for all who ask while another is under way."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from pipeline.gateway.spool import Entry, Spool, Spooled, SpoolFull, SpoolUnavailable, size_bytes

_T = TypeVar("_T")


class _Asked(NamedTuple):
    """Entries for the next write, and who waits for it."""

    entries: Sequence[Entry]
    size_bytes: int
    written: asyncio.Future[None]


class SpoolThread:
    """A spool for coroutines. A write takes an fsync; so those who come meanwhile share the next one."""

    spool: Spool
    """For its figures only."""

    def __init__(self, directory: Path, limit_bytes: int, on_damage: Callable[[Path], None]) -> None:
        """Prepare; the arguments are those of Spool."""
        self._open = partial(Spool, directory, limit_bytes, on_damage)
        self._thread = ThreadPoolExecutor(1, "spool")
        self._queue: list[_Asked] = []
        self._queued_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the spool. Raises SpoolInUse, SpoolUnavailable."""
        try:
            self.spool = await self._run(self._open)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Finish what is being written and close the spool."""
        await self.written()
        await self._run(self.spool.close)
        self._thread.shutdown()

    @property
    def is_writing(self) -> bool:
        """Tell whether anything that was asked for is not in the spool yet."""
        return self._writing is not None

    async def keep(self, entries: Sequence[Entry]) -> None:
        """Add entries in the order of the calls; on return they are on the disk. Raises SpoolFull, SpoolUnavailable."""
        added_bytes = sum(size_bytes(entry.message) for entry in entries)
        if added_bytes > self.spool.free_bytes - self._queued_bytes:
            raise SpoolFull(f"the spool is full: {self.spool.size_bytes} of {self.spool.limit_bytes} bytes are taken")
        asked = _Asked(entries, added_bytes, asyncio.get_running_loop().create_future())
        self._queue.append(asked)
        self._queued_bytes += added_bytes
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="spool-write")
        await asked.written

    async def written(self) -> None:
        """Wait until everything that was asked for is in the spool, or was refused."""
        while self._writing is not None:
            await asyncio.wait({self._writing})

    async def read(self, after: int, most: int, most_bytes: int) -> list[Spooled]:
        """Read as Spool.read does."""
        return await self._run(partial(self.spool.read, after, most, most_bytes))

    async def settle(self, last: int, refused: Sequence[tuple[int, str]]) -> None:
        """Settle as Spool.settle does."""
        await self._run(partial(self.spool.settle, last, refused))

    async def _run(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _write(self) -> None:
        """Write until nobody asks any more."""
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                error = await self._write_batch(batch)
                self._queued_bytes -= sum(asked.size_bytes for asked in batch)
                for asked in batch:
                    if asked.written.done():  # nobody waits any more
                        continue
                    if error is None:
                        asked.written.set_result(None)
                    else:
                        asked.written.set_exception(error)
        finally:
            self._writing = None

    async def _write_batch(self, batch: Sequence[_Asked]) -> Exception | None:
        entries = [entry for asked in batch for entry in asked.entries]
        try:
            await self._run(partial(self.spool.append, entries))
        except (SpoolFull, SpoolUnavailable) as error:
            return error
        return None
