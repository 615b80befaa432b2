"""Usage as the tables that pages show and charts are drawn from: meters in columns, hours or days in rows. Pure."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

from pipeline.console import words
from pipeline.metering.meters import Meter, Meters

Counts = Mapping[tuple[str, int], tuple[int, int]]
"""Increments, and those of them that are still open, by meter and start of an hour or day in ms."""


class Row(NamedTuple):
    """One hour or day: its start, whether it can still grow, and a quantity for each column."""

    start_ms: int
    is_final: bool
    quantities: tuple[Decimal, ...]


class Table(NamedTuple):
    """Quantities over time: the columns' names, and the rows in order of time."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


class Total(NamedTuple):
    """What was used of a meter in a span, what of that is still open, and what was used in the span before."""

    meter: Meter
    name: str
    quantity: Decimal
    quantity_open: Decimal
    before: Decimal
    unit: str
    change: str


def stacked(meters: Iterable[Meter], counts: Counts, starts_ms: Iterable[int], live_from_ms: int) -> Table:
    """Return the meters with any usage side by side."""
    shown = [meter for meter in meters if any(name == meter.name for name, _ in counts)]
    rows = (
        Row(at_ms, at_ms < live_from_ms, tuple(_quantity(counts, meter, at_ms) for meter in shown))
        for at_ms in starts_ms
    )
    return Table(tuple(map(words.label, shown)), tuple(rows))


def compared(meter: Meter, counts: Counts, starts_ms: Iterable[int], back_ms: int, live_from_ms: int) -> Table:
    """Return one meter beside itself `back_ms` earlier."""
    rows = (
        Row(at_ms, at_ms < live_from_ms, (_quantity(counts, meter, at_ms), _quantity(counts, meter, at_ms - back_ms)))
        for at_ms in starts_ms
    )
    return Table(("this period", "previous period"), tuple(rows))


def totals(meters: Meters, counts: Counts, since_ms: int) -> list[Total]:
    """Return every meter with usage, summed from a moment on and before it, in the order of the table of meters."""
    sums: dict[str, list[int]] = {}
    for (name, start_ms), (increments, still_open) in counts.items():
        found = sums.setdefault(name, [0, 0, 0])
        if start_ms >= since_ms:
            found[0] += increments
            found[1] += still_open
        else:
            found[2] += increments
    return [_total(meter, *sums[name]) for name, meter in meters.items() if name in sums]


def _total(meter: Meter, increments: int, still_open: int, before: int) -> Total:
    quantity, quantity_open, earlier = map(meter.quantity, (increments, still_open, before))
    change = words.change(quantity, earlier)
    return Total(meter, words.label(meter), quantity, quantity_open, earlier, words.unit(meter, quantity), change)


def _quantity(counts: Counts, meter: Meter, at_ms: int) -> Decimal:
    return meter.quantity(counts.get((meter.name, at_ms), (0, 0))[0])
