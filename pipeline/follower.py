"""A reader of a topic that stays connected, for whoever reads on several times a second."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from time import monotonic
from typing import Any

from pipeline.kafka import (
    AWAY,
    MOST_RECORDS,
    TIMEOUT_MS,
    KafkaAway,
    OffsetsLost,
    Record,
    open_consumer,
    partitions_of_topic,
    translated,
)


class Follower:
    """Reads a topic piece by piece over one connection, for whoever asks several times a second.

    What a call has yielded is not read again. Methods raise as `read_topic`; the next call connects anew.
    """

    def __init__(self, bootstrap: str, topic: str, from_offsets: Mapping[int, int] | None = None) -> None:
        """Start at some offsets; partitions not named, and new ones, start at their earliest."""
        self._bootstrap = bootstrap
        self._topic = topic
        self._stack = contextlib.AsyncExitStack()
        self._consumer: Any = None
        #: Where the next call begins, by partition.
        self.next_offsets = dict(from_offsets or {})

    async def parts(self) -> AsyncGenerator[list[Record], None]:
        """Yield what is new, some at a time: all up to the ends as they are now, and of what came since, some."""
        try:
            with translated(self._bootstrap):
                if self._consumer is None or self._has_new_partitions():
                    await self._connect()
                ends = await self._consumer.end_offsets(self._consumer.assignment())
            self._check(ends)
            while left := [tp for tp, end in ends.items() if self.next_offsets[tp.partition] < end]:
                for records in await self._next(left):
                    yield records
        except BaseException:
            await self.close()
            raise

    async def _next(self, left: list[Any]) -> list[list[Record]]:
        """Wait for records of some partitions, of which there are more, and move on behind them."""
        deadline_s = monotonic() + TIMEOUT_MS / 1000
        while monotonic() < deadline_s:
            with translated(self._bootstrap):
                found = await self._consumer.getmany(*left, timeout_ms=500, max_records=MOST_RECORDS)
                # The position, not the last record: compaction and transactions leave gaps before the end.
                reached = {tp.partition: await self._consumer.position(tp) for tp in left}
            if any(self.next_offsets[number] < offset for number, offset in reached.items()):
                self.next_offsets |= reached
                return [
                    [
                        Record(tp.topic, tp.partition, one.offset, one.timestamp, one.key, one.value, ())
                        for one in records
                    ]
                    for tp, records in found.items()
                ]
        raise KafkaAway(f"nothing more of {self._topic!r} from {self._bootstrap} in {TIMEOUT_MS} ms")

    def _check(self, ends: Mapping[Any, int]) -> None:
        if any(self.next_offsets[tp.partition] > end for tp, end in ends.items()):
            raise OffsetsLost(f"{self._topic!r} has offsets up to {ends}, not {self.next_offsets}")

    async def poll_to_end(self) -> list[Record]:
        """Return everything new up to the ends as they are now; after an error, nothing is skipped."""
        before = dict(self.next_offsets)
        try:
            return [record async for part in self.parts() for record in part]
        except BaseException:
            self.next_offsets = before
            raise

    async def close(self) -> None:
        """Leave the connection; the next call makes a new one."""
        self._consumer = None
        with contextlib.suppress(*AWAY):  # of fetches that have failed, the library tells once more when it stops
            await self._stack.aclose()

    def _has_new_partitions(self) -> bool:
        known = self._consumer.partitions_for_topic(self._topic) or set()
        return len(known) > len(self._consumer.assignment())

    async def _connect(self) -> None:
        await self.close()
        partitions = await partitions_of_topic(self._bootstrap, self._topic)
        consumer = await self._stack.enter_async_context(open_consumer(self._bootstrap))
        consumer.assign(partitions)
        earliest = await consumer.beginning_offsets(partitions)
        for tp in partitions:
            start = self.next_offsets.setdefault(tp.partition, earliest[tp])
            if start < earliest[tp]:
                raise OffsetsLost(f"{tp} has offsets from {earliest[tp]} on, not {start}")
            consumer.seek(tp, start)
        self._consumer = consumer
