-- Hours whose emission waits because `roommeter audit` found that a conservation law does not hold there: the newest
-- row of a project and hour says whether it is held. Ingestion never waits.
--
-- Why this engine: a decision never changes, so ReplacingMergeTree makes writing it twice harmless; all of them stay,
-- they are the trail of what was held, when and why.
-- Why this sort key: an emitter asks for the newest decision of each project and hour.
CREATE TABLE IF NOT EXISTS ${database}.audit_holds ${on_cluster}
(
    project LowCardinality(String),
    hour DateTime64(3, 'UTC'),
    decided_at DateTime64(3, 'UTC'),
    is_held Bool,
    detail String
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (project, hour, decided_at);
