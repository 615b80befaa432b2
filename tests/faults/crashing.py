"""A worker that kills itself at a point between two steps: `python -m tests.faults.crashing POINT NTH worker`.

The product has no hooks: its own methods are wrapped from outside, and at the NTH passing of the point the process says
so on stderr and sends itself SIGKILL. Points: see POINTS.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pipeline.cli import main
from pipeline.clickhouse import Store
from pipeline.fastlane import App, Consumer

#: What a process says just before it kills itself.
LAST_WORDS: Final = "crash point reached:"


class _Point:
    """Counts how often a point was passed."""

    def __init__(self, name: str, nth: int) -> None:
        self._name = name
        self._left = nth

    def passed(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.write(2, f"{LAST_WORDS} {self._name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: type, method: str, point: _Point) -> None:
    original: Callable[..., Any] = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        point.passed()
        return original(*args, **kwargs)

    setattr(owner, method, wrapped)


def _after(owner: type, method: str, point: _Point) -> None:
    original: Callable[..., Any] = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        point.passed()
        return result

    setattr(owner, method, wrapped)


def _after_await(owner: type, method: str, point: _Point) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, method)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        point.passed()
        return result

    setattr(owner, method, wrapped)


def _between_tables(number: int) -> Callable[[_Point], None]:
    """Return what kills after so many inserts of a batch; only inserts of facts and events count, not migrations."""

    def plant(point: _Point) -> None:
        original_write, original_insert = Store.write, Store._insert
        inserts = 0

        def write(self: Store, *args: Any) -> None:
            nonlocal inserts
            inserts = 0
            original_write(self, *args)

        def insert(self: Store, *args: Any) -> None:
            nonlocal inserts
            original_insert(self, *args)
            inserts += 1
            if inserts == number:
                point.passed()

        setattr(Store, "write", write)  # noqa: B010 - a method of another class
        setattr(Store, "_insert", insert)  # noqa: B010 - as above

    return plant


POINTS: Final[dict[str, Callable[[_Point], None]]] = {
    "before-insert": lambda point: _before(Store, "write", point),
    "after-first-table": _between_tables(1),
    "after-second-table": _between_tables(2),
    "after-third-table": _between_tables(3),
    "after-insert": lambda point: _after(Store, "write", point),
    "before-changelog": lambda point: _before(App, "changelog", point),
    "after-changelog": lambda point: _after_await(App, "changelog", point),
    "after-acknowledge": lambda point: _after(Consumer, "acknowledge", point),
    "before-commit": lambda point: _before(Consumer, "_commit", point),
    "after-commit": lambda point: _after_await(Consumer, "_commit", point),
}


if __name__ == "__main__":
    _name, _nth = sys.argv[1], int(sys.argv[2])
    POINTS[_name](_Point(_name, _nth))
    main(sys.argv[3:], prog_name="roommeter")
