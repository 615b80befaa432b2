"""What exports hold: the columns of rollups, sessions and usage, and their rows. Pure.

Times are ms since the epoch until a file is written, None where there is none; quantities are exact decimals.
"""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, Final, NamedTuple

import pyarrow as pa

from pipeline.metering.meters import Meter, Meters
from pipeline.metering.rollup import Rollup, quantities
from pipeline.metering.units import NEVER_MS
from pipeline.metering.usage import CellKey, Usage
from pipeline.rows import SessionRow

TIME: Final = pa.timestamp("ms", "UTC")
QUANTITY: Final = pa.decimal128(38, 9)
Row = tuple[str | int | bool | Decimal | None, ...]
Rows = Callable[[Iterable[Any], Meters], Iterator[Row]]


class UnknownMeter(ValueError):
    """The table of meters has no such meter: its unit is not known, and no quantity is guessed."""


class Export(NamedTuple):
    """One kind of export: its columns, and what makes its rows of what the store yields."""

    schema: pa.Schema
    rows: Rows


def _meter(meters: Meters, name: str) -> Meter:
    if name not in meters:
        raise UnknownMeter(f"meter {name!r} is not in the table of meters: export with the table that it was in")
    return meters[name]


def rollup_rows(rollups: Iterable[Rollup], meters: Meters) -> Iterator[Row]:
    """Yield the rows of rollups, every revision (R17)."""
    for one in rollups:
        unit = _meter(meters, one.meter).unit
        key = (one.id, one.project, one.meter, one.hour_ms, one.revision)
        counts = (one.increments, one.increments_open, one.sessions, one.status)
        yield (*key, *quantities(one, meters), unit, *counts, one.as_of_ms, one.watermark_ms)


def usage_rows(cells: Iterable[tuple[CellKey, Usage]], meters: Meters) -> Iterator[Row]:
    """Yield the rows of usage per project, meter and hour (R1)."""
    for (project, name, hour_ms), usage in cells:
        meter = _meter(meters, name)
        amounts = (meter.quantity(usage.increments), meter.quantity(usage.increments_open))
        yield (project, name, hour_ms, *amounts, meter.unit, *usage)


def session_rows(sessions: Iterable[SessionRow], _meters: Meters) -> Iterator[Row]:
    """Yield the rows of sessions; a time that is not known is None."""
    for session in sessions:
        yield tuple(None if value == NEVER_MS else value for value in session)


def overlapping(sessions: Iterable[SessionRow], from_ms: int, to_ms: int) -> Iterator[SessionRow]:
    """Yield the sessions of which some part lies in [from_ms, to_ms); one that never started lies where it was seen."""
    for session in sessions:
        has_started = session.started_at_ms != NEVER_MS
        begin_ms = session.started_at_ms if has_started else session.last_seen_ms
        end_ms = session.ended_at_ms if has_started else session.last_seen_ms
        if begin_ms < to_ms and end_ms >= from_ms:
            yield session


def _session_schema() -> pa.Schema:
    kinds = {str: pa.string(), bool: pa.bool_(), int: TIME}  # whatever is a number in a session is a time
    return pa.schema([(name.removesuffix("_ms"), kinds[kind]) for name, kind in SessionRow.__annotations__.items()])


_ROLLUPS: Final = pa.schema(
    {
        "id": pa.string(),
        "project": pa.string(),
        "meter": pa.string(),
        "hour": TIME,
        "revision": pa.int64(),
        "quantity": QUANTITY,
        "quantity_open": QUANTITY,
        "delta": QUANTITY,
        "unit": pa.string(),
        "increments": pa.int64(),
        "increments_open": pa.int64(),
        "sessions": pa.int64(),
        "status": pa.string(),
        "as_of": TIME,
        "watermark": TIME,
    },
)
_USAGE: Final = pa.schema(
    {
        "project": pa.string(),
        "meter": pa.string(),
        "hour": TIME,
        "quantity": QUANTITY,
        "quantity_open": QUANTITY,
        "unit": pa.string(),
        "increments": pa.int64(),
        "increments_open": pa.int64(),
        "sessions": pa.int64(),
    },
)

#: By the word that is typed.
EXPORTS: Final = {
    "rollups": Export(_ROLLUPS, rollup_rows),
    "sessions": Export(_session_schema(), session_rows),
    "usage": Export(_USAGE, usage_rows),
}
