"""What people are shown of a dead letter: advice on its reason, and its payload made safe for a terminal. Pure."""

import json
from contextlib import suppress
from typing import Final

from pipeline.metering.events import Reason

#: How much of a payload is shown, in characters.
_MOST_CHARACTERS: Final = 16_384

#: What to do about each reason: whose the fault can be, and whether a replay can help.
ADVICE: Final[dict[Reason, str]] = {
    Reason.NOT_JSON: (
        "The producer has to send JSON in UTF-8, one event a record. A replay cannot help: the bytes stay as they are."
    ),
    Reason.NOT_AN_OBJECT: (
        "The producer has to send one event a record, as a JSON object; the gateway's /v1/events takes batches. "
        "A replay cannot help."
    ),
    Reason.TOO_LARGE: (
        "The producer has to leave out what is not metered. If such events are right, raise ROOMMETER_MAX_EVENT_BYTES "
        "for gateway and workers, restart them, and replay."
    ),
    Reason.MISSING_FIELD: (
        "The producer has to send the field that the detail names; schemas/events says what each type needs, and the "
        "producer has to send the event again. A replay helps only after a fix of our own. Where no rule names a "
        "project, mend the [[janus]] entry of the projects file and start the gateway again."
    ),
    Reason.WRONG_FIELD: (
        "The producer has to send the field that the detail names as schemas/events wants it, and the event again. "
        "A replay helps only after a fix of our own."
    ),
    Reason.UNKNOWN_VERSION: (
        "The producer is newer than this program, or sends no CloudEvents 1.0. Upgrade gateway and workers to a "
        "version that knows this one, then replay."
    ),
    Reason.UNKNOWN_KIND: (
        "A participant of a kind that no meter knows is never billed as another. Upgrade to a version that knows the "
        "kind, then replay; or mend the producer."
    ),
    Reason.UNKNOWN_METER: (
        "Add the meter to the table that ROOMMETER_METERS_FILE names, restart gateway and workers, then replay; "
        "or mend the producer's spelling of it."
    ),
    Reason.IMPOSSIBLE_TIME: (
        "The producer has to send times in RFC 3339 with an offset, in the years 2000 to 2199: look at its clock, and "
        "let it send the event again. A replay cannot help."
    ),
    Reason.NEGATIVE_QUANTITY: (
        "Quantities and counters only grow: mend the producer, and let it send the event again. A replay cannot help."
    ),
    Reason.TOO_OLD: (
        "The event came after the correction window. If it has to count all the same, raise "
        "ROOMMETER_CORRECTION_WINDOW_MS for all workers, restart them, and replay."
    ),
    Reason.IN_THE_FUTURE: (
        "The producer's clock is ahead of the broker's: mend it. Once that time has come, a replay is accepted."
    ),
}


def advice(reason: str) -> str:
    """Return what to do about a reason, also one that only a newer version gives."""
    return ADVICE[Reason(reason)] if reason in set(Reason) else "A newer version gave this reason: ask that one."


def visible(text: str) -> str:
    """Return a text with whatever could act on a terminal written as an escape."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def payload_text(value: bytes | None) -> str:
    """Return a payload to be read: JSON in lines, other text with escapes, bytes in hex; not too much of it."""
    if value is None:
        return "no payload: the record has no value"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value[:_MOST_CHARACTERS].hex(" ")
    else:
        with suppress(ValueError, RecursionError):
            # Not orjson: numbers too large for it are what may be wrong with the payload.
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    shown = visible(text[:_MOST_CHARACTERS])
    return shown if len(text) <= _MOST_CHARACTERS else f"{shown}\n... {len(value)} bytes in all"
