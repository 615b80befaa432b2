-- What operators said of sessions in place of what was observed, with who and why (R12): the trail, and all of it.
--
-- Why this engine: an amendment is a whole statement and never changes; ReplacingMergeTree makes writing the same one
-- twice harmless, and no two different ones replace each other, because every column is in the sort key.
-- Why this sort key: a session's key, then the order in which amendments outdo each other: the last one wins.
-- Absent times are 2200-01-01: left as observed. Kept for ever, like the facts.
CREATE TABLE IF NOT EXISTS ${database}.amendments ${on_cluster}
(
    project LowCardinality(String),
    room String,
    session String,
    epoch UInt64,
    is_void Bool,
    started_at DateTime64(3, 'UTC') DEFAULT '2200-01-01 00:00:00.000',
    ended_at DateTime64(3, 'UTC') DEFAULT '2200-01-01 00:00:00.000',
    actor String,
    reason String
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (project, room, session, epoch, is_void, started_at, ended_at, actor, reason);

-- Rooms that may have usage at or after `active_since`, as in 0004; and all of which a session was amended, since an
-- amendment can move one to any time. They are few.
CREATE OR REPLACE VIEW ${database}.active_rooms ${on_cluster} AS
SELECT project, room FROM ${database}.session_facts
WHERE ({project:String} = '' OR project = {project:String})
    AND latest_at >= fromUnixTimestamp64Milli(greatest(0, least(
        toUnixTimestamp64Milli({active_since:DateTime64(3, 'UTC')}),
        toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64}))), 'UTC')
UNION ALL
SELECT project, room FROM ${database}.room_facts
WHERE ({project:String} = '' OR project = {project:String})
    AND arrayMax(ends) >= {active_since:DateTime64(3, 'UTC')}
UNION ALL
SELECT project, room FROM ${database}.amendments
WHERE ({project:String} = '' OR project = {project:String});

-- Every session with its start, end and flags as of a moment: pipeline/metering/timeline.py, in SQL (R3 to R9, R12).
-- In place of the view of 0005: the end of its room says nothing of a session that was gone by then; an amendment's start and end take the place of what was observed, and a void session
-- has no start.
CREATE OR REPLACE VIEW ${database}.session_timelines ${on_cluster} AS
WITH
    toDateTime64('2200-01-01 00:00:00', 3, 'UTC') AS never,
    toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64}) AS silent_since_ms,
    (
        SELECT mapFromArrays(groupArray(source), groupArray(restarted_at))
        FROM (SELECT source, max(restarted_at) AS restarted_at FROM ${database}.server_facts GROUP BY source)
    ) AS restarts,
    greatest(room_started_at, absent_at, arrayMax(arrayMap(source -> restarts[source], sources))) AS gone_at,
    absent_at > started_at AND absent_at >= last_seen AS is_absent,
    if(end_at = toDateTime64(0, 3, 'UTC') OR (is_absent AND end_at > absent_at), never, end_at) AS room_ended_at,
    if(amendment.4 < never, amendment.4, least(disconnected_at, room_ended_at)) AS known_end_at
SELECT
    project, room, session, kind, number, agent, identity, region,
    connected_at, begun_at, disconnected_at, last_seen, absent_at, bytes_in, bytes_out, sources,
    room_ended_at, started_at, amendment.1 > 0 AS amended, amendment.2 AS voided,
    started_at = never AND disconnected_at < never AND NOT voided AS end_without_start,
    started_at < never AND connected_at = never AND amendment.3 = never AS start_inferred,
    started_at < never AND known_end_at = never AND (
        (gone_at > started_at AND gone_at >= last_seen)
        OR toUnixTimestamp64Milli(last_seen) <= silent_since_ms) AS end_presumed,
    if(end_presumed, last_seen, known_end_at) < started_at AND started_at < never AS clock_skew,
    started_at < never AND known_end_at = never AND NOT end_presumed AS is_open,
    greatest(started_at, if(end_presumed, last_seen, known_end_at)) AS ended_at
FROM
(
    SELECT
        observed.*,
        if(amended.epochs = 0,
            (toUInt64(0), false, toDateTime64('2200-01-01 00:00:00', 3, 'UTC'),
                toDateTime64('2200-01-01 00:00:00', 3, 'UTC')),
            amended.newest) AS amendment,
        multiIf(
            amendment.2, toDateTime64('2200-01-01 00:00:00', 3, 'UTC'),
            amendment.3 < toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), amendment.3,
            connected_at < toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), connected_at,
            begun_at) AS started_at
    FROM
    (
        SELECT
            project, room, session,
            max(kind) AS kind, max(number) AS number, max(agent) AS agent,
            max(identity) AS identity, max(region) AS region,
            min(connected_at) AS connected_at, min(begun_at) AS begun_at, min(disconnected_at) AS disconnected_at,
            max(last_seen) AS last_seen, max(absent_at) AS absent_at,
            max(bytes_in) AS bytes_in, max(bytes_out) AS bytes_out,
            groupUniqArrayArray(sources) AS sources
        FROM ${database}.session_facts
        WHERE ({project:String} = '' OR project = {project:String})
            AND ({active_since:DateTime64(3, 'UTC')} <= toDateTime64(0, 3, 'UTC')
                OR (project, room) IN (SELECT project, room FROM ${database}.active_rooms(
                    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
                    active_since = {active_since:DateTime64(3, 'UTC')}, project = {project:String})))
        GROUP BY project, room, session
    ) AS observed
    LEFT JOIN
    (
        SELECT
            project, room, session, count() AS epochs,
            argMax((epoch, is_void, started_at, ended_at),
                (epoch, is_void, started_at, ended_at, actor, reason)) AS newest
        FROM ${database}.amendments
        WHERE ({project:String} = '' OR project = {project:String})
        GROUP BY project, room, session
    ) AS amended
    USING (project, room, session)
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
