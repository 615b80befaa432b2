-- The same questions, planned in half the time: every question about usage is planned anew, and on little data that is
-- nearly all that it costs. ClickHouse writes an alias out wherever it is used, so that one used in another and that in
-- a third grows threefold; and it plans what stands in a view twice, once for its columns and once for its rows. So what
-- is computed of a session has a layer of its own for what the next one needs, and billing asks one view less.
-- Views have no engine and no order of their own; no table changes.

-- In place of the view of 0020, with the same rows and columns.
CREATE OR REPLACE VIEW ${database}.timelines_between ${on_cluster} AS
WITH toDateTime64('2200-01-01 00:00:00', 3, 'UTC') AS never
SELECT
    project, room, session, kind, number, agent, identity, region,
    connected_at, begun_at, disconnected_at, last_seen, absent_at, bytes_in, bytes_out, sources,
    room_ended_at, started_at, amendment.1 > 0 AS amended, amendment.2 AS voided,
    (NOT has_started) AND disconnected_at < never AND NOT amendment.2 AS end_without_start,
    has_started AND connected_at = never AND amendment.3 = never AS start_inferred,
    end_presumed,
    has_started AND end_at < started_at AS clock_skew,
    has_started AND known_end_at = never AND NOT end_presumed AS is_open,
    greatest(started_at, end_at) AS ended_at
FROM
(
    SELECT *, if(end_presumed, last_seen, known_end_at) AS end_at
    FROM
    (
        SELECT
            *,
            started_at < toDateTime64('2200-01-01 00:00:00', 3, 'UTC') AS has_started,
            has_started AND known_end_at = toDateTime64('2200-01-01 00:00:00', 3, 'UTC') AND (
                (gone_at > started_at AND gone_at >= last_seen)
                OR toUnixTimestamp64Milli(last_seen)
                    <= toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64})
            ) AS end_presumed
        FROM
        (
            WITH
                toDateTime64('2200-01-01 00:00:00', 3, 'UTC') AS never,
                (
                    SELECT mapFromArrays(groupArray(source), groupArray(restarted_at))
                    FROM
                        (SELECT source, max(restarted_at) AS restarted_at FROM ${database}.server_facts GROUP BY source)
                ) AS restarts,
                absent_at > started_at AND absent_at >= last_seen AS is_absent
            SELECT
                sessions.*,
                greatest(room_started_at, absent_at, arrayMax(arrayMap(source -> restarts[source], sources))) AS gone_at,
                if(end_at = toDateTime64(0, 3, 'UTC') OR (is_absent AND end_at > absent_at), never, end_at)
                    AS room_ended_at,
                if(amendment.4 < never, amendment.4, least(disconnected_at, room_ended_at)) AS known_end_at
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
                        AND ({seen_from:DateTime64(3, 'UTC')} <= toDateTime64(0, 3, 'UTC')
                            OR (project, room) IN (SELECT project, room FROM ${database}.rooms_between(
                                seen_from = {seen_from:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
                                ended_from = {ended_from:DateTime64(3, 'UTC')}, project = {project:String})))
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
                    AND ({seen_from:DateTime64(3, 'UTC')} <= toDateTime64(0, 3, 'UTC')
                        OR (project, room) IN (SELECT project, room FROM ${database}.rooms_between(
                            seen_from = {seen_from:DateTime64(3, 'UTC')}, until = {until:DateTime64(3, 'UTC')},
                            ended_from = {ended_from:DateTime64(3, 'UTC')}, project = {project:String})))
                GROUP BY project, room
            ) AS rooms
            ON sessions.project = rooms.project AND sessions.room = rooms.room AND sessions.started_at <= rooms.end_at
        )
    )
);

-- In place of the view of 0009, with the same rows and columns: increments of every project, meter and hour as of a
-- moment, of all that is metered (R1, R8, R13 to R16). First those of connected time: what bills follow from are sessions
-- that may have usage at or after `from`, as in `session_timelines`.
CREATE OR REPLACE VIEW ${database}.usage_hourly ${on_cluster} AS
SELECT
    project, meter, fromUnixTimestamp64Milli(hour_number * 3600000, 'UTC') AS hour,
    sum(begun) AS increments, sumIf(begun, is_open) AS increments_open, count() AS sessions
FROM
(
    SELECT
        project, meter, hour_number, is_open,
        least(total, greatest(0, intDiv((hour_number + 1) * 3600000 - started_ms + increment - 1, increment)))
            - least(total, greatest(0, intDiv(hour_number * 3600000 - started_ms + increment - 1, increment))) AS begun
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
        FROM ${database}.timelines_between(
            as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64}, project = {project:String},
            seen_from = fromUnixTimestamp64Milli(greatest(0, least(
                toUnixTimestamp64Milli({from:DateTime64(3, 'UTC')}),
                toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64}))), 'UTC'),
            ended_from = {from:DateTime64(3, 'UTC')}, until = '2200-01-01 00:00:00') AS sessions
        INNER JOIN ${database}.meters AS meters ON sessions.kind = meters.kind
        WHERE meters.measures = 'session' AND (sessions.number != '' OR NOT meters.with_number)
            AND started_at < {as_of:DateTime64(3, 'UTC')} AND started_at < {to:DateTime64(3, 'UTC')}
    )
)
WHERE begun > 0
GROUP BY project, meter, hour
UNION ALL
SELECT
    project, meter, hour, toInt64(least(sum(begun), toInt128(9223372036854775807))) AS increments,
    toInt64(0) AS increments_open, count() AS sessions
FROM
(
    SELECT project, meter, hour, begun FROM ${database}.counter_usage(
        as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
        project = {project:String})
    UNION ALL
    SELECT project, meter, hour, begun FROM ${database}.discrete_usage(
        as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
        project = {project:String})
    UNION ALL
    SELECT project, meter, hour, begun FROM ${database}.rental_usage(
        as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
        project = {project:String})
)
GROUP BY project, meter, hour;

DROP VIEW IF EXISTS ${database}.session_usage ${on_cluster};
