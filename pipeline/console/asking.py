"""Asking the store for pages: off the event loop, so long at most, and the same question once for all who look."""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pipeline.clickhouse import StoreUnavailable

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: ClickHouse's bounds of every query of a page.
BOUNDS: Final = {"max_execution_time": "10", "max_result_rows": "200000", "max_memory_usage": "1073741824"}
#: How long a page waits for an answer: for its turn, and then for the query.
_PATIENCE_S: Final = 12
#: Queries at once; each has a store of its own.
_MOST_AT_ONCE: Final = 2
_MOST_ANSWERS: Final = 256

_T = TypeVar("_T")


class Asking:
    """Stores that are opened when they are first needed, and the newest answers."""

    def __init__(self, open_store: Callable[[], "Store"]) -> None:
        """Take what opens a store."""
        self._open_store = open_store
        self._stores: list[Store] = []
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._answers: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}

    async def ask(self, key: Hashable, fresh_s: float, question: Callable[["Store"], _T]) -> _T:
        """Return the answer; that of the same key serves again while it is at most so old.

        Raises StoreUnavailable, StoreError, and whatever the question raises.
        """
        begun_s, task = self._answers.get(key, (0.0, None))
        now_s = time.monotonic()
        if task is None or now_s - begun_s > fresh_s or _has_failed(task):
            task = asyncio.create_task(self._run(question))
            task.add_done_callback(_seen)
            self._answers.pop(key, None)
            self._answers[key] = now_s, task
            while len(self._answers) > _MOST_ANSWERS:
                del self._answers[next(iter(self._answers))]
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer: _T = await asyncio.shield(task)
                return answer
        except TimeoutError:
            raise StoreUnavailable(f"the store took longer than {_PATIENCE_S} s: try a shorter time") from None

    async def close(self) -> None:
        """Wait for what was asked, and close the stores."""
        await asyncio.gather(*(task for _, task in self._answers.values()), return_exceptions=True)
        for store in self._stores:
            store.close()

    async def _run(self, question: Callable[["Store"], _T]) -> _T:
        async with self._turns:
            store = self._stores.pop() if self._stores else await asyncio.to_thread(self._open_store)
            try:
                return await asyncio.to_thread(question, store)
            finally:
                self._stores.append(store)


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _seen(task: asyncio.Task[Any]) -> None:
    """Look at a failure, also where nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
