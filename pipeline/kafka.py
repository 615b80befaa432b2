"""Kafka: topics, and readers that stop at the end. With producer.py the only importer of aiokafka.

While the brokers are away, what is here raises KafkaAway and can be called again (R22). A key goes to the
partition that murmur2 says, as in Kafka's own client.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.partitioner import DefaultPartitioner

from pipeline.messages import Headers
from pipeline.topics import Topic

_log = logging.getLogger(__name__)

#: How long one request may take, and how long a reader waits for progress.
_TIMEOUT_MS: Final = 10_000
#: Taken from the library at once: more would hold up everything else on the event loop for milliseconds.
_MOST_RECORDS: Final = 200
_BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
#: What the library raises while brokers are away.
AWAY: Final = (kafka_errors.KafkaError, OSError, TimeoutError)


class KafkaAway(ConnectionError):
    """The brokers do not answer. Nothing is lost: ask again later (R22)."""


class TopicMismatch(ValueError):
    """A topic exists but not as it has to be, or does not exist; the message says what mends it."""


class OffsetsLost(LookupError):
    """The offset to read from is no longer (retention) or not yet (topic created anew) in the log."""


class DeletionRefused(RuntimeError):
    """The brokers cannot or may not delete records of this topic; the message says why."""


class Record(NamedTuple):
    """One record of a topic; `timestamp_ms` is the broker's in topics with LogAppendTime."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


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
        for described in await _described(admin, list(wanted)):
            _check_partitions(wanted[described["topic"]], len(described["partitions"]))
        for name in existing:
            await _check_clock(admin, bootstrap, wanted[name])
    return [name for name in wanted if name not in existing]


async def _described(admin: Any, names: list[str]) -> list[Any]:
    """Describe topics as soon as the brokers know them all: a new one is not known everywhere at once."""
    for wait_s in _BACKOFF_S:
        found: list[Any] = await admin.describe_topics(names)
        if all(topic["error_code"] == kafka_errors.NoError.errno and topic["partitions"] for topic in found):
            return found
        await asyncio.sleep(wait_s)
    raise KafkaAway("the brokers do not know the new topics yet")


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


async def delete_records(bootstrap: str, topic: str, before_offsets: Mapping[int, int]) -> None:
    """Delete the records of each partition before an offset; a topic gives up its oldest only.

    Raises DeletionRefused, KafkaAway.
    """
    async with _admin(bootstrap) as admin:
        try:
            await admin.delete_records(
                {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in before_offsets.items()}
            )
        except (kafka_errors.BrokerResponseError, kafka_errors.IncompatibleBrokerVersion) as error:
            if error.retriable:
                raise
            raise DeletionRefused(f"{bootstrap} does not delete records of {topic!r}: {error}") from error


async def read_topic(
    bootstrap: str, topic: str, from_offsets: Mapping[int, int] | None = None
) -> AsyncGenerator[Record, None]:
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
            for tp, found in (await consumer.getmany(*left, timeout_ms=500, max_records=_MOST_RECORDS)).items():
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
    except AWAY as error:
        raise KafkaAway(f"{bootstrap}: {type(error).__name__}: {error}") from error
