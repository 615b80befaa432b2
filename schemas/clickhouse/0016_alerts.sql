-- Alerts on anomalous usage, every revision of each: what was told to whoever is on call, and when.
--
-- Why this engine: a revision's content never changes, so ReplacingMergeTree makes writing it twice harmless.
-- Why this sort key: project first, as everywhere; the revisions of an alert lie together, the newest last. An alert
-- about the whole installation (dead letters, a silent media server) has no project.
-- Why this partition and TTL: months of onsets; alerts are few, and kept as long as the log that decides them, 400 days.
-- Absent times are 1970-01-01. Quantities are decimals of `unit`; `cost` is in `currency`, which is '' without a plan.
CREATE TABLE IF NOT EXISTS ${database}.alerts ${on_cluster}
(
    id UUID COMMENT 'The alert, from detector, project, meter, subject and onset alone; every revision has it',
    project LowCardinality(String) COMMENT 'Whose usage it is about; empty: the whole installation',
    meter LowCardinality(String) COMMENT 'The meter, where it is about one; else empty',
    detector LowCardinality(String) COMMENT 'Which detector raised it: infra/alerts.md has them all',
    severity LowCardinality(String) COMMENT 'info, warning or critical',
    subject String COMMENT 'The session, identity, media server or limit, where it is about one; else empty',
    status LowCardinality(String) COMMENT 'open or resolved',
    since DateTime64(3, 'UTC') COMMENT 'Onset: since when it has been so',
    updated_at DateTime64(3, 'UTC') COMMENT 'The moment as of which this revision was found',
    resolved_at DateTime64(3, 'UTC') DEFAULT 0 COMMENT 'The moment as of which it was over; 1970-01-01 while open',
    observed Decimal(38, 3) COMMENT 'What was found, in unit',
    expected Decimal(38, 3) COMMENT 'What the baseline had led to expect, in unit',
    unit LowCardinality(String) COMMENT 'session, percent, minute, event, ...',
    increments Int64 COMMENT 'Increments of the meter beyond the baseline so far: what it costs',
    cost Decimal(38, 3) COMMENT 'Those at list price, in currency',
    currency LowCardinality(String) COMMENT 'ISO 4217; empty where the project has no plan',
    message String COMMENT 'The alert in a sentence',
    look_at String COMMENT 'A command that shows more',
    evidence String COMMENT 'JSON: figures and names behind it, by detector',
    muted Bool COMMENT 'Whether somebody muted it: kept and shown, not sent to the webhook',
    revision UInt32 COMMENT '1 when raised, then one more with every change',
    ingested_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When this row was written'
)
ENGINE = ${replicated}ReplacingMergeTree
PARTITION BY toYYYYMM(since)
ORDER BY (project, detector, since, id, revision)
TTL toDateTime(since) + INTERVAL 400 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;

-- The newest revision of each alert: what is open now is `WHERE status = 'open'`.
CREATE OR REPLACE VIEW ${database}.current_alerts ${on_cluster} AS
SELECT
    id, project, meter, detector, severity, subject, status, since, updated_at, resolved_at,
    observed, expected, unit, increments, cost, currency, message, look_at, evidence, muted, revision
FROM ${database}.alerts
ORDER BY id, revision DESC
LIMIT 1 BY id;

-- Who muted what until when, and why: the newest row of project, detector and subject is in force, '' being any.
-- Engine: a decision never changes; all of them stay, as a trail. Sorted by what is looked up.
CREATE TABLE IF NOT EXISTS ${database}.alert_mutes ${on_cluster}
(
    project LowCardinality(String) COMMENT 'Whose alerts; empty: every project',
    detector LowCardinality(String) COMMENT 'Which detector; empty: every one',
    subject String COMMENT 'Which subject; empty: every one',
    decided_at DateTime64(3, 'UTC') COMMENT 'When it was decided',
    until DateTime64(3, 'UTC') COMMENT 'Until when; not after decided_at: no longer',
    actor String COMMENT 'Who decided',
    reason String COMMENT 'Why'
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (project, detector, subject, decided_at);
