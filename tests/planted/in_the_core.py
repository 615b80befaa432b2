"""Mistakes of the core: facts, minutes, rollups."""

from typing import Final

from tests.planted.bug import Bug

_PAGE: Final = "tests/test_metering_page.py::test_"
_LAWS: Final = "tests/metering/test_session_laws.py::test_"
_ROLLUP: Final = "tests/metering/test_rollup.py::test_"
_REPORTED: Final = "tests/test_metering_page_counted.py::test_"
CORE: Final = (
    Bug(
        "usage that is sent again is added up",
        "pipeline/metering/quantities.py",
        (
            (
                "Recorded._make(max(pair) for pair in both)",
                "Recorded._make(sum(pair) if type(pair[0]) is int else max(pair) for pair in both)",
            ),
        ),
        f"{_REPORTED}the_same_usage_event_counts_once",
    ),
    Bug(
        "bytes in and out are rounded apart",
        "pipeline/metering/counted.py",
        (("div_ceil(sum(largest), increment)", "sum(div_ceil(value, increment) for value in largest)"),),
        f"{_REPORTED}data_in_and_out_is_added_before_it_is_rounded",
    ),
    Bug(
        "bytes are billed without a start",
        "pipeline/metering/usage.py",
        (
            (
                "if start_ms(room.sessions.get(name, Session())) < as_of_ms:",
                "if room and name and Session:",
            ),
        ),
        f"{_REPORTED}data_of_a_session_that_never_connected_is_not_billed",
    ),
    Bug(
        "a number released at midnight is held in the month that begins",
        "pipeline/metering/counted.py",
        (("from_ms < released_ms or", "from_ms <= released_ms or"),),
        f"{_REPORTED}a_number_released_with_the_end_of_a_month_is_not_held_in_the_next",
    ),
    Bug(
        "counters are added up instead of joined",
        "pipeline/metering/session.py",
        (("self.bytes_in = max(self.bytes_in, event.bytes_in)", "self.bytes_in += event.bytes_in"),),
        "tests/metering/test_session.py::test_of_two_counters_the_larger_stays",
    ),
    Bug(
        "max for min",
        "pipeline/metering/session.py",
        (
            (
                "self.connected_at_ms = min(self.connected_at_ms, time_ms)",
                "self.connected_at_ms = max(self.connected_at_ms % NEVER_MS, time_ms)",
            ),
        ),
        f"{_PAGE}metering_starts_with_the_earliest_connect",
    ),
    Bug(
        "the last event wins instead of the earliest",
        "pipeline/metering/session.py",
        (
            (
                "self.disconnected_at_ms = min(self.disconnected_at_ms, time_ms)",
                "self.disconnected_at_ms = time_ms",
            ),
        ),
        f"{_LAWS}every_order_of_a_small_log_gives_the_same_facts",
    ),
    Bug(
        "a second connect is dropped as a duplicate instead of merged",
        "pipeline/metering/session.py",
        (
            (
                "self.connected_at_ms = min(self.connected_at_ms, time_ms)",
                "self.connected_at_ms = time_ms if self.connected_at_ms == NEVER_MS else self.connected_at_ms",
            ),
        ),
        f"{_PAGE}metering_starts_with_the_earliest_connect",
    ),
    Bug(
        "a join of two workers' facts forgets when the session was seen",
        "pipeline/metering/session.py",
        (("        self.last_seen_ms = max(self.last_seen_ms, other.last_seen_ms)\n", ""),),
        f"{_LAWS}every_split_of_a_small_log_over_two_workers_gives_the_same_facts",
    ),
    Bug(
        "the project is missing from the key",
        "pipeline/metering/session.py",
        (("key = (event.project, event.room)", 'key = ("acme", event.room)'),),
        f"{_PAGE}projects_are_billed_apart",
    ),
    Bug(
        "a table that is full drops what is new",
        "pipeline/metering/session.py",
        (
            (
                "            room = self.rooms.get(key)\n            if room is None:\n",
                (
                    "            room = self.rooms.get(key)\n"
                    "            if room is None and len(self.rooms) >= 10_000:\n"
                    "                return False\n"
                    "            if room is None:\n"
                ),
            ),
        ),
        "tests/planted/test_every_event_counts.py::test_every_event_of_a_long_log_counts",
    ),
    Bug(
        "floor for ceil",
        "pipeline/metering/units.py",
        (("return -(-dividend // divisor)", "return dividend // divisor"),),
        f"{_PAGE}a_session_is_billed_by_the_begun_minute",
    ),
    Bug(
        "hours of a local time",
        "pipeline/metering/units.py",
        (("return time_ms - time_ms % MS_PER_HOUR", "return time_ms - (time_ms + 19_800_000) % MS_PER_HOUR"),),
        f"{_PAGE}a_session_that_starts_with_the_hour_is_billed_in_that_hour",
    ),
    Bug(
        "rounded after summing",
        "pipeline/metering/usage.py",
        (
            (
                "    for (project, room_name), name, session in facts.sessions():\n",
                "    spent_ms = 0\n    for (project, room_name), name, session in facts.sessions():\n",
            ),
            (
                "for hour_ms, increments in increments_by_hour(line.started_at_ms, until_ms, meter.increment):\n",
                (
                    "total_ms = spent_ms + until_ms - line.started_at_ms\n"
                    "        increments = billed(total_ms, 60_000) - billed(spent_ms, 60_000)\n"
                    "        spent_ms = total_ms\n"
                    "        for hour_ms in [hour_of(line.started_at_ms)]:\n"
                ),
            ),
        ),
        f"{_PAGE}each_session_is_rounded_up_before_sessions_are_added",
    ),
    Bug(
        "a minute is billed to the hour in which it ends",
        "pipeline/metering/usage.py",
        (
            (
                "billed(hour_ms + MS_PER_HOUR - started_at_ms, increment_ms)",
                "(hour_ms + MS_PER_HOUR - started_at_ms) // increment_ms",
            ),
        ),
        f"{_PAGE}a_minute_belongs_to_the_hour_in_which_it_begins",
    ),
    Bug(
        "a session of no length is free",
        "pipeline/metering/usage.py",
        (("total = max(1, billed(", "total = max(0, billed("),),
        f"{_PAGE}a_session_is_billed_by_the_begun_minute",
    ),
    Bug(
        "the end of the room is ignored",
        "pipeline/metering/timeline.py",
        (("ended_at_ms = min(session.disconnected_at_ms, room_end_ms)", "ended_at_ms = session.disconnected_at_ms"),),
        f"{_PAGE}metering_stops_when_the_room_ends_before_the_participant_leaves",
    ),
    Bug(
        "the end of a room's earlier life counts",
        "pipeline/metering/timeline.py",
        (("min((end for end in room.ends_ms if end >= started_at_ms), default=", "min(room.ends_ms, default="),),
        f"{_PAGE}an_earlier_life_of_a_room_does_not_end_a_later_one",
    ),
    Bug(
        "an orphan is billed up to now",
        "pipeline/metering/timeline.py",
        (("        ended_at_ms = session.last_seen_ms\n", "        ended_at_ms = as_of_ms\n"),),
        f"{_PAGE}an_orphan_is_billed_up_to_where_it_was_last_seen",
    ),
    Bug(
        "whatever happens to a session starts it",
        "pipeline/metering/session.py",
        (
            (
                "            if event.type is not _SAMPLED:\n",
                (
                    "            self.begun_at_ms = min(self.begun_at_ms, time_ms)\n"
                    "            if event.type is not _SAMPLED:\n"
                ),
            ),
        ),
        f"{_PAGE}a_job_that_never_connects_is_not_billed",
    ),
    Bug(
        "the revision is not raised",
        "pipeline/metering/rollup.py",
        (("revision=1 if previous is None else previous.revision + 1,", "revision=1,"),),
        f"{_ROLLUP}a_session_that_closes_without_a_change_of_minutes_is_a_revision_with_delta_zero",
    ),
    Bug(
        "a rollup overwrites the one decided before",
        "pipeline/metering/rollup.py",
        (
            (
                "return rollup.revision == (1 if previous is None else previous.revision + 1)",
                "return rollup.revision >= (1 if previous is None else previous.revision)",
            ),
        ),
        f"{_ROLLUP}only_the_next_revision_follows",
    ),
    Bug(
        "a correction is sent as the whole quantity",
        "pipeline/metering/rollup.py",
        (("delta=usage.increments - seen.increments", "delta=usage.increments"),),
        f"{_ROLLUP}a_cell_that_vanished_is_revised_to_nothing",
    ),
    Bug(
        "an hour that vanished is left as it was",
        "pipeline/metering/rollup.py",
        (("sorted(current.keys() | emitted.keys())", "sorted(current.keys())"),),
        f"{_ROLLUP}a_cell_that_vanished_is_revised_to_nothing",
    ),
    Bug(
        "an hour is emitted when one partition is through",
        "pipeline/metering/rollup.py",
        (("watermark = min(watermark, broker_time_ms)", "watermark = max(watermark, broker_time_ms)"),),
        f"{_ROLLUP}the_slowest_partition_holds_the_watermark",
    ),
)
