"""What pages ask of the store. All SQL is constant, every value is bound, every answer has a most. Blocking."""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipeline.audit.store import AuditStore
from pipeline.metering.meters import Meter, Meters
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, hour_of
from pipeline.rows import READ_SESSIONS, SessionRow, session_row, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.clickhouse import Store

#: The newest hour that was emitted; 1970 where none was.
_EMITTED: Final = "SELECT toUnixTimestamp64Milli(max(hour)) FROM rollups WHERE hour >= {from:DateTime64(3, 'UTC')}"
#: Hours that were emitted as billing was told of them, the others as of the moment.
_USAGE: Final = """
WITH hours AS
(
    SELECT
        project, meter, hour, argMax(rollups.increments, revision) AS increments,
        argMax(rollups.increments_open, revision) AS increments_open
    FROM rollups
    WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {live_from:DateTime64(3, 'UTC')}
        AND ({project:String} = '' OR project = {project:String})
    GROUP BY project, meter, hour
    UNION ALL
    SELECT project, meter, hour, increments, increments_open
    FROM usage_hourly(
        as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
        from = {live_from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')}, project = {project:String})
)
"""
#: By meter and hour, and by project: what each used of the meters of time, in ms, since a moment and before it.
_BY_HOUR_AND_PROJECT: Final = """
SELECT
    project, meter, toUnixTimestamp64Milli(hour) AS hour_ms, sum(increments), sum(increments_open),
    sumIf(increments * transform(toString(meter), {timed:Array(String)}, {timed_ms:Array(Int64)}, 0),
        hour >= {since:DateTime64(3, 'UTC')}) AS recent_ms,
    sumIf(increments * transform(toString(meter), {timed:Array(String)}, {timed_ms:Array(Int64)}, 0),
        hour < {since:DateTime64(3, 'UTC')}) AS before_ms
FROM hours
GROUP BY GROUPING SETS ((meter, hour), (project))
ORDER BY meter = '', recent_ms DESC, project
LIMIT 20000
"""
_BY_BUCKET: Final = """
SELECT
    meter, toUnixTimestamp64Milli(hour) - toUnixTimestamp64Milli(hour) % {bucket_ms:Int64} AS bucket,
    sum(increments), sum(increments_open)
FROM hours
GROUP BY meter, bucket
ORDER BY meter, bucket
LIMIT 100000
"""
_OF_ALL: Final = f"{_USAGE} {_BY_HOUR_AND_PROJECT}"
_OF_PROJECT: Final = f"{_USAGE} {_BY_BUCKET}"
_OPEN: Final = """
SELECT project, kind, count()
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {as_of:DateTime64(3, 'UTC')}, project = {project:String})
WHERE is_open AND started_at < {as_of:DateTime64(3, 'UTC')}
GROUP BY project, kind
ORDER BY count() DESC, project, kind
LIMIT 100000
"""
_SESSIONS: Final = (
    READ_SESSIONS
    + """
WHERE ({show:String} != 'open' OR is_open)
    AND ({show:String} != 'flagged'
        OR end_without_start OR start_inferred OR end_presumed OR clock_skew OR reconciled OR amended)
    AND ({find:String} = '' OR startsWith(session, {find:String}) OR startsWith(room, {find:String})
        OR startsWith(identity, {find:String}))
ORDER BY last_seen DESC, project, room, session
LIMIT {most:UInt64} OFFSET {offset:UInt64}
"""
)
_ALERTS: Final = """
SELECT
    toString(id), project, meter, detector, severity, subject, status, toUnixTimestamp64Milli(since),
    toUnixTimestamp64Milli(updated_at), toUnixTimestamp64Milli(resolved_at), observed, expected, unit, increments,
    cost, currency, message, look_at, evidence, muted, revision
FROM current_alerts
WHERE ({status:String} = '' OR status = {status:String}) AND ({project:String} = '' OR project = {project:String})
ORDER BY status, indexOf(['critical', 'warning', 'info'], severity), since DESC, id
LIMIT {most:UInt64}
"""
_PROGRESS: Final = """
SELECT
    toUnixTimestamp64Milli((SELECT max(broker_time) FROM progress)),
    toUnixTimestamp64Milli((SELECT max(watermark) FROM rollups WHERE hour >= {since:DateTime64(3, 'UTC')})),
    (SELECT count() FROM events
     WHERE broker_time >= {since:DateTime64(3, 'UTC')} AND disposition NOT IN ('accepted', 'ignored'))
"""


class Moment(NamedTuple):
    """As of when, and after how long a silence an open session is an orphan; in ms."""

    as_of_ms: int
    orphan_after_ms: int

    def parameters(self) -> dict[str, Any]:
        """Return both as parameters."""
        return {"as_of": timestamp(self.as_of_ms), "orphan_after_ms": self.orphan_after_ms}


class Used(NamedTuple):
    """What all projects used: increments, and those still open, by meter and hour; ms of time by project."""

    live_from_ms: int
    hours: dict[tuple[str, int], tuple[int, int]]
    projects: dict[str, tuple[int, int]]


class UsedByProject(NamedTuple):
    """What a project used: increments, and those still open, by meter and bucket."""

    live_from_ms: int
    buckets: dict[tuple[str, int], tuple[int, int]]


class Alert(NamedTuple):
    """The newest revision of an alert; times in ms, quantities as decimals of the unit."""

    id: str
    project: str
    meter: str
    detector: str
    severity: str
    subject: str
    status: str
    since_ms: int
    updated_at_ms: int
    resolved_at_ms: int
    observed: Any
    expected: Any
    unit: str
    increments: int
    cost: Any
    currency: str
    message: str
    look_at: str
    evidence: str
    muted: bool
    revision: int


class Progress(NamedTuple):
    """How far the store is: the newest record and the newest watermark in ms (0: none), dead letters of a day."""

    broker_time_ms: int
    watermark_ms: int
    dead_letters: int
    held: int


def timed(meters: Meters) -> list[Meter]:
    """Return the meters of connected time: those whose quantities add up."""
    return [meter for meter in meters.values() if meter.measures == "session"]


def used(store: "Store", meters: Meters, at: Moment, from_ms: int, since_ms: int) -> Used:
    """Return the usage of all projects from an hour on, and whose it was since a moment and before it."""
    live_from_ms, span = _span(store, at, from_ms, "")
    names = {
        "timed": [meter.name for meter in timed(meters)],
        "timed_ms": [meter.increment for meter in timed(meters)],
        "since": timestamp(since_ms),
    }
    found = Used(live_from_ms, {}, {})
    for project, meter, hour_ms, increments, increments_open, recent_ms, before_ms in store.query(
        _OF_ALL, **at.parameters(), **span, **names
    ):
        if meter:
            found.hours[meter, hour_ms] = increments, increments_open
        elif project:
            found.projects[project] = recent_ms, before_ms
    return found


def used_by(store: "Store", at: Moment, project: str, from_ms: int, bucket_ms: int) -> UsedByProject:
    """Return a project's usage from an hour on, by meter and bucket."""
    live_from_ms, span = _span(store, at, from_ms, project)
    rows = store.query(_OF_PROJECT, **at.parameters(), **span, bucket_ms=bucket_ms)
    return UsedByProject(live_from_ms, {(meter, bucket): (count, still) for meter, bucket, count, still in rows})


def open_sessions(store: "Store", at: Moment, project: str = "") -> dict[str, dict[str, int]]:
    """Return the number of open sessions by project and kind."""
    found: dict[str, dict[str, int]] = {}
    for name, kind, count in store.query(_OPEN, **at.parameters(), project=project):
        found.setdefault(name, {})[kind] = count
    return found


def sessions(
    store: "Store", at: Moment, project: str, *, show: str, find: str, active_since_ms: int, most: int, offset: int
) -> list[SessionRow]:
    """Return a project's sessions, last seen first: `show` all, open or flagged ones; a name begins with `find`."""
    rows = store.query(
        _SESSIONS,
        **at.parameters(),
        project=project,
        show=show,
        find=find,
        active_since=timestamp(active_since_ms),
        most=most,
        offset=offset,
    )
    return [session_row(row) for row in rows]


def alerts(store: "Store", *, project: str = "", status: str = "", most: int = 200) -> list[Alert]:
    """Return alerts, the open and grave ones first."""
    return [Alert(*row) for row in store.query(_ALERTS, project=project, status=status, most=most)]


def progress(store: "Store", now_ms: int) -> Progress:
    """Return how far the store is."""
    [(broker_time_ms, watermark_ms, dead_letters)] = store.query(_PROGRESS, since=timestamp(now_ms - MS_PER_DAY))
    return Progress(broker_time_ms, watermark_ms, dead_letters, len(AuditStore(store).held()))


def _span(store: "Store", at: Moment, from_ms: int, project: str) -> tuple[int, dict[str, Any]]:
    """Return from which hour on usage is computed as of now, and the parameters of `_USAGE`.

    Hours that the audit holds back are emitted later than those after them.
    """
    [(newest_ms,)] = store.query(_EMITTED, **{"from": timestamp(from_ms)})
    held: Iterable[int] = (hour_ms for _, hour_ms in AuditStore(store).held() if hour_ms >= from_ms)
    live_from_ms = min((max(from_ms, newest_ms + MS_PER_HOUR if newest_ms else from_ms), *held))
    return live_from_ms, {
        "from": timestamp(from_ms),
        "live_from": timestamp(live_from_ms),
        "to": timestamp(hour_of(at.as_of_ms) + MS_PER_HOUR),
        "project": project,
    }
