-- The event log as it was processed, for disputes, audits and replays: every input with what became of it.
--
-- Why this engine: the same input has the same topic, partition and offset for ever, so ReplacingMergeTree makes
-- writing it twice harmless. Readers who count use FINAL.
-- Why this sort key: it names an input, and a partition's inputs lie in the order in which they were processed.
-- Why this partition: days by the broker's time, which never changes for an offset; a day is dropped whole by the TTL
-- when the correction window of 60 days is over (R11). The payload is most of the bytes, hence ZSTD.
CREATE TABLE IF NOT EXISTS ${database}.events ${on_cluster}
(
    topic LowCardinality(String),
    partition UInt32,
    offset UInt64,
    broker_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    ingested_at DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD),
    disposition LowCardinality(String),
    type LowCardinality(String),
    id String,
    source LowCardinality(String),
    time DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    project LowCardinality(String),
    room String,
    session String,
    payload String CODEC(ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree
PARTITION BY toYYYYMMDD(broker_time)
ORDER BY (topic, partition, offset)
TTL toDateTime(broker_time) + INTERVAL 60 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;

-- How far each partition has been processed (R18): written last of a batch, after the facts it vouches for.
-- Engine: a maximum, so that a repeated or older batch cannot move it back. One row per partition, sorted by it.
CREATE TABLE IF NOT EXISTS ${database}.progress ${on_cluster}
(
    topic LowCardinality(String),
    partition UInt32,
    next_offset SimpleAggregateFunction(max, UInt64),
    broker_time SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = ${replicated}AggregatingMergeTree
ORDER BY (topic, partition);
