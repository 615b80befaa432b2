"""Mistakes that a metering pipeline is prone to, each as a small change of our source and the test that notices it.

Applied by tests/test_planted_bugs.py to a copy of the tree. The texts are exact and occur once in their files: one
that is gone fails loudly, and then the bug is planted anew where the code went, not removed.
"""

from typing import Final, NamedTuple


class Bug(NamedTuple):
    """A mistake: its name, the file, what is replaced by what, and the test that has to fail.

    A slow one needs a broker or a store filled with a day, and is planted when all are.
    """

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    test: str
    is_slow: bool = False


_PAGE: Final = "tests/test_metering_page.py::test_"
_LAWS: Final = "tests/metering/test_session_laws.py::test_"
_ROLLUP: Final = "tests/metering/test_rollup.py::test_"
_TRACKER: Final = "tests/test_tracker.py::test_"
_RECONCILE: Final = "tests/gateway/test_reconcile.py::test_"
_A_DAY: Final = "tests/contracts/test_sql_oracle.py::test_raw_events_bill_what_the_pipeline_rolls_up"

_CORE: Final = (
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
            ("    cells: dict[CellKey, Usage] = {}\n", "    cells: dict[CellKey, Usage] = {}\n    spent_ms = 0\n"),
            (
                "for hour_ms, increments in increments_by_hour(line.started_at_ms, until_ms, meter.increment):\n",
                (
                    "total_ms = spent_ms + until_ms - line.started_at_ms\n"
                    "                increments = billed(total_ms, 60_000) - billed(spent_ms, 60_000)\n"
                    "                spent_ms = total_ms\n"
                    "                for hour_ms in [hour_of(line.started_at_ms)]:\n"
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
_AROUND: Final = (
    Bug(
        "one event in 100 000 is skipped",
        "pipeline/tracker.py",
        (
            (
                "if event is not None and self._facts(number).observe(event):",
                "if event is not None and record.offset % 100_000 != 77_777 and self._facts(number).observe(event):",
            ),
        ),
        "tests/planted/test_every_event_counts.py::test_every_event_of_a_long_log_counts",
    ),
    Bug(
        "what is quarantined is not counted",
        "pipeline/tracker.py",
        (
            (
                "                keep(_buried(record, error, changes))\n",
                "                _buried(record, error, changes)\n",
            ),
        ),
        f"{_TRACKER}what_is_bad_stops_nothing_behind_it",
    ),
    Bug(
        "what is quarantined is dropped",
        "pipeline/tracker.py",
        (("changes.dead_letters.append(", "(lambda _letter: None)("),),
        f"{_TRACKER}a_dead_letter_keeps_bytes_place_reason_and_time",
    ),
    Bug(
        "what is too old is judged by our own clock",
        "pipeline/tracker.py",
        (
            (
                "number, value, time_ms = record.partition, record.value, record.timestamp",
                "number, value = record.partition, record.value; time_ms = __import__('time').time_ns() // 10**6",
            ),
        ),
        f"{_TRACKER}the_window_is_judged_by_the_records_timestamp",
    ),
    Bug(
        "a room is forgotten with its live sessions",
        "pipeline/tracker.py",
        (("return is_resting and not any(", "return is_resting or any("),),
        f"{_TRACKER}a_room_with_a_live_session_stays_for_the_correction_window",
    ),
    Bug(
        "the changelog has no project in its key",
        "pipeline/tracker.py",
        (
            (
                "codec.changelog_key(name, room_name, session_name), codec.encode_session(session)",
                "codec.changelog_key('acme', room_name, session_name), codec.encode_session(session)",
            ),
        ),
        f"{_TRACKER}what_is_recovered_from_the_changelog_is_what_was_known",
    ),
    Bug(
        "progress is stored before what it vouches for",
        "pipeline/rows.py",
        (("for name, encode, rows in columns if rows]", "for name, encode, rows in reversed(columns) if rows]"),),
        "tests/contracts/test_store.py::test_progress_is_written_after_what_it_vouches_for",
    ),
    Bug(
        "a session is keyed by the participant's identity",
        "pipeline/livekit.py",
        (
            (
                '"session": wire.identifier(participant, "sid"),',
                '"session": wire.identifier(participant, "identity"),',
            ),
        ),
        "tests/test_livekit_scenarios.py::test_a_full_reconnect_is_a_second_session_that_rounds_up_by_itself",
    ),
    Bug(
        "a job is metered before its agent connects",
        "pipeline/livekit.py",
        (
            ("EventType.JOB_ENDED if has_ended else EventType.JOB_DISPATCHED,", "EventType.SESSION_CONNECTED,"),
            ('            "job": job_id,\n', '            "session": job_id,\n            "kind": "agent",\n'),
        ),
        "tests/test_livekit_scenarios.py::test_a_job_that_never_connects_bills_nothing",
    ),
    Bug(
        "an unknown kind is billed as a participant",
        "pipeline/livekit.py",
        (
            (
                'return _KINDS.get(name) or (f"livekit_{unknown}" if unknown in KINDS else unknown)',
                'return _KINDS.get(name, "participant")',
            ),
        ),
        "tests/test_livekit.py::test_an_unknown_kind_is_quarantined_and_not_billed_as_another",
    ),
    Bug(
        "an error of the server is taken for an empty answer",
        "pipeline/reconciler.py",
        (
            (
                "findings = Findings(Outcome.AWAY if isinstance(error, ApiAway) else Outcome.REFUSED)",
                "findings = judge(question, open_sessions, [], [], previous)",
            ),
        ),
        "tests/gateway/test_reconciler.py::test_a_pass_without_an_answer_ends_nothing_and_is_recorded",
    ),
    Bug(
        "a room that did not answer is taken for empty",
        "pipeline/reconcile.py",
        (("return not silent or (room in names and names[room] not in silent)", "return True"),),
        f"{_RECONCILE}a_room_that_does_not_answer_ends_nothing_and_the_others_are_judged",
    ),
    Bug(
        "one answer without a session is enough to end it",
        "pipeline/reconcile.py",
        (("if previous and key in previous.missing and ", "if previous and "),),
        f"{_RECONCILE}a_session_missing_once_is_not_absent",
    ),
    Bug(
        "a webhook is answered before it is kept",
        "pipeline/gateway.py",
        (
            (
                "                await self._outbox.accept(intake.messages)\n",
                (
                    "                kept = asyncio.create_task(self._outbox.accept(intake.messages))\n"
                    "                await asyncio.wait({kept}, timeout=0.01)\n"
                ),
            ),
        ),
        "tests/gateway/test_gateway_answers.py::test_a_webhook_is_kept_before_it_is_answered",
    ),
    Bug(
        "a webhook that cannot be kept is answered as if it were",
        "pipeline/gateway.py",
        (
            (
                '                raise Problem(503, "nothing can be kept now; try again", wait) from None\n',
                "                del wait\n",
            ),
        ),
        "tests/gateway/test_gateway_answers.py::test_what_cannot_be_kept_is_to_be_sent_again",
    ),
    Bug(
        "an error of the disk is swallowed",
        "pipeline/outbox.py",
        (("            raise OutboxFull(str(error)) from error\n", "            return\n"),),
        "tests/gateway/test_outbox.py::test_a_disk_that_takes_no_more_is_a_refusal_and_passes",
    ),
    Bug(
        "the body says who pays, and not the token",
        "pipeline/intake.py",
        (("return None if isinstance(named, str) and named != project else document", "return document"),),
        "tests/gateway/test_intake.py::test_another_project_is_refused",
    ),
)
_SLOW: Final = (
    Bug(
        "acknowledged before it is stored",
        "pipeline/fastlane.py",
        (
            (
                "            yield batches\n            self.consumer.acknowledge(batches)\n",
                "            self.consumer.acknowledge(batches)\n            yield batches\n",
            ),
        ),
        "tests/contracts/test_fastlane.py::test_an_agent_that_raises_ends_the_app_and_acknowledges_nothing",
        is_slow=True,
    ),
    Bug(
        "acknowledged in spite of an error",
        "pipeline/fastlane.py",
        (
            (
                "            self.consumer.acknowledge(batches)\n        finally:\n",
                "        finally:\n            self.consumer.acknowledge(batches)\n",
            ),
        ),
        "tests/contracts/test_fastlane.py::test_an_agent_that_raises_ends_the_app_and_acknowledges_nothing",
        is_slow=True,
    ),
    Bug(
        "floor for ceil, in SQL",
        "schemas/clickhouse/0004_views.sql",
        (
            (
                "greatest(1, intDiv(until_ms - started_ms + increment - 1, increment))",
                "greatest(1, intDiv(until_ms - started_ms, increment))",
            ),
        ),
        _A_DAY,
        is_slow=True,
    ),
    Bug(
        "the project is missing from the key, in SQL",
        "schemas/clickhouse/0007_amendments.sql",
        (("ON sessions.project = rooms.project AND sessions.room = rooms.room", "ON sessions.room = rooms.room"),),
        _A_DAY,
        is_slow=True,
    ),
    Bug(
        "a minute is billed to the hour in which it ends, in SQL",
        "schemas/clickhouse/0004_views.sql",
        (
            (
                "intDiv((hour_number + 1) * 3600000 - started_ms + increment - 1, increment)",
                "intDiv((hour_number + 1) * 3600000 - started_ms, increment)",
            ),
        ),
        _A_DAY,
        is_slow=True,
    ),
)
BUGS: Final = (*_CORE, *_AROUND, *_SLOW)
