"""What our Kafka module promises, on every broker it runs on."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.broker import free_port
from pipeline.kafka import (
    KafkaAway,
    LogReader,
    OffsetsLost,
    Record,
    TopicMismatch,
    create_topics,
    end_offsets,
    extend_topic,
    partition_of,
    read_topic,
)
from pipeline.producer import Ack, Producer, ProducerClosed, SendRefused
from pipeline.publish import publish
from pipeline.topics import Topic
from tests.brokers import TestBroker
from tests.lane import PATIENCE_SECONDS, eventually_async

BROKER_TIME = {"message.timestamp.type": "LogAppendTime"}
#: toPositive(murmur2(key)) % 8, computed with Apache Kafka's own kafka-clients 4.1.2.
MURMUR2_VECTORS = {
    b"acme/RM_7Yk3hQpWvTzD": 1,
    b"acme/RM_1": 7,
    b"acme/RM_2": 6,
    b"a": 4,
    b"": 1,
    "Grüße/Zürich".encode(): 7,
}


async def create(broker: TestBroker, prefix: str, partitions: int = 1, **config: str) -> str:
    """Create one topic of a test and return its name."""
    topic = Topic(f"{prefix}log", partitions, 1, BROKER_TIME | {k.replace("_", "."): v for k, v in config.items()})
    await create_topics(broker.bootstrap, [topic])
    return topic.name


async def everything(broker: TestBroker, topic: str) -> list[Record]:
    """Return all records of a topic."""
    return [record async for record in read_topic(broker.bootstrap, topic)]


class Trouble:
    """Listens to a producer's callbacks."""

    def __init__(self) -> None:
        """Listen."""
        self.reasons: list[str] = []
        self.waiting = asyncio.Event()
        self.fine = asyncio.Event()

    def on_wait(self, reason: str) -> None:
        """Trouble started or changed."""
        self.reasons.append(reason)
        self.fine.clear()
        self.waiting.set()

    def on_ok(self) -> None:
        """Trouble ended."""
        self.waiting.clear()
        self.fine.set()


async def test_missing_topics_are_created_once(each_broker: TestBroker, topic_prefix: str) -> None:
    """What exists is left alone and not named."""
    topics = [Topic(f"{topic_prefix}a", 2, 1, BROKER_TIME), Topic(f"{topic_prefix}b", 1, 1, BROKER_TIME)]
    assert await create_topics(each_broker.bootstrap, topics[:1]) == [topics[0].name]
    assert await create_topics(each_broker.bootstrap, topics) == [topics[1].name]
    assert await create_topics(each_broker.bootstrap, topics) == []
    assert await end_offsets(each_broker.bootstrap, topics[0].name) == {0: 0, 1: 0}


async def test_an_existing_topic_keeps_its_number_of_partitions(each_broker: TestBroker, topic_prefix: str) -> None:
    """More or fewer partitions than declared are accepted."""
    topic = Topic(f"{topic_prefix}log", 3, 1, BROKER_TIME)
    await create_topics(each_broker.bootstrap, [topic])
    assert await create_topics(each_broker.bootstrap, [replace(topic, partitions=8)]) == []
    assert len(await end_offsets(each_broker.bootstrap, topic.name)) == 3


async def test_a_log_whose_one_order_decides_has_one_partition(each_broker: TestBroker, topic_prefix: str) -> None:
    """R19: with more of them there is no order between emitters."""
    topic = Topic(f"{topic_prefix}decisions", 3, 1, BROKER_TIME)
    await create_topics(each_broker.bootstrap, [topic])
    with pytest.raises(TopicMismatch, match="3 partitions"):
        await create_topics(each_broker.bootstrap, [replace(topic, partitions=1)])


async def test_a_topic_without_the_brokers_clock_is_an_error_that_says_what_mends_it(
    each_broker: TestBroker, topic_prefix: str
) -> None:
    """R11: lateness is judged by the broker's time."""
    topic = Topic(f"{topic_prefix}log", 1, 1, {"message.timestamp.type": "CreateTime"})
    await create_topics(each_broker.bootstrap, [topic])
    with pytest.raises(TopicMismatch, match=r"--add-config message.timestamp.type=LogAppendTime"):
        await create_topics(each_broker.bootstrap, [replace(topic, config=BROKER_TIME)])


async def test_a_topic_that_cannot_be_created_is_an_error(each_broker: TestBroker, topic_prefix: str) -> None:
    """A name that Kafka does not allow."""
    with pytest.raises(TopicMismatch, match="cannot be created"):
        await create_topics(each_broker.bootstrap, [Topic(f"{topic_prefix}no/slash", 1, 1)])


async def test_a_record_comes_back_as_it_was_sent(each_broker: TestBroker, topic_prefix: str) -> None:
    """Key, value, headers; null values (tombstones) and null keys too."""
    topic = await create(each_broker, topic_prefix)
    async with Producer(each_broker.bootstrap) as producer:
        assert await producer.send(topic, b"k", b"v", [("reason", b"not_json"), ("n", b"\x00\xff")]) == Ack(0, 0)
        assert await producer.send(topic, b"k", None) == Ack(0, 1)
        assert await producer.send(topic, None, b"") == Ack(0, 2)
    found = [(r.offset, r.key, r.value, r.headers) for r in await everything(each_broker, topic)]
    assert found == [
        (0, b"k", b"v", (("reason", b"not_json"), ("n", b"\x00\xff"))),
        (1, b"k", None, ()),
        (2, None, b"", ()),
    ]


async def test_a_topic_gets_the_partitions_that_it_lacks(each_broker: TestBroker, topic_prefix: str) -> None:
    """A worker's changelog follows the lifecycle topic; a topic that has more keeps them."""
    few, many = (Topic(f"{topic_prefix}log", partitions, 1) for partitions in (2, 4))
    await create_topics(each_broker.bootstrap, [few])
    with pytest.raises(KafkaAway, match="had 2 partitions and is getting 4"):
        await extend_topic(each_broker.bootstrap, many)
    await eventually_async(lambda: _partitions(each_broker, many.name), expected=4)
    await extend_topic(each_broker.bootstrap, many)
    await extend_topic(each_broker.bootstrap, few)


async def _partitions(broker: TestBroker, topic: str) -> int:
    return len(await end_offsets(broker.bootstrap, topic))


async def test_the_timestamp_is_the_brokers(each_broker: TestBroker, topic_prefix: str) -> None:
    """R11: never the producer's, which aiokafka lets us claim."""
    from aiokafka import AIOKafkaProducer

    topic = await create(each_broker, topic_prefix)
    before_ms = time.time_ns() // 1_000_000
    async with AIOKafkaProducer(bootstrap_servers=each_broker.bootstrap) as producer:
        await producer.send_and_wait(topic, b"v", timestamp_ms=1_000)
    [record] = await everything(each_broker, topic)
    assert before_ms <= record.timestamp_ms <= time.time_ns() // 1_000_000


async def test_keys_go_where_kafkas_own_client_puts_them(each_broker: TestBroker, topic_prefix: str) -> None:
    """A room's events share a partition, whatever language their producer speaks."""
    topic = await create(each_broker, topic_prefix, partitions=8)
    async with Producer(each_broker.bootstrap) as producer:
        placed = {key: (await producer.send(topic, key, b"v")).partition for key in MURMUR2_VECTORS}
        assert (await producer.send(topic, b"acme/RM_1", b"v", partition=0)).partition == 0
    assert placed == MURMUR2_VECTORS == {key: partition_of(key, 8) for key in MURMUR2_VECTORS}


async def test_a_servers_restart_reaches_every_partition_that_there_is(
    each_broker: TestBroker, topic_prefix: str
) -> None:
    """R9: its rooms are anywhere. How many partitions the topic has, the brokers say, not our settings."""
    topic = await create(each_broker, topic_prefix, partitions=3)
    restarted = (
        b'{"specversion":"1.0","id":"E1","source":"sfu-1","type":"server.restarted","time":"2026-09-21T14:00:00Z"}'
    )
    async with Producer(each_broker.bootstrap) as producer:
        await publish(producer, topic, restarted)
        await producer.flush()
    records = await everything(each_broker, topic)
    assert sorted(record.partition for record in records) == [0, 1, 2]
    assert {record.value for record in records} == {restarted}


async def test_records_of_a_key_keep_the_order_of_the_calls(each_broker: TestBroker, topic_prefix: str) -> None:
    """Even when nothing waits for acknowledgements and more are sent than may be under way."""
    topic = await create(each_broker, topic_prefix, partitions=2)
    async with Producer(each_broker.bootstrap, max_in_flight=50) as producer:
        for number in range(500):
            await producer.send_soon(topic, b"room%d" % (number % 5), b"%d" % number)
        await producer.flush()
    records = await everything(each_broker, topic)
    for room in range(5):
        assert [int(r.value or b"") for r in records if r.key == b"room%d" % room] == list(range(room, 500, 5))


async def test_a_full_producer_makes_the_caller_wait(topic_prefix: str) -> None:
    """Memory is bounded while the broker is away."""
    async with Producer(f"127.0.0.1:{free_port()}", max_in_flight=2) as producer:
        await producer.send_soon(topic_prefix, None, b"1")
        await producer.send_soon(topic_prefix, None, b"2")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(producer.send_soon(topic_prefix, None, b"3"), 0.2)


async def test_what_the_broker_never_takes_is_refused_and_the_rest_goes_on(
    each_broker: TestBroker, topic_prefix: str
) -> None:
    """A record larger than the topic's limit, a partition that does not exist, nothing at all."""
    topic = await create(each_broker, topic_prefix, max_message_bytes="20000")
    async with Producer(each_broker.bootstrap) as producer:
        with pytest.raises(SendRefused, match="30000 bytes"):
            await producer.send(topic, None, b"x" * 30_000)
        with pytest.raises(SendRefused, match="partition 9"):
            await producer.send(topic, None, b"x", partition=9)
        with pytest.raises(SendRefused, match="key or a value"):
            await producer.send(topic, None, None)
        assert (await producer.send(topic, None, b"fits")).partition == 0
    assert [record.value for record in await everything(each_broker, topic)] == [b"fits"]


async def test_a_refused_record_neither_loses_nor_reorders_the_others(
    each_broker: TestBroker, topic_prefix: str
) -> None:
    """What was under way behind it is sent again, in order."""
    topic = await create(each_broker, topic_prefix, max_message_bytes="20000")
    values = [b"x" * 30_000 if number == 100 else b"%03d" % number for number in range(200)]
    async with Producer(each_broker.bootstrap) as producer:
        sending = asyncio.gather(*(producer.send(topic, b"k", v) for v in values), return_exceptions=True)
        acks = await asyncio.wait_for(sending, PATIENCE_SECONDS)
    assert [number for number, ack in enumerate(acks) if not isinstance(ack, Ack)] == [100]
    assert unique(await everything(each_broker, topic)) == values[:100] + values[101:]


async def test_flush_raises_what_was_refused_meanwhile(each_broker: TestBroker, topic_prefix: str) -> None:
    """Nobody else waits for the outcome of send_soon."""
    topic = await create(each_broker, topic_prefix, max_message_bytes="20000")
    async with Producer(each_broker.bootstrap) as producer:
        await producer.send_soon(topic, None, b"x" * 30_000)
        with pytest.raises(SendRefused):
            await producer.flush()
        await producer.flush()


async def test_a_producer_waits_for_a_broker_that_is_away_and_goes_on_by_itself(
    mortal_broker: TestBroker, topic_prefix: str
) -> None:
    """R22: it says so, raises nothing, keeps order and loses nothing."""
    topic = await create(mortal_broker, topic_prefix)
    trouble = Trouble()
    async with Producer(mortal_broker.bootstrap, on_wait=trouble.on_wait, on_ok=trouble.on_ok) as producer:
        await producer.send(topic, b"k", b"0")
        await mortal_broker.settle(topic, 1)
        mortal_broker.kill()
        sending = [asyncio.create_task(producer.send(topic, b"k", b"%d" % number)) for number in range(1, 20)]
        await asyncio.wait_for(trouble.waiting.wait(), PATIENCE_SECONDS)
        assert not any(task.done() for task in sending)
        await mortal_broker.restart()
        await asyncio.wait_for(asyncio.gather(*sending), PATIENCE_SECONDS)
        await asyncio.wait_for(trouble.fine.wait(), PATIENCE_SECONDS)
    assert unique(await everything(mortal_broker, topic)) == [b"%d" % number for number in range(20)]


def unique(records: list[Record]) -> list[bytes]:
    """Return the values in the order in which each came first: repetition is allowed, disorder is not (R10)."""
    return list(dict.fromkeys(record.value or b"" for record in records))


async def test_a_producer_may_start_before_its_broker(mortal_broker: TestBroker, topic_prefix: str) -> None:
    """R22: the order in which programs start does not matter."""
    topic = await create(mortal_broker, topic_prefix)
    await mortal_broker.settle(topic, 0)
    mortal_broker.kill()
    trouble = Trouble()
    async with Producer(mortal_broker.bootstrap, on_wait=trouble.on_wait, on_ok=trouble.on_ok) as producer:
        sending = asyncio.create_task(producer.send(topic, b"k", b"v"))
        await asyncio.wait_for(trouble.waiting.wait(), PATIENCE_SECONDS)
        await mortal_broker.restart()
        assert await asyncio.wait_for(sending, PATIENCE_SECONDS) == Ack(0, 0)


async def test_a_producer_waits_for_a_missing_topic(each_broker: TestBroker, topic_prefix: str) -> None:
    """R22: a topic not there yet is a dependency that is down."""
    async with Producer(each_broker.bootstrap) as producer:
        sending = asyncio.create_task(producer.send(f"{topic_prefix}log", b"k", b"v"))
        await asyncio.wait({sending}, timeout=0.5)
        assert await create(each_broker, topic_prefix) == f"{topic_prefix}log"
        assert await asyncio.wait_for(sending, PATIENCE_SECONDS) == Ack(0, 0)


async def test_leaving_a_producer_is_quick_even_when_the_broker_is_away(
    mortal_broker: TestBroker, topic_prefix: str
) -> None:
    """Who still waits is told: an event without acknowledgement is not the producer's any more."""
    topic = await create(mortal_broker, topic_prefix)
    async with asyncio.timeout(40), Producer(mortal_broker.bootstrap) as producer:
        await producer.send(topic, b"k", b"v")
        mortal_broker.kill()
        sending = asyncio.create_task(producer.send(topic, b"k", b"w"))
        await asyncio.wait({sending}, timeout=0.2)
    with pytest.raises(ProducerClosed):
        await sending
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing of the library goes on behind our back"


async def test_acknowledged_records_survive_a_killed_broker(mortal_broker: TestBroker, topic_prefix: str) -> None:
    """A kill -9 right after the last acknowledgement: records, ends and times are the same."""
    topic = await create(mortal_broker, topic_prefix, partitions=2)
    async with Producer(mortal_broker.bootstrap) as producer:
        await asyncio.gather(*(producer.send(topic, b"%d" % number, b"v" * 500) for number in range(1000)))
    before = await everything(mortal_broker, topic)
    await mortal_broker.settle(topic, 1000)
    mortal_broker.kill()
    await mortal_broker.restart()
    assert len(before) == 1000
    assert sorted(await everything(mortal_broker, topic)) == sorted(before)


async def test_polling_sees_everything_once_and_in_order(each_broker: TestBroker, topic_prefix: str) -> None:
    """Each call continues after the last."""
    topic = await create(each_broker, topic_prefix, partitions=2)
    reader = LogReader(each_broker.bootstrap, topic)
    assert await reader.poll_to_end() == []
    seen = []
    async with Producer(each_broker.bootstrap) as producer:
        for number in range(0, 30, 10):
            for value in range(number, number + 10):
                await producer.send(topic, None, b"%d" % value, partition=value % 2)
            seen.append([(r.partition, int(r.value or b"")) for r in await reader.poll_to_end()])
    assert [sorted(part) for part in seen] == [sorted((v % 2, v) for v in range(n, n + 10)) for n in (0, 10, 20)]
    assert [value for part in seen for partition, value in part if partition == 0] == list(range(0, 30, 2))
    assert await reader.poll_to_end() == []
    assert reader.next_offsets == await end_offsets(each_broker.bootstrap, topic)


async def test_reading_begins_where_it_is_told(each_broker: TestBroker, topic_prefix: str) -> None:
    """Partitions not named begin at their earliest record."""
    topic = await create(each_broker, topic_prefix, partitions=2)
    async with Producer(each_broker.bootstrap) as producer:
        for number in range(6):
            await producer.send(topic, None, b"%d" % number, partition=number % 2)
    found = [record async for record in read_topic(each_broker.bootstrap, topic, {0: 2})]
    assert sorted(record.value or b"" for record in found) == [b"1", b"3", b"4", b"5"]


async def test_an_offset_that_is_not_in_the_log_is_an_error(each_broker: TestBroker, topic_prefix: str) -> None:
    """A gap is never skipped in silence."""
    topic = await create(each_broker, topic_prefix)
    with pytest.raises(OffsetsLost, match="not 5"):
        await LogReader(each_broker.bootstrap, topic, {0: 5}).poll_to_end()


async def wait_for_clock(reached: Callable[[int, int], bool]) -> None:
    """Return when the clock has moved far enough."""
    start_ms = time.time_ns() // 1_000_000
    while not reached(time.time_ns() // 1_000_000, start_ms):
        await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.001)


async def test_readers_say_when_the_broker_is_away() -> None:
    """They can be asked again; they never return a part as if it were all."""
    nowhere = f"127.0.0.1:{free_port()}"
    with pytest.raises(KafkaAway):
        await end_offsets(nowhere, "log")
    with pytest.raises(KafkaAway):
        await LogReader(nowhere, "log").poll_to_end()
    with pytest.raises(KafkaAway):
        await create_topics(nowhere, [Topic("log", 1, 1)])


async def test_reading_a_topic_that_does_not_exist_is_an_error(each_broker: TestBroker, topic_prefix: str) -> None:
    """And does not create it."""
    for _ in range(2):
        with pytest.raises(TopicMismatch, match="does not exist"):
            await end_offsets(each_broker.bootstrap, f"{topic_prefix}missing")
