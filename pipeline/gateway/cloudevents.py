"""CloudEvents 1.0 over HTTP: in which content mode a request is, and the attributes in its headers. Pure."""

import re
from collections.abc import Iterable
from typing import Any, Final, Literal
from urllib.parse import unquote

Mode = Literal["structured", "batch", "binary"]

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
_PREFIX: Final = "ce-"
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


class UnsupportedMode(ValueError):
    """The request is in no content mode that is taken; the message says which are."""


def mode_of(content_type: str, *, has_version: bool) -> Mode:
    """Return the content mode of a request; `has_version` tells whether it has a ce-specversion header.

    Raises UnsupportedMode. Plain JSON is not structured mode: the specification tells the modes apart by
    content type alone, so that a guess here would be one about somebody else's body.
    """
    media = content_type.lower()
    if media == STRUCTURED:
        return "structured"
    if media == BATCH:
        return "batch"
    if media.startswith("application/cloudevents"):
        raise UnsupportedMode(f"events come as JSON: {STRUCTURED}, or {BATCH} for several")
    if not has_version:
        raise UnsupportedMode(
            f"this is not CloudEvents: say Content-Type: {STRUCTURED} for one event, {BATCH} for several, "
            "or send the attributes as ce- headers with the data as body"
        )
    # Binary mode of an event without data has no content type, which HTTP libraries show as octets.
    if media not in ("application/json", "application/octet-stream") and not media.endswith("+json"):
        raise UnsupportedMode("the data of an event is JSON: say Content-Type: application/json")
    return "binary"


def attributes(headers: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the attributes that ce- headers carry, by name.

    Values are percent-encoded UTF-8, in quotes or without. Of a repeated header the last counts.
    """
    return {
        name[len(_PREFIX) :].lower(): _decoded(value)
        for name, value in headers
        if name[: len(_PREFIX)].lower() == _PREFIX
    }


def _decoded(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    return unquote(value)
