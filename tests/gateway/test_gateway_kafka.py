"""The whole way in, with a real broker: over HTTP, through the outbox, onto the topics."""

import asyncio
from pathlib import Path

import orjson

from pipeline.embedded import now_ms
from pipeline.gateway.outbox import Outbox
from pipeline.kafka import create_topics, partition_of, read_topic
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import EmbeddedTestBroker
from tests.gateway.bodies import event
from tests.gateway.running import running
from tests.gateway.signing import CALL


async def test_a_call_is_in_the_log_when_it_is_answered(
    embedded_broker: EmbeddedTestBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """Every webhook that was answered 200 is in the lifecycle topic, in the order sent, in its room's partition."""
    settings = Settings(kafka=embedded_broker.bootstrap, topic_prefix=topic_prefix, data_dir=tmp_path)
    names = topics(settings)
    await create_topics(settings.kafka, names.all())
    ready = asyncio.Event()
    async with Outbox(settings, Metrics(), now_ms, on_ok=ready.set) as outbox:
        await ready.wait()
        async with running(outbox, topic_prefix=topic_prefix) as gateway:
            for body in CALL:
                assert (await gateway.webhook(body))[0] == 200
            assert (await gateway.batch([event(), event(kind="ghost")]))[1]["accepted"] == 1
    records = [record async for record in read_topic(settings.kafka, names.lifecycle.name)]
    sent = [orjson.loads(record.value or b"")["id"].partition("#")[0] for record in records]
    assert list(dict.fromkeys(name for name in sent if name != "EV_PA_1")) == [
        orjson.loads(body)["id"] for body in CALL
    ]
    assert {record.partition for record in records} == {
        partition_of(b"acme/RM_7Yk3hQpWvTzD", settings.partitions),
        partition_of(b"acme/RM_1", settings.partitions),
    }
    letters = [record async for record in read_topic(settings.kafka, names.dead_letters.name)]
    assert [dict(letter.headers)["reason"] for letter in letters] == [b"unknown_kind"]
