-- How long personal data is kept: the name of a participant 60 days after the newest time that its row says, like the
-- raw events (0002). '' is the bottom of the join, so a row that has lost the name joins with one that has not, and no
-- bill changes. Facts stay, since bills follow from them (R20), and rollups and invoices stay.
-- Longer or shorter: the same statement with another number of days, by hand, at any time; so for the table `events`.
ALTER TABLE ${database}.session_facts ${on_cluster}
    MODIFY COLUMN identity SimpleAggregateFunction(max, String) TTL toDateTime(latest_at) + INTERVAL 60 DAY;

-- What was erased, by whom and why (`roommeter erase`): the proof that somebody's wish was followed. `rows` says how
-- many rows of each table were deleted, or lost what is personal.
--
-- Why this engine: a trail is never changed, so ReplacingMergeTree makes writing it twice harmless.
-- Why this sort key: one project's erasures lie together. Kept for ever: it holds no more than the project's name.
CREATE TABLE IF NOT EXISTS ${database}.erasures ${on_cluster}
(
    project String,
    erased_at DateTime64(3, 'UTC'),
    scope LowCardinality(String),
    actor String,
    reason String,
    rows Map(String, UInt64)
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (project, erased_at);

-- In place of the view of 0013, with the same columns: each has its own aggregate, so that a question pays for those
-- alone that it names.
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
    project, meter, hour,
    argMax(rollups.quantity, rollups.revision) AS quantity,
    argMax(rollups.quantity_open, rollups.revision) AS quantity_open,
    argMax(rollups.increments, rollups.revision) AS increments,
    argMax(rollups.sessions, rollups.revision) AS sessions,
    max(rollups.revision) AS revision,
    argMax(rollups.quantity, rollups.revision) - argMin(rollups.quantity, rollups.revision) AS corrected,
    argMax(rollups.as_of, rollups.revision) AS as_of
FROM ${database}.rollups
GROUP BY project, meter, hour;

-- In place of the view of 0013, with the same columns: an open session that is no orphan has a sign of life that is
-- recent, and no row that knows an end of its own, so few rooms are looked at.
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
FROM ${database}.session_timelines(
    as_of = {as_of:DateTime64(3, 'UTC')}, active_since = '1970-01-01 00:00:00', project = {project:String},
    orphan_after_ms = (SELECT argMax(orphan_after_ms, since) FROM ${database}.rules)) AS timelines
WHERE timelines.is_open AND started_at < {as_of:DateTime64(3, 'UTC')}
    AND (project, room) IN
    (
        SELECT project, room FROM ${database}.session_facts
        WHERE ({project:String} = '' OR project = {project:String})
            AND disconnected_at >= '2200-01-01 00:00:00'
            AND latest_at >= fromUnixTimestamp64Milli(greatest(0,
                toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')})
                - toInt64((SELECT argMax(orphan_after_ms, since) FROM ${database}.rules))), 'UTC')
        UNION ALL
        SELECT project, room FROM ${database}.amendments
        WHERE ({project:String} = '' OR project = {project:String})
    );
