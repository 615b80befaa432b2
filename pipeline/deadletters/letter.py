"""Dead letters: the headers that explain them, and what they are to people and tools. Pure.

The value of a dead letter is what was refused: a worker's are the original bytes of a record, a gateway's
the body with personal fields masked. Everything else that is known about it is in its headers (R21).
"""

import base64
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from pipeline.messages import Headers
from pipeline.metering.events import MAX_NAME_LENGTH, InvalidEvent
from pipeline.metering.units import format_time


class NotADeadLetter(ValueError):
    """A record whose headers are not those of a dead letter; somebody else wrote it."""


def record_headers(topic: str, partition: int, offset: int, time_ms: int, error: InvalidEvent) -> Headers:
    """Return what a worker's dead letter says about itself: the record's place and broker time, and why (R21)."""
    return [
        ("reason", error.reason.encode()),
        ("detail", error.detail.encode()),
        ("topic", topic.encode()),
        ("partition", b"%d" % partition),
        ("offset", b"%d" % offset),
        ("time", format_time(time_ms).encode()),
    ]


def gateway_headers(origin: str, project: str, time_ms: int, error: InvalidEvent, original: bytes) -> Headers:
    """Return what a gateway's dead letter says about itself; `original` are the bytes as they came (R21).

    `origin` is the path that took it, for example `webhooks/livekit`; `project` is '' where none is known;
    `time_ms` is the gateway's clock. Digest and size tell whether a body at hand is the one refused.
    """
    return [
        ("reason", error.reason.encode()),
        ("detail", error.detail.encode()),
        ("origin", origin.encode()),
        ("project", project.encode()),
        ("time", format_time(time_ms).encode()),
        ("sha256", sha256(original).hexdigest().encode()),
        ("size", b"%d" % len(original)),
    ]


def document(key: bytes | None, value: bytes | None, headers: Headers) -> dict[str, Any]:
    """Return a dead letter as JSON for people and tools (schemas/dead-letter.v1.json); the payload in base64.

    A gateway's has no topic, partition and offset, a worker's no origin, sha256 and size. Raises NotADeadLetter.
    """
    said = {name: raw.decode(errors="replace") for name, raw in headers}
    is_gateways = "origin" in said
    try:
        return {
            "topic": None if is_gateways else said["topic"],
            "partition": None if is_gateways else int(said["partition"]),
            "offset": None if is_gateways else int(said["offset"]),
            "origin": said.get("origin"),
            "project": project_of(key, value, headers),
            "reason": said["reason"],
            "detail": said["detail"],
            "time": said["time"],
            "key": None if key is None else key.decode(errors="replace"),
            "payload_base64": None if value is None else base64.b64encode(value).decode(),
            "sha256": said["sha256"] if is_gateways else None,
            "size": int(said["size"]) if is_gateways else None,
        }
    except (KeyError, ValueError) as error:
        raise NotADeadLetter(f"header {error}") from error


def project_of(key: bytes | None, value: bytes | None, headers: Headers) -> str:
    """Return whose dead letter it is: by its header, else its payload, else its key `project/...`; else ''."""
    for name, raw in headers:
        if name == "project":
            return raw.decode(errors="replace")
    name, slash, _ = (key or b"").decode(errors="replace").partition("/")
    return _project_of_event(value) or (name if slash else "")


def _project_of_event(value: bytes | None) -> str:
    """Return the project that an event names, '' where it names none that an event may have."""
    try:
        event = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return ""
    data = event.get("data") if isinstance(event, Mapping) else None
    project = data.get("project") if isinstance(data, Mapping) else None
    if isinstance(project, str) and len(project) <= MAX_NAME_LENGTH and project.isprintable():
        return project
    return ""
