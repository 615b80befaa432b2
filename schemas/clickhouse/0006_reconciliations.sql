-- Every question that `roommeter reconcile` asked a media server, and what came of it: why a session's end is presumed
-- (R9), and whether the server was asked at all. The events that followed from it are in `events`, by their source.
--
-- Why this engine: a pass never changes once it is over, so ReplacingMergeTree makes writing it twice harmless.
-- Why this sort key: one project's passes lie together, in the order of time; `source` names the server asked.
-- Why this partition and TTL: as the event log, passes are kept for as long as a bill may be disputed (R11).
CREATE TABLE IF NOT EXISTS ${database}.reconciliations ${on_cluster}
(
    project LowCardinality(String),
    source LowCardinality(String),
    asked_at DateTime64(3, 'UTC'),
    answered_at DateTime64(3, 'UTC'),
    outcome LowCardinality(String),
    rooms UInt64,
    rooms_silent UInt64,
    sessions_open UInt64,
    present UInt64,
    missing UInt64,
    absent UInt64,
    opened UInt64,
    detail String
)
ENGINE = ${replicated}ReplacingMergeTree
PARTITION BY toYYYYMM(asked_at)
ORDER BY (project, asked_at, source)
TTL toDateTime(asked_at) + INTERVAL 60 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;
