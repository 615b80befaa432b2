"""Mistakes between the core and the world: tracker, store, adapters, gateway."""

from typing import Final

from tests.planted.bug import Bug

_TRACKER: Final = "tests/test_tracker.py::test_"
_RECONCILE: Final = "tests/gateway/test_reconcile.py::test_"
AROUND: Final = (
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
        "pipeline/livekit/webhooks.py",
        (
            (
                '"session": wire.identifier(participant, "sid"),',
                '"session": wire.identifier(participant, "identity"),',
            ),
        ),
        "tests/livekit/test_scenes_of_sessions.py::test_a_full_reconnect_is_a_second_session_that_rounds_up_by_itself",
    ),
    Bug(
        "a job is metered before its agent connects",
        "pipeline/livekit/webhooks.py",
        (
            ("EventType.JOB_ENDED if has_ended else EventType.JOB_DISPATCHED,", "EventType.SESSION_CONNECTED,"),
            ('            "job": job_id,\n', '            "session": job_id,\n            "kind": "agent",\n'),
        ),
        "tests/livekit/test_scenes_of_sessions.py::test_a_job_that_never_connects_bills_nothing",
    ),
    Bug(
        "an unknown kind is billed as a participant",
        "pipeline/livekit/webhooks.py",
        (
            (
                'return _KINDS.get(name) or (f"livekit_{unknown}" if unknown in KINDS else unknown)',
                'return _KINDS.get(name, "participant")',
            ),
        ),
        "tests/livekit/test_participants.py::test_an_unknown_kind_is_quarantined_and_not_billed_as_another",
    ),
    Bug(
        "an error of the server is taken for an empty answer",
        "pipeline/livekit/reconciler.py",
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
        "pipeline/livekit/reconcile.py",
        (("return not silent or (room in names and names[room] not in silent)", "return True"),),
        f"{_RECONCILE}a_room_that_does_not_answer_ends_nothing_and_the_others_are_judged",
    ),
    Bug(
        "one answer without a session is enough to end it",
        "pipeline/livekit/reconcile.py",
        (("if previous and key in previous.missing and ", "if previous and "),),
        f"{_RECONCILE}a_session_missing_once_is_not_absent",
    ),
    Bug(
        "a webhook is answered before it is kept",
        "pipeline/gateway/server.py",
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
        "pipeline/gateway/server.py",
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
        "pipeline/gateway/outbox.py",
        (("            raise OutboxFull(str(error)) from error\n", "            return\n"),),
        "tests/gateway/test_outbox.py::test_a_disk_that_takes_no_more_is_a_refusal_and_passes",
    ),
    Bug(
        "the body says who pays, and not the token",
        "pipeline/gateway/intake.py",
        (("return None if isinstance(named, str) and named != project else document", "return document"),),
        "tests/gateway/test_intake.py::test_another_project_is_refused",
    ),
)
