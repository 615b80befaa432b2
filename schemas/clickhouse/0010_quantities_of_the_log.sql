-- What the log already knew when counters, discrete usage and numbers were not metered yet, into the tables of 0009.
-- They are joins: doing it twice, or while a worker writes the same, changes nothing (R10), and nobody has to replay.
-- Engine, sort key and partitions stay those of 0009. Older than the log, only `roommeter replay` of files can tell.
INSERT INTO ${database}.counter_facts
SELECT
    project, room, session,
    fromUnixTimestamp64Milli(intDiv(toUnixTimestamp64Milli(time), 3600000) * 3600000, 'UTC') AS hour,
    max(JSONExtractInt(payload, 'data', 'bytes_in')) AS bytes_in,
    max(JSONExtractInt(payload, 'data', 'bytes_out')) AS bytes_out
FROM ${database}.events
WHERE disposition = 'accepted' AND type IN ('session.sampled', 'session.disconnected')
GROUP BY project, room, session, hour
HAVING bytes_in > 0 OR bytes_out > 0
SETTINGS max_partitions_per_insert_block = 0;

INSERT INTO ${database}.discrete_facts
SELECT
    project, source, id, JSONExtractString(payload, 'data', 'meter') AS meter,
    fromUnixTimestamp64Milli(intDiv(toUnixTimestamp64Milli(time), 3600000) * 3600000, 'UTC') AS hour,
    max(JSONExtractInt(payload, 'data', 'quantity')) AS quantity,
    max(JSONExtractString(payload, 'data', 'room')) AS room,
    max(JSONExtractString(payload, 'data', 'session')) AS session,
    max(JSONExtractString(payload, 'data', 'model')) AS model,
    max(JSONExtractString(payload, 'data', 'endpoint')) AS endpoint,
    max(JSONExtractString(payload, 'data', 'team')) AS team,
    max(JSONExtractString(payload, 'data', 'key')) AS key,
    max(JSONExtractString(payload, 'data', 'status')) AS status,
    max(JSONExtractInt(payload, 'data', 'latency_ms')) AS latency_ms
FROM ${database}.events
WHERE disposition = 'accepted' AND type = 'usage.recorded'
GROUP BY project, source, id, meter, hour
SETTINGS max_partitions_per_insert_block = 0;

INSERT INTO ${database}.number_facts
SELECT
    project, JSONExtractString(payload, 'data', 'number') AS number,
    groupUniqArrayIf(time, type = 'number.acquired') AS acquired,
    groupUniqArrayIf(time, type = 'number.released') AS released
FROM ${database}.events
WHERE disposition = 'accepted' AND type IN ('number.acquired', 'number.released')
GROUP BY project, number;
