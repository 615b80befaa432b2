-- What analysts, dashboards, the console and notebooks ask: views with names and columns that stay, each column with a
-- comment. `SHOW CREATE VIEW` shows them, and so does schemas/clickhouse/COOKBOOK.md, with a question for each view.
--
-- Two kinds, by what they stand on:
-- - what was emitted for billing (`rollups`): plain views. A WHERE on project, meter, hour, day or month reaches the
--   table, which is small: a month of all projects is read at once.
-- - facts of sessions and of single usage events, computed when they are read: parameterised views, so that only what
--   was asked for is read. `project` = '' means every project that the reader may see, `as_of` is mostly now64(3), and
--   whatever has no value yet is NULL, never a sentinel. Ask for one project and some days; for months ask the rollups.
-- All times are UTC; [from, to) includes `from` and excludes `to`.

-- After how much silence an open session is an orphan (R9), as `migrate` was last told: the newest row is in force.
-- Views cannot see settings, and a number typed into each query would sooner or later differ from the emitter's.
-- Engine: a repeated insert is harmless. Sorted by the moment; few rows.
CREATE TABLE IF NOT EXISTS ${database}.rules ${on_cluster}
(
    since DateTime64(3, 'UTC'),
    orphan_after_ms UInt64
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY since;

-- What holds until `migrate` is told something else: the default of ORPHAN_AFTER_MS.
INSERT INTO ${database}.rules VALUES ('1970-01-01 00:00:00', 86400000);

-- Every revision ever emitted, as billing was told.
CREATE OR REPLACE VIEW ${database}.v_rollups ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    meter LowCardinality(String) COMMENT 'what is measured; the view meters has unit and increment',
    hour DateTime64(3, 'UTC') COMMENT 'start of the hour, UTC',
    revision UInt32 COMMENT '1 is the first emission of the hour, each correction is one more',
    quantity Decimal(38, 9) COMMENT 'usage of the hour in units of the meter, as of this revision',
    quantity_open Decimal(38, 9) COMMENT 'the part of it by sessions that were open then, and can still shrink',
    delta Decimal(38, 9) COMMENT 'change since the revision before; the deltas of an hour add up to its newest quantity',
    increments Int64 COMMENT 'quantity in billed increments of the meter, exact',
    sessions UInt64 COMMENT 'sessions (or events, numbers) with usage in the hour; not additive over hours',
    status LowCardinality(String) COMMENT 'open while a part of it is, else settled',
    as_of DateTime64(3, 'UTC') COMMENT 'the moment for which it was computed',
    emitted_at DateTime64(3, 'UTC') COMMENT 'when it was stored',
    id UUID COMMENT 'id of the rollup on the topic usage.rollups'
)
COMMENT 'Every revision of every hour that was emitted. Stands on: rollups.'
AS SELECT
    project, meter, hour, revision, quantity, quantity_open, delta, increments, sessions, status, as_of,
    ingested_at AS emitted_at, id
FROM ${database}.rollups FINAL;

-- The newest revision of every emitted hour.
CREATE OR REPLACE VIEW ${database}.v_usage_hourly ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    meter LowCardinality(String) COMMENT 'what is measured; the view meters has unit and increment',
    hour DateTime64(3, 'UTC') COMMENT 'start of the hour, UTC',
    quantity Decimal(38, 9) COMMENT 'usage of the hour in units of the meter',
    quantity_open Decimal(38, 9) COMMENT 'the part of it by sessions that were open then, and can still shrink',
    increments Int64 COMMENT 'quantity in billed increments of the meter, exact',
    sessions UInt64 COMMENT 'sessions (or events, numbers) with usage in the hour; not additive over hours',
    revision UInt32 COMMENT '1, or more where the hour was corrected',
    corrected Decimal(38, 9) COMMENT 'what corrections changed: newest quantity less the first one emitted',
    as_of DateTime64(3, 'UTC') COMMENT 'the moment for which it was computed'
)
COMMENT 'Usage by project, meter and hour, as billing was last told. Stands on: rollups. For hours not emitted yet: v_usage_live.'
AS SELECT
    project, meter, hour, newest.1 AS quantity, newest.2 AS quantity_open, newest.3 AS increments,
    newest.4 AS sessions, newest.5 AS revision, quantity - first_quantity AS corrected, newest.6 AS as_of
FROM
(
    SELECT
        project, meter, hour,
        argMax((rollups.quantity, rollups.quantity_open, rollups.increments, rollups.sessions, rollups.revision,
            rollups.as_of), rollups.revision) AS newest,
        argMin(rollups.quantity, rollups.revision) AS first_quantity
    FROM ${database}.rollups
    GROUP BY project, meter, hour
);

-- The same by day: the deltas of an hour add up to its newest quantity (R17), so nothing has to be looked up.
CREATE OR REPLACE VIEW ${database}.v_usage_daily ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    meter LowCardinality(String) COMMENT 'what is measured; the view meters has unit and increment',
    day Date COMMENT 'the day, UTC',
    quantity Decimal(38, 9) COMMENT 'usage of the day in units of the meter',
    increments Int64 COMMENT 'quantity in billed increments of the meter, exact',
    corrected Decimal(38, 9) COMMENT 'the part of it that corrections changed after the first emission of an hour',
    hours UInt64 COMMENT 'hours of the day with a rollup'
)
COMMENT 'Usage by project, meter and day, as billing was last told. Stands on: rollups.'
AS SELECT
    project, meter, toDate(hour) AS day, sum(delta) AS quantity, sum(increments_delta) AS increments,
    sumIf(delta, revision > 1) AS corrected, uniqExact(hour) AS hours
FROM ${database}.rollups FINAL
GROUP BY project, meter, day;

-- Who has ever been billed anything.
CREATE OR REPLACE VIEW ${database}.v_projects ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    meters Array(LowCardinality(String)) COMMENT 'meters with usage, in the order of their names',
    first_hour DateTime64(3, 'UTC') COMMENT 'first hour with a rollup',
    last_hour DateTime64(3, 'UTC') COMMENT 'last hour with a rollup',
    hours UInt64 COMMENT 'hours with a rollup',
    corrections UInt64 COMMENT 'revisions after the first of an hour'
)
COMMENT 'One row per project that was ever billed anything. Stands on: rollups.'
AS SELECT
    project, arraySort(groupUniqArray(meter)) AS meters, min(hour) AS first_hour, max(hour) AS last_hour,
    uniqExact(hour) AS hours, countIf(revision > 1) AS corrections
FROM ${database}.rollups FINAL
GROUP BY project;

-- Invoices without their documents.
CREATE OR REPLACE VIEW ${database}.v_invoices ${on_cluster}
(
    number UInt64 COMMENT 'number of the invoice, without gaps',
    project String COMMENT 'who is billed',
    month LowCardinality(String) COMMENT 'the calendar month billed, as 2026-09',
    currency LowCardinality(String) COMMENT 'ISO 4217',
    total Decimal(38, 3) COMMENT 'the amount, in the currency',
    as_of DateTime64(3, 'UTC') COMMENT 'the moment for which it was computed',
    issued_at DateTime64(3, 'UTC') COMMENT 'when it was issued'
)
COMMENT 'Issued invoices; a month may have several, since later corrections become adjustments. Stands on: invoices.'
AS SELECT number, project, month, currency, total, as_of, issued_at
FROM ${database}.invoices;

-- What operators changed by hand.
CREATE OR REPLACE VIEW ${database}.v_amendments ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    room String COMMENT 'room id',
    session String COMMENT 'session id',
    epoch UInt64 COMMENT 'the highest epoch of a session is in force',
    is_void Bool COMMENT 'the session is not billed at all',
    started_at Nullable(DateTime64(3, 'UTC')) COMMENT 'start that takes the place of the observed one; NULL: as observed',
    ended_at Nullable(DateTime64(3, 'UTC')) COMMENT 'end that takes the place of the observed one; NULL: as observed',
    actor String COMMENT 'who',
    reason String COMMENT 'why'
)
COMMENT 'Amendments by operators (R12), all of them. Stands on: amendments.'
AS SELECT
    project, room, session, epoch, is_void,
    nullIf(amendments.started_at, toDateTime64('2200-01-01 00:00:00', 3, 'UTC')) AS started_at,
    nullIf(amendments.ended_at, toDateTime64('2200-01-01 00:00:00', 3, 'UTC')) AS ended_at,
    actor, reason
FROM ${database}.amendments FINAL;

-- The event log without its payloads.
CREATE OR REPLACE VIEW ${database}.v_events ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed; empty where the input was no event',
    room String COMMENT 'room id, if the event names one',
    session String COMMENT 'session id, if the event names one',
    type LowCardinality(String) COMMENT 'type of the event, for example session.connected',
    time DateTime64(3, 'UTC') COMMENT 'when it happened, as its producer says',
    broker_time DateTime64(3, 'UTC') COMMENT 'when the broker took it; filter by it, a day is a partition',
    disposition LowCardinality(String) COMMENT 'accepted, ignored, or the reason for which it is a dead letter',
    source LowCardinality(String) COMMENT 'who sent it',
    id String COMMENT 'id of the event, unique for its source',
    topic LowCardinality(String) COMMENT 'Kafka topic',
    partition UInt32 COMMENT 'Kafka partition',
    offset UInt64 COMMENT 'Kafka offset'
)
COMMENT 'Every input of the last 60 days and what became of it. Stands on: events.'
AS SELECT project, room, session, type, time, broker_time, disposition, source, id, topic, partition, offset
FROM ${database}.events FINAL;

-- Sessions that began in a span of time. The rooms of these sessions are looked up first, by what any row says of a
-- start; of a room all is read, because a row left out could be the one that knows a session's end.
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
FROM ${database}.session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, active_since = '1970-01-01 00:00:00', project = {project:String},
    orphan_after_ms = (SELECT argMax(orphan_after_ms, since) FROM ${database}.rules)) AS timelines
WHERE started_at >= {from:DateTime64(3, 'UTC')} AND started_at < {to:DateTime64(3, 'UTC')}
    AND started_at < {as_of:DateTime64(3, 'UTC')}
    AND (project, room) IN
    (
        SELECT project, room FROM ${database}.session_facts
        WHERE ({project:String} = '' OR project = {project:String}) AND latest_at >= {from:DateTime64(3, 'UTC')}
            AND ((connected_at >= {from:DateTime64(3, 'UTC')} AND connected_at < {to:DateTime64(3, 'UTC')})
                OR (begun_at >= {from:DateTime64(3, 'UTC')} AND begun_at < {to:DateTime64(3, 'UTC')}))
        UNION ALL
        SELECT project, room FROM ${database}.amendments
        WHERE ({project:String} = '' OR project = {project:String})
    );

-- What ended in a span of time and is not billed: it never connected, or an operator voided it.
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
FROM ${database}.session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, active_since = '1970-01-01 00:00:00', project = {project:String},
    orphan_after_ms = 0) AS timelines
WHERE (voided OR end_without_start)
    AND disconnected_at >= {from:DateTime64(3, 'UTC')} AND disconnected_at < {to:DateTime64(3, 'UTC')}
    AND (project, room) IN
    (
        SELECT project, room FROM ${database}.session_facts
        WHERE ({project:String} = '' OR project = {project:String}) AND latest_at >= {from:DateTime64(3, 'UTC')}
            AND disconnected_at >= {from:DateTime64(3, 'UTC')} AND disconnected_at < {to:DateTime64(3, 'UTC')}
    );

-- Sessions that are open as of a moment. Orphans are not: their end is presumed.
CREATE OR REPLACE VIEW ${database}.v_open_sessions ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    room String COMMENT 'room id',
    session String COMMENT 'session id',
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
FROM ${database}.session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, active_since = {as_of:DateTime64(3, 'UTC')}, project = {project:String},
    orphan_after_ms = (SELECT argMax(orphan_after_ms, since) FROM ${database}.rules)) AS timelines
WHERE timelines.is_open AND started_at < {as_of:DateTime64(3, 'UTC')};

-- Usage by hour from the facts: hours that are not emitted yet, and the one that is running.
CREATE OR REPLACE VIEW ${database}.v_usage_live ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    meter String COMMENT 'what is measured; the view meters has unit and increment',
    hour DateTime64(3, 'UTC') COMMENT 'start of the hour, UTC',
    quantity Decimal(38, 9) COMMENT 'usage of the hour in units of the meter, as of the moment',
    quantity_open Decimal(38, 9) COMMENT 'the part of it by open sessions, which can still shrink',
    increments Int64 COMMENT 'quantity in billed increments of the meter, exact',
    sessions UInt64 COMMENT 'sessions (or events, numbers) with usage in the hour; not additive over hours'
)
COMMENT 'Usage by project, meter and hour as of a moment, computed anew: for the last hours. Parameters: project, from, to, as_of. Stands on: facts.'
AS SELECT
    project, meter, hour,
    toDecimal128(toDecimal256(usage.increments, 9) * meters.increment / meters.unit_size, 9) AS quantity,
    toDecimal128(toDecimal256(usage.increments_open, 9) * meters.increment / meters.unit_size, 9) AS quantity_open,
    usage.increments AS increments, sessions
FROM ${database}.usage_hourly(
    as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
    project = {project:String},
    orphan_after_ms = (SELECT argMax(orphan_after_ms, since) FROM ${database}.rules)) AS usage
INNER JOIN ${database}.meters AS meters ON usage.meter = meters.name;

-- Whose discrete usage it is, event by event.
CREATE OR REPLACE VIEW ${database}.v_attribution ${on_cluster}
(
    project LowCardinality(String) COMMENT 'who is billed',
    meter String COMMENT 'what is measured; the view meters has unit and increment',
    hour DateTime64(3, 'UTC') COMMENT 'start of the hour in which it counts, UTC',
    source LowCardinality(String) COMMENT 'who reported it',
    id String COMMENT 'id of the usage event, unique for its source',
    model String COMMENT 'model; empty if the event says none',
    endpoint String COMMENT 'endpoint; empty if the event says none',
    team String COMMENT 'team; empty if the event says none',
    key String COMMENT 'name of the API key; empty if the event says none',
    status String COMMENT 'status; empty if the event says none',
    latency_ms Int64 COMMENT 'latency in ms; 0 if the event says none',
    quantity Decimal(38, 9) COMMENT 'usage in units of the meter',
    increments Int64 COMMENT 'quantity in billed increments of the meter, exact'
)
COMMENT 'Discrete usage (tokens, characters, ...) in [from, to), by model, endpoint, team and key. Parameters: project, from, to, as_of. Stands on: facts.'
AS SELECT
    project, meter, hour, source, id, toString(usage.model) AS model, toString(usage.endpoint) AS endpoint,
    toString(usage.team) AS team, toString(usage.key) AS key, toString(usage.status) AS status,
    toInt64(usage.latency_ms) AS latency_ms,
    toDecimal128(toDecimal256(usage.increments, 9) * meters.increment / meters.unit_size, 9) AS quantity,
    toInt64(usage.increments) AS increments
FROM ${database}.attributed_usage(
    as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
    project = {project:String}) AS usage
INNER JOIN ${database}.meters AS meters ON usage.meter = meters.name;
