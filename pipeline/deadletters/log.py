"""The dead-letter topic over Kafka: reading and selecting letters, marking what was replayed, purging.

A letter's id is its place in this topic, `partition:offset`. That a letter was replayed is said by a record
behind it in the same topic, whose header names it: so everybody who reads the topic knows, nothing else has to
be kept, and retention and purges, which take the oldest first, never take a mark and leave its letter.
"""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pipeline import kafka
from pipeline.deadletters import letter as deadletter
from pipeline.messages import Message

#: Header of a mark: the id of the letter that was replayed.
_REPLAYED_OF: Final = "replayed-of"
#: The topic has one partition (pipeline.topics).
_PARTITION: Final = 0
#: Stands for the worker where origins are selected.
WORKER: Final = "worker"

Watch = Callable[[int, int], None]
"""Is told how many records of how many have been read."""


class NoSuchLetter(LookupError):
    """There is no dead letter with this id."""


class Letter(NamedTuple):
    """A dead letter as it lies in its topic; `dead_at_ms` is the broker's time of its burial."""

    offset: int
    dead_at_ms: int
    key: bytes | None
    value: bytes | None
    document: dict[str, Any]

    @property
    def id(self) -> str:
        """Its place in the dead-letter topic."""
        return f"{_PARTITION}:{self.offset}"

    @property
    def reason(self) -> str:
        """Why it was refused: a Reason, or what a newer version calls one."""
        return str(self.document["reason"])

    @property
    def origin(self) -> str:
        """Who refused it: a path of the gateway, or the worker."""
        return self.document["origin"] or WORKER


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant, by burial time, reason, project, origin, offset; what is empty excludes nothing."""

    reasons: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    offsets: frozenset[int] = frozenset()
    since_ms: int = 0
    until_ms: int | None = None

    def holds(self, letter: Letter) -> bool:
        """Tell whether a letter is meant; `until_ms` itself is not."""
        return (
            (not self.offsets or letter.offset in self.offsets)
            and (not self.reasons or letter.reason in self.reasons)
            and (not self.projects or letter.document["project"] in self.projects)
            and (not self.origins or letter.origin in self.origins)
            and letter.dead_at_ms >= self.since_ms
            and (self.until_ms is None or letter.dead_at_ms < self.until_ms)
        )


class Offsets:
    """A set of offsets near each other, at one bit each: a million letters take 125 kB."""

    def __init__(self, least: int) -> None:
        """Start empty; nothing below `least` is kept."""
        self._least = least
        self._bits = bytearray()

    def add(self, offset: int) -> None:
        """Add an offset."""
        byte, bit = divmod(offset - self._least, 8)
        if byte >= 0:
            self._bits.extend(bytes(max(0, byte + 1 - len(self._bits))))
            self._bits[byte] |= 1 << bit

    def __contains__(self, offset: int) -> bool:
        """Tell whether an offset was added."""
        byte, bit = divmod(offset - self._least, 8)
        return 0 <= byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)


class Survey(NamedTuple):
    """What reading the topic once tells: its span, which letters were replayed, where the wanted ones begin."""

    first: int
    end: int
    replayed: Offsets


@dataclass(frozen=True, slots=True)
class DeadLetterTopic:
    """The dead-letter topic of one installation; all its methods raise KafkaAway and TopicMismatch.

    Memory is bounded: nothing but the letter in hand and one bit a letter is held.
    """

    bootstrap: str
    name: str
    watch: Watch = lambda _done, _total: None

    async def survey(self, selection: Selection, most: int | None = None) -> Survey:
        """Read the topic to its end as it is now; with `most`, what is wanted begins at so many from the newest."""
        end = await self._end()
        replayed = Offsets(0)
        newest: deque[int] = deque(maxlen=most or 1)
        first = end
        async for record in self._records(None, end):
            if first == end:
                first, replayed = record.offset, Offsets(record.offset)
            if (offset := _replayed_by(record)) is not None:
                replayed.add(offset)
            elif most and (letter := _letter(record)) is not None and selection.holds(letter):
                newest.append(letter.offset)
        if most:
            first = newest[0] if newest else end
        return Survey(first, end, replayed)

    async def letters(self, survey: Survey, selection: Selection) -> AsyncGenerator[Letter, None]:
        """Yield the letters of a selection in the span of a survey, oldest first; other records are passed over."""
        if survey.first == survey.end:
            return
        async with aclosing(self._records(survey.first, survey.end)) as records:
            async for record in records:
                letter = _letter(record)
                if letter is not None and selection.holds(letter):
                    yield letter

    async def one(self, offset: int) -> tuple[Letter, bool]:
        """Return a letter, and whether it was replayed. Raises NoSuchLetter."""
        letter = None
        was_replayed = False
        try:
            async for record in self._records(offset, await self._end()):
                letter = _letter(record) if record.offset == offset else letter
                was_replayed = was_replayed or _replayed_by(record) == offset
        except kafka.OffsetsLost as error:
            raise NoSuchLetter(f"there is no dead letter {_PARTITION}:{offset}: {error}") from error
        if letter is None:
            raise NoSuchLetter(
                f"there is no dead letter {_PARTITION}:{offset} in {self.name}; list shows what is there"
            )
        return letter, was_replayed

    async def purge(self, before_offset: int) -> None:
        """Delete every record before an offset. Raises DeletionRefused."""
        await kafka.delete_records(self.bootstrap, self.name, {_PARTITION: before_offset})

    async def offset_at(self, time_ms: int) -> int:
        """Return the offset of the first record buried at a time or later, the end where there is none."""
        end = await self._end()
        async with aclosing(self._records(None, end)) as records:
            async for record in records:
                if record.timestamp_ms >= time_ms:
                    return record.offset
        return end

    async def _end(self) -> int:
        return (await kafka.end_offsets(self.bootstrap, self.name))[_PARTITION]

    async def _records(self, start: int | None, end: int) -> AsyncGenerator[kafka.Record, None]:
        """Yield records from an offset (default: the earliest) to `end`, telling how far it is."""
        first = start
        from_offsets = None if start is None else {_PARTITION: start}
        async with aclosing(kafka.read_topic(self.bootstrap, self.name, from_offsets)) as records:
            async for record in records:
                if record.offset >= end:
                    return
                first = record.offset if first is None else first
                self.watch(record.offset + 1 - first, end - first)
                yield record


def parse_id(text: str) -> int:
    """Return the offset of an id as `list` shows it. Raises ValueError for what is no id."""
    partition, colon, offset = text.partition(":")
    if not (colon and offset.isascii() and offset.isdigit() and partition == str(_PARTITION)):
        raise ValueError(f"{text!r} is no id of a dead letter: its place in the topic, such as {_PARTITION}:17")
    return int(offset)


def marks(topic: str, letters: Iterable[Letter]) -> list[Message]:
    """Return the records that say of letters: replayed. Sent after what was replayed is acknowledged."""
    return [Message(topic, letter.key, b"", [(_REPLAYED_OF, letter.id.encode())]) for letter in letters]


def _replayed_by(record: kafka.Record) -> int | None:
    """Return which letter a record says was replayed; None for every other record."""
    for name, raw in record.headers:
        if name == _REPLAYED_OF:
            try:
                offset = parse_id(raw.decode(errors="replace"))
            except ValueError:
                return None
            return offset if offset < record.offset else None  # ours name what is behind them
    return None


def _letter(record: kafka.Record) -> Letter | None:
    """Return the letter that a record is; None for a mark, and for what somebody else wrote."""
    try:
        document = deadletter.document(record.key, record.value, record.headers)
    except deadletter.NotADeadLetter:
        return None
    return Letter(record.offset, record.timestamp_ms, record.key, record.value, document)
