"""Canonical events onto the lifecycle topic, as they stand."""

import orjson

from pipeline.messages import lifecycle_message
from pipeline.producer import Producer


async def publish(producer: Producer, topic: str, payload: bytes) -> None:
    """Send an event's bytes as they are to the topic of that name; waits only while too much is under way."""
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        document = None  # sent all the same: the worker puts it into the dead-letter topic, with a reason
    await producer.send_soon(*lifecycle_message(topic, document, payload))
