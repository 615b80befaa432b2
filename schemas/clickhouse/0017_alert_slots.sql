-- Counts by slots of time that detectors of anomalies compare: a slot has `slot_ms`, and they are numbered from `from_ms`.
-- Views have no engine and no order of their own; they read facts, which are joins, so what is repeated counts once.

-- Sessions of each project and kind by slot: how many began in it, how many were connected at any time of it.
CREATE OR REPLACE VIEW ${database}.activity_slots ${on_cluster} AS
SELECT project, kind, slot, countIf(slot = first_slot) AS connects, count() AS active
FROM
(
    SELECT
        project, kind,
        toUnixTimestamp64Milli(started_at) AS started_ms,
        greatest(started_ms, least(toUnixTimestamp64Milli(ended_at), {to_ms:Int64}) - 1) AS last_ms,
        if(started_ms < {from_ms:Int64}, -1, intDiv(started_ms - {from_ms:Int64}, {slot_ms:Int64})) AS first_slot,
        arrayJoin(range(
            greatest(0, first_slot), intDiv(last_ms - {from_ms:Int64}, {slot_ms:Int64}) + 1)) AS slot
    FROM ${database}.session_timelines(
        as_of = fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC'), orphan_after_ms = {orphan_after_ms:UInt64},
        active_since = fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC'), project = {project:String})
    WHERE started_ms < {to_ms:Int64} AND last_ms >= {from_ms:Int64} AND kind != ''
)
GROUP BY project, kind, slot;

-- Events of media servers by slot, as they arrived; what this installation says itself is none.
CREATE OR REPLACE VIEW ${database}.event_slots ${on_cluster} AS
SELECT
    source, intDiv(toUnixTimestamp64Milli(broker_time) - {from_ms:Int64}, {slot_ms:Int64}) AS slot, count() AS events
FROM ${database}.events
WHERE broker_time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
    AND broker_time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
    AND disposition = 'accepted' AND (startsWith(type, 'session.') OR startsWith(type, 'room.'))
    AND type NOT IN ('session.amended', 'session.absent') AND NOT startsWith(source, 'reconcile/')
GROUP BY source, slot;
