"""Kafka: topics, a producer that waits, readers that stop at the end. The only importer of aiokafka.

Nothing here gives up because the brokers are away (R22): the producer waits and says so; the readers raise
KafkaAway and can be called again. A key goes to the partition that murmur2 says, as in Kafka's own client.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.partitioner import DefaultPartitioner

from pipeline.topics import Topic

Headers = Sequence[tuple[str, bytes]]

_log = logging.getLogger(__name__)

#: How long one request may take, and how long a reader waits for progress.
_TIMEOUT_MS: Final = 10_000
#: Small beside a session, large enough that a burst becomes one request.
_LINGER_MS: Final = 5
#: Above any topic's limit of ours, so that the topic's own limit decides.
_MAX_REQUEST_BYTES: Final = 16 * 1_048_576
#: How often the producer asks whether the brokers are there.
_CHECK_INTERVAL_S: Final = 1.0
#: An acknowledgement that takes longer than this is trouble worth saying.
_SLOW_ACK_S: Final = 5.0
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
#: How long leaving the producer waits for what is under way.
_CLOSE_TIMEOUT_S: Final = 2.0
#: The broker lost the producer's numbering (or gave it to another): a new producer sends again.
_FORGOTTEN: Final = (
    kafka_errors.OutOfOrderSequenceNumber,
    kafka_errors.UnknownProducerId,
    kafka_errors.InvalidProducerEpoch,
    kafka_errors.InvalidProducerIdMapping,
)
_AWAY: Final = (kafka_errors.KafkaError, OSError, TimeoutError)


class KafkaAway(ConnectionError):
    """The brokers do not answer. Nothing is lost: ask again later (R22)."""


class TopicMismatch(ValueError):
    """A topic exists but not as it has to be, or does not exist; the message says what mends it."""


class OffsetsLost(LookupError):
    """The offset to read from is no longer (retention) or not yet (topic created anew) in the log."""


class SendRefused(ValueError):
    """A record that the brokers will never take: too large, forbidden, no such partition."""


class ProducerClosed(RuntimeError):
    """The producer ended before the record was acknowledged; it may or may not be in the log."""


class Record(NamedTuple):
    """One record of a topic; `timestamp_ms` is the broker's in topics with LogAppendTime."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Ack(NamedTuple):
    """Where the brokers put a record; offset -1 where a retry found it there already."""

    partition: int
    offset: int


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key in a topic with so many: murmur2, as Kafka's own client."""
    partition: int = DefaultPartitioner()(key, range(partitions), range(partitions))
    return partition


async def create_topics(bootstrap: str, topics: Iterable[Topic]) -> list[str]:
    """Create the topics that are missing and return their names.

    Existing topics keep their partitions. Raises TopicMismatch where one must not be used as it is:
    without the broker's clock (R11), or with many partitions where one order is needed (R19).
    Raises KafkaAway.
    """
    wanted = {topic.name: topic for topic in topics}
    async with _admin(bootstrap) as admin:
        response = await admin.create_topics(
            [NewTopic(t.name, t.partitions, t.replication_factor, topic_configs=t.config) for t in wanted.values()]
        )
        codes = {name: (code, *rest) for name, code, *rest in response.topic_errors}
        for name, (code, *rest) in codes.items():
            error = kafka_errors.for_code(code)
            if error.retriable:
                raise KafkaAway(f"topic {name!r} cannot be created yet: {error.message} {rest}")
            if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                raise TopicMismatch(f"topic {name!r} cannot be created: {error.message} {rest}")
        existing = [name for name, (code, *_) in codes.items() if code]
        for described in await admin.describe_topics(existing) if existing else ():
            _check_partitions(wanted[described["topic"]], len(described["partitions"]))
        for name in existing:
            await _check_clock(admin, bootstrap, wanted[name])
    return [name for name in wanted if name not in existing]


def _check_partitions(topic: Topic, partitions: int) -> None:
    if partitions == topic.partitions:
        return
    if topic.partitions == 1:
        raise TopicMismatch(f"topic {topic.name!r} has {partitions} partitions, but its one order is needed: delete it")
    _log.warning("topic %s has %d partitions, not %d; used as it is", topic.name, partitions, topic.partitions)


async def _check_clock(admin: Any, bootstrap: str, topic: Topic) -> None:
    name = "message.timestamp.type"
    wanted = topic.config.get(name)
    [response] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name, {name: None})])
    found = {entry[0]: entry[1] for resource in response.resources for entry in resource[4]}
    if wanted and found.get(name, wanted) != wanted:
        raise TopicMismatch(
            f"topic {topic.name!r} has {name}={found[name]}; mend it with: kafka-configs.sh --bootstrap-server "
            f"{bootstrap} --alter --entity-type topics --entity-name {topic.name} --add-config {name}={wanted}"
        )


async def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """Return for each partition the offset that its next record will get. Raises KafkaAway, TopicMismatch."""
    partitions = await _partitions(bootstrap, topic)
    async with _consumer(bootstrap) as consumer:
        return {tp.partition: offset for tp, offset in (await consumer.end_offsets(partitions)).items()}


async def offsets_at(bootstrap: str, topic: str, time_ms: int) -> dict[int, int]:
    """Return for each partition the first offset whose record is not older than a time; else its end."""
    partitions = await _partitions(bootstrap, topic)
    async with _consumer(bootstrap) as consumer:
        ends = await consumer.end_offsets(partitions)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, time_ms))
        return {tp.partition: found[tp].offset if found.get(tp) else ends[tp] for tp in partitions}


async def read_topic(
    bootstrap: str, topic: str, from_offsets: Mapping[int, int] | None = None
) -> AsyncIterator[Record]:
    """Yield the records from some offsets (default: the earliest) to the ends as they are now, then stop.

    In order within a partition. Raises KafkaAway, TopicMismatch, and OffsetsLost rather than skip a gap.
    """
    partitions = await _partitions(bootstrap, topic)
    async with _consumer(bootstrap) as consumer:
        earliest = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        starts = {tp: (from_offsets or {}).get(tp.partition, earliest[tp]) for tp in partitions}
        for tp, start in starts.items():
            if not earliest[tp] <= start <= ends[tp]:
                raise OffsetsLost(f"{tp} has offsets {earliest[tp]} to {ends[tp]}, not {start}")
        left = {tp for tp in partitions if starts[tp] < ends[tp]}
        consumer.assign(left)
        for tp in left:
            consumer.seek(tp, starts[tp])
        deadline_s = monotonic() + _TIMEOUT_MS / 1000
        while left:
            # One partition after another stops fetching when it is done, or a busy one would never end.
            for tp, found in (await consumer.getmany(*left, timeout_ms=500)).items():
                deadline_s = monotonic() + _TIMEOUT_MS / 1000
                for one in found:
                    if one.offset < ends[tp]:
                        yield Record(
                            topic, one.partition, one.offset, one.timestamp, one.key, one.value, tuple(one.headers)
                        )
            # The position, not the last record: compaction and transactions leave gaps before the end.
            done = {tp for tp in left if await consumer.position(tp) >= ends[tp]}
            consumer.pause(*done)
            left -= done
            if monotonic() > deadline_s:
                raise KafkaAway(f"nothing more of {topic!r} from {bootstrap} in {_TIMEOUT_MS} ms")


class LogReader:
    """Reads a topic piece by piece: each call gives what came since the last one that succeeded."""

    def __init__(self, bootstrap: str, topic: str, from_offsets: Mapping[int, int] | None = None) -> None:
        """Start at some offsets; partitions not named, and new ones, start at their earliest."""
        self._bootstrap = bootstrap
        self._topic = topic
        #: Where the next call begins, by partition.
        self.next_offsets = dict(from_offsets or {})

    async def poll_to_end(self) -> list[Record]:
        """Return everything new up to the ends as they are now; raises as `read_topic`, then nothing is skipped."""
        records = [record async for record in read_topic(self._bootstrap, self._topic, self.next_offsets)]
        self.next_offsets |= {record.partition: record.offset + 1 for record in records}
        return records


class _Pending(NamedTuple):
    """A record on its way, with who waits for it; kept until acknowledged, so that it can be sent again."""

    number: int
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None
    since_s: float
    future: asyncio.Future[Ack]


class Producer:
    """An idempotent producer that never gives up on brokers that are away (R22).

    Records of one key arrive in the order of the calls. `on_wait(reason)` is called when trouble starts or
    changes, `on_ok()` when the brokers answer (again). At most `max_in_flight` records are under way: further
    calls wait. After a broker forgot this producer, records can be in the log twice: readers merge (R10).
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        on_wait: Callable[[str], None] = lambda _reason: None,
        on_ok: Callable[[], None] = lambda: None,
        max_in_flight: int = 2_000,
    ) -> None:
        """Prepare; entering the context starts connecting, without waiting for it."""
        self._bootstrap = bootstrap
        self._on_wait = on_wait
        self._on_ok = on_ok
        self._room = asyncio.Semaphore(max_in_flight)
        self._count = 0
        self._pending: dict[int, _Pending] = {}
        self._unhanded: deque[_Pending] = deque()
        self._work = asyncio.Event()
        self._trouble: str | None = "not connected yet"
        self._refusal: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = True

    async def __aenter__(self) -> Self:
        """Start connecting in the background."""
        self._closed = False
        self._task = asyncio.create_task(self._run(), name="kafka-producer")
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Wait a bounded time for what is under way; whoever still waits then gets ProducerClosed."""
        assert self._task is not None
        try:
            if waiting := self._futures():
                await asyncio.wait(waiting, timeout=_CLOSE_TIMEOUT_S)
        finally:
            self._task.cancel()
            await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    async def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> Ack:
        """Send a record and return when all replicas have it, however long that takes.

        Cancelling stops the waiting, not the sending. Raises SendRefused, ProducerClosed.
        """
        return await asyncio.shield((await self._admit(topic, key, value, headers, partition)).future)

    async def send_soon(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> None:
        """Send a record without waiting for its acknowledgement; waits only while too many are under way."""
        (await self._admit(topic, key, value, headers, partition)).future.add_done_callback(self._keep_refusal)

    async def flush(self) -> None:
        """Wait until all records sent before are acknowledged; raises the first refusal of `send_soon`."""
        if waiting := self._futures():
            await asyncio.wait(waiting)
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    def _futures(self) -> list[asyncio.Future[Ack]]:
        return [pending.future for pending in self._pending.values()]

    def _keep_refusal(self, future: asyncio.Future[Ack]) -> None:
        self._refusal = self._refusal or future.exception()

    async def _admit(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None
    ) -> _Pending:
        if key is None and value is None:
            raise SendRefused("a record needs a key or a value")
        await self._room.acquire()
        if self._closed:
            raise ProducerClosed("the producer is not running")
        self._count += 1
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        # Whoever cancelled its waiting is not told; without this asyncio would complain about that.
        future.add_done_callback(lambda done: done.exception())
        pending = _Pending(self._count, topic, key, value, headers, partition, monotonic(), future)
        self._pending[pending.number] = pending
        self._unhanded.append(pending)
        self._work.set()
        return pending

    def _settle(self, pending: _Pending, outcome: Ack | BaseException) -> None:
        """Tell whoever waits for a record, once."""
        if self._pending.pop(pending.number, None) is None:
            return
        self._room.release()
        if isinstance(outcome, Ack):
            pending.future.set_result(outcome)
        else:
            pending.future.set_exception(outcome)

    async def _run(self) -> None:
        """Use one client of the library after another, for ever."""
        failures = 0
        try:
            while True:
                client = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    enable_idempotence=True,
                    linger_ms=_LINGER_MS,
                    request_timeout_ms=_TIMEOUT_MS,
                    max_request_size=_MAX_REQUEST_BYTES,
                )
                try:
                    await client.start()
                    failures = 0
                    await self._serve(client)
                except _AWAY as error:
                    self._report(f"{type(error).__name__}: {error}")
                finally:
                    await _abandon(client)
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
        finally:
            self._closed = True
            for pending in list(self._pending.values()):
                self._settle(pending, ProducerClosed("the producer ended before the acknowledgement"))

    async def _serve(self, client: Any) -> None:
        """Send through one client, watching it; raises what makes a new client necessary."""
        broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._unhanded = deque(self._pending.values())
        handing = asyncio.create_task(self._hand_over(client, broken))
        ends: list[asyncio.Future[Any]] = [broken, handing]
        try:
            while not broken.done():
                self._report(await self._look_for_trouble(client))
                await asyncio.wait(ends, timeout=_CHECK_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
                if handing.done():
                    await handing
            raise broken.result()
        finally:
            handing.cancel()
            await asyncio.gather(handing, return_exceptions=True)

    async def _hand_over(self, client: Any, broken: asyncio.Future[BaseException]) -> None:
        """Give records to the client one at a time, in order: it keeps the order from there."""
        while True:
            while self._unhanded:
                pending = self._unhanded[0]
                try:
                    answer = await _give(client, pending)
                except (SendRefused, kafka_errors.BrokerResponseError) as error:
                    if not _is_permanent(error):
                        raise
                    self._settle(pending, _refused(pending, error))
                else:
                    answer.add_done_callback(partial(self._answered, pending, broken))
                self._unhanded.popleft()
            self._work.clear()
            await self._work.wait()

    def _answered(self, pending: _Pending, broken: asyncio.Future[BaseException], answer: asyncio.Future[Any]) -> None:
        """Take the client's answer for one record."""
        error = answer.exception()
        if error is None:
            self._settle(pending, Ack(answer.result().partition, answer.result().offset))
            return
        if _is_permanent(error):
            self._settle(pending, _refused(pending, error))
        # Even after a refusal: the client has numbered the refused record, so that its next number is wrong.
        if not broken.done():
            broken.set_result(error)

    async def _look_for_trouble(self, client: Any) -> str | None:
        """Return why records do not get through, None when they do."""
        update = client.client.force_metadata_update()
        await asyncio.wait({update}, timeout=2 * _CHECK_INTERVAL_S)
        if not (update.done() and update.result()):
            return f"no broker at {self._bootstrap} answers"
        oldest = next(iter(self._pending.values()), None)
        if oldest is not None and monotonic() - oldest.since_s > _SLOW_ACK_S:
            return f"topic {oldest.topic!r} is missing or gives no acknowledgement"
        return None

    def _report(self, trouble: str | None) -> None:
        """Call back when what there is to say has changed."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            self._on_ok()
        else:
            self._on_wait(trouble)


async def _give(client: Any, pending: _Pending) -> asyncio.Future[Any]:
    """Hand one record to the client; its answer comes later."""
    if pending.partition not in (None, *await client.partitions_for(pending.topic)):
        raise SendRefused(f"there is no partition {pending.partition}")
    answer: asyncio.Future[Any] = await client.send(
        pending.topic, pending.value, pending.key, pending.partition, headers=pending.headers
    )
    return answer


def _is_permanent(error: BaseException) -> bool:
    """Tell whether sending the same record again cannot help."""
    if isinstance(error, kafka_errors.BrokerResponseError):
        return not error.retriable and not isinstance(error, _FORGOTTEN)
    return isinstance(error, SendRefused)


def _refused(pending: _Pending, error: BaseException) -> SendRefused:
    size_bytes = len(pending.key or b"") + len(pending.value or b"")
    return SendRefused(f"a record of {size_bytes} bytes for topic {pending.topic!r} was refused: {error}")


async def _abandon(client: Any) -> None:
    """Stop a client without waiting for brokers: what it still holds is sent by the next one, or given up."""
    # Its own stop() waits for acknowledgements without end; it has no public way to drop them.
    client._message_accumulator.fail_all(kafka_errors.KafkaError("abandoned"))  # noqa: SLF001
    # stop() can fail half way, over a batch that failed like this: then its connections are still to be closed.
    for stop in (client.stop, client.client.close):
        with contextlib.suppress(Exception):
            await asyncio.wait_for(stop(), _CLOSE_TIMEOUT_S)


async def _partitions(bootstrap: str, topic: str) -> list[TopicPartition]:
    async with _admin(bootstrap) as admin:
        [described] = await admin.describe_topics([topic])
    if described["error_code"] == kafka_errors.UnknownTopicOrPartitionError.errno:
        raise TopicMismatch(f"topic {topic!r} does not exist")
    return sorted(TopicPartition(topic, partition["partition"]) for partition in described["partitions"])


@contextlib.asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=_TIMEOUT_MS)
    try:
        with _translated(bootstrap):
            await admin.start()
            yield admin
    finally:
        await admin.close()


@contextlib.asynccontextmanager
async def _consumer(bootstrap: str) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        request_timeout_ms=_TIMEOUT_MS,
        # The library always sleeps this long once, until it knows the topic's leaders.
        retry_backoff_ms=20,
    )
    try:
        with _translated(bootstrap):
            await consumer.start()
            yield consumer
    finally:
        await consumer.stop()


@contextlib.contextmanager
def _translated(bootstrap: str) -> Iterator[None]:
    """Turn the library's errors into ours."""
    try:
        yield
    except kafka_errors.OffsetOutOfRangeError as error:
        raise OffsetsLost(str(error)) from error
    except KafkaAway:
        raise
    except _AWAY as error:
        raise KafkaAway(f"{bootstrap}: {type(error).__name__}: {error}") from error
