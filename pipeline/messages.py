"""What goes to Kafka, before anybody sends it: topic, key, value, and every partition where that is due. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from pipeline.metering.events import EventType

Headers = Sequence[tuple[str, bytes]]
#: In place of a partition: one copy to each that the topic has.
EVERY_PARTITION: Final = -1


class Message(NamedTuple):
    """One record to be sent; the key decides its partition unless one is named."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers = ()
    partition: int | None = None


def event_key(document: object) -> bytes | None:
    """Return the Kafka key of an event: project/room, without a room project/subject; None for what has no project.

    Who names no subject reports of a number or of a usage event, which its id names (R14).
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("data"), Mapping):
        return None
    data: Mapping[str, Any] = document["data"]
    name = data.get("room") or document.get("subject") or data.get("number") or document.get("id")
    return f"{data['project']}/{name}".encode() if isinstance(data.get("project"), str) and name else None


def lifecycle_message(topic: str, document: object, payload: bytes | None = None) -> Message:
    """Return the message of a canonical event for the topic of that name; `payload` are its bytes, where at hand.

    A server's restart concerns rooms anywhere, so every partition gets a copy (R9).
    """
    payload = orjson.dumps(document) if payload is None else payload
    if isinstance(document, Mapping) and document.get("type") == EventType.SERVER_RESTARTED:
        return Message(topic, None, payload, partition=EVERY_PARTITION)
    return Message(topic, event_key(document), payload)
