-- What follows from the facts, computed when it is read. Views have no engine and no order of their own; they read the
-- tables by the prefix of their sort keys: `project` = '' means every project, any other value reads that one only.
-- Times in hidden arithmetic are ms since the epoch; 7258118400000 is 2200-01-01, "not known to have happened".

-- The table of meters in force (R16).
CREATE OR REPLACE VIEW ${database}.meters ${on_cluster} AS
SELECT name, measures, kind, with_number, unit, unit_size, increment
FROM ${database}.meter_tables FINAL
WHERE since = (SELECT max(since) FROM ${database}.meter_tables);

-- Rooms that may have usage at or after `active_since`: one of their sessions was seen late enough, or was not yet an
-- orphan as of the moment, or the room itself ended late enough. Whole rooms, never rows: a row left out could be the
-- one that knows a session's end. `latest_at` is the partition's column, so older months are not read.
CREATE OR REPLACE VIEW ${database}.active_rooms ${on_cluster} AS
SELECT project, room FROM ${database}.session_facts
WHERE ({project:String} = '' OR project = {project:String})
    AND latest_at >= fromUnixTimestamp64Milli(greatest(0, least(
        toUnixTimestamp64Milli({active_since:DateTime64(3, 'UTC')}),
        toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64}))), 'UTC')
UNION ALL
SELECT project, room FROM ${database}.room_facts
WHERE ({project:String} = '' OR project = {project:String})
    AND arrayMax(ends) >= {active_since:DateTime64(3, 'UTC')};

-- Every session with its start, end and flags as of a moment: pipeline/metering/timeline.py, in SQL (R3 to R9).
-- `active_since` leaves out what cannot have usage from then on; 0 (1970-01-01) keeps everything.
-- The ends of a room become rows, with 2200-01-01 always among them, so that ASOF finds the smallest end that is not
-- before the start (R5) without carrying a reused room's many ends along with each of its sessions.
CREATE OR REPLACE VIEW ${database}.session_timelines ${on_cluster} AS
WITH
    toDateTime64('2200-01-01 00:00:00', 3, 'UTC') AS never,
    toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64}) AS silent_since_ms,
    (
        SELECT mapFromArrays(groupArray(source), groupArray(restarted_at))
        FROM (SELECT source, max(restarted_at) AS restarted_at FROM ${database}.server_facts GROUP BY source)
    ) AS restarts,
    greatest(room_started_at, arrayMax(arrayMap(source -> restarts[source], sources))) AS begun_again_at,
    if(end_at = toDateTime64(0, 3, 'UTC'), never, end_at) AS room_ended_at,
    least(disconnected_at, room_ended_at) AS known_end_at
SELECT
    project, room, session, kind, number, agent, identity, region,
    connected_at, begun_at, disconnected_at, last_seen, bytes_in, bytes_out, sources,
    room_ended_at, started_at,
    started_at = never AND disconnected_at < never AS end_without_start,
    started_at < never AND connected_at = never AS start_inferred,
    started_at < never AND known_end_at = never AND (
        (begun_again_at > started_at AND begun_again_at >= last_seen)
        OR toUnixTimestamp64Milli(last_seen) <= silent_since_ms) AS end_presumed,
    if(end_presumed, last_seen, known_end_at) < started_at AND started_at < never AS clock_skew,
    started_at < never AND known_end_at = never AND NOT end_presumed AS is_open,
    greatest(started_at, if(end_presumed, last_seen, known_end_at)) AS ended_at
FROM
(
    SELECT *, if(connected_at < toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), connected_at, begun_at) AS started_at
    FROM
    (
        SELECT
            project, room, session,
            max(kind) AS kind, max(number) AS number, max(agent) AS agent,
            max(identity) AS identity, max(region) AS region,
            min(connected_at) AS connected_at, min(begun_at) AS begun_at, min(disconnected_at) AS disconnected_at,
            max(last_seen) AS last_seen, max(bytes_in) AS bytes_in, max(bytes_out) AS bytes_out,
            groupUniqArrayArray(sources) AS sources
        FROM ${database}.session_facts
        WHERE ({project:String} = '' OR project = {project:String})
            AND ({active_since:DateTime64(3, 'UTC')} <= toDateTime64(0, 3, 'UTC')
                OR (project, room) IN (SELECT project, room FROM ${database}.active_rooms(
                    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
                    active_since = {active_since:DateTime64(3, 'UTC')}, project = {project:String})))
        GROUP BY project, room, session
    )
) AS sessions
ASOF LEFT JOIN
(
    SELECT
        project, room, max(started_at) AS room_started_at,
        arrayJoin(arrayPushBack(groupUniqArrayArray(ends), toDateTime64('2200-01-01 00:00:00', 3, 'UTC'))) AS end_at
    FROM ${database}.room_facts
    WHERE ({project:String} = '' OR project = {project:String})
        AND ({active_since:DateTime64(3, 'UTC')} <= toDateTime64(0, 3, 'UTC')
            OR (project, room) IN (SELECT project, room FROM ${database}.active_rooms(
                as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
                active_since = {active_since:DateTime64(3, 'UTC')}, project = {project:String})))
    GROUP BY project, room
) AS rooms
ON sessions.project = rooms.project AND sessions.room = rooms.room AND sessions.started_at <= rooms.end_at;

-- Increments of every project, meter and hour as of a moment: pipeline/metering/usage.py, in SQL (R1, R7, R8, R16).
-- Hours whose start lies in [from, to). A session bills at least one increment, and increment k counts in the hour in
-- which it begins, at start + k * increment; so an hour has the increments begun before its end less those begun
-- before its start, and the hours of a session add up to its rounded total.
CREATE OR REPLACE VIEW ${database}.usage_hourly ${on_cluster} AS
WITH
    least(total, greatest(0, intDiv((hour_number + 1) * 3600000 - started_ms + increment - 1, increment)))
        - least(total, greatest(0, intDiv(hour_number * 3600000 - started_ms + increment - 1, increment))) AS begun
SELECT
    project, meter, fromUnixTimestamp64Milli(hour_number * 3600000, 'UTC') AS hour,
    sum(begun) AS increments, sumIf(begun, is_open) AS increments_open, count() AS sessions
FROM
(
    SELECT
        project, meters.name AS meter, meters.increment AS increment, is_open,
        toUnixTimestamp64Milli(started_at) AS started_ms,
        least(toUnixTimestamp64Milli(ended_at), toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')})) AS until_ms,
        greatest(1, intDiv(until_ms - started_ms + increment - 1, increment)) AS total,
        arrayJoin(range(
            greatest(
                intDiv(toUnixTimestamp64Milli({from:DateTime64(3, 'UTC')}) + 3599999, 3600000),
                intDiv(started_ms, 3600000)),
            least(
                intDiv(toUnixTimestamp64Milli({to:DateTime64(3, 'UTC')}) + 3599999, 3600000),
                intDiv(started_ms + increment * (total - 1), 3600000) + 1))) AS hour_number
    FROM ${database}.session_timelines(
        as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
        active_since = {from:DateTime64(3, 'UTC')}, project = {project:String}) AS sessions
    INNER JOIN ${database}.meters AS meters ON sessions.kind = meters.kind
    WHERE meters.measures = 'session' AND (sessions.number != '' OR NOT meters.with_number)
        AND started_at < {as_of:DateTime64(3, 'UTC')} AND started_at < {to:DateTime64(3, 'UTC')}
)
WHERE begun > 0
GROUP BY project, meter, hour;
