-- What is known of sessions, rooms and servers: pure facts. Starts, ends, presumptions and hours are computed
-- from them when they are read (0004), so any split of the events over workers gives the same bill (R10).
--
-- Why this engine: AggregatingMergeTree joins rows of one key by min, max and set union, which is R10's law. A row
-- that is repeated, stale, partial or out of order changes nothing. Readers group by the key and join again, so they
-- never depend on which rows have been merged yet, and never need FINAL.
-- Absent times are sentinels and not NULL: 2200-01-01 is the bottom of min, 1970-01-01 the bottom of max.
-- Why this sort key: the key of a session, project first, so that one project's or one room's sessions lie together.
-- Why this partition: `latest_at` is the newest time that a row names. Merging rows of one month stays in that month,
-- and "what may still have usage since March" skips all older months. A session seen in two months keeps a row in
-- each; readers group them. No TTL: a fact that is dropped would change bills already sent (R20).
CREATE TABLE IF NOT EXISTS ${database}.session_facts ${on_cluster}
(
    project LowCardinality(String),
    room String,
    session String,
    kind SimpleAggregateFunction(max, String),
    number SimpleAggregateFunction(max, String),
    agent SimpleAggregateFunction(max, String),
    identity SimpleAggregateFunction(max, String),
    region SimpleAggregateFunction(max, String),
    connected_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')) DEFAULT '2200-01-01 00:00:00.000',
    begun_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')) DEFAULT '2200-01-01 00:00:00.000',
    disconnected_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')) DEFAULT '2200-01-01 00:00:00.000',
    last_seen SimpleAggregateFunction(max, DateTime64(3, 'UTC')) DEFAULT 0,
    bytes_in SimpleAggregateFunction(max, Int64),
    bytes_out SimpleAggregateFunction(max, Int64),
    sources SimpleAggregateFunction(groupUniqArrayArray, Array(String)),
    ingested_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) DEFAULT now64(3),
    latest_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) MATERIALIZED greatest(
        last_seen,
        if(connected_at < toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), connected_at, last_seen),
        if(begun_at < toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), begun_at, last_seen),
        if(disconnected_at < toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), disconnected_at, last_seen))
)
ENGINE = ${replicated}AggregatingMergeTree
PARTITION BY toYYYYMM(latest_at)
ORDER BY (project, room, session);

-- One row per room id; a room id can be reused, so a room has a set of ends (R5).
-- Engine as above. The sort key is the prefix of the sessions' key: the two are read and joined by the same set of rooms.
CREATE TABLE IF NOT EXISTS ${database}.room_facts ${on_cluster}
(
    project LowCardinality(String),
    room String,
    ends SimpleAggregateFunction(groupUniqArrayArray, Array(DateTime64(3, 'UTC'))),
    started_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) DEFAULT 0
)
ENGINE = ${replicated}AggregatingMergeTree
ORDER BY (project, room);

-- One row per media server: its newest restart (R9). Few rows; engine as above, sorted by the server's name.
CREATE TABLE IF NOT EXISTS ${database}.server_facts ${on_cluster}
(
    source String,
    restarted_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) DEFAULT 0
)
ENGINE = ${replicated}AggregatingMergeTree
ORDER BY source;
