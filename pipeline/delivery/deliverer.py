"""Delivering rollups to a billing system: at least once, in order of each project and meter, nothing left out.

How far a target is, is the offsets of a consumer group. They are committed when every rollup before them has been
answered for: delivered, passed over (nothing to bill), or kept with the reason on the topic of refused rollups. Killed
anywhere, the next run sends again what was not committed, under the same ids. A target that forgets ids (Stripe, after
a day) is guarded further: before a batch is sent, the group notes when, and what that batch may have delivered longer
ago than the target remembers is not sent again but set aside as doubtful, for somebody to look.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import randrange
from typing import Any, Final, Literal, NamedTuple

import aiohttp
import orjson

from pipeline.delivery.delivery import (
    Answer,
    Doubtful,
    Later,
    Refused,
    Request,
    Target,
    TargetAway,
    TargetHalted,
    Trying,
    parse_note,
    pause_ms,
    retry_after_ms,
)
from pipeline.kafka import Begin, GroupReader, KafkaAway, Record, create_topics
from pipeline.messages import Message
from pipeline.metering.units import MS_PER_HOUR, MS_PER_SECOND, format_time
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import Topic, topics

_log: Final = logging.getLogger(__name__)

#: Records read at a time; progress is committed as often.
_BATCH_RECORDS: Final = 100
#: Of an answer no more is read.
_ANSWER_BYTES: Final = 65_536
#: Standard Webhooks: 15 to 30 s for one request.
_REQUEST_S: Final = 30.0
_RETRY_S: Final = 1.0
#: Brokers forget the offsets of a group that is idle for a week.
_KEEP_MS: Final = MS_PER_HOUR

Post = Callable[[Request], Awaitable[Answer]]
"""Sends a request; raises Later where there was no answer."""
Park = Callable[[Message], Awaitable[None]]
"""Keeps a message, and returns when the brokers have it."""
Pause = Callable[[float], Awaitable[None]]
"""Waits for seconds."""
Read = Callable[[bytes | None], Mapping[str, Any]]
"""Returns the document of a record, as far as targets look at it; raises Refused for anything else."""
Takes = Callable[[Record], bool]
"""Tells whether a record is to be delivered."""
Outcome = Literal["delivered", "passed_over", "refused", "doubtful"]


@asynccontextmanager
async def posting(clock: Callable[[], int]) -> AsyncIterator[Post]:
    """Yield what posts over HTTP: without redirects, since a key is for one address alone. `clock` returns ms."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_S)) as session:

        async def post(request: Request) -> Answer:
            try:
                async with session.post(
                    request.url, data=request.body, headers=request.headers, allow_redirects=False
                ) as response:
                    body = b""
                    async for chunk in response.content.iter_any():
                        body += chunk
                        if len(body) > _ANSWER_BYTES:
                            break
                    wait_ms = retry_after_ms(response.headers.get("Retry-After"), clock())
                    return Answer(response.status, body, wait_ms)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Later(type(error).__name__) from error

        yield post


@dataclass(slots=True)
class Counts:
    """What became of rollups: delivered; passed over, as nothing is to be billed; refused; doubtful (both are kept)."""

    delivered: int = 0
    passed_over: int = 0
    refused: int = 0
    doubtful: int = 0
    metrics: Metrics = field(default_factory=Metrics, compare=False, repr=False)

    def add(self, target: str, outcome: Outcome) -> None:
        """Count one rollup, here and as a metric."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        self.metrics.deliveries.labels(target, outcome).inc()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How patient a deliverer is: attempts at one rollup (None: without end), refusals in a row before it stops."""

    attempts: int | None = None
    refusals_in_a_row: int = 100


class Deliverer:
    """Delivers what a reader reads to a target; `clock` returns ms since the epoch, `pause` waits for seconds."""

    def __init__(
        self,
        target: Target,
        reader: GroupReader,
        post: Post,
        park: Park,
        refused_topic: str,
        clock: Callable[[], int],
        rules: Rules,
        counts: Counts,
        read: Read,
        pause: Pause = asyncio.sleep,
    ) -> None:
        """Keep the parts; `counts` are added to."""
        self._target = target
        self._reader = reader
        self._post = post
        self._park = park
        self._refused_topic = refused_topic
        self._clock = clock
        self._rules = rules
        self._counts = counts
        self._read = read
        self._pause = pause
        self._refusals = 0

    async def run(self, until: Mapping[int, int] | None, takes: Takes) -> None:
        """Deliver the records that `takes` says, up to some offsets; None for ever.

        Raises TargetHalted; TargetAway where the rules allow no more attempts; KafkaAway. Nothing is skipped then.
        """
        kept_ms = self._clock()
        while until is None or not await self._has_reached(until):
            if self._clock() - kept_ms > _KEEP_MS:
                await self._reader.keep()
                kept_ms = self._clock()
            found = await self._reader.poll(_BATCH_RECORDS)
            # Partitions side by side, each in its order: a key, and so a project's meter, has one request at a time.
            tasks = [asyncio.create_task(self._deliver(records, takes)) for records in found.values()]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _has_reached(self, until: Mapping[int, int]) -> bool:
        positions = [await self._reader.position(partition) >= end for partition, end in until.items()]
        return all(positions)

    async def _deliver(self, records: Sequence[Record], takes: Takes) -> None:
        """Deliver records of one partition: first those that an earlier run may have sent, then the others.

        What the group has answered for meanwhile, by another deliverer, is left out: this one may have slept for days.
        """
        partition = records[0].partition
        committed = await self._reader.committed(partition)
        records = [record for record in records if record.offset >= committed]
        earlier = parse_note(self._reader.notes[partition])
        known = [record for record in records if earlier and record.offset < earlier.end_offset]
        if earlier and known:
            await self._deliver_section(known, earlier, takes, since_ms=earlier.since_ms)
        if new := records[len(known) :]:
            await self._deliver_section(new, Trying(new[-1].offset + 1, self._clock()), takes, since_ms=None)

    async def _deliver_section(
        self, records: Sequence[Record], trying: Trying, takes: Takes, since_ms: int | None
    ) -> None:
        """Deliver records; what is done is committed, whatever ends it, with a note of what may have been sent."""
        partition, done = records[0].partition, records[0].offset
        left: Trying | None = trying
        if self._target.forgets_after_ms is not None:
            await self._reader.commit(partition, done, trying.note())
        try:
            for record in records:
                if takes(record):
                    await self._answer_for(record, since_ms)
                done = record.offset + 1
        except TargetHalted:  # a clear answer: what was under way did not arrive
            left = trying if since_ms is not None else None
            raise
        except BaseException:
            left = trying if since_ms is not None else Trying(done + 1, trying.since_ms)
            raise
        finally:
            is_open = self._target.forgets_after_ms is not None and left is not None and done < left.end_offset
            await self._reader.commit(partition, done, left.note() if left and is_open else "")

    async def _answer_for(self, record: Record, since_ms: int | None) -> None:
        """Deliver one record, or keep it with the reason why not."""
        try:
            document = self._read(record.value)
            is_sent = await self._send(document, record.value or b"", since_ms)
        except Refused as error:
            await self._refuse(record, error)
            return
        self._refusals = 0
        self._counts.add(self._target.name, "delivered" if is_sent else "passed_over")

    async def _send(self, document: Mapping[str, Any], value: bytes, since_ms: int | None) -> bool:
        """Send until the target has it; tell whether there was anything to.

        Raises Refused, TargetHalted, TargetAway.
        """
        attempt, window_ms = 0, self._target.forgets_after_ms
        while True:
            now_ms = self._clock()
            request = self._target.request(document, value, now_ms)
            if request is None:
                return False
            if since_ms is None:
                since_ms = now_ms
            elif window_ms is not None and now_ms - since_ms > window_ms:
                raise Doubtful(
                    f"first sent at {format_time(since_ms)}, without a clear answer: look whether it is there"
                )
            attempt += 1
            try:
                self._target.judge(document["id"], await self._post(request))
            except Later as error:
                self._counts.metrics.delivery_retries.labels(self._target.name).inc()
                if attempt == self._rules.attempts:
                    raise TargetAway(f"{self._target.name}: {error}, {attempt} times; nothing was skipped") from error
                wait_ms = pause_ms(attempt, error.wait_ms, randrange(1_001))  # noqa: S311 - not for secrets
                _log.warning("%s: %s; again in %d ms", self._target.name, error, wait_ms)
                await self._pause(wait_ms / MS_PER_SECOND)
            else:
                return True

    async def _refuse(self, record: Record, error: Refused) -> None:
        self._refusals += 1
        if self._refusals > self._rules.refusals_in_a_row:
            raise TargetHalted(f"{self._refusals} refusals in a row, the last one: {error}") from error
        is_doubtful = isinstance(error, Doubtful)
        said = {
            "target": self._target.name,
            "state": "doubtful" if is_doubtful else "refused",
            "reason": str(error),
            "topic": record.topic,
            "partition": str(record.partition),
            "offset": str(record.offset),
            "time": format_time(self._clock()),
        }
        headers = tuple((name, text.encode()) for name, text in said.items())
        await self._park(Message(self._refused_topic, record.key, record.value or b"", headers))
        # Counted and said after it is kept: what is said is true.
        self._counts.add(self._target.name, "doubtful" if is_doubtful else "refused")
        place = f"{record.topic}/{record.partition}/{record.offset}"
        _log.error("%s: %s is not delivered but kept on %s: %s", self._target.name, place, self._refused_topic, error)


class Route(NamedTuple):
    """From which topic is delivered, where is kept what is refused, in whose name is read, and how."""

    source: Topic
    refused: Topic
    group: str
    read: Read


def _everything(_record: Record) -> bool:
    return True


async def deliver_rollups(
    settings: Settings,
    target: Target,
    clock: Callable[[], int],
    counts: Counts,
    rules: Rules,
    begin: Begin | None,
    again: str | None = None,
    pause: Pause = asyncio.sleep,
) -> None:
    """Deliver to the end that there is now, where attempts are bounded; else for ever, through outages of Kafka.

    `begin` is for a target's first run; later ones go on where they were, and end with OffsetsLost where that is not
    known, since all would be billed again. `again` is "refused" or "doubtful": then what was kept as such for this
    target is delivered, not the rollups.
    Raises as `Deliverer.run`.
    """
    names = topics(settings)
    group = group_of(settings, target.name, again)
    route = Route(names.refused if again else names.rollups, names.refused, group, read_rollup)
    takes = _kept(target.name, again) if again else _everything
    await deliver(settings, target, route, clock, counts, rules, "earliest" if again else begin, takes, pause)


async def deliver(
    settings: Settings,
    target: Target,
    route: Route,
    clock: Callable[[], int],
    counts: Counts,
    rules: Rules,
    begin: Begin | None,
    takes: Takes = _everything,
    pause: Pause = asyncio.sleep,
) -> None:
    """Deliver what a topic has to a target; as `deliver_rollups`."""
    source, refused, group, read = route
    while True:
        try:
            await create_topics(settings.kafka, [source, refused])
            async with (
                Producer(settings.kafka) as producer,
                posting(clock) as post,
                GroupReader(settings.kafka, source.name, group, begin) as reader,
            ):
                park = partial(_park, producer)
                deliverer = Deliverer(target, reader, post, park, refused.name, clock, rules, counts, read, pause)
                await deliverer.run(None if rules.attempts is None else await reader.end_offsets(), takes)
                return
        except KafkaAway as error:
            if rules.attempts is not None:
                raise
            _log.warning("waiting for Kafka: %s", error)
            await pause(_RETRY_S)


def group_of(settings: Settings, target: str, again: str | None = None) -> str:
    """Return the consumer group whose offsets say how far a target is."""
    return "-".join(filter(None, (f"{settings.topic_prefix}deliver", target, again)))


async def _park(producer: Producer, message: Message) -> None:
    await producer.send(*message)


def _kept(name: str, state: str) -> Takes:
    """Return what tells a target's own records of the topic of refused rollups."""
    wanted = {("target", name.encode()), ("state", state.encode())}
    return lambda record: wanted <= set(record.headers)


def read_rollup(value: bytes | None) -> Mapping[str, Any]:
    """Return the document of a rollup, as far as targets look at it; raises Refused for anything else."""
    try:
        document = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        document = None
    texts = ("id", "project", "meter", "hour", "delta")
    if not isinstance(document, dict) or not all(isinstance(document.get(name), str) for name in texts):
        raise Refused("not a rollup (schemas/rollup.v1.json)")
    return document
