"""Standing still: the rule by which a process says that it does nothing though something waits. Pure.

It is told how far each piece of work is, and when. Idle work never stands still, and neither does work that moves,
however slowly. What is in hand may take its time: the caller says how much longer.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Work(NamedTuple):
    """A piece of work: `done` changes with every progress, `waiting` is how much is left; 0 is idle."""

    done: int
    waiting: int


class Look(NamedTuple):
    """All work of a process as seen at one moment; `slack_ms` is how much longer than usual it may take just now."""

    work: Mapping[str, Work]
    slack_ms: int = 0


class Progress:
    """Remembers since when each piece of work has not moved; `patience_ms` is how long it need not."""

    def __init__(self, patience_ms: int) -> None:
        """Know nothing yet."""
        self.patience_ms = patience_ms
        self._since: dict[str, tuple[int, int]] = {}

    def forget(self) -> None:
        """Count anew from the next look: what stood still until now had its reason, and that is said elsewhere."""
        self._since.clear()

    def judge(self, look: Look, now_ms: int) -> str | None:
        """Return what stands still, in words; None while nothing does. `now_ms` is of a clock that never jumps."""
        for gone in self._since.keys() - look.work.keys():
            del self._since[gone]
        stuck = []
        for name, (done, waiting) in look.work.items():
            done_before, since_ms = self._since.get(name, (None, now_ms))
            if waiting == 0 or done != done_before:
                since_ms = now_ms
            self._since[name] = (done, since_ms)
            if now_ms - since_ms > self.patience_ms + look.slack_ms:
                stuck.append(f"{name}: nothing done for {(now_ms - since_ms) // 1000} s, {waiting} wait")
        return "; ".join(stuck) or None
