"""An event loop for which nobody waits: its time jumps to the next timer, and threads are steps of the simulation.

Everything runs in one thread, and nothing here depends on the machine's clock, so that a run can be repeated exactly.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class StuckError(RuntimeError):
    """Nothing is left that could ever happen, and yet somebody waits."""


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio as it is, with a clock of its own.

    `thread` runs what code under test gives to a thread (`asyncio.to_thread`).
    """

    def __init__(self, thread: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        """Begin at second 0."""
        super().__init__()
        self._now_s = 0.0
        self._thread = thread
        self._selector = self  # of a selector the loop uses `select` alone
        self.set_exception_handler(lambda _loop, _context: None)  # who died is dealt with where it is killed

    def time(self) -> float:
        """Return the seconds since the beginning."""
        return self._now_s

    def select(self, timeout_s: float | None) -> list[Any]:
        """Take the place of a selector: instead of waiting for something to happen, go to when it does."""
        if timeout_s is None:
            raise StuckError("nothing is left to happen")
        self._now_s += timeout_s
        return []

    def _process_events(self, _events: list[Any]) -> None:
        """There are none: no files, no sockets."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a system call, and so nobody has to be woken."""

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Run what was meant for a thread as a step of whoever asked for it."""
        assert not args, "asyncio.to_thread binds them"
        return self._thread(func)
