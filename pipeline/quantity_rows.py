"""Facts of counters, discrete usage and numbers (R13 to R15) as Arrow columns of their tables. Pure."""

from collections.abc import Iterator, Mapping
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
    held = {key: (sorted(known.acquired_ms), sorted(known.released_ms)) for key, known in quantities.numbers.items()}
    if quantities.counters:
        yield "counter_facts", _table(_COUNTERS, quantities.counters)
    if quantities.discrete:
        yield "discrete_facts", _table(_DISCRETE, quantities.discrete)
    if held:
        yield "number_facts", _table(_NUMBERS, held)


def _table(types: dict[str, pa.DataType], rows: Mapping[Any, Any]) -> pa.Table:
    """Return rows as columns: the parts of their keys, then those of their values."""
    columns = (*zip(*rows.keys(), strict=True), *zip(*rows.values(), strict=True))
    return pa.table({name: pa.array(values, kind) for (name, kind), values in zip(types.items(), columns, strict=True)})
