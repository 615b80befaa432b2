-- Every invoice that was issued, as the document it is: never changed, never deleted.
--
-- Numbers without gaps: an invoice is one row, written in one insert together with its number, which is the one after
-- the last. The number is also the insert's deduplication token, so of two issuers with the same number the table takes
-- the first and drops the second, which reads what was taken and goes on to the next number. Killed anywhere, there is
-- either the whole invoice or no number either.
--
-- Why this engine: no row replaces another, and this one keeps the tokens of the last inserts. The windows are as long
-- as an issuer could be asleep between reading the last number and writing the next.
-- Why this sort key: the numbers are read in their order, to find the last and to prove that none is missing.
CREATE TABLE IF NOT EXISTS ${database}.invoices ${on_cluster}
(
    number UInt64,
    project String,
    month LowCardinality(String),
    currency LowCardinality(String),
    total Decimal(38, 3),
    as_of DateTime64(3, 'UTC'),
    document String,
    issued_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ${replicated}MergeTree
ORDER BY number
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 31536000;
