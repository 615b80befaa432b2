-- Every revision of every hour ever emitted (R17): what billing was told.
--
-- Why this engine: a revision's content never changes (R19), so ReplacingMergeTree makes writing it twice harmless.
-- Why this sort key: it is what a rollup's id is derived from; the revisions of a cell lie together, newest last.
-- Why this partition: months of hours; a correction goes to the month it corrects, the emitter reads the newest one.
CREATE TABLE IF NOT EXISTS ${database}.rollups ${on_cluster}
(
    project LowCardinality(String),
    meter LowCardinality(String),
    hour DateTime64(3, 'UTC'),
    revision UInt32,
    id UUID,
    status LowCardinality(String),
    quantity Decimal(38, 9),
    quantity_open Decimal(38, 9),
    delta Decimal(38, 9),
    increments Int64,
    increments_open Int64,
    increments_delta Int64,
    sessions UInt64,
    as_of DateTime64(3, 'UTC'),
    watermark DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ${replicated}ReplacingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project, meter, hour, revision);

-- The tables of meters (R16) there have been: one whole table per `since`, written in one insert when it changes.
-- The newest is in force (view `meters`), so a meter that vanished from the file vanishes here too, without a delete.
-- Engine: a repeated insert of one table is harmless. Sorted by `since`, so that the newest table is one range.
CREATE TABLE IF NOT EXISTS ${database}.meter_tables ${on_cluster}
(
    since DateTime64(3, 'UTC'),
    name String,
    measures LowCardinality(String),
    kind LowCardinality(String),
    with_number Bool,
    unit LowCardinality(String),
    unit_size Int64,
    increment Int64
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (since, name);
