"""The store: facts in; timelines, usage and rollups out. The only importer of clickhouse_connect.

Blocking: callers on an event loop use threads. Calls on one store take turns; a long query, and a writer
that must not wait for it, open a store each (the engine is shared, opening again costs a millisecond).
All SQL here is constant; every value is a bound parameter.
"""

import fcntl
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error, OperationalError

from pipeline import migrations
from pipeline.metering.events import Amendment
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Room, Session, shared_set
from pipeline.metering.units import MS_PER_HOUR, NEVER_MS, hour_of
from pipeline.metering.usage import CellKey, Usage
from pipeline.rows import (
    READ_SESSIONS,
    Batch,
    ChangeQuery,
    Changes,
    Query,
    RollupQuery,
    SessionQuery,
    SessionRow,
    UsageQuery,
    meter_table,
    rollup_table,
    rules_table,
    session_row,
    timestamp,
)
from pipeline.store_queries import CHANGES, OPEN_ROOMS
from pipeline.work import Work

#: ClickHouse's numbers for what passes by itself or with an operator's help: time-outs, network, memory, disk,
#: too many parts or queries, replicas or keeper away, shutting down. All else is wrong for good.
_TRANSIENT_CODES: Final = frozenset(
    {75, 159, 202, 203, 209, 210, 225, 236, 241, 242, 243, 252, 279, 285, 286, 319, 394, 439, 473, 745, 999},
)
#: A table, database, view or column that is not there: nobody migrated.
_UNKNOWN_CODES: Final = frozenset({16, 46, 47, 60, 81})
#: A batch of late events may touch any number of months; refusing it would stop the partition for ever.
#: And readers join rows anyway: joining them at the insert only costs a third more there.
_INSERT: Final = {"max_partitions_per_insert_block": "0", "optimize_on_insert": "0"}
#: Planning takes most of a small query's time. This rewriting of comparisons finds nothing in our views, and takes a
#: quarter of it (measured: 188 ms of CPU for the usage of an empty store with it, 135 ms without).
_QUERY: Final = {"optimize_and_compare_chain": "0"}
#: Usage of all time has a group for every usage event and session there ever was: beyond this many bytes groups go to
#: disk. Measured over 3 million usage events: 0.7 GB in place of 1.8 GB at most, for 30 % more CPU.
_USAGE_QUERY: Final = {"max_bytes_before_external_group_by": "100000000"}
_NO_BOUNDS: Final[Mapping[str, str]] = MappingProxyType({})
#: Offsets are committed after a write: with replicas, a majority has to have it by then.
_MAJORITY: Final = {"insert_quorum": "auto"}

_USAGE: Final = """
SELECT project, meter, toUnixTimestamp64Milli(hour), increments, increments_open, sessions
FROM usage_hourly(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')}, project = {project:String})
WHERE {meter:String} = '' OR meter = {meter:String}
ORDER BY project, meter, hour
"""
_SESSIONS: Final = (
    READ_SESSIONS
    + """
WHERE ({room:String} = '' OR room = {room:String}) AND ({session:String} = '' OR session = {session:String})
ORDER BY last_seen DESC, project, room, session
LIMIT {limit:UInt64}
"""
)
_ROLLUP_FIELDS: Final = """
SELECT
    project, meter, toUnixTimestamp64Milli(hour), revision, increments, increments_open, increments_delta,
    sessions, toUnixTimestamp64Milli(as_of), toUnixTimestamp64Milli(watermark)
FROM rollups
WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
    AND ({project:String} = '' OR project = {project:String}) AND ({meter:String} = '' OR meter = {meter:String})
"""
_ROLLUPS: Final = f"{_ROLLUP_FIELDS} ORDER BY project, meter, hour, revision LIMIT 1 BY project, meter, hour, revision"
_LATEST_ROLLUPS: Final = (
    f"{_ROLLUP_FIELDS} ORDER BY project, meter, hour, revision DESC LIMIT 1 BY project, meter, hour"
)
_AMENDMENTS: Final = """
SELECT epoch, is_void, toUnixTimestamp64Milli(started_at), toUnixTimestamp64Milli(ended_at), actor, reason
FROM amendments FINAL
WHERE project = {project:String} AND room = {room:String} AND session = {session:String}
ORDER BY epoch, is_void, started_at, ended_at, actor, reason
"""
_PROGRESS: Final = """
SELECT partition, max(next_offset), toUnixTimestamp64Milli(max(broker_time))
FROM progress WHERE topic = {topic:String} GROUP BY partition
"""


class StoreError(RuntimeError):
    """The store refused; the message says what to do. Trying again does not help."""


class StoreInUse(StoreError):
    """Another process has the embedded store open."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, or cannot keep up, for now: wait and try again (R22)."""


class Store:
    """A connection to ClickHouse. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, client: Client, target: migrations.Target, bounds: Mapping[str, str] = _NO_BOUNDS) -> None:
        """Wrap a client that has `target` as its database; use `Store.open`."""
        self._client = client
        self.target = target
        self._write_settings = _INSERT | (_MAJORITY if target.cluster else {})
        known = client.server_settings  # a reader may be allowed to change none
        asked = {**_USAGE_QUERY, **_QUERY, **bounds}
        allowed = {name: asked[name] for name in asked if name in known and not known[name].readonly}
        self._usage_settings = allowed
        self._query_settings = {name: allowed[name] for name in allowed if name not in _USAGE_QUERY or name in bounds}

    @classmethod
    def open(
        cls, dsn: str, database: str = "roommeter", cluster: str = "", bounds: Mapping[str, str] = _NO_BOUNDS
    ) -> Self:
        """Connect, and create the database if it is missing.

        `bounds` are ClickHouse's settings that limit every query, where this user may set them.

        `dsn` is `http(s)://user:password@host:port`, or for the engine in this process `chdb:///directory`, an
        absolute path, or `chdb:directory` below the current one. The directory is created. One process at a
        time can have it, which can open any number of stores on it.
        """
        with _translated():
            try:
                target = migrations.Target(database, cluster)
            except migrations.InvalidSchema as error:
                raise StoreError(str(error)) from error
            client = _connect(dsn)
            found = client.query("SELECT 1 FROM system.databases WHERE name = {name:String}", {"name": database})
            if not found.result_rows:
                client.command(migrations.create_database(target))
            client.database = database
        return cls(client, target, bounds)

    def close(self) -> None:
        """Close the connection; the last store of a process frees the engine's directory."""
        self._client.close()

    def migrate(self, meters: Meters, orphan_after_ms: int | None = None) -> list[str]:
        """Bring the schema up to date and make `meters` the table of meters in force; return the versions applied.

        `orphan_after_ms`, if given, is what views go by from now on (R9).

        Applying twice, or by two processes at once, changes nothing more. Raises StoreError when a file
        has changed since it was applied.
        """
        applied = self.apply(migrations.shipped_migrations(), meters)
        in_force = self.query("SELECT argMax(orphan_after_ms, since) FROM rules")
        if orphan_after_ms not in (None, in_force[0][0]):
            self.insert("rules", rules_table(orphan_after_ms, time.time_ns() // 1_000_000))
        return applied

    def apply(self, files: Sequence[migrations.Migration], meters: Meters) -> list[str]:
        """Migrate with migrations other than those that ship."""
        with _translated():
            self._client.command(migrations.create_versions(self.target))
            applied = dict(self.query("SELECT version, checksum FROM schema_versions"))
            try:
                pending = migrations.pending(files, applied)
            except migrations.InvalidSchema as error:
                raise StoreError(str(error)) from error
            for migration in pending:
                for statement in migration.statements(self.target):
                    self._client.command(statement)
                self._insert("schema_versions", migrations.applied_row(migration))
            self._sync_meters(meters)
        return [migration.version for migration in pending]

    def write(self, batch: Batch | Work) -> None:
        """Store facts, then events, then how far each partition has been processed.

        Returns when all of it is stored. After an error any part of it may be; writing it again is harmless.
        """
        with _translated():
            for name, table in batch.tables():
                self._insert(name, table)

    def usage(self, query: UsageQuery) -> list[tuple[CellKey, Usage]]:
        """Return increments per project, meter and hour, in key order: `metering.usage.usage`, from what is stored."""
        sql, parameters, made = _question(query)
        with _translated():
            return list(map(made, self._client.query(sql, parameters, settings=self._usage_settings).result_rows))

    def sessions(self, query: SessionQuery) -> list[SessionRow]:
        """Return sessions with their times and flags, last seen first."""
        return self._asked(query)

    def insert_rollups(self, rollups: Sequence[Rollup], meters: Meters) -> None:
        """Keep emitted revisions. Storing one twice changes nothing (R19)."""
        if rollups:
            with _translated():
                self._insert("rollups", rollup_table(rollups, meters))

    def rollups(self, query: RollupQuery) -> list[Rollup]:
        """Return every revision, in the order of project, meter, hour and revision."""
        return self._asked(query)

    def blocks(self, query: Query) -> Iterator[list[Any]]:
        """Yield what `usage`, `sessions` or `rollups` would return, in blocks of up to 65 536 rows.

        The engine may sort before the first; here no more is held than a block. Nothing else may be asked of this
        store by the same thread before the last one.
        """
        sql, parameters, made = _question(query)
        with (
            _translated(),
            self._client.query_row_block_stream(sql, parameters, settings=self._query_settings) as blocks,
        ):
            yield from (list(map(made, block)) for block in blocks)

    def _asked(self, query: Query) -> list[Any]:
        sql, parameters, made = _question(query)
        return list(map(made, self.query(sql, **parameters)))

    def latest_rollups(self, from_ms: int = 0, to_ms: int | None = None) -> dict[CellKey, Rollup]:
        """Return the highest revision of every cell whose hour starts in [from_ms, to_ms)."""
        rollups = (Rollup(*row) for row in self.query(_LATEST_ROLLUPS, meter="", **_span(from_ms, to_ms, None)))
        return {rollup.key: rollup for rollup in rollups}

    def amendments(self, project: str, room: str, session: str) -> list[Amendment]:
        """Return every amendment of a session, the one in force last (R12)."""
        rows = self.query(_AMENDMENTS, project=project, room=room, session=session)
        return [Amendment(*row) for row in rows]

    def progress(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return, by partition, the offset to process next and the newest broker time processed, in ms."""
        return {partition: (offset, time_ms) for partition, offset, time_ms in self.query(_PROGRESS, topic=topic)}

    def changes(self, query: ChangeQuery) -> Changes:
        """Return from when on usage may have changed, for whoever read all of it before."""
        return Changes(*self.query(CHANGES, **query.parameters())[0])

    def open_rooms(self) -> Iterator[tuple[str, str, Room]]:
        """Yield every room with a session of which no end is known, its own or the room's; with all its facts.

        For a worker that has to rebuild its state: the facts stored are at least those of every committed offset.
        """
        for project, name, sessions, ends_ms, started_at_ms in self.query(OPEN_ROOMS, never=timestamp(NEVER_MS)):
            room = Room(frozenset(ends_ms), started_at_ms)
            for session, *facts, sources in sessions:
                room.sessions[session] = Session(*facts)
                room.sessions[session].sources = shared_set(frozenset(sources))
            yield project, name, room

    def insert(self, name: str, table: pa.Table, once: str = "") -> None:
        """Insert rows into a table; where `once` was inserted under before, nothing (the table has to keep tokens)."""
        with _translated():
            self._insert(name, table, once)

    def _sync_meters(self, meters: Meters) -> None:
        rows = self.query("SELECT name, measures, kind, with_number, unit, unit_size, increment FROM meters")
        table = meter_table(meters, time.time_ns() // 1_000_000)
        if set(map(tuple, rows)) != set(zip(*table.drop_columns("since").to_pydict().values(), strict=True)):
            self._insert("meter_tables", table)

    def _insert(self, name: str, table: pa.Table, once: str = "") -> None:
        token = {"insert_deduplication_token": once} if once else {}
        self._client.insert_arrow(name, table, settings=self._write_settings | token)

    def query_arrow(self, sql: str, **parameters: object) -> pa.Table:
        """Return what a query gives as an Arrow table; its values are bound."""
        with _translated():
            return self._client.query_arrow(sql, parameters, settings=self._query_settings, use_strings=True)

    def query(self, sql: str, **parameters: object) -> Sequence[Any]:
        """Return the rows that a query gives; its text is constant, its values are bound."""
        with _translated():
            return self._client.query(sql, parameters, settings=self._query_settings).result_rows


def chdb_directory(dsn: str) -> Path | None:
    """Return the directory of an embedded store's address, None for a server's; raises StoreError for neither."""
    parts = urlsplit(dsn)
    if parts.scheme in ("http", "https"):
        return None
    directory = unquote(parts.path)
    if parts.scheme != "chdb" or parts.netloc or directory.strip("/") == "":
        raise StoreError("the store is chdb:///directory, or http(s)://user:password@host:port")
    # As in clickhouse-connect, three slashes are an absolute path; four are forgiven.
    return Path(re.sub("^/+", "/", directory)).resolve()


def _connect(dsn: str) -> Client:
    path = chdb_directory(dsn)
    if path is None:
        # No server session: calls of several threads would be refused.
        try:
            return clickhouse_connect.get_client(dsn=dsn, connect_timeout=10, autogenerate_session_id=False)
        except ValueError as error:  # a port that is no port, for example
            raise StoreError(f"not an address of ClickHouse: {error}") from error
    if Path("config.xml").exists():
        raise StoreError(
            "the embedded engine would obey ./config.xml, whoever put it here: start from another directory"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot create the store's directory: {error}") from error
    try:
        return clickhouse_connect.get_client(
            interface="chdb", path=str(path), chdb_options=dict(parse_qsl(urlsplit(dsn).query))
        )
    except Error as error:
        if "already initialized with path" in str(error):
            raise StoreError(f"{dsn}: this process has another directory open, and the engine allows one") from error
        if _is_locked(path / "status"):
            advice = "query the running `roommeter up` at http://127.0.0.1:8130 instead"
            raise StoreInUse(f"{dsn}: another process has it open; {advice}") from error
        raise


def _is_locked(path: Path) -> bool:
    """Tell whether a process holds the engine's lock; the engine's own message does not always say so."""
    if path.exists():
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the client library's errors into ours."""
    try:
        yield
    except (pa.ArrowInvalid, OverflowError) as error:
        raise StoreError(f"a value does not fit its column: {error}") from error
    except Error as error:
        text = str(error)
        if error.code in _UNKNOWN_CODES:
            raise StoreError(f"the tables are missing or old: run `roommeter migrate` first ({text})") from error
        unreachable = error.code is None and (isinstance(error, OperationalError) or "HTTP status 5" in text)
        if unreachable or error.code in _TRANSIENT_CODES:
            raise StoreUnavailable(f"ClickHouse is not available: {text}") from error
        raise StoreError(f"ClickHouse refused: {text}") from error


def _question(query: Query) -> tuple[str, dict[str, object], Callable[[Any], Any]]:
    """Return the SQL of a query, its parameters, and what makes an answer of each row."""
    if isinstance(query, RollupQuery):
        span = _span(query.from_ms, query.to_ms, query.project)
        return _ROLLUPS, span | {"meter": query.meter or ""}, lambda row: Rollup(*row)
    moment = {"as_of": timestamp(query.as_of_ms), "orphan_after_ms": query.orphan_after_ms}
    if isinstance(query, UsageQuery):
        # Whole hours: of the last one every session counts, those too that started after `to_ms`.
        span = _span(query.from_ms, query.to_ms and hour_of(query.to_ms - 1) + MS_PER_HOUR, query.project)
        return _USAGE, moment | span | {"meter": query.meter or ""}, lambda row: ((*row[:3],), Usage(*row[3:]))
    names = {"project": query.project or "", "room": query.room or "", "session": query.session or ""}
    limits = {"active_since": timestamp(query.active_since_ms), "limit": query.limit}
    return _SESSIONS, moment | names | limits, session_row


def _span(from_ms: int, to_ms: int | None, project: str | None) -> dict[str, object]:
    return {"from": timestamp(from_ms), "to": timestamp(NEVER_MS if to_ms is None else to_ms), "project": project or ""}
