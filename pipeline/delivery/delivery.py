"""Delivering rollups to a billing system: what is asked of a target, and what its answers mean. Pure.

A rollup is delivered, or passed over because there is nothing to bill in it, or refused. What is refused is kept, with
the reason, on a topic of its own: it stops nothing behind it, and no bill lacks a rollup in silence.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple, Protocol

from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND

#: Pauses between attempts: the first, and the longest; each is twice the one before, some of it by chance.
FIRST_PAUSE_MS: Final = MS_PER_SECOND
MOST_PAUSE_MS: Final = 5 * MS_PER_MINUTE
#: A longer Retry-After is taken for this.
_MOST_RETRY_AFTER_MS: Final = MS_PER_HOUR
#: Request timeout, conflict with a request under way, too early, too many requests: ask again.
_PASSING: Final = frozenset({408, 409, 425, 429})
#: Not about this rollup: credentials, address, method, or the receiver wants no more.
_ABOUT_THE_TARGET: Final = {
    401: "mend its key or token",
    403: "its key or token may not do this",
    404: "mend its url",
    405: "mend its url",
    410: "it wants no more deliveries (410 Gone)",
}


class Request(NamedTuple):
    """A POST; the headers may hold secrets, so a request is never logged."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """What a target answered; `retry_after_ms` is 0 where it said nothing of when to come again."""

    status: int
    body: bytes = b""
    retry_after_ms: int = 0


class Refused(Exception):
    """The target does not take this rollup; asking again with the same would not help. The message says why."""


class Doubtful(Refused):
    """It was sent so long ago that the target would not know it again; whether it arrived cannot be told from here."""


class Later(Exception):
    """The target cannot take it now: ask again, after `wait_ms` at least."""

    def __init__(self, reason: str, wait_ms: int = 0) -> None:
        """Say why, and what the target asked for."""
        super().__init__(reason)
        self.wait_ms = wait_ms


class TargetHalted(Exception):
    """The target takes nothing until somebody mends it or its settings; nothing was skipped."""


class TargetAway(Exception):
    """The target did not answer as often as it was asked; nothing was skipped, the next run goes on there."""


class Target(Protocol):
    """A billing system."""

    @property
    def name(self) -> str:
        """Its word on the command line, in topics and groups."""

    @property
    def forgets_after_ms(self) -> int | None:
        """How long it knows an id again, in ms; None for as long as it matters."""

    def request(self, rollup: Mapping[str, Any], value: bytes, now_ms: int) -> Request | None:
        """Return what to send for a rollup, whose bytes are `value`; None for nothing. Raises Refused."""

    def judge(self, rollup_id: str, answer: Answer) -> None:
        """Return where the answer says that the target has it. Raises Refused, Later or TargetHalted."""


def judge_status(answer: Answer, detail: str = "") -> None:
    """Judge an answer by its status alone; `detail` is what the target said, where that can be shown."""
    status = answer.status
    if status // 100 == 2:  # noqa: PLR2004 - the class of success
        return
    if status in _PASSING or status >= 500:  # noqa: PLR2004 - the class of server errors
        raise Later(f"HTTP {status}", answer.retry_after_ms)
    if status in _ABOUT_THE_TARGET or status // 100 == 3:  # noqa: PLR2004 - the class of redirects
        raise TargetHalted(f"HTTP {status}: {_ABOUT_THE_TARGET.get(status, 'it redirects; mend its url')}")
    raise Refused(f"HTTP {status}" + (f": {detail[:200]}" if detail else ""))


def retry_after_ms(header: str | None, now_ms: int) -> int:
    """Read a Retry-After (RFC 9110: seconds, or a date) as ms from now; 0 for none and for what is neither."""
    if header is None:
        return 0
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]) * MS_PER_SECOND, _MOST_RETRY_AFTER_MS)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0
    elapsed = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    asked_ms = (elapsed.days * 86_400 + elapsed.seconds) * MS_PER_SECOND - now_ms
    return min(max(asked_ms, 0), _MOST_RETRY_AFTER_MS)


def pause_ms(attempt: int, asked_ms: int, chance: int) -> int:
    """Return the pause after a failed attempt (1, 2, ...): doubled each time, half of it by `chance` (0 to 1000).

    Never less than what the target asked for.
    """
    whole = min(FIRST_PAUSE_MS << min(attempt - 1, 20), MOST_PAUSE_MS)
    return max(asked_ms, whole // 2 + whole * chance // 2_000)


class Trying(NamedTuple):
    """What a group notes before it sends: all before `end_offset` may have been sent since `since_ms`."""

    end_offset: int
    since_ms: int

    def note(self) -> str:
        """Write it for the metadata of a committed offset."""
        return f"trying {self.end_offset} {self.since_ms}"


def parse_note(note: str) -> Trying | None:
    """Read what `Trying.note` wrote; None for anything else."""
    word, *numbers = note.split(" ")
    if word != "trying" or len(numbers) != 2 or not all(map(str.isdigit, numbers)):  # noqa: PLR2004 - its two fields
        return None
    return Trying(*map(int, numbers))
