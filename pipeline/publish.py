"""Canonical events onto the lifecycle topic: the right key, and every partition where that is due."""

from typing import Any

import orjson

from pipeline.metering.events import EventType
from pipeline.producer import EVERY_PARTITION, Producer


def event_key(document: object) -> bytes | None:
    """Return the Kafka key of an event: project/room, without a room project/subject; None for what has neither."""
    if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
        return None
    data: dict[str, Any] = document["data"]
    name = data.get("room") or document.get("subject")
    return f"{data['project']}/{name}".encode() if isinstance(data.get("project"), str) and name else None


async def publish(producer: Producer, topic: str, payload: bytes) -> None:
    """Send an event's bytes as they are to the topic of that name; waits only while too much is under way.

    A server's restart concerns rooms anywhere, so every partition gets a copy (R9).
    """
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        document = None  # sent all the same: the worker puts it into the dead-letter topic, with a reason
    if isinstance(document, dict) and document.get("type") == EventType.SERVER_RESTARTED:
        await producer.send_soon(topic, None, payload, partition=EVERY_PARTITION)
    else:
        await producer.send_soon(topic, event_key(document), payload)
