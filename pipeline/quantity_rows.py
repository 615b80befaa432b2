"""Facts of counters, discrete usage and numbers (R13 to R15) as Arrow columns of their tables. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

from pipeline.metering.quantities import Quantities

_TEXT: Final = pa.string()
_TIME: Final = pa.timestamp("ms", "UTC")
_COUNTERS: Final = {
    **dict.fromkeys(("project", "room", "session"), _TEXT),
    "hour": _TIME,
    "bytes_in": pa.int64(),
    "bytes_out": pa.int64(),
}
_DISCRETE: Final = {
    **dict.fromkeys(("project", "source", "id", "meter"), _TEXT),
    "hour": _TIME,
    "quantity": pa.int64(),
    **dict.fromkeys(("room", "session", "model", "endpoint", "team", "key", "status"), _TEXT),
    "latency_ms": pa.int64(),
}
_NUMBERS: Final = {
    "project": _TEXT,
    "number": _TEXT,
    "acquired": pa.list_(_TIME),
    "released": pa.list_(_TIME),
}


def quantity_tables(quantities: Quantities) -> Iterator[tuple[str, pa.Table]]:
    """Yield the name and rows of each table that has any."""
    counters = ((*key, *transferred) for key, transferred in quantities.counters.items())
    discrete = ((*key, *recorded) for key, recorded in quantities.discrete.items())
    numbers = ((*key, sorted(held.acquired_ms), sorted(held.released_ms)) for key, held in quantities.numbers.items())
    if quantities.counters:
        yield "counter_facts", _table(_COUNTERS, counters)
    if quantities.discrete:
        yield "discrete_facts", _table(_DISCRETE, discrete)
    if quantities.numbers:
        yield "number_facts", _table(_NUMBERS, numbers)


def _table(types: dict[str, pa.DataType], rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    columns = zip(types.items(), zip(*rows, strict=True), strict=True)
    return pa.table({name: pa.array(values, kind) for (name, kind), values in columns})
