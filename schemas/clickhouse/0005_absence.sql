-- A server that is asked which sessions it has (`roommeter reconcile`) tells of those it does not know any more: the
-- fact `absent_at`, the newest moment of such an answer. It is no end: like a restart it only presumes one, where
-- nothing was seen of the session from then on (R9), and any later sign of life or real end takes its place.
-- Engine, sort key and partitions stay those of 0001.
ALTER TABLE ${database}.session_facts ${on_cluster}
    ADD COLUMN IF NOT EXISTS absent_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) DEFAULT 0 AFTER last_seen;

-- Every session with its start, end and flags as of a moment: pipeline/metering/timeline.py, in SQL (R3 to R9).
-- In place of the view of 0004.
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
    greatest(room_started_at, absent_at, arrayMax(arrayMap(source -> restarts[source], sources))) AS gone_at,
    if(end_at = toDateTime64(0, 3, 'UTC'), never, end_at) AS room_ended_at,
    least(disconnected_at, room_ended_at) AS known_end_at
SELECT
    project, room, session, kind, number, agent, identity, region,
    connected_at, begun_at, disconnected_at, last_seen, absent_at, bytes_in, bytes_out, sources,
    room_ended_at, started_at,
    started_at = never AND disconnected_at < never AS end_without_start,
    started_at < never AND connected_at = never AS start_inferred,
    started_at < never AND known_end_at = never AND (
        (gone_at > started_at AND gone_at >= last_seen)
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
