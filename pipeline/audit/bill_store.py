"""What the audit reads of usage and of what was emitted. All SQL is constant. Blocking."""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipeline.audit.laws import HourTotals, Lives
from pipeline.audit.rollups import Chain, StoredRollup
from pipeline.audit.store import timestamp
from pipeline.metering.rollup import Rollup
from pipeline.metering.timeline import ORPHAN_AFTER_MS
from pipeline.metering.usage import CellKey, Usage
from pipeline.rows import UsageQuery

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

_BY_HOURS: Final = """
SELECT
    project, meter, sum(toInt128(increments)), toUnixTimestamp64Milli(max(hour)),
    groupArrayIf(100)(toUnixTimestamp64Milli(hour),
        increments < sessions
        OR (measures = 'session' AND increments > sessions * intDiv(3600000 + increment - 1, increment))
        OR (measures = 'rental' AND increments != sessions * intDiv(unit_size + increment - 1, increment)))
FROM usage_hourly(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')}, project = {project:String}) AS cells
INNER JOIN (SELECT name, measures, increment, unit_size FROM meters) AS meters ON cells.meter = meters.name
GROUP BY project, meter
"""
#: Increments begun before `to` less those begun before `from`: what the hours between have to add up to (R1).
_BY_SESSIONS: Final = """
WITH
    toUnixTimestamp64Milli({from:DateTime64(3, 'UTC')}) AS from_ms,
    toUnixTimestamp64Milli({to:DateTime64(3, 'UTC')}) AS to_ms,
    toUnixTimestamp64Milli(started_at) AS started_ms,
    toUnixTimestamp64Milli(least(ended_at, {as_of:DateTime64(3, 'UTC')})) - started_ms AS length,
    greatest(1, intDiv(length + increment - 1, increment)) AS total,
    least(total, greatest(0, intDiv(to_ms - started_ms + increment - 1, increment)))
        - least(total, greatest(0, intDiv(from_ms - started_ms + increment - 1, increment))) AS begun
SELECT project, meters.name, sum(begun), countIf(begun > 0)
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {from:DateTime64(3, 'UTC')}, project = {project:String}) AS sessions
INNER JOIN (SELECT name, kind, with_number, increment FROM meters WHERE measures = 'session') AS meters
    ON sessions.kind = meters.kind
WHERE (number != '' OR NOT with_number) AND started_at < {as_of:DateTime64(3, 'UTC')}
GROUP BY project, meters.name
"""
#: The same of counters and usage events (R13, R14): from two maxima of each subject, where the view runs through hours.
_BY_REPORTS: Final = """
SELECT project, meter, sum(upto - before), countIf(upto > before)
FROM
(
    SELECT
        project, meters.name AS meter,
        intDiv(toInt128(maxIf(bytes_in, is_in)) + maxIf(bytes_out, is_in) + step - 1, step) AS upto,
        intDiv(toInt128(maxIf(bytes_in, is_before)) + maxIf(bytes_out, is_before) + step - 1, step) AS before
    FROM
    (
        SELECT *, hour < {to:DateTime64(3, 'UTC')} AND hour < {as_of:DateTime64(3, 'UTC')} AS is_in,
            is_in AND hour < {from:DateTime64(3, 'UTC')} AS is_before
        FROM counter_facts
        WHERE {project:String} = '' OR project = {project:String}
    ) AS reports
    CROSS JOIN (SELECT name, toInt128(increment) AS step FROM meters WHERE measures = 'counter') AS meters
    WHERE (project, room, session) IN (
        SELECT project, room, session
        FROM session_timelines(
            as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
            active_since = {from:DateTime64(3, 'UTC')}, project = {project:String})
        WHERE started_at < {as_of:DateTime64(3, 'UTC')})
    GROUP BY project, room, session, meters.name, step
    UNION ALL
    SELECT
        project, counts_on AS meter, intDiv(most_of_it + step - 1, step) AS upto,
        intDiv(most_of_it_before + step - 1, step) AS before
    FROM
    (
        SELECT
            project, max(name) AS counts_on, argMax(most, name) AS most_of_it,
            argMax(most_before, name) AS most_of_it_before
        FROM
        (
            SELECT
                project, source, id, meter AS name,
                least({to:DateTime64(3, 'UTC')}, {as_of:DateTime64(3, 'UTC')}) AS until,
                toInt128(maxIf(quantity, hour < until)) AS most,
                toInt128(maxIf(quantity, hour < least({from:DateTime64(3, 'UTC')}, until))) AS most_before
            FROM discrete_facts
            WHERE {project:String} = '' OR project = {project:String}
            GROUP BY project, source, id, meter
        )
        GROUP BY project, source, id
    ) AS reports
    INNER JOIN (SELECT name, toInt128(increment) AS step FROM meters WHERE measures = 'discrete') AS meters
        ON reports.counts_on = meters.name
)
GROUP BY project, meter
HAVING sum(upto - before) > 0
"""
#: And of numbers (R15): month by month of the window, whether each was held in it.
_BY_NUMBERS: Final = """
SELECT project, meters.name, sum(units), count()
FROM
(
    SELECT project, arrayJoin(arrayMap(n -> addMonths(first_month, n), range(0, months))) AS month,
        arrayExists(
            at -> at < month AND NOT arrayExists(back -> back >= at AND back <= month, given), taken) AS is_kept,
        arrayFilter(at -> at >= month AND at < addMonths(month, 1), taken) AS taken_in_it,
        arrayMin(if(is_kept, [month], arrayPushBack(taken_in_it, {to:DateTime64(3, 'UTC')}))) AS held_from
    FROM
    (
        SELECT
            project, number, groupUniqArrayArray(released) AS given,
            arrayFilter(at -> at < {as_of:DateTime64(3, 'UTC')}, groupUniqArrayArray(acquired)) AS taken,
            arrayMin(taken) AS first,
            makeDateTime64(toYear(first), toMonth(first), 1, 0, 0, 0, 0, 3, 'UTC') AS first_month,
            1 + dateDiff('month', first, {as_of:DateTime64(3, 'UTC')}) AS months
        FROM number_facts
        WHERE {project:String} = '' OR project = {project:String}
        GROUP BY project, number
        HAVING notEmpty(taken)
    )
) AS held
CROSS JOIN
(
    SELECT name, intDiv(unit_size + increment - 1, increment) AS units FROM meters WHERE measures = 'rental'
) AS meters
WHERE held_from < least({as_of:DateTime64(3, 'UTC')}, {to:DateTime64(3, 'UTC')})
    AND held_from >= {from:DateTime64(3, 'UTC')}
GROUP BY project, meters.name
"""
_LIVES: Final = """
SELECT
    project, count(), countIf(ended_at < '2200-01-01 00:00:00' AND NOT end_presumed), countIf(end_presumed),
    countIf(is_open),
    countIf(is_open AND toUnixTimestamp64Milli(last_seen)
        <= toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64}))
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {from:DateTime64(3, 'UTC')}, project = {project:String})
WHERE started_at < '2200-01-01 00:00:00'
GROUP BY project ORDER BY project
"""
_EMITTED: Final = """
SELECT
    uniqExact(project, meter, hour), count(), toUnixTimestamp64Milli(max(as_of)), groupUniqArray(toString(project))
FROM rollups
WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
    AND ({project:String} = '' OR project = {project:String})
"""
_BROKEN_CHAINS: Final = """
SELECT
    project, meter, toUnixTimestamp64Milli(hour), count() AS revisions, max(revision) AS highest,
    sum(changed) AS deltas, argMax(billed, revision) AS newest
FROM
(
    SELECT
        project, meter, hour, revision, any(increments_delta) AS changed, any(increments) AS billed
    FROM rollups
    WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
        AND ({project:String} = '' OR project = {project:String})
    GROUP BY project, meter, hour, revision
)
GROUP BY project, meter, hour
HAVING revisions != highest OR deltas != newest
ORDER BY project, meter, hour
LIMIT 10000
"""
_DOUBLED: Final = """
SELECT project, meter, toUnixTimestamp64Milli(hour), revision, contents
FROM
(
    SELECT
        project, meter, hour, revision,
        uniqExact((id, status, quantity, quantity_open, delta, increments, increments_open, increments_delta,
            sessions, as_of, watermark)) AS contents
    FROM rollups
    WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
        AND ({project:String} = '' OR project = {project:String})
    GROUP BY project, meter, hour, revision
)
WHERE contents > 1
ORDER BY project, meter, hour, revision
LIMIT 10000
"""
_ROLLUPS: Final = """
SELECT
    project, meter, toUnixTimestamp64Milli(hour), revision, increments, increments_open, increments_delta, sessions,
    toUnixTimestamp64Milli(as_of), toUnixTimestamp64Milli(watermark), toString(id), status, quantity, quantity_open,
    delta
FROM rollups
WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
    AND ({project:String} = '' OR project = {project:String})
ORDER BY project, meter, hour, revision
"""


class Window(NamedTuple):
    """What is looked at: hours that start in [from_ms, to_ms), of one project or, with '', of all."""

    from_ms: int
    to_ms: int
    project: str = ""


class Emitted(NamedTuple):
    """How much was emitted: cells, rollups, the newest moment they were computed for in ms, and whose they are."""

    cells: int
    rollups: int
    as_of_ms: int
    projects: tuple[str, ...]


class BillStore:
    """The store, as the audit of the bill sees it. Every method raises StoreUnavailable or StoreError."""

    def __init__(self, store: "Store", orphan_after_ms: int = ORPHAN_AFTER_MS) -> None:
        """Wrap an open store; `orphan_after_ms` is the emitter's."""
        self._store = store
        self._orphan_after_ms = orphan_after_ms

    def hour_totals(self, window: Window, as_of_ms: int) -> list[HourTotals]:
        """Return, by project and meter, what the hours and what the sessions of a window add up to."""
        asked = self._asked(window, as_of_ms)
        by_hours = {(row[0], row[1]): row[2:] for row in self._store.query(_BY_HOURS, **asked)}
        by_subjects = {
            (row[0], row[1]): row[2:]
            for question in (_BY_SESSIONS, _BY_REPORTS, _BY_NUMBERS)
            for row in self._store.query(question, **asked)
        }
        found = []
        for key in sorted(by_hours.keys() | by_subjects.keys()):
            hours, _, crowded = by_hours.get(key, (0, 0, ()))
            increments, sessions = by_subjects.get(key, (0, 0))
            found.append(HourTotals(*key, hours, increments, sessions, tuple(crowded)))
        return found

    def lives(self, window: Window, as_of_ms: int) -> list[Lives]:
        """Return, by project, how many sessions started and what became of them."""
        return [Lives(*row) for row in self._store.query(_LIVES, **self._asked(window, as_of_ms))]

    def emitted(self, window: Window) -> Emitted:
        """Return how much was emitted of a window."""
        [(cells, rollups, as_of_ms, projects)] = self._store.query(_EMITTED, **_span(window))
        return Emitted(cells, rollups, as_of_ms, tuple(sorted(projects)))

    def broken_chains(self, window: Window) -> list[Chain]:
        """Return the cells of which revisions are missing, or whose deltas do not add up; at most 10 000."""
        return [Chain(*row) for row in self._store.query(_BROKEN_CHAINS, **_span(window))]

    def doubled(self, window: Window) -> list[tuple[str, str, int, int, int]]:
        """Return project, meter, hour, revision and number of contents where that is not one; at most 10 000."""
        return [tuple(row) for row in self._store.query(_DOUBLED, **_span(window))]

    def rollups(self, window: Window) -> list[StoredRollup]:
        """Return every revision as it lies there, in the order of project, meter, hour and revision."""
        return [StoredRollup(Rollup(*row[:10]), *row[10:]) for row in self._store.query(_ROLLUPS, **_span(window))]

    def usage(self, window: Window, as_of_ms: int) -> dict[CellKey, Usage]:
        """Return what the facts give as of a moment."""
        query = UsageQuery(
            as_of_ms=as_of_ms,
            from_ms=window.from_ms,
            to_ms=window.to_ms,
            project=window.project or None,
            orphan_after_ms=self._orphan_after_ms,
        )
        return dict(self._store.usage(query))

    def _asked(self, window: Window, as_of_ms: int) -> dict[str, Any]:
        return _span(window) | {"as_of": timestamp(as_of_ms), "orphan_after_ms": self._orphan_after_ms}


def _span(window: Window) -> dict[str, Any]:
    return {"from": timestamp(window.from_ms), "to": timestamp(window.to_ms), "project": window.project}
