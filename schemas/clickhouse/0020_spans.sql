-- Questions over a span of the past read the facts of that span: of the sessions, and of their rooms too. Until now the
-- views for analysts named their rooms outside `session_timelines`, where the filter reached the sessions alone: an
-- ASOF join does not hand it on, and the ends of all rooms of the project were read for the sessions of one day.
-- And they are planned faster, which is nearly all that a question over little data costs (usage of an empty store, CPU
-- of 2026-11-28: 127 ms in place of 139 as the pipeline asks, and more for whoever asks with ClickHouse's defaults).
-- ClickHouse writes an alias out wherever it is used, so that one used in another and that in a third grows threefold;
-- and it plans what stands in a view twice, once for its columns and once for its rows. So what is computed of a session
-- has a layer of its own for what the next one needs, and usage asks one view less.
-- Views have no engine and no order of their own; no table changes.

-- Rooms of which a row is at or after `seen_from` and begins before `until`; rooms that ended at or after `ended_from`;
-- and all of which a session was amended, since an amendment can move one to any time. They are few. 2200-01-01 means
-- no bound by `until`, or no rooms by their ends. Whole rooms, never rows: a row left out could be the one that knows a
-- session's end. `latest_at` is the partition's column, so older months are not read.
-- A row begins with the earliest start or end that it names: so a session that began in the span, or ended in it, is
-- found by the row that says so. What only a later row without any of them says (a sign of life) has no bound.
CREATE OR REPLACE VIEW ${database}.rooms_between ${on_cluster} AS
SELECT project, room FROM ${database}.session_facts
WHERE ({project:String} = '' OR project = {project:String})
    AND latest_at >= {seen_from:DateTime64(3, 'UTC')}
    AND ({until:DateTime64(3, 'UTC')} >= toDateTime64('2200-01-01 00:00:00', 3, 'UTC')
        OR least(connected_at, begun_at, disconnected_at) < {until:DateTime64(3, 'UTC')})
UNION ALL
SELECT project, room FROM ${database}.room_facts
WHERE ({project:String} = '' OR project = {project:String})
    AND {ended_from:DateTime64(3, 'UTC')} < toDateTime64('2200-01-01 00:00:00', 3, 'UTC')
    AND arrayMax(ends) >= {ended_from:DateTime64(3, 'UTC')}
UNION ALL
SELECT project, room FROM ${database}.amendments
WHERE ({project:String} = '' OR project = {project:String});

-- Every session of these rooms with its start, end and flags as of a moment: pipeline/metering/timeline.py, in SQL (R3
-- to R9, R12), as `session_timelines` of 0007 was. `seen_from` = 0 (1970-01-01) means all rooms.
-- The ends of a room become rows, with 2200-01-01 always among them, so that ASOF finds the smallest end that is not
-- before the start (R5) without carrying a reused room's many ends along with each of its sessions.
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

-- What bills follow from, as in 0007: all sessions that may have usage at or after `active_since`, as they were seen
-- late enough, were not yet orphans as of the moment, or their room ended late enough.
CREATE OR REPLACE VIEW ${database}.session_timelines ${on_cluster} AS
SELECT *
FROM ${database}.timelines_between(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64}, project = {project:String},
    seen_from = fromUnixTimestamp64Milli(greatest(0, least(
        toUnixTimestamp64Milli({active_since:DateTime64(3, 'UTC')}),
        toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64}))), 'UTC'),
    ended_from = {active_since:DateTime64(3, 'UTC')}, until = '2200-01-01 00:00:00');

DROP VIEW IF EXISTS ${database}.active_rooms ${on_cluster};

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

-- In place of the view of 0013, with the same columns.
CREATE OR REPLACE VIEW ${database}.v_sessions ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    room String COMMENT 'room id',
    session String COMMENT 'session id: one connection of one participant',
    kind String COMMENT 'agent, participant, sip, ingress or egress',
    agent String COMMENT 'name of the agent; empty if none',
    number String COMMENT 'rented phone number it came in on; empty if none',
    identity String COMMENT 'the participant, as its server calls it; personal data, kept for a limited time',
    region String COMMENT 'region; empty if unknown',
    started_at DateTime64(3, 'UTC') COMMENT 'start that is billed (R3)',
    ended_at Nullable(DateTime64(3, 'UTC')) COMMENT 'end that is billed (R5, R9); NULL while it is open',
    duration_ms Int64 COMMENT 'from start to end, or to as_of while it is open',
    minutes Int64 COMMENT 'minutes begun, at least 1 (R1, R7): what meters with an increment of a minute bill',
    is_open Bool COMMENT 'no end is known or presumed: minutes still accrue',
    start_inferred Bool COMMENT 'its connect was lost; the start is what its disconnect or its server reported (R3)',
    end_presumed Bool COMMENT 'an orphan: the end is when it was last seen (R9)',
    clock_skew Bool COMMENT 'its end lay before its start; counted as zero-length (R6)',
    amended Bool COMMENT 'an operator changed it (R12)',
    bytes_in Int64 COMMENT 'bytes received, the largest counter reported',
    bytes_out Int64 COMMENT 'bytes sent, the largest counter reported',
    last_seen DateTime64(3, 'UTC') COMMENT 'newest sign of life',
    sources Array(String) COMMENT 'who reported it'
)
COMMENT 'Sessions that began in [from, to), as of a moment. Parameters: project, from, to, as_of. Stands on: facts.'
AS SELECT
    project, room, session, toString(timelines.kind) AS kind, toString(timelines.agent) AS agent,
    toString(timelines.number) AS number, toString(timelines.identity) AS identity,
    toString(timelines.region) AS region, started_at,
    if(is_open, NULL, timelines.ended_at) AS ended_at,
    toUnixTimestamp64Milli(least(timelines.ended_at, {as_of:DateTime64(3, 'UTC')}))
        - toUnixTimestamp64Milli(started_at) AS duration_ms,
    greatest(1, intDiv(duration_ms + 59999, 60000)) AS minutes,
    toBool(timelines.is_open OR timelines.ended_at > {as_of:DateTime64(3, 'UTC')}) AS is_open,
    toBool(start_inferred) AS start_inferred, toBool(end_presumed) AS end_presumed,
    toBool(clock_skew) AS clock_skew, toBool(amended) AS amended,
    toInt64(timelines.bytes_in) AS bytes_in, toInt64(timelines.bytes_out) AS bytes_out,
    toDateTime64(timelines.last_seen, 3, 'UTC') AS last_seen, sources
FROM ${database}.timelines_between(
    as_of = {as_of:DateTime64(3, 'UTC')}, seen_from = {from:DateTime64(3, 'UTC')}, until = {to:DateTime64(3, 'UTC')},
    ended_from = '2200-01-01 00:00:00', project = {project:String},
    orphan_after_ms = (SELECT argMax(orphan_after_ms, since) FROM ${database}.rules)) AS timelines
WHERE started_at >= {from:DateTime64(3, 'UTC')} AND started_at < {to:DateTime64(3, 'UTC')}
    AND started_at < {as_of:DateTime64(3, 'UTC')};

-- In place of the view of 0013, with the same columns.
CREATE OR REPLACE VIEW ${database}.v_unbilled_sessions ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who would be billed',
    room String COMMENT 'room id',
    session String COMMENT 'session id',
    kind String COMMENT 'agent, participant, sip, ingress or egress; empty if unknown',
    reason String COMMENT 'voided: by an operator (R12); end_without_start: no connect and no begin is known (R3, R4)',
    disconnected_at DateTime64(3, 'UTC') COMMENT 'its disconnect or abort',
    sources Array(String) COMMENT 'who reported it'
)
COMMENT 'Sessions that ended in [from, to) and are not billed, and why. Parameters: project, from, to, as_of. Stands on: facts.'
AS SELECT
    project, room, session, toString(timelines.kind) AS kind, if(voided, 'voided', 'end_without_start') AS reason,
    toDateTime64(timelines.disconnected_at, 3, 'UTC') AS disconnected_at, sources
FROM ${database}.timelines_between(
    as_of = {as_of:DateTime64(3, 'UTC')}, seen_from = {from:DateTime64(3, 'UTC')}, until = {to:DateTime64(3, 'UTC')},
    ended_from = '2200-01-01 00:00:00', project = {project:String}, orphan_after_ms = 0) AS timelines
WHERE (voided OR end_without_start)
    AND disconnected_at >= {from:DateTime64(3, 'UTC')} AND disconnected_at < {to:DateTime64(3, 'UTC')};

-- In place of the view of 0014, with the same columns. What is open and no orphan has a recent sign of life (R9).
CREATE OR REPLACE VIEW ${database}.v_open_sessions ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    room String COMMENT 'room id',
    session String COMMENT 'session id: one connection of one participant',
    kind String COMMENT 'agent, participant, sip, ingress or egress',
    agent String COMMENT 'name of the agent; empty if none',
    number String COMMENT 'rented phone number it came in on; empty if none',
    identity String COMMENT 'the participant, as its server calls it; personal data, kept for a limited time',
    region String COMMENT 'region; empty if unknown',
    started_at DateTime64(3, 'UTC') COMMENT 'start that is billed (R3)',
    duration_ms Int64 COMMENT 'from start to as_of',
    minutes Int64 COMMENT 'minutes begun so far, at least 1 (R8)',
    start_inferred Bool COMMENT 'its connect was lost; the start is what its server reported (R3)',
    amended Bool COMMENT 'an operator changed it (R12)',
    last_seen DateTime64(3, 'UTC') COMMENT 'newest sign of life',
    silent_ms Int64 COMMENT 'from last_seen to as_of',
    sources Array(String) COMMENT 'who reported it'
)
COMMENT 'Sessions open as of a moment. Parameters: project, as_of. Stands on: facts.'
AS SELECT
    project, room, session, toString(timelines.kind) AS kind, toString(timelines.agent) AS agent,
    toString(timelines.number) AS number, toString(timelines.identity) AS identity,
    toString(timelines.region) AS region, started_at,
    toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toUnixTimestamp64Milli(started_at) AS duration_ms,
    greatest(1, intDiv(duration_ms + 59999, 60000)) AS minutes,
    toBool(start_inferred) AS start_inferred, toBool(amended) AS amended,
    toDateTime64(timelines.last_seen, 3, 'UTC') AS last_seen,
    toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) - toUnixTimestamp64Milli(last_seen) AS silent_ms, sources
FROM ${database}.timelines_between(
    as_of = {as_of:DateTime64(3, 'UTC')}, until = '2200-01-01 00:00:00', ended_from = '2200-01-01 00:00:00',
    seen_from = fromUnixTimestamp64Milli(greatest(0, toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')})
        - toInt64((SELECT argMax(orphan_after_ms, since) FROM ${database}.rules))), 'UTC'),
    project = {project:String},
    orphan_after_ms = (SELECT argMax(orphan_after_ms, since) FROM ${database}.rules)) AS timelines
WHERE timelines.is_open AND started_at < {as_of:DateTime64(3, 'UTC')};
