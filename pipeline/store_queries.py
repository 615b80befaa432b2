"""The longer questions to the store, as constant SQL: what may have changed, and which rooms are open."""

from typing import Final

CHANGES: Final = """
SELECT if(count() = 0, {never_ms:Int64}, toUnixTimestamp64Milli(min(earliest))), toUnixTimestamp64Milli(now64(3))
FROM changes(since = {since:DateTime64(3, 'UTC')}, after = {after:DateTime64(3, 'UTC')},
    until = {until:DateTime64(3, 'UTC')}, orphan_after_ms = {orphan_after_ms:UInt64})
"""
OPEN_ROOMS: Final = """
WITH open AS
(
    SELECT DISTINCT project, room
    FROM session_timelines(
        as_of = {never:DateTime64(3, 'UTC')}, orphan_after_ms = 0, active_since = '1970-01-01 00:00:00', project = '')
    WHERE disconnected_at = {never:DateTime64(3, 'UTC')} AND room_ended_at = {never:DateTime64(3, 'UTC')}
)
SELECT project, room, sessions, ends_ms, room_started_at_ms
FROM
(
    SELECT project, room, groupArray(facts) AS sessions
    FROM
    (
        SELECT project, room, (
            session, max(kind), max(number), max(agent), max(identity), max(region),
            toUnixTimestamp64Milli(min(connected_at)), toUnixTimestamp64Milli(min(begun_at)),
            toUnixTimestamp64Milli(min(disconnected_at)), toUnixTimestamp64Milli(max(last_seen)),
            toUnixTimestamp64Milli(max(absent_at)), max(bytes_in), max(bytes_out),
            groupUniqArrayArray(sources)) AS facts
        FROM session_facts
        WHERE (project, room) IN (SELECT project, room FROM open)
        GROUP BY project, room, session
    )
    GROUP BY project, room
) AS found
LEFT JOIN
(
    SELECT
        project, room, arrayMap(end -> toUnixTimestamp64Milli(end), groupUniqArrayArray(ends)) AS ends_ms,
        toUnixTimestamp64Milli(max(started_at)) AS room_started_at_ms
    FROM room_facts
    GROUP BY project, room
) AS rooms
USING (project, room)
"""
