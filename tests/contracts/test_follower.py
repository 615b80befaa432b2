"""The reader that stays connected: everything once and in order, over new records, dead brokers and lost offsets."""

import pytest

from pipeline.follower import Follower
from pipeline.kafka import KafkaAway, OffsetsLost
from pipeline.producer import Producer
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.lane import declare


async def _sent(bootstrap: str, topic: str, *values: bytes) -> None:
    async with Producer(bootstrap) as producer:
        for value in values:
            await producer.send_soon(topic, value, value)
        await producer.flush()


async def test_a_follower_gives_what_is_new_and_nothing_twice(broker: TestBroker, topic_prefix: str) -> None:
    """Over all partitions; and another one, told where to begin, gives the rest."""
    settings = await declare(broker.bootstrap, topic_prefix, partitions=2)
    topic = topics(settings).lifecycle.name
    follower = Follower(broker.bootstrap, topic)
    seen = []
    for number in range(3):
        await _sent(broker.bootstrap, topic, b"%d" % number, b"%d" % (number + 10))
        seen.append(sorted(record.value or b"" for record in await follower.poll_to_end()))
        seen.append([record.value or b"" for record in await follower.poll_to_end()])
    await follower.close()
    assert seen == [[b"0", b"10"], [], [b"1", b"11"], [], [b"12", b"2"], []]
    rest = Follower(broker.bootstrap, topic, {number: offset - 1 for number, offset in follower.next_offsets.items()})
    assert len(await rest.poll_to_end()) == 2
    await rest.close()


async def test_a_follower_does_not_skip_what_is_gone(broker: TestBroker, topic_prefix: str) -> None:
    """An offset beyond the log says that the topic is another one."""
    settings = await declare(broker.bootstrap, topic_prefix, partitions=1)
    follower = Follower(broker.bootstrap, topics(settings).lifecycle.name, {0: 5})
    with pytest.raises(OffsetsLost):
        await follower.poll_to_end()


async def test_a_follower_says_that_brokers_are_away_and_goes_on_where_it_was(
    mortal_broker: TestBroker, topic_prefix: str
) -> None:
    """R22: nothing is skipped and nothing given twice."""
    settings = await declare(mortal_broker.bootstrap, topic_prefix, partitions=1)
    topic = topics(settings).lifecycle.name
    follower = Follower(mortal_broker.bootstrap, topic)
    await _sent(mortal_broker.bootstrap, topic, b"1")
    await mortal_broker.settle(topic, 1)
    assert [record.value for record in await follower.poll_to_end()] == [b"1"]
    mortal_broker.kill()
    with pytest.raises(KafkaAway):
        await follower.poll_to_end()
    await mortal_broker.restart()
    await _sent(mortal_broker.bootstrap, topic, b"2")
    assert [record.value for record in await follower.poll_to_end()] == [b"2"]
    await follower.close()
