"""Proto3 JSON as LiveKit's servers write it: what a field holds, or the reason why it cannot be read.

Default values are left out, so an absent field is its default. Names are lowerCamelCase, and snake_case has to
be understood too. 64-bit integers are text or numbers. An enum value is its name, or a bare number where the
sender does not know the name itself: numbers are never used twice, so one that we know is as good as its name.
What we do not know keeps its own name or digits, for the caller to judge.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from pipeline.metering.events import MAX_NAME_LENGTH, InvalidEvent, Reason
from pipeline.metering.units import EARLIEST_MS, NEVER_MS

Fields = Mapping[str, Any]
"""A message: its fields as decoded from JSON."""
Names = Mapping[int, str]
"""The names of an enum by their numbers."""

#: Units of LiveKit's times, in nanoseconds; every field has its own.
SECOND, MILLISECOND, NANOSECOND = 1_000_000_000, 1_000_000, 1
#: The longest required identifier, in characters: LiveKit's have 15, and there is room left to put two together.
MAX_ID_LENGTH: Final = 120
#: The most digits of a 64-bit integer.
_MAX_DIGITS: Final = 20
_ENUM_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)


def value(fields: Fields, name: str) -> Any:
    """Return what a field holds, None where it is absent or null; `name` is in lowerCamelCase."""
    held = fields.get(name)
    return fields.get(snake(name)) if held is None else held


def message(fields: Fields, name: str) -> Fields:
    """Return a nested message; an absent one is empty. Raises InvalidEvent for anything else."""
    held = value(fields, name)
    if held is None:
        return {}
    if not isinstance(held, Mapping):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be an object")
    return held


def messages(fields: Fields, name: str) -> list[Fields]:
    """Return a list of messages; an absent one is empty. Raises InvalidEvent for anything else."""
    held = value(fields, name)
    if held is None:
        return []
    if not isinstance(held, list) or not all(isinstance(element, Mapping) for element in held):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be a list of objects")
    return held


def identifier(fields: Fields, name: str) -> str:
    """Return a required identifier. Raises InvalidEvent where it is absent, or no printable text, or too long."""
    held = value(fields, name)
    if held is None or held == "":
        raise InvalidEvent(Reason.MISSING_FIELD, f"{name} is required")
    if not isinstance(held, str) or not held.isprintable() or len(held) > MAX_ID_LENGTH:
        detail = f"{name} has to be printable text of at most {MAX_ID_LENGTH} characters"
        raise InvalidEvent(Reason.WRONG_FIELD, detail)
    return held


def label(fields: Fields, name: str, longest: int = MAX_NAME_LENGTH) -> str:
    """Return an optional text, '' where it is absent or unfit: a label must not cost us the event."""
    held = value(fields, name)
    return held if isinstance(held, str) and held.isprintable() and len(held) <= longest else ""


def is_true(fields: Fields, name: str) -> bool:
    """Tell whether a flag is set."""
    return value(fields, name) is True


def count(fields: Fields, name: str) -> int:
    """Return a number that counts from 0; 0 where it is absent or no such number."""
    return _integer(value(fields, name)) or 0


def enum(fields: Fields, name: str, names: Names) -> str:
    """Return the name of an enum value: the first where it is absent, digits where nobody knows a name.

    Raises InvalidEvent for what cannot be an enum value.
    """
    held = value(fields, name)
    return names[0] if held is None else _enum_name(held, name, names)


def enums(fields: Fields, name: str, names: Names) -> list[str]:
    """Return the names of a list of enum values, as `enum` does; an absent list is empty."""
    held = value(fields, name)
    if held is None:
        return []
    if not isinstance(held, list):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be a list of enum values")
    return [_enum_name(element, name, names) for element in held]


def time_ms(fields: Fields, name: str, unit_ns: int) -> int | None:
    """Return a time in ms, None where it is absent or impossible (some servers write Go's zero time)."""
    held = _integer(value(fields, name))
    if held is None:
        return None
    since_epoch_ms = held * unit_ns // MILLISECOND
    return since_epoch_ms if EARLIEST_MS <= since_epoch_ms < NEVER_MS else None


@lru_cache(maxsize=256)
def snake(name: str) -> str:
    """Return a lowerCamelCase name in snake_case: joinedAtMs is joined_at_ms."""
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)


def _integer(held: object) -> int | None:
    """Return an integer that is not negative, written as a number or as text; else None."""
    if isinstance(held, str) and held.isascii() and held.isdigit() and len(held) <= _MAX_DIGITS:
        return int(held)
    return held if type(held) is int and 0 <= held < 2**64 else None


def _enum_name(held: object, name: str, names: Names) -> str:
    if type(held) is int and -(2**31) <= held < 2**31:
        return names.get(held, str(held))
    if isinstance(held, str) and _ENUM_NAME.fullmatch(held):
        return held
    raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be an enum value")
