-- A third opinion on what is reported rather than timed, from the raw events alone: R13 to R15, with R4 and R12, as of a
-- moment. Like sql_oracle.sql it reads only `events.payload`, and is written to be unlike the views: all reports of a
-- subject stay in one array, and every hour is asked anew how much there was by its end and by its begin.
WITH
    toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) AS as_of_ms,
    said AS
    (
        SELECT DISTINCT
            JSONExtractString(payload, 'type') AS type,
            JSONExtractString(payload, 'source') AS source,
            JSONExtractString(payload, 'id') AS id,
            parseDateTime64BestEffort(JSONExtractString(payload, 'time'), 3, 'UTC') AS at,
            toUnixTimestamp64Milli(at) AS at_ms,
            JSONExtractRaw(payload, 'data') AS data,
            JSONExtractString(data, 'project') AS project,
            JSONExtractString(data, 'room') AS room,
            JSONExtractString(data, 'session') AS session,
            toUnixTimestamp64Milli(
                parseDateTime64BestEffortOrNull(JSONExtractString(data, 'connected_at'), 3, 'UTC')) AS begun_ms,
            toUnixTimestamp64Milli(
                parseDateTime64BestEffortOrNull(JSONExtractString(data, 'started_at'), 3, 'UTC')) AS started_ms,
            toUnixTimestamp64Milli(
                parseDateTime64BestEffortOrNull(JSONExtractString(data, 'ended_at'), 3, 'UTC')) AS ended_ms
        FROM events
        WHERE payload != ''
    ),
    subjects AS
    (
        -- R13: bytes of sessions that have started; 0.01 GB. Three columns of a report: when, and two counters.
        SELECT
            project, 'data_transfer_gb' AS meter, 10000000 AS increment,
            groupArrayIf((at_ms, JSONExtractInt(data, 'bytes_in'), JSONExtractInt(data, 'bytes_out')),
                type IN ('session.sampled', 'session.disconnected')) AS reports,
            groupArrayIf(at_ms, type = 'session.connected') AS connects,
            groupArrayIf(assumeNotNull(begun_ms),
                begun_ms IS NOT NULL AND type IN ('session.disconnected', 'session.sampled')) AS begins,
            arraySort(groupArrayIf(
                (
                    JSONExtractUInt(data, 'epoch'), JSONExtractBool(data, 'void'), ifNull(started_ms, as_of_ms * 8),
                    ifNull(ended_ms, as_of_ms * 8), JSONExtractString(data, 'actor'), JSONExtractString(data, 'reason')
                ),
                type = 'session.amended'))[-1] AS amended,
            multiIf(
                amended.1 > 0 AND amended.3 != as_of_ms * 8, amended.3,
                notEmpty(connects), arrayMin(connects),
                notEmpty(begins), arrayMin(begins), as_of_ms) AS start_ms
        FROM said
        WHERE type LIKE 'session.%'
        GROUP BY project, room, session
        HAVING start_ms < as_of_ms AND amended.2 = 0
    ),
    used AS
    (
        -- R14: usage events by (source, id) in a project, on the greater of two meters.
        SELECT
            project, arrayMax(arrayMap(report -> report.1, told)) AS meter,
            transform(meter, ['recorded_audio_minutes', 'stt_seconds'], [60000, 1000], 1) AS increment,
            arrayMap(report -> (report.2, report.3, toInt64(0)), arrayFilter(report -> report.1 = meter, told)) AS reports
        FROM
        (
            SELECT
                project, source, id,
                groupArray((JSONExtractString(data, 'meter'), at_ms, JSONExtractInt(data, 'quantity'))) AS told
            FROM said
            WHERE type = 'usage.recorded'
            GROUP BY project, source, id
        )
    ),
    numbers AS
    (
        -- R15: every day on which a number is held, with the first moment of it.
        SELECT project, number, arrayJoin(arrayMap(day -> greatest(taken_ms, day * 86400000), range(
            intDiv(taken_ms, 86400000), intDiv(greatest(taken_ms, least(as_of_ms, back_ms) - 1), 86400000) + 1))) AS held_ms
        FROM
        (
            SELECT
                project, JSONExtractString(data, 'number') AS number,
                groupArrayIf(at_ms, type = 'number.released') AS given_back,
                arrayJoin(groupUniqArrayIf(at_ms, type = 'number.acquired' AND at_ms < as_of_ms)) AS taken_ms,
                arrayMin(arrayPushBack(arrayFilter(back_ms -> back_ms >= taken_ms, given_back), as_of_ms)) AS back_ms
            FROM said
            WHERE type LIKE 'number.%'
            GROUP BY project, number
        )
    )
SELECT project, meter, hour_ms, sum(upto - before) AS increments, count() AS subjects
FROM
(
    SELECT
        project, meter,
        arrayJoin(arrayDistinct(arrayMap(report -> intDiv(report.1, 3600000) * 3600000, reports))) AS hour_ms,
        arrayFilter(report -> report.1 < hour_ms + 3600000, reports) AS by_its_end,
        arrayFilter(report -> report.1 < hour_ms, reports) AS by_its_begin,
        intDiv(arrayMax(by_its_end.2) + arrayMax(by_its_end.3) + increment - 1, increment) AS upto,
        if(empty(by_its_begin), 0,
            intDiv(arrayMax(by_its_begin.2) + arrayMax(by_its_begin.3) + increment - 1, increment)) AS before
    FROM
    (
        SELECT project, meter, increment, reports FROM subjects
        UNION ALL SELECT project, meter, increment, reports FROM used
    )
    UNION ALL
    SELECT project, 'number_rental' AS meter, intDiv(min(held_ms), 3600000) * 3600000 AS hour_ms, [], [], 1, 0
    FROM numbers
    GROUP BY project, number, toYYYYMM(fromUnixTimestamp64Milli(held_ms, 'UTC'), 'UTC')
)
WHERE upto > before AND hour_ms < as_of_ms
GROUP BY project, meter, hour_ms
