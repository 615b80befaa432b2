-- What is reported rather than timed: bytes of sessions (R13), discrete usage (R14) and rented numbers (R15).
--
-- Why this engine: as for the sessions (0001), AggregatingMergeTree joins rows of one key by max and set union, so rows
-- that are repeated, stale or out of order change nothing (R10). Of each subject and hour the largest report is kept,
-- which is all that R1 asks for: the value by the end of any hour is the largest of that hour and of all before it.
-- Why this sort key: a session's key, then the hour: all that is needed of a session lies together.
-- Why this partition: months of hours, so that merging stays in a month and the newest ones are read alone. No TTL (R20).
CREATE TABLE IF NOT EXISTS ${database}.counter_facts ${on_cluster}
(
    project LowCardinality(String),
    room String,
    session String,
    hour DateTime64(3, 'UTC'),
    bytes_in SimpleAggregateFunction(max, Int64),
    bytes_out SimpleAggregateFunction(max, Int64)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project, room, session, hour);

-- Usage events, each named by (source, id) in its project, with whom it is ascribed to; '' and 0 say nothing.
-- Engine and partition as above. The sort key is the subject's name first, since it may report again in another hour,
-- or by mistake for another meter.
CREATE TABLE IF NOT EXISTS ${database}.discrete_facts ${on_cluster}
(
    project LowCardinality(String),
    source LowCardinality(String),
    id String,
    meter LowCardinality(String),
    hour DateTime64(3, 'UTC'),
    quantity SimpleAggregateFunction(max, Int64),
    room SimpleAggregateFunction(max, String),
    session SimpleAggregateFunction(max, String),
    model SimpleAggregateFunction(max, String),
    endpoint SimpleAggregateFunction(max, String),
    team SimpleAggregateFunction(max, String),
    key SimpleAggregateFunction(max, String),
    status SimpleAggregateFunction(max, String),
    latency_ms SimpleAggregateFunction(max, Int64)
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project, source, id, meter, hour);

-- Phone numbers: when each was acquired and released. One row per number, few; sets, as the ends of a room.
CREATE TABLE IF NOT EXISTS ${database}.number_facts ${on_cluster}
(
    project LowCardinality(String),
    number String,
    acquired SimpleAggregateFunction(groupUniqArrayArray, Array(DateTime64(3, 'UTC'))),
    released SimpleAggregateFunction(groupUniqArrayArray, Array(DateTime64(3, 'UTC')))
)
ENGINE = ${replicated}AggregatingMergeTree
ORDER BY (project, number);

-- Increments of every session's bytes by hour: pipeline/metering/counted.py, in SQL (R13), of sessions that connected
-- (R4) and are not void (R12). Each direction has its own maximum. A sum of two 64-bit counters needs more bits.
-- Of a session with a report at or after `from` all reports are read: earlier ones say what was billed before.
CREATE OR REPLACE VIEW ${database}.counter_usage ${on_cluster} AS
WITH
    toDateTime64('2200-01-01 00:00:00', 3, 'UTC') AS never,
    multiIf(
        newest.2, never,
        epochs > 0 AND newest.3 < never, newest.3,
        connected_at < never, connected_at,
        begun_at) AS started_at,
    arrayMap(n -> arrayReduce('max', arraySlice(reports.2, 1, n)), arrayEnumerate(reports)) AS largest_in,
    arrayMap(n -> arrayReduce('max', arraySlice(reports.3, 1, n)), arrayEnumerate(reports)) AS largest_out,
    arrayMap(
        (bytes_in, bytes_out) -> intDiv(
            toInt128(bytes_in) + toInt128(bytes_out) + meters.increment - 1, toInt128(meters.increment)),
        largest_in, largest_out) AS totals,
    arrayJoin(arrayZip(reports.1, totals, arrayPushFront(arrayPopBack(totals), toInt128(0)))) AS step
SELECT
    project, room, session, meters.name AS meter, step.1 AS hour, step.2 AS total, step.2 - step.3 AS begun
FROM
(
    SELECT project, room, session, arraySort(groupArray((hour, bytes_in, bytes_out))) AS reports
    FROM
    (
        SELECT project, room, session, hour, max(bytes_in) AS bytes_in, max(bytes_out) AS bytes_out
        FROM ${database}.counter_facts
        WHERE ({project:String} = '' OR project = {project:String})
            AND (hour >= {from:DateTime64(3, 'UTC')} OR (project, room, session) IN (
                SELECT project, room, session FROM ${database}.counter_facts
                WHERE hour >= {from:DateTime64(3, 'UTC')}
                    AND ({project:String} = '' OR project = {project:String})))
        GROUP BY project, room, session, hour
    )
    GROUP BY project, room, session
) AS reported
INNER JOIN
(
    SELECT project, room, session, min(connected_at) AS connected_at, min(begun_at) AS begun_at
    FROM ${database}.session_facts
    WHERE (project, room, session) IN (
        SELECT project, room, session FROM ${database}.counter_facts
        WHERE hour >= {from:DateTime64(3, 'UTC')} AND ({project:String} = '' OR project = {project:String}))
    GROUP BY project, room, session
) AS observed
USING (project, room, session)
LEFT JOIN
(
    SELECT
        project, room, session, count() AS epochs,
        argMax((epoch, is_void, started_at, ended_at), (epoch, is_void, started_at, ended_at, actor, reason)) AS newest
    FROM ${database}.amendments
    WHERE ({project:String} = '' OR project = {project:String})
    GROUP BY project, room, session
) AS amended
USING (project, room, session)
CROSS JOIN (SELECT name, increment FROM ${database}.meters WHERE measures = 'counter') AS meters
WHERE started_at < {as_of:DateTime64(3, 'UTC')} AND begun > 0 AND hour < {as_of:DateTime64(3, 'UTC')}
    AND hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')};

-- Increments of every usage event by hour, as above (R14). Sent for two meters it counts on the one of greater name.
CREATE OR REPLACE VIEW ${database}.discrete_usage ${on_cluster} AS
WITH
    arrayMap(n -> arrayReduce('max', arraySlice(reports.2, 1, n)), arrayEnumerate(reports)) AS largest,
    arrayMap(
        quantity -> intDiv(toInt128(quantity) + meters.increment - 1, toInt128(meters.increment)), largest) AS totals,
    arrayJoin(arrayZip(reports.1, totals, arrayPushFront(arrayPopBack(totals), toInt128(0)))) AS step
SELECT project, source, id, meters.name AS meter, step.1 AS hour, step.2 AS total, step.2 - step.3 AS begun
FROM
(
    SELECT
        project, source, id, max(meter) AS counts_on,
        arraySort(arrayMap(
            report -> (report.2, report.3), arrayFilter(report -> report.1 = counts_on, groupArray((meter, hour, most))))
        ) AS reports
    FROM
    (
        SELECT project, source, id, meter, hour, max(quantity) AS most
        FROM ${database}.discrete_facts
        WHERE ({project:String} = '' OR project = {project:String})
            AND (hour >= {from:DateTime64(3, 'UTC')} OR (project, source, id) IN (
                SELECT project, source, id FROM ${database}.discrete_facts
                WHERE hour >= {from:DateTime64(3, 'UTC')}
                    AND ({project:String} = '' OR project = {project:String})))
        GROUP BY project, source, id, meter, hour
    )
    GROUP BY project, source, id
) AS reported
INNER JOIN (SELECT name, increment FROM ${database}.meters WHERE measures = 'discrete') AS meters
    ON reported.counts_on = meters.name
WHERE begun > 0 AND hour < {as_of:DateTime64(3, 'UTC')}
    AND hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')};

-- One unit for every number and calendar month in which it is held, in the hour of that month in which it is first
-- held (R15): from each acquire until the earliest release that is not before it, and at the acquire in any case.
CREATE OR REPLACE VIEW ${database}.rental_usage ${on_cluster} AS
SELECT
    project, number, meters.name AS meter, toDateTime64(toStartOfHour(first_held), 3, 'UTC') AS hour,
    intDiv(toInt128(meters.unit_size) + meters.increment - 1, toInt128(meters.increment)) AS begun
FROM
(
    SELECT project, number, toYear(moment) AS year, toMonth(moment) AS month, min(moment) AS first_held
    FROM
    (
        SELECT
            project, number, held_from,
            makeDateTime64(toYear(held_from), toMonth(held_from), 1, 0, 0, 0, 0, 3, 'UTC') AS first_month,
            arrayMin(arrayFilter(at -> at >= held_from,
                arrayPushBack(released, toDateTime64('2200-01-01 00:00:00', 3, 'UTC')))) AS released_at,
            least(released_at, {as_of:DateTime64(3, 'UTC')}) AS held_until,
            arrayJoin(arrayConcat([held_from], arrayFilter(month -> month < held_until, arrayMap(
                number_of -> addMonths(first_month, number_of),
                range(1, greatest(0, dateDiff('month', held_from, held_until)) + 1))))) AS moment
        FROM
        (
            SELECT project, number, arrayJoin(times_acquired) AS held_from, released
            FROM
            (
                SELECT
                    project, number, groupUniqArrayArray(acquired) AS times_acquired,
                    groupUniqArrayArray(released) AS released
                FROM ${database}.number_facts
                WHERE ({project:String} = '' OR project = {project:String})
                GROUP BY project, number
            )
        )
        WHERE held_from < {as_of:DateTime64(3, 'UTC')}
    )
    GROUP BY project, number, year, month
) AS held
CROSS JOIN (SELECT name, unit_size, increment FROM ${database}.meters WHERE measures = 'rental') AS meters
WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')};

-- Increments of connected time of every project, meter and hour as of a moment: `usage_hourly` of 0004, as it was.
CREATE OR REPLACE VIEW ${database}.session_usage ${on_cluster} AS
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

-- Increments of every project, meter and hour as of a moment, of all that is metered: pipeline/metering/usage.py, in
-- SQL (R1, R8, R13 to R16). What is reported is never open. `sessions` counts subjects. Hours hold 64 bits: what one
-- has more is absurd, and shown as the most there is rather than stopping everybody's bill.
CREATE OR REPLACE VIEW ${database}.usage_hourly ${on_cluster} AS
SELECT project, meter, hour, increments, increments_open, sessions
FROM ${database}.session_usage(
    as_of = {as_of:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64},
    from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')}, project = {project:String})
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
