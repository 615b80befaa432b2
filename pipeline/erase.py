"""Erasing a project, or what is personal in it, from the store: counted, deleted, counted again, recorded. Blocking.

What bills follow from and what names a person are kept apart by the schema, so the second can go alone. Invoices stay
in either case: the law asks for them, and their numbers have no gaps. The log keeps a row for every input, so that an
audit still sees that none was lost; what the row said is gone.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import pyarrow as pa

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: Tables with a project of which nothing is deleted: the law asks for invoices; the trail says that we erased.
KEPT: Final = frozenset({"invoices", "erasures"})
#: Fields of an event that a bill follows from. Whatever else an event says may be personal.
_ENVELOPE: Final = ["specversion", "id", "source", "type", "time", "subject"]
_DATA: Final = [
    "project", "room", "session", "kind", "agent", "number", "region", "started_at", "connected_at", "ended_at",
    "bytes_in", "bytes_out", "meter", "quantity", "model", "endpoint", "team", "key", "status", "latency_ms",
    "job", "epoch", "void", "actor", "reason",
]  # fmt: skip

_TABLES: Final = """
SELECT name FROM system.tables
WHERE database = {database:String} AND engine LIKE '%MergeTree'
    AND name IN (SELECT table FROM system.columns WHERE database = {database:String} AND name = 'project')
ORDER BY name
"""
_COUNT: Final = "SELECT count() FROM {table:Identifier} WHERE project = {project:String}"
_DELETE: Final = """
ALTER TABLE {table:Identifier} DELETE WHERE project = {project:String} SETTINGS mutations_sync = 2
"""
_BLANK_EVENTS: Final = """
ALTER TABLE events UPDATE
    project = '', room = '', session = '', id = '', source = '', type = '', payload = '', disposition = 'ignored'
WHERE project = {project:String} SETTINGS mutations_sync = 2
"""
_COUNT_NAMES: Final = "SELECT count() FROM session_facts WHERE project = {project:String} AND identity != ''"
_FORGET_NAMES: Final = """
ALTER TABLE session_facts UPDATE identity = '' WHERE project = {project:String} AND identity != ''
SETTINGS mutations_sync = 2
"""
#: An event that says more than a bill follows from; one that was not accepted may hold anything.
_SAYS_MORE: Final = """
    project = {project:String} AND if(disposition = 'accepted',
        arrayExists(field -> NOT has({data:Array(String)}, field.1), JSONExtractKeysAndValuesRaw(payload, 'data'))
        OR arrayExists(field -> field.1 != 'data' AND NOT has({envelope:Array(String)}, field.1),
            JSONExtractKeysAndValuesRaw(payload)),
        payload != '')
"""
_COUNTED_EVENTS: Final = "SELECT count() FROM events FINAL WHERE"
_TRIMMED_EVENTS: Final = """
ALTER TABLE events UPDATE payload = if(disposition != 'accepted', '', concat('{', arrayStringConcat(arrayConcat(
    arrayMap(field -> concat(toJSONString(field.1), ':', field.2), arrayFilter(
        field -> has({envelope:Array(String)}, field.1), JSONExtractKeysAndValuesRaw(payload))),
    [concat('"data":{', arrayStringConcat(arrayMap(field -> concat(toJSONString(field.1), ':', field.2), arrayFilter(
        field -> has({data:Array(String)}, field.1), JSONExtractKeysAndValuesRaw(payload, 'data'))), ','), '}')]),
    ','), '}'))
WHERE"""
_COUNT_EVENTS: Final = f"{_COUNTED_EVENTS} {_SAYS_MORE}"
_TRIM_EVENTS: Final = f"{_TRIMMED_EVENTS} {_SAYS_MORE} SETTINGS mutations_sync = 2"


class Scope(StrEnum):
    """What is erased: the whole project, or what names people in it."""

    PROJECT = "project"
    PERSONAL_DATA = "personal-data"


class Erasure:
    """One project, and how much of it is to go. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store", project: str, scope: Scope) -> None:
        """Keep the parts; nothing is read yet."""
        assert project
        self._store = store
        self._project = project
        self._scope = scope

    def found(self) -> dict[str, int]:
        """Return how many rows of each table would be deleted, or would lose what is personal; only where there are."""
        if self._scope is Scope.PROJECT:
            counts = {table: self._count(table) for table in self._tables() if table not in KEPT}
        else:
            [[names]] = self._store.query(_COUNT_NAMES, project=self._project)
            [[events]] = self._store.query(_COUNT_EVENTS, **self._of_events())
            counts = {"session_facts": names, "events": events, "alerts": self._count("alerts")}
        return {table: count for table, count in counts.items() if count}

    def kept(self) -> dict[str, int]:
        """Return how many rows of the project stay whatever is erased, by table; only where there are."""
        counts = {table: self._count(table) for table in sorted(KEPT)}
        return {table: count for table, count in counts.items() if count}

    def erase(self, actor: str, reason: str, now_ms: int) -> dict[str, int]:
        """Erase, record who and why, and return what is left: nothing, unless something is still writing."""
        rows = self.found()
        for table in rows:
            self._store.query(self._statement(table), **self._parameters(table))
        self._store.insert("erasures", self._record(actor, reason, now_ms, rows))
        return self.found()

    def _statement(self, table: str) -> str:
        if self._scope is Scope.PERSONAL_DATA and table != "alerts":
            return _FORGET_NAMES if table == "session_facts" else _TRIM_EVENTS
        return _BLANK_EVENTS if table == "events" else _DELETE

    def _parameters(self, table: str) -> dict[str, object]:
        if table == "events":
            return self._of_events()
        return {"table": table, "project": self._project}

    def _of_events(self) -> dict[str, object]:
        return {"project": self._project, "data": _DATA, "envelope": _ENVELOPE}

    def _tables(self) -> list[str]:
        return [name for (name,) in self._store.query(_TABLES, database=self._store.target.database)]

    def _count(self, table: str) -> int:
        [[count]] = self._store.query(_COUNT, table=table, project=self._project)
        return int(count)

    def _record(self, actor: str, reason: str, now_ms: int, rows: dict[str, int]) -> pa.Table:
        return pa.table(
            {
                "project": [self._project],
                "erased_at": pa.array([now_ms], pa.timestamp("ms", "UTC")),
                "scope": [str(self._scope)],
                "actor": [actor],
                "reason": [reason],
                "rows": pa.array([list(rows.items())], pa.map_(pa.string(), pa.uint64())),
            }
        )
