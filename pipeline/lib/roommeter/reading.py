"""Usage, sessions and rollups for notebooks and reports, as Arrow, pandas or polars."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pipeline.metering.units import NEVER_MS, format_time, parse_time

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from pipeline.clickhouse import Store

When = datetime | date | str
"""A moment: a datetime with a time zone, a date (its first instant in UTC), or text such as 2026-09-21T14:00:00Z."""

_USAGE: Final = {
    "hour": """
SELECT project, meter, hour, quantity, quantity_open, increments, sessions, revision, corrected, as_of
FROM v_usage_hourly
WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
    AND ({project:String} = '' OR project = {project:String}) AND ({meter:String} = '' OR meter = {meter:String})
ORDER BY project, meter, hour
""",
    "day": """
SELECT project, meter, toDateTime64(day, 3, 'UTC') AS day, quantity, increments, corrected, hours
FROM v_usage_daily
WHERE day >= toDate({from:DateTime64(3, 'UTC')}) AND day < toDate({to:DateTime64(3, 'UTC')})
    AND ({project:String} = '' OR project = {project:String}) AND ({meter:String} = '' OR meter = {meter:String})
ORDER BY project, meter, day
""",
}
_SESSIONS: Final = """
SELECT *
FROM v_sessions(
    project = {project:String}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
    as_of = {as_of:DateTime64(3, 'UTC')})
ORDER BY started_at, project, room, session
"""
_ROLLUPS: Final = """
SELECT * REPLACE (toString(id) AS id) FROM v_rollups
WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
    AND ({project:String} = '' OR project = {project:String}) AND ({meter:String} = '' OR meter = {meter:String})
ORDER BY project, meter, hour, revision
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, as an Arrow table: times are UTC timestamps in ms, quantities exact decimals.

    Whatever reads Arrow takes it as it is: `polars.DataFrame(answer)`, `duckdb.from_arrow(answer.table)`.
    """

    table: "pa.Table"

    def to_pandas(self) -> "pd.DataFrame":
        """Return a pandas frame; quantities are objects of type Decimal, which sum exactly."""
        return self.table.to_pandas()

    def to_polars(self) -> "pl.DataFrame":
        """Return a polars frame (`pip install roommeter[polars]`); quantities have the type Decimal."""
        import polars as pl

        return pl.DataFrame(self.table)

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the table over to any library that reads Arrow."""
        return self.table.__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        html: str = self.to_pandas().to_html(max_rows=20, show_dimensions=True, border=0)
        return html


class Connection:
    """Questions to one store; use `roommeter.connect`. One thread at a time.

    `project` and `meter` mean every one where left out; `from_` is included and `to` is not. Every method raises
    pipeline.clickhouse.StoreError, whose message says what to do, and ValueError for a time that is none.
    """

    def __init__(self, store: "Store") -> None:
        """Wrap an open store."""
        self._store = store

    def usage(
        self, from_: When, to: When, *, project: str = "", meter: str = "", by: Literal["hour", "day"] = "day"
    ) -> Answer:
        """Return what billing was last told, by project, meter and day or hour: v_usage_daily, v_usage_hourly."""
        return self.query(_USAGE[by], **_span(from_, to), project=project, meter=meter)

    def sessions(self, from_: When, to: When, *, project: str = "", as_of: When | None = None) -> Answer:
        """Return the sessions that began in a span of time, as of a moment (now); see the view v_sessions."""
        moment = datetime.now(UTC) if as_of is None else as_of
        return self.query(_SESSIONS, **_span(from_, to), project=project, as_of=_parameter(moment))

    def rollups(self, from_: When, to: When, *, project: str = "", meter: str = "") -> Answer:
        """Return every revision of every hour that was emitted; see the view v_rollups."""
        return self.query(_ROLLUPS, **_span(from_, to), project=project, meter=meter)

    def query(self, sql: str, **parameters: object) -> Answer:
        """Return what a query of your own gives; its values are bound: `WHERE project = {project:String}`."""
        return Answer(self._store.query_arrow(sql, **parameters))

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()


def connect(dsn: str, database: str = "roommeter") -> Connection:
    """Open a store for reading: `chdb:///directory`, or `http(s)://user:password@host:port` of a server or of `up`.

    While `roommeter up` runs it has its directory for itself: ask it by http://127.0.0.1:8130. Raises
    pipeline.clickhouse.StoreError.
    """
    from pipeline.clickhouse import Store, StoreError, chdb_directory

    directory = chdb_directory(dsn)
    if directory is not None and not directory.exists():  # a question must not create a store
        raise StoreError(f"{dsn}: there is no store; `roommeter replay` and `roommeter up` create one")
    return Connection(Store.open(dsn, database))


def _span(from_: When, to: When) -> dict[str, Any]:
    return {"from": _parameter(from_), "to": _parameter(to)}


def _parameter(when: When) -> str:
    """Write a moment as ClickHouse reads it."""
    if isinstance(when, str):
        time_ms = parse_time(when if "T" in when else f"{when}T00:00:00Z")
    else:
        moment = when if isinstance(when, datetime) else datetime.combine(when, time(), UTC)
        if moment.utcoffset() is None:
            raise ValueError(f"{when!r} has no time zone: datetime(..., tzinfo=UTC)")
        time_ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return format_time(min(max(time_ms, 0), NEVER_MS)).replace("T", " ").removesuffix("Z")
