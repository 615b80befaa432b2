"""How times, quantities and names are written on pages. Pure; escaping is the templates' business."""

import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from pipeline.metering.meters import Meter
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND, format_time

#: A narrow space that does not break: 12 345.
_GROUPS: Final = "\N{NARROW NO-BREAK SPACE}"
_MINUS: Final = "\N{MINUS SIGN}"
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")
_LENGTHS: Final = ((MS_PER_DAY, "d"), (MS_PER_HOUR, "h"), (MS_PER_MINUTE, "min"), (MS_PER_SECOND, "s"))

#: What each flag of a session means.
FLAGS: Final = {
    "is_open": "no end is known yet; it accrues (R8)",
    "end_without_start": "an end without a start: pending, not billed (R3)",
    "start_inferred": "its connect was lost; the start is what its disconnect reported (R3)",
    "end_presumed": "no end is known; presumed when it was last seen (R9)",
    "clock_skew": "the end is before the start: it counts as of no length (R6)",
    "reconciled": "its media server, when asked, said something of it (R9)",
    "amended": "an operator has set its times or made it void (R12)",
}


def label(meter: Meter) -> str:
    """Return a meter's name as words, without its unit: agent session, llm input."""
    words = meter.name
    for unit in (f"_{meter.unit}s", f"_{meter.unit}"):
        if words.lower().endswith(unit.lower()):
            words = words[: -len(unit)]
            break
    return words.replace("_", " ")


def unit(meter: Meter, quantity: Decimal | int) -> str:
    """Return a meter's unit: 1 minute, 2 minutes, 3 GB."""
    return meter.unit if abs(quantity) == 1 or meter.unit.isupper() else f"{meter.unit}s"


def number(quantity: Decimal | int) -> str:
    """Write an exact number in groups of three digits."""
    text = f"{abs(quantity):,f}" if isinstance(quantity, Decimal) else f"{abs(quantity):,}"
    return (_MINUS if quantity < 0 else "") + text.replace(",", _GROUPS)


def change(now: Decimal | int, before: Decimal | int) -> str:
    """Return by how much a quantity has changed, in whole percents; nothing where there was none before."""
    if not before:
        return "new" if now else ""
    percent = int((Decimal(100) * (now - before) / before).to_integral_value(ROUND_HALF_EVEN))
    if percent > 999:  # noqa: PLR2004 - beyond ten times, a percentage tells nobody anything
        return f"{number(int(Decimal(now) / before))} times"
    return f"{'+' if percent > 0 else _MINUS if percent < 0 else '±'}{abs(percent)} %"


def duration(duration_ms: int) -> str:
    """Write a duration by its two largest units: 2 h 5 min, 1.5 s, 320 ms."""
    if abs(duration_ms) < MS_PER_SECOND:
        return f"{duration_ms} ms"
    if abs(duration_ms) < MS_PER_MINUTE:
        return f"{Decimal(duration_ms) / MS_PER_SECOND:f}".rstrip("0").rstrip(".") + " s"
    parts: list[str] = []
    rest = abs(duration_ms)
    for size_ms, name in _LENGTHS:
        count, rest = divmod(rest, size_ms)
        if count or parts:
            parts.append(f"{count} {name}")
    shown = [part for part in parts[:2] if not part.startswith("0 ")]
    return (_MINUS if duration_ms < 0 else "") + " ".join(shown)


def moment(time_ms: int) -> str:
    """Write a time for people, to the second: 2026-09-21 14:00:01."""
    return format_time(time_ms)[:19].replace("T", " ")


def pieces(text: str) -> list[tuple[str, bool]]:
    """Cut a sentence at the times in it: pairs of a piece and whether it is a time."""
    return [(piece, at % 2 == 1) for at, piece in enumerate(_TIME.split(text)) if piece]
