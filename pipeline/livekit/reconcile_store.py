"""What reconciliation reads from the store, and the record of its passes there. All SQL is constant. Blocking."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from pipeline.livekit.reconcile import KnownSession, OpenSession, Run
from pipeline.metering.session import Room, Session
from pipeline.rows import timestamp

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: Most ids of one question: they travel in an address, which servers bound.
MOST_IDS: Final = 2_000

_OPEN: Final = """
SELECT room, session, kind, toUnixTimestamp64Milli(started_at), toUnixTimestamp64Milli(last_seen)
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {as_of:DateTime64(3, 'UTC')}, project = {project:String})
WHERE is_open AND arrayExists(source -> match(source, '^(livekit|reconcile)(/|$)'), sources)
ORDER BY room, session
"""
_KNOWN: Final = """
WITH
    (
        SELECT mapFromArrays(groupArray(source), groupArray(restarted_at))
        FROM (SELECT source, max(restarted_at) AS restarted_at FROM server_facts GROUP BY source)
    ) AS restarts
SELECT
    room, session,
    toUnixTimestamp64Milli(connected_at), toUnixTimestamp64Milli(begun_at), toUnixTimestamp64Milli(disconnected_at),
    arrayMap(end -> toUnixTimestamp64Milli(end), ends), toUnixTimestamp64Milli(room_started_at),
    toUnixTimestamp64Milli(arrayMax(arrayMap(source -> restarts[source], sources)))
FROM
(
    SELECT
        project, room, session, min(connected_at) AS connected_at, min(begun_at) AS begun_at,
        min(disconnected_at) AS disconnected_at, groupUniqArrayArray(sources) AS sources
    FROM session_facts
    WHERE project = {project:String} AND session IN {sessions:Array(String)}
    GROUP BY project, room, session
) AS found
LEFT JOIN
(
    SELECT project, room, groupUniqArrayArray(ends) AS ends, max(started_at) AS room_started_at
    FROM room_facts
    WHERE project = {project:String}
    GROUP BY project, room
) AS rooms
USING (project, room)
"""
_RUNS: Final = """
SELECT
    project, source, toUnixTimestamp64Milli(asked_at), toUnixTimestamp64Milli(answered_at), outcome, rooms,
    rooms_silent, sessions_open, present, missing, absent, opened, detail
FROM reconciliations FINAL
WHERE {project:String} = '' OR project = {project:String}
ORDER BY asked_at DESC, project
LIMIT {limit:UInt64}
"""
#: The facts of a session of which its start and end follow (R3, R5).
_FACTS: Final = ("connected_at_ms", "begun_at_ms", "disconnected_at_ms")
_TIMES: Final = ("asked_at_ms", "answered_at_ms")


class ReconcileStore:
    """The store, as reconciliation sees it. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store") -> None:
        """Wrap an open store."""
        self._store = store

    def open_sessions(self, project: str, as_of_ms: int, orphan_after_ms: int) -> list[OpenSession]:
        """Return the sessions of LiveKit servers that are open as of a moment (R8)."""
        rows = self._store.query(_OPEN, as_of=timestamp(as_of_ms), orphan_after_ms=orphan_after_ms, project=project)
        return [OpenSession(*row) for row in rows]

    def known_sessions(self, project: str, sessions: Sequence[str]) -> list[KnownSession]:
        """Return what is known of the sessions with these ids, whatever became of them."""
        found = []
        for first in range(0, len(sessions), MOST_IDS):
            ids = list(sessions[first : first + MOST_IDS])
            rows = self._store.query(_KNOWN, project=project, sessions=ids)
            for room, name, *times_ms, ends_ms, started_at_ms, restarted_at_ms in rows:
                session = Session(**dict(zip(_FACTS, times_ms, strict=True)))
                room_facts = Room(frozenset(ends_ms), started_at_ms)
                found.append(KnownSession(room, name, session, room_facts, restarted_at_ms))
        return found

    def record(self, run: Run) -> None:
        """Keep one pass. Keeping it twice changes nothing."""
        columns = {name: pa.array([value]) for name, value in run._asdict().items()}
        times = {name.removesuffix("_ms"): columns.pop(name).cast(pa.timestamp("ms", "UTC")) for name in _TIMES}
        self._store.insert("reconciliations", pa.table(columns | times))

    def runs(self, project: str = "", limit: int = 100) -> list[Run]:
        """Return passes, newest first; '' means of all projects."""
        return [Run(*row) for row in self._store.query(_RUNS, project=project, limit=limit)]
