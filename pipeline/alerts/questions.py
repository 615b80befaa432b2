"""What alerters ask of the store. All SQL is constant; times are parameters in ms, slots are counted from `from_ms`."""

from typing import Final

ACTIVITY: Final = """
SELECT project, kind, slot, connects, active
FROM activity_slots(
    from_ms = {from_ms:Int64}, to_ms = {to_ms:Int64}, slot_ms = {slot_ms:Int64},
    orphan_after_ms = {orphan_after_ms:UInt64}, project = {project:String})
"""
ACTIVITY_HOURS: Final = """
SELECT
    project, kind, intDiv(slot, 12) AS hour,
    sum(connects), maxIf(connects, slot % 12 != 0), sumIf(connects, slot % 12 = 0),
    sum(active), maxIf(active, slot % 12 != 0), sumIf(active, slot % 12 = 0)
FROM activity_slots(
    from_ms = {from_ms:Int64}, to_ms = {to_ms:Int64}, slot_ms = {slot_ms:Int64},
    orphan_after_ms = {orphan_after_ms:UInt64}, project = {project:String})
GROUP BY project, kind, hour
"""
EVENTS: Final = """
SELECT source, slot, events
FROM event_slots(from_ms = {from_ms:Int64}, to_ms = {to_ms:Int64}, slot_ms = {slot_ms:Int64})
"""
EVENT_HOURS: Final = """
SELECT source, intDiv(slot, 12) AS hour, sum(events), maxIf(events, slot % 12 != 0), sumIf(events, slot % 12 = 0)
FROM event_slots(from_ms = {from_ms:Int64}, to_ms = {to_ms:Int64}, slot_ms = {slot_ms:Int64})
GROUP BY source, hour
"""

#: Parts of the sessions that ended in each slot, by project and kind.
SESSION_PARTS: Final = """
SELECT
    project, kind, intDiv(moment_ms - {from_ms:Int64}, {slot_ms:Int64}) AS slot,
    countIf(is_billed) AS sessions,
    countIf(is_billed AND lasted_ms < 15000) AS short,
    countIf(is_billed AND clock_skew) AS skewed,
    countIf(end_without_start) AS unbegun,
    sumIf(minutes, is_billed) AS billed,
    intDiv(sumIf(minutes * 60000 - lasted_ms, is_billed), 60000) AS lost
FROM
(
    SELECT
        project, kind, clock_skew, end_without_start, NOT end_without_start AS is_billed,
        toUnixTimestamp64Milli(if(end_without_start, disconnected_at, ended_at)) AS moment_ms,
        moment_ms - toUnixTimestamp64Milli(started_at) AS lasted_ms,
        greatest(1, intDiv(lasted_ms + 59999, 60000)) AS minutes
    FROM session_timelines(
        as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
        active_since = {from:DateTime64(3, 'UTC')}, project = {project:String})
    WHERE (started_at < {as_of:DateTime64(3, 'UTC')} AND NOT is_open) OR end_without_start
)
WHERE moment_ms >= {from_ms:Int64} AND moment_ms < {to_ms:Int64}
GROUP BY project, kind, slot
"""
#: Of what arrived in each slot: events that were sent before, by source. Approximate where the past is long.
DUPLICATES: Final = """
SELECT
    source, intDiv(toUnixTimestamp64Milli(broker_time) - {from_ms:Int64}, {slot_ms:Int64}) AS slot,
    greatest(0, toInt64(count()) - toInt64(uniqCombined64(id, type))) AS some, count() AS total
FROM events
WHERE broker_time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
    AND broker_time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
    AND disposition = 'accepted' AND NOT startsWith(source, 'reconcile/')
GROUP BY source, slot
"""
DEAD_LETTERS: Final = """
SELECT
    intDiv(toUnixTimestamp64Milli(broker_time) - {from_ms:Int64}, {slot_ms:Int64}) AS slot,
    countIf(disposition = 'dead_letter') AS some, count() AS total
FROM events
WHERE broker_time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
    AND broker_time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
GROUP BY slot
"""
RECONCILED: Final = """
SELECT
    project, source, intDiv(toUnixTimestamp64Milli(asked_at) - {from_ms:Int64}, {slot_ms:Int64}) AS slot,
    sum(absent) + sum(opened) AS some, sum(present) + some AS total
FROM reconciliations FINAL
WHERE asked_at >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
    AND asked_at < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
GROUP BY project, source, slot
"""

LENGTHS: Final = """
SELECT
    project, kind, count(),
    quantilesExactLow(0.25, 0.75)(toUnixTimestamp64Milli(ended_at) - toUnixTimestamp64Milli(started_at))
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {from:DateTime64(3, 'UTC')}, project = {project:String})
WHERE started_at < {as_of:DateTime64(3, 'UTC')} AND NOT is_open
    AND ended_at >= {from:DateTime64(3, 'UTC')}
GROUP BY project, kind
"""
#: The longest first: of more than can be looked at, the worst.
LONG: Final = """
SELECT
    project, kind, room, identity, session, toUnixTimestamp64Milli(started_at), {to_ms:Int64}, true
FROM session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    active_since = {from:DateTime64(3, 'UTC')}, project = {project:String})
WHERE is_open AND started_at < {from:DateTime64(3, 'UTC')}
ORDER BY started_at, project, room, session LIMIT 1000
"""
TWINS: Final = """
SELECT project, kind, room, identity, name, began_ms, ended_ms, open
FROM
(
    SELECT
        project, kind, room, identity, groupArray((
            session, toUnixTimestamp64Milli(started_at),
            least(toUnixTimestamp64Milli(ended_at), {to_ms:Int64}), is_open)) AS connections
    FROM session_timelines(
        as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
        active_since = {from:DateTime64(3, 'UTC')}, project = {project:String})
    WHERE identity != '' AND started_at < {as_of:DateTime64(3, 'UTC')}
        AND ended_at >= {from:DateTime64(3, 'UTC')}
    GROUP BY project, kind, room, identity
    HAVING count() BETWEEN 2 AND 100
    LIMIT 1000
)
ARRAY JOIN connections.1 AS name, connections.2 AS began_ms, connections.3 AS ended_ms, connections.4 AS open
"""
#: Amendments (R12) of four weeks by day, the newest day first, and the session with most of those of the last one.
AMENDED: Final = """
SELECT
    project, sumForEach(arrayMap(day -> toUInt64(day = day_number), range(28))) AS days,
    topKIf(1)(session, day_number = 0) AS sessions
FROM
(
    SELECT
        project, session, intDiv({to_ms:Int64} - 1 - toUnixTimestamp64Milli(broker_time), 86400000) AS day_number
    FROM events
    WHERE broker_time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
        AND broker_time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
        AND disposition = 'accepted' AND type = 'session.amended'
)
GROUP BY project
"""
AMENDMENTS_OF: Final = """
SELECT count() FROM amendments FINAL WHERE project = {project:String} AND session = {session:String}
"""
#: What is reported rather than timed, by the hour as it was last emitted (R17).
REPORTED: Final = """
SELECT project, meter, toUnixTimestamp64Milli(hour), argMax(increments, revision)
FROM rollups
WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
    AND meter IN (SELECT name FROM meters WHERE measures IN ('discrete', 'counter'))
GROUP BY project, meter, hour
"""
EMITTED: Final = "SELECT toUnixTimestamp64Milli(max(hour)) FROM rollups"

TOLD: Final = "SELECT toString(id), revision FROM alerts WHERE since >= {from:DateTime64(3, 'UTC')}"
ALERTS: Final = """
SELECT
    toString(id), revision, status, detector, severity, project, meter, subject,
    toUnixTimestamp64Milli(since), toUnixTimestamp64Milli(updated_at), toUnixTimestamp64Milli(resolved_at),
    toString(observed), toString(expected), unit, increments, toString(cost), currency,
    message, look_at, evidence, muted
FROM current_alerts
WHERE ({project:String} = '' OR project = {project:String})
    AND ({detector:String} = '' OR detector = {detector:String})
    AND ({id:String} = '' OR startsWith(toString(id), {id:String}))
    AND (status = 'open' OR {is_all:Bool})
ORDER BY status, since DESC, id
LIMIT {limit:UInt64}
"""
