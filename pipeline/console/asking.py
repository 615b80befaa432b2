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
#: How long a page waits for an answer: for its turn, and then for the query. A later answer serves the next.
_PATIENCE_S: Final = 15
#: Queries at once; each has a store of its own.
_MOST_AT_ONCE: Final = 2
#: Questions that have no answer yet, and answers that are kept.
_MOST_WAITING: Final = 32
_MOST_ANSWERS: Final = 256

_T = TypeVar("_T")


class Asking:
    """Stores that are opened when they are first needed, and the newest answers."""

    def __init__(self, open_store: Callable[[], "Store"]) -> None:
        """Take what opens a store."""
        self._open_store = open_store
        self._stores: list[Store] = []
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._answers: dict[Hashable, asyncio.Task[tuple[Any, float]]] = {}

    async def ask(self, key: Hashable, fresh_s: float, question: Callable[["Store"], _T]) -> _T:
        """Return the answer; that of the same key serves again while it is at most so old.

        Raises StoreUnavailable, StoreError, and whatever the question raises.
        """
        task = self._answers.get(key)
        if task is None or not _serves(task, fresh_s):
            task = self._begin(key, question)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer: _T
                answer, _ = await asyncio.shield(task)
                return answer
        except TimeoutError:
            raise StoreUnavailable(f"the store took longer than {_PATIENCE_S} s: try a shorter time") from None

    def _begin(self, key: Hashable, question: Callable[["Store"], _T]) -> asyncio.Task[tuple[_T, float]]:
        if sum(not task.done() for task in self._answers.values()) >= _MOST_WAITING:
            raise StoreUnavailable("too many questions wait for the store: try again in a moment")
        task = asyncio.create_task(self._run(question))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody waits any more
        self._answers.pop(key, None)
        self._answers[key] = task
        if len(self._answers) > _MOST_ANSWERS:
            del self._answers[next(old for old, asked in self._answers.items() if asked.done())]
        return task

    async def close(self) -> None:
        """Wait for what was asked, and close the stores."""
        await asyncio.gather(*self._answers.values(), return_exceptions=True)
        for store in self._stores:
            store.close()

    async def _run(self, question: Callable[["Store"], _T]) -> tuple[_T, float]:
        """Return the answer, and when it came."""
        async with self._turns:
            store = self._stores.pop() if self._stores else await asyncio.to_thread(self._open_store)
            try:
                return await asyncio.to_thread(question, store), time.monotonic()
            finally:
                self._stores.append(store)


def _serves(task: asyncio.Task[tuple[Any, float]], fresh_s: float) -> bool:
    """Tell whether an answer is on its way, or young enough. A failure is none."""
    if not task.done():
        return True
    return not task.cancelled() and task.exception() is None and time.monotonic() - task.result()[1] <= fresh_s
