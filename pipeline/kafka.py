"""Kafka: topics, and readers that stop at the end. With producer.py the only importer of aiokafka.

While the brokers are away, what is here raises KafkaAway and can be called again (R22). A key goes to the
partition that murmur2 says, as in Kafka's own client.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from time import monotonic
from typing import Any, Final, Literal, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import OffsetAndMetadata

from pipeline.brokers import client_options
from pipeline.messages import Headers
from pipeline.topics import Topic

_log = logging.getLogger(__name__)

#: How long one request may take, and how long a reader waits for progress.
TIMEOUT_MS: Final = 10_000
#: Taken from the library at once: more would hold up everything else on the event loop for milliseconds.
MOST_RECORDS: Final = 200
_BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
#: What the library raises while brokers are away.
AWAY: Final = (kafka_errors.KafkaError, OSError, TimeoutError)
Begin = Literal["earliest", "latest"]
#: A group's offsets cannot be read yet.
_NO_COORDINATOR: Final = (
    kafka_errors.GroupCoordinatorNotAvailableError,
    kafka_errors.GroupLoadInProgressError,
    kafka_errors.NotCoordinatorForGroupError,
)


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


async def extend_topic(bootstrap: str, topic: Topic) -> None:
    """Return when a topic has as many partitions as declared, or more.

    Raises KafkaAway after adding what was missing: it takes the brokers a moment.
    """
    async with _admin(bootstrap) as admin:
        [described] = await _described(admin, [topic.name])
        found = len(described["partitions"])
        if found < topic.partitions:
            await admin.create_partitions({topic.name: NewPartitions(topic.partitions)})
            raise KafkaAway(f"topic {topic.name!r} had {found} partitions and is getting {topic.partitions}")


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
    partitions = await partitions_of_topic(bootstrap, topic)
    async with open_consumer(bootstrap) as consumer:
        return {tp.partition: offset for tp, offset in (await consumer.end_offsets(partitions)).items()}


async def backlogs(bootstrap: str, topic: str, group: str) -> dict[int, tuple[int, int]]:
    """Return for each partition how far a group has committed, and its end. Raises KafkaAway, TopicMismatch."""
    partitions = await partitions_of_topic(bootstrap, topic)
    async with _admin(bootstrap) as admin, open_consumer(bootstrap) as consumer:
        committed = await _committed(admin, group, partitions)
        earliest, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    done = {tp: found.offset for tp, found in committed.items()}
    return {tp.partition: (max(earliest[tp], done.get(tp, 0)), ends[tp]) for tp in partitions}


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
    partitions = await partitions_of_topic(bootstrap, topic)
    async with open_consumer(bootstrap) as consumer:
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
        deadline_s = monotonic() + TIMEOUT_MS / 1000
        while left:
            # One partition after another stops fetching when it is done, or a busy one would never end.
            for tp, found in (await consumer.getmany(*left, timeout_ms=500, max_records=MOST_RECORDS)).items():
                deadline_s = monotonic() + TIMEOUT_MS / 1000
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
                raise KafkaAway(f"nothing more of {topic!r} from {bootstrap} in {TIMEOUT_MS} ms")


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


class GroupReader:
    """Reads a whole topic on behalf of a consumer group, whose offsets say how far; use it as a context manager.

    Every partition is read here: a second reader of the group reads the same, and can tell by `committed` what the
    other has done. Methods raise KafkaAway; what was not committed by then is read again by the next reader.
    """

    def __init__(self, bootstrap: str, topic: str, group: str, begin: Begin | None) -> None:
        """Prepare; `begin` is where a group begins that has no offsets, None where that may not happen."""
        self._begin = begin
        self._bootstrap = bootstrap
        self._topic = topic
        self._group = group
        self._stack = contextlib.AsyncExitStack()
        #: By partition, the note that was committed with its offset; '' for none.
        self.notes: dict[int, str] = {}

    async def __aenter__(self) -> Self:
        """Go on at the group's offsets. Raises OffsetsLost where it has none that can be read, TopicMismatch too."""
        partitions = await partitions_of_topic(self._bootstrap, self._topic)
        async with _admin(self._bootstrap) as admin:
            committed = await _committed(admin, self._group, partitions)
        self._consumer = await self._stack.enter_async_context(open_consumer(self._bootstrap, self._group))
        try:
            self._consumer.assign(partitions)
            earliest, ends = await self._consumer.beginning_offsets(partitions), await self.end_offsets()
            for tp in partitions:
                found = committed.get(tp)
                offset, note = (found.offset, found.metadata or "") if found and found.offset >= 0 else (None, "")
                self._consumer.seek(tp, self._start(tp, offset, earliest[tp], ends[tp.partition]))
                self.notes[tp.partition] = note
            await self.keep()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    def _start(self, tp: TopicPartition, offset: int | None, earliest: int, end: int) -> int:
        """Return where to begin in a partition; without an offset none was read, or the brokers forgot it."""
        if offset is None and self._begin is None and earliest < end:
            raise OffsetsLost(
                f"group {self._group} has no offset in {tp}: say where to begin, if this is its first run. Brokers "
                "forget the offsets of a group that commits nothing for offsets.retention.minutes (7 days)"
            )
        if offset is None:
            return end if self._begin == "latest" else earliest
        if not earliest <= offset <= end:
            raise OffsetsLost(f"group {self._group}: {tp} has offsets {earliest} to {end}, not {offset}")
        return offset

    async def __aexit__(self, *_error: object) -> None:
        """Leave."""
        await self._stack.aclose()

    async def end_offsets(self) -> dict[int, int]:
        """Return for each partition the offset that its next record will get."""
        with translated(self._bootstrap):
            ends = await self._consumer.end_offsets(self._consumer.assignment())
        return {tp.partition: offset for tp, offset in ends.items()}

    async def position(self, partition: int) -> int:
        """Return the offset that is read next."""
        with translated(self._bootstrap):
            offset: int = await self._consumer.position(TopicPartition(self._topic, partition))
        return offset

    async def committed(self, partition: int) -> int:
        """Return the offset that the group has in a partition, whoever committed it; 0 where it has none."""
        with translated(self._bootstrap):
            offset: int | None = await self._consumer.committed(TopicPartition(self._topic, partition))
        return offset or 0

    async def keep(self) -> None:
        """Commit again where the group is, so that brokers do not forget it. What was polled has to be done."""
        for partition, note in list(self.notes.items()):
            await self.commit(partition, await self.position(partition), note)

    async def poll(self, most: int) -> dict[int, list[Record]]:
        """Return up to so many records by partition; none when half a second brought none. Raises OffsetsLost too."""
        with translated(self._bootstrap):
            found = await self._consumer.getmany(timeout_ms=500, max_records=most)
        return {
            tp.partition: [
                Record(tp.topic, tp.partition, one.offset, one.timestamp, one.key, one.value, tuple(one.headers))
                for one in records
            ]
            for tp, records in found.items()
        }

    async def commit(self, partition: int, offset: int, note: str = "") -> None:
        """Keep how far the group is in a partition, with a note for its next reader; never back from where it is."""
        if await self.committed(partition) > offset:
            return
        with translated(self._bootstrap):
            await self._consumer.commit({TopicPartition(self._topic, partition): OffsetAndMetadata(offset, note)})
        self.notes[partition] = note


async def _committed(admin: Any, group: str, partitions: list[TopicPartition]) -> Mapping[TopicPartition, Any]:
    """Return a group's offsets with their notes as soon as it has a coordinator: the very first waits for one."""
    for wait_s in _BACKOFF_S:
        try:
            found: Mapping[TopicPartition, Any] = await admin.list_consumer_group_offsets(group, partitions=partitions)
        except _NO_COORDINATOR as error:
            _log.debug("group %s: %s", group, error)
            await asyncio.sleep(wait_s)
        else:
            return found
    raise KafkaAway(f"group {group} has no coordinator yet")


async def partitions_of_topic(bootstrap: str, topic: str) -> list[TopicPartition]:
    """Return a topic's partitions, in their order. Raises KafkaAway, TopicMismatch."""
    async with _admin(bootstrap) as admin:
        [described] = await admin.describe_topics([topic])
    if described["error_code"] == kafka_errors.UnknownTopicOrPartitionError.errno:
        raise TopicMismatch(f"topic {topic!r} does not exist")
    return sorted(TopicPartition(topic, partition["partition"]) for partition in described["partitions"])


@contextlib.asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**client_options(bootstrap), request_timeout_ms=TIMEOUT_MS)
    try:
        with translated(bootstrap):
            await admin.start()
            yield admin
    finally:
        await admin.close()


@contextlib.asynccontextmanager
async def open_consumer(bootstrap: str, group: str | None = None) -> AsyncIterator[Any]:
    """Yield a connected consumer of the library that commits nothing by itself. Raises KafkaAway."""
    consumer = AIOKafkaConsumer(
        **client_options(bootstrap),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="none",
        request_timeout_ms=TIMEOUT_MS,
        # The library always sleeps this long once, until it knows the topic's leaders.
        retry_backoff_ms=20,
    )
    try:
        with translated(bootstrap):
            await consumer.start()
            yield consumer
    finally:
        try:
            await consumer.stop()
        except asyncio.CancelledError:  # with brokers away the library trips over a request that it cancels itself
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            await consumer._client.close()  # noqa: SLF001 - what it then leaves open


@contextlib.contextmanager
def translated(bootstrap: str) -> Iterator[None]:
    """Turn the library's errors into ours."""
    try:
        yield
    except kafka_errors.OffsetOutOfRangeError as error:
        raise OffsetsLost(str(error)) from error
    except KafkaAway:
        raise
    except AWAY as error:
        raise KafkaAway(f"{bootstrap}: {type(error).__name__}: {error}") from error
