"""What a language model's answer used, as canonical `usage.recorded` events: one for each kind of token (R14). Pure.

Only what is named here passes: counts, names and ids. Prompts, answers, keys and people's names have no field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from pipeline.metering.events import MAX_NAME_LENGTH, MAX_QUANTITY, InvalidEvent, Reason
from pipeline.metering.units import EARLIEST_MS, NEVER_MS, format_time

Document = dict[str, Any]

#: A longer id is known by its digest: some gateways put half a request into theirs.
_MOST_ID_CHARACTERS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """One answer: `id` within `source` names it for ever, so that a repetition counts once; '' and None: not known."""

    source: str
    id: str
    time_ms: int
    project: str
    input_tokens: int
    output_tokens: int
    model: str = ""
    endpoint: str = ""
    team: str = ""
    key: str = ""
    status: str = ""
    latency_ms: int | None = None


def events(used: Used) -> list[Document]:
    """Return an event for input and one for output; none for what used nothing."""
    known = {name: getattr(used, name) for name in ("model", "endpoint", "team", "key", "status")}
    said = {name: value for name, value in known.items() if value}
    if used.latency_ms is not None:
        said["latency_ms"] = used.latency_ms
    meters = {"llm_input_tokens": used.input_tokens, "llm_output_tokens": used.output_tokens}
    return [
        {
            "specversion": "1.0",
            "id": f"{used.id}/{meter}",
            "source": used.source,
            "type": "usage.recorded",
            "subject": used.id,
            "time": format_time(used.time_ms),
            "data": {"project": used.project, "meter": meter, "quantity": tokens, **said},
        }
        for meter, tokens in meters.items()
        if tokens
    ]


def identifier(fields: Mapping[str, Any], name: str) -> str:
    """Return a required id. Raises InvalidEvent where there is none: a repetition could not be told."""
    held = fields.get(name)
    if held is None or held == "":
        raise InvalidEvent(Reason.MISSING_FIELD, f"{name} is required")
    if not isinstance(held, str):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be text")
    return held if len(held) <= _MOST_ID_CHARACTERS and held.isprintable() else digest(held)


def digest(text: str) -> str:
    """Return what stands for a text that must not, or cannot, be kept itself."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def label(held: object) -> str:
    """Return an optional text, '' where it is absent or unfit: a label must not cost us the usage."""
    return held if isinstance(held, str) and held.isprintable() and len(held) <= MAX_NAME_LENGTH else ""


def tokens(fields: Mapping[str, Any], name: str) -> int:
    """Return a count of tokens, 0 where it is absent. Raises InvalidEvent."""
    held = fields.get(name)
    if held is None:
        return 0
    if type(held) is not int or held > MAX_QUANTITY:
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be an integer of at most 2^63 - 1")
    if held < 0:
        raise InvalidEvent(Reason.NEGATIVE_QUANTITY, f"{name} is negative")
    return held


def seconds_ms(fields: Mapping[str, Any], name: str) -> int:
    """Return a time given in seconds since the epoch, whole or not, in ms. Raises InvalidEvent."""
    held = fields.get(name)
    if held is None:
        raise InvalidEvent(Reason.MISSING_FIELD, f"{name} is required")
    if type(held) not in (int, float):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be a number of seconds")
    return possible(int(held * 1_000) if abs(held) < NEVER_MS else NEVER_MS, name)


def possible(time_ms: int, name: str) -> int:
    """Return a time that can be one. Raises InvalidEvent."""
    if not EARLIEST_MS <= time_ms < NEVER_MS:
        raise InvalidEvent(Reason.IMPOSSIBLE_TIME, f"{name} lies outside the years 2000 to 2199")
    return time_ms


def mapping(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object inside, empty where it is absent. Raises InvalidEvent."""
    held = fields.get(name)
    if held is None:
        return {}
    if not isinstance(held, Mapping):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be an object")
    return held
