-- What was ingested lately, so that the emitter need not read all that may have changed, but what may have.
--
-- Rows of one part were inserted together or merged from such, so the least and the greatest `ingested_at` of a granule
-- tell whether any of it is recent. Parts written before have no such index and are read whole until they are merged
-- or dropped: one column, a few bytes a row.
ALTER TABLE ${database}.events ${on_cluster} ADD INDEX IF NOT EXISTS ingested ingested_at TYPE minmax GRANULARITY 1;

-- From when on usage may have changed, since somebody looked at all of it as of `after` and looks again as of `until`:
-- the earliest time from which a subject can have usage, of every subject of which a row was ingested at or after
-- `since`, and of those that time alone changes. These are sessions whose silence became long enough to presume their
-- end (R9), and sessions that had not begun as of `after`, whose bytes did not count yet (R4). No rows: nothing changed.
-- Facts only fall or grow, so what a subject was billed from before is no earlier than what is known of it now. A
-- batch's events are inserted behind its facts, so whoever finds an event finds what it said. A room is looked at
-- whole, since its ends and starts say something of all its sessions.
CREATE OR REPLACE VIEW ${database}.changes ${on_cluster} AS
WITH
    toDateTime64('2200-01-01 00:00:00', 3, 'UTC') AS never,
    fromUnixTimestamp64Milli(greatest(0,
        toUnixTimestamp64Milli({after:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64})), 'UTC') AS silent_after,
    fromUnixTimestamp64Milli(greatest(0,
        toUnixTimestamp64Milli({until:DateTime64(3, 'UTC')}) - toInt64({orphan_after_ms:UInt64})), 'UTC') AS silent_until,
    touched AS (
        SELECT project, room FROM ${database}.events
        WHERE ingested_at >= {since:DateTime64(3, 'UTC')} AND room != ''
        UNION ALL
        SELECT project, room FROM ${database}.session_facts
        WHERE latest_at >= {after:DateTime64(3, 'UTC')}
            AND ((connected_at >= {after:DateTime64(3, 'UTC')} AND connected_at < {until:DateTime64(3, 'UTC')})
                OR (begun_at >= {after:DateTime64(3, 'UTC')} AND begun_at < {until:DateTime64(3, 'UTC')}))
        UNION ALL
        SELECT project, room FROM ${database}.amendments
        WHERE started_at >= {after:DateTime64(3, 'UTC')} AND started_at < {until:DateTime64(3, 'UTC')}),
    silent AS (
        SELECT project, room, session FROM ${database}.session_facts
        WHERE latest_at > silent_after AND last_seen > silent_after AND last_seen <= silent_until
            AND disconnected_at = never),
    reported AS (
        SELECT project, source, id FROM ${database}.events
        WHERE ingested_at >= {since:DateTime64(3, 'UTC')} AND type = 'usage.recorded')
-- Of numbers their own time; a server that restarted may have had any session.
SELECT if(type = 'server.restarted', toDateTime64(0, 3, 'UTC'), time) AS earliest FROM ${database}.events
WHERE ingested_at >= {since:DateTime64(3, 'UTC')} AND type != ''
UNION ALL
SELECT least(connected_at, begun_at) FROM ${database}.session_facts WHERE (project, room) IN touched
UNION ALL
SELECT started_at FROM ${database}.amendments WHERE (project, room) IN touched
UNION ALL
SELECT hour FROM ${database}.counter_facts WHERE (project, room) IN touched
UNION ALL
SELECT hour FROM ${database}.discrete_facts WHERE (project, source, id) IN reported
UNION ALL
SELECT min(least(connected_at, begun_at)) FROM ${database}.session_facts
WHERE (project, room, session) IN silent
GROUP BY project, room, session
HAVING max(last_seen) <= silent_until AND min(disconnected_at) = never
UNION ALL
SELECT started_at FROM ${database}.amendments WHERE (project, room, session) IN silent
UNION ALL
-- Another table of meters bills all anew.
SELECT toDateTime64(0, 3, 'UTC') FROM ${database}.meter_tables WHERE since >= {since:DateTime64(3, 'UTC')};
