-- A third opinion on the bill, from the raw events alone: no view, no fact and no parsed column of ours is read, only
-- `events.payload`, whose JSON is taken apart anew. R1 to R9, R12 and R16 for meters of time, as of a moment.
--
-- It is written to be unlike the views: it keeps all times of a session in arrays in place of joined minima, lists each
-- begun minute as a row of its own in place of differences of rounded totals, and finds restarts by a join in place of
-- a map. Rows that are stored twice need no FINAL, because only extremes and sets of times are looked at (R10).
-- A session that feeds no meter comes with meter ''. What is void or never started has no row.
WITH
    toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) AS as_of_ms,
    toInt64(4611686018427387904) AS as_observed_ms,
    said AS
    (
        SELECT
            JSONExtractString(payload, 'type') AS type,
            JSONExtractString(payload, 'source') AS source,
            toUnixTimestamp64Milli(parseDateTime64BestEffort(JSONExtractString(payload, 'time'), 3, 'UTC')) AS at_ms,
            JSONExtractRaw(payload, 'data') AS data,
            JSONExtractString(data, 'project') AS project,
            JSONExtractString(data, 'room') AS room,
            JSONExtractString(data, 'session') AS session,
            toUnixTimestamp64Milli(
                parseDateTime64BestEffortOrNull(JSONExtractString(data, 'connected_at'), 3, 'UTC')) AS begun_ms,
            toUnixTimestamp64Milli(
                parseDateTime64BestEffortOrNull(JSONExtractString(data, 'started_at'), 3, 'UTC')) AS started_ms,
            toUnixTimestamp64Milli(
                parseDateTime64BestEffortOrNull(JSONExtractString(data, 'ended_at'), 3, 'UTC')) AS ended_ms,
            type LIKE 'session.%' AND type NOT IN ('session.absent', 'session.amended') AS is_sign
        FROM events
        WHERE payload != ''
    ),
    sessions AS
    (
        -- R2: a session is a connection's id in a room of a project, whoever is connected.
        SELECT
            project, room, session,
            maxIf(JSONExtractString(data, 'kind'), is_sign) AS kind,
            countIf(JSONExtractString(data, 'number') != ''
                AND type IN ('session.connected', 'session.disconnected')) > 0 AS has_number,
            groupArrayIf(at_ms, type = 'session.connected') AS connects,
            groupArrayIf(assumeNotNull(begun_ms),
                begun_ms IS NOT NULL AND type IN ('session.disconnected', 'session.sampled')) AS begins,
            groupArrayIf(at_ms, type IN ('session.disconnected', 'session.aborted')) AS ends,
            groupArrayIf(at_ms, is_sign) AS signs,
            groupArrayIf(at_ms, type = 'session.absent') AS absences,
            -- R12: the highest epoch; of equal ones the greatest in all it says, with 2^62 for what is left as observed.
            arraySort(groupArrayIf(
                (
                    JSONExtractUInt(data, 'epoch'), JSONExtractBool(data, 'void'),
                    ifNull(started_ms, as_observed_ms), ifNull(ended_ms, as_observed_ms),
                    JSONExtractString(data, 'actor'), JSONExtractString(data, 'reason')
                ),
                type = 'session.amended'))[-1] AS amended
        FROM said
        WHERE type LIKE 'session.%'
        GROUP BY project, room, session
    ),
    rooms AS
    (
        SELECT
            project, room,
            groupArrayIf(at_ms, type = 'room.ended') AS room_ends,
            groupArrayIf(ifNull(started_ms, at_ms), type = 'room.started') AS room_starts
        FROM said
        WHERE type LIKE 'room.%'
        GROUP BY project, room
    ),
    restarts AS
    (
        -- R9: a restart concerns the sessions that its server reported.
        SELECT project, room, session, groupArray(restarted_ms) AS restarted
        FROM (SELECT DISTINCT project, room, session, source FROM said WHERE is_sign) AS reported
        INNER JOIN (SELECT source, at_ms AS restarted_ms FROM said WHERE type = 'server.restarted') AS began
            ON reported.source = began.source
        GROUP BY project, room, session
    ),
    verdicts AS
    (
        SELECT
            project, room, session, kind, has_number,
            amended.1 > 0 AND amended.3 < as_observed_ms AS is_start_set,
            amended.1 > 0 AND amended.4 < as_observed_ms AS is_end_set,
            -- R3, R4, R12.
            amended.2 = 0 AND (is_start_set OR notEmpty(connects) OR notEmpty(begins)) AS has_started,
            multiIf(is_start_set, amended.3, notEmpty(connects), arrayMin(connects), arrayMin(begins)) AS start_ms,
            -- R9; and from when on its server did not know it, if nothing was seen of it from then on.
            if(empty(signs), 0, arrayMax(signs)) AS seen_ms,
            arrayFilter(gone_ms -> gone_ms > start_ms AND gone_ms >= seen_ms, absences) AS gone,
            -- R5: all room ends from the start on, so that the earliest of everything is the earliest of both; but what
            -- was gone before its room ended did not end with it.
            arrayConcat(ends, arrayFilter(
                end_ms -> end_ms >= start_ms AND (empty(gone) OR end_ms <= arrayMax(gone)), room_ends)) AS known_ends,
            arrayExists(
                began_ms -> began_ms > start_ms AND began_ms >= seen_ms,
                arrayConcat(room_starts, absences, restarted)) AS began_anew,
            began_anew OR as_of_ms - seen_ms >= toInt64({orphan_after_ms:UInt64}) AS is_orphan,
            NOT is_end_set AND empty(known_ends) AND NOT is_orphan AS is_open,
            -- R6, R8: an end before the start is no length, no end is now.
            greatest(start_ms, multiIf(
                is_end_set, amended.4, notEmpty(known_ends), arrayMin(known_ends), is_orphan, seen_ms, as_of_ms)) AS end_ms
        FROM sessions
        LEFT JOIN rooms USING (project, room)
        LEFT JOIN restarts USING (project, room, session)
        WHERE has_started AND start_ms < as_of_ms
    )
SELECT project, meter, room, session, hour_ms, count() AS minutes, countIf(is_open) AS minutes_open
FROM
(
    SELECT
        project, room, session, is_open,
        -- R16.
        arrayJoin(multiIf(
            kind = 'agent', ['agent_session_minutes'],
            kind = 'participant', ['webrtc_minutes'],
            kind = 'sip' AND has_number, ['telephony_minutes', 'phone_inbound_minutes'],
            kind = 'sip', ['telephony_minutes'],
            kind = 'ingress', ['stream_import_minutes'],
            kind = 'egress', ['recording_export_minutes'],
            [''])) AS meter,
        -- R1, R7: the minute that begins with the session, and every further one that has begun before its end.
        arrayJoin(arrayConcat(
            [start_ms],
            range(start_ms + 60000, greatest(start_ms + 60000, least(end_ms, as_of_ms)), 60000))) AS minute_ms,
        intDiv(minute_ms, 3600000) * 3600000 AS hour_ms
    FROM verdicts
)
GROUP BY project, meter, room, session, hour_ms
