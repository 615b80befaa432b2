"""The law of facts (C4b) for what is reported: counters, usage events and numbers as stored, and as the log tells.

The store compares the two, from the raw payloads, in one pass of each table: what is reported joins by maximum and
union alone, so no core is needed to recompute it. Blocking.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.audit.laws import Checked, Difference, Law
from pipeline.metering.units import format_time, hour_of
from pipeline.rows import timestamp

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: Looks before a difference counts, and the wait between them: facts are stored before the events that tell them.
_LOOKS: Final = 3
_BETWEEN_LOOKS_MS: Final = 2_000

#: Rows that differ: key, hour in ms, what is stored and what was told. Before `floor` the log may have lost events.
_COUNTERS: Final = """
SELECT
    project, room, session, toUnixTimestamp64Milli(hour) AS hour_ms,
    (max(stored_in), max(stored_out)) AS stored, (max(told_in), max(told_out)) AS told
FROM
(
    SELECT project, room, session, hour, bytes_in AS stored_in, bytes_out AS stored_out, 0 AS told_in, 0 AS told_out
    FROM counter_facts
    WHERE {project:String} = '' OR project = {project:String}
    UNION ALL
    SELECT
        project, room, session,
        fromUnixTimestamp64Milli(intDiv(toUnixTimestamp64Milli(time), 3600000) * 3600000, 'UTC') AS hour, 0, 0,
        JSONExtractInt(payload, 'data', 'bytes_in'), JSONExtractInt(payload, 'data', 'bytes_out')
    FROM events
    WHERE broker_time >= {from:DateTime64(3, 'UTC')} AND disposition = 'accepted'
        AND type IN ('session.sampled', 'session.disconnected')
        AND ({project:String} = '' OR project = {project:String})
)
GROUP BY project, room, session, hour
HAVING stored.1 < told.1 OR stored.2 < told.2 OR (hour >= {floor:DateTime64(3, 'UTC')} AND stored != told)
ORDER BY project, room, session, hour
LIMIT 1000
"""
_DISCRETE: Final = """
SELECT
    project, source, id, meter, toUnixTimestamp64Milli(hour) AS hour_ms, max(known) AS stored, max(reported) AS told
FROM
(
    SELECT project, source, id, meter, hour, quantity AS known, 0 AS reported
    FROM discrete_facts
    WHERE {project:String} = '' OR project = {project:String}
    UNION ALL
    SELECT
        project, source, id, JSONExtractString(payload, 'data', 'meter') AS meter,
        fromUnixTimestamp64Milli(intDiv(toUnixTimestamp64Milli(time), 3600000) * 3600000, 'UTC') AS hour, 0,
        JSONExtractInt(payload, 'data', 'quantity')
    FROM events
    WHERE broker_time >= {from:DateTime64(3, 'UTC')} AND disposition = 'accepted' AND type = 'usage.recorded'
        AND ({project:String} = '' OR project = {project:String})
)
GROUP BY project, source, id, meter, hour
HAVING stored < told OR (hour >= {floor:DateTime64(3, 'UTC')} AND stored != told)
ORDER BY project, source, id, meter, hour
LIMIT 1000
"""
_NUMBERS: Final = """
SELECT
    project, number, toUnixTimestamp64Milli(at) AS at_ms, is_acquire, max(is_stored) AS stored, max(is_told) AS told
FROM
(
    SELECT project, number, arrayJoin(acquired) AS at, true AS is_acquire, 1 AS is_stored, 0 AS is_told
    FROM number_facts
    WHERE {project:String} = '' OR project = {project:String}
    UNION ALL
    SELECT project, number, arrayJoin(released) AS at, false AS is_acquire, 1, 0
    FROM number_facts
    WHERE {project:String} = '' OR project = {project:String}
    UNION ALL
    SELECT
        project, JSONExtractString(payload, 'data', 'number') AS number, time AS at,
        type = 'number.acquired' AS is_acquire, 0, 1
    FROM events
    WHERE broker_time >= {from:DateTime64(3, 'UTC')} AND disposition = 'accepted' AND startsWith(type, 'number.')
        AND ({project:String} = '' OR project = {project:String})
)
GROUP BY project, number, at, is_acquire
HAVING stored < told OR (at >= {floor:DateTime64(3, 'UTC')} AND stored != told)
ORDER BY project, number, at
LIMIT 1000
"""
_COUNT: Final = """
SELECT (SELECT count() FROM counter_facts WHERE {project:String} = '' OR project = {project:String})
    + (SELECT count() FROM discrete_facts WHERE {project:String} = '' OR project = {project:String})
    + (SELECT count() FROM number_facts WHERE {project:String} = '' OR project = {project:String})
"""


def check_quantities(
    result: Checked, store: "Store", from_ms: int, floor_ms: int, project: str, pause: Callable[[int], None]
) -> None:
    """C4b: add to `result` what is reported and stored otherwise than told since the broker's `from_ms`.

    Reports before `floor_ms` are compared one way only. Raises StoreUnavailable or StoreError.
    """
    asked = {"from": timestamp(from_ms), "floor": timestamp(floor_ms), "project": project}
    [(count,)] = store.query(_COUNT, project=project)
    result.checked += count
    for question, said in ((_COUNTERS, _counter), (_DISCRETE, _usage), (_NUMBERS, _number)):
        result.differences += map(said, _lasting(store, question, asked, pause))


def _lasting(
    store: "Store", question: str, asked: dict[str, Any], pause: Callable[[int], None]
) -> Iterator[Sequence[Any]]:
    """Yield the rows that differ in the same way at every look."""
    found = [tuple(row) for row in store.query(question, **asked)]
    for _ in range(_LOOKS - 1):
        if not found:
            return
        pause(_BETWEEN_LOOKS_MS)
        again = {tuple(row) for row in store.query(question, **asked)}
        found = [row for row in found if row in again]
    yield from found


def _counter(row: Sequence[Any]) -> Difference:
    project, room, session, hour_ms, stored, told = row
    detail = f"bytes in and out are stored as {stored[0]} and {stored[1]}, the events give {told[0]} and {told[1]}"
    holds = frozenset({(project, hour_ms)})
    return Difference(Law.FACTS, detail, project, hour_ms, "", room, session, "bytes", holds)


def _usage(row: Sequence[Any]) -> Difference:
    project, source, name, meter, hour_ms, stored, told = row
    detail = f"usage event {name} of {source} is stored with {stored}, the events give {told}"
    holds = frozenset({(project, hour_ms)})
    return Difference(Law.FACTS, detail, project, hour_ms, meter, fact="quantity", holds=holds)


def _number(row: Sequence[Any]) -> Difference:
    project, number, at_ms, is_acquire, is_stored, _ = row
    what = f"number {number} {'acquired' if is_acquire else 'released'} at {format_time(at_ms)}"
    detail = f"{what} is stored, but no event tells it" if is_stored else f"{what} is told by an event, but not stored"
    hour_ms = hour_of(at_ms)
    return Difference(Law.FACTS, detail, project, hour_ms, fact="number", holds=frozenset({(project, hour_ms)}))
