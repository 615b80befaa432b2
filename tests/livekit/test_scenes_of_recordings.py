"""What LiveKit servers really send of recordings and imports, and the minutes that one counts by hand."""

import pytest

from tests.livekit.scenes import minutes_of
from tests.livekit_server import LivekitServer


def test_a_recording_may_report_its_end_after_its_room_has_ended(server: LivekitServer) -> None:
    """R1: 14:00:09 to 14:01:56 is on file: two minutes; the 5 s of uploading after it are nobody's recording."""
    server.egress("egress_started", "14:00:07", "EGRESS_STARTING", started_at="14:00:07")
    server.egress("egress_updated", "14:00:09", "EGRESS_ACTIVE", started_at="14:00:08", updated_at="14:00:09")
    server.room_finished("14:01:56")
    server.egress("egress_ended", "14:02:01", "EGRESS_COMPLETE", files=[("14:00:09", "14:01:56")])
    assert minutes_of(server.bodies) == {"recording_export_minutes": 2}


def test_a_recording_that_reports_two_ends_with_two_starts_is_billed_once(server: LivekitServer) -> None:
    """R5: two recorders of one request: from the earlier start, 14:00:09, to the earlier end, 14:01:56."""
    server.egress("egress_started", "14:00:07", "EGRESS_STARTING", started_at="14:00:07")
    server.room_finished("14:01:58")
    for started_at, last in (("14:00:08", "14:01:56"), ("14:00:10", "14:01:58")):
        files = [("14:00:09", last)]
        server.egress("egress_ended", "14:02:03", "EGRESS_COMPLETE", started_at=started_at, ended_at=last, files=files)
    assert minutes_of(server.bodies) == {"recording_export_minutes": 2}


def test_a_recording_that_is_tried_again_has_two_runs(server: LivekitServer) -> None:
    """R2: the first failed with 20 s on file, the second wrote 61 s: 1 and 2 minutes under one id."""
    server.egress("egress_ended", "14:00:30", "EGRESS_FAILED", files=[("14:00:09", "14:00:29")])
    server.egress("egress_updated", "14:00:40", "EGRESS_ACTIVE", updated_at="14:00:40", retry_count=1)
    server.egress("egress_ended", "14:01:45", "EGRESS_COMPLETE", files=[("14:00:40", "14:01:41")], retry_count=1)
    assert minutes_of(server.bodies) == {"recording_export_minutes": 3}


def test_a_recorder_that_crashes_is_billed_until_its_crash(server: LivekitServer) -> None:
    """R5: the end is told by the launcher, with a startedAt of its own; the room goes on for an hour."""
    server.egress("egress_started", "14:00:07", "EGRESS_STARTING", started_at="14:00:07")
    server.egress("egress_updated", "14:00:09", "EGRESS_ACTIVE", started_at="14:00:08", updated_at="14:00:09")
    server.egress("egress_ended", "14:05:09", "EGRESS_FAILED", started_at="14:00:07", ended_at="14:05:09")
    server.room_finished("15:05:09")
    assert minutes_of(server.bodies) == {"recording_export_minutes": 5}


@pytest.mark.parametrize("status", ["EGRESS_FAILED", "EGRESS_ABORTED"])
def test_a_recording_that_fails_before_it_records_bills_nothing(server: LivekitServer, status: str) -> None:
    """R4: it was starting for 80 s, and nothing shows that it ever recorded."""
    server.egress("egress_started", "14:00:00", "EGRESS_STARTING", started_at="14:00:00")
    server.egress("egress_ended", "14:01:20", status, started_at="14:00:00", ended_at="14:01:20")
    server.room_finished("14:05:00")
    assert minutes_of(server.bodies) == {}


def test_each_stream_into_a_reusable_import_is_a_session(server: LivekitServer) -> None:
    """R2: 30 s and 61 s into IN_1 are 1 and 2 minutes."""
    for resource, start, end in (("RT_1", "14:00:00", "14:00:30"), ("RT_2", "14:02:00", "14:03:01")):
        stream = {"started_at": start, "resource_id": resource}
        server.ingress("ingress_started", start, "ENDPOINT_PUBLISHING", **stream)
        server.ingress("ingress_ended", end, "ENDPOINT_INACTIVE", ended_at=end, **stream)
    assert minutes_of(server.bodies) == {"stream_import_minutes": 3}


def test_an_import_that_starts_before_it_has_joined_its_room_is_one_session(server: LivekitServer) -> None:
    """R3: a WHIP stream's start has no room; its end tells room and begin: 70 s are two minutes."""
    stream = {"started_at": "14:00:00", "resource_id": "WH_1"}
    server.ingress("ingress_started", "14:00:01", "ENDPOINT_PUBLISHING", room_id="", **stream)
    server.ingress("ingress_ended", "14:01:10", "ENDPOINT_INACTIVE", ended_at="14:01:10", **stream)
    assert minutes_of(server.bodies) == {"stream_import_minutes": 2}


def test_an_import_that_never_came_into_a_room_bills_nothing(server: LivekitServer) -> None:
    """R4: somebody held the line for a minute and sent nothing."""
    times = {"started_at": "14:00:00", "ended_at": "14:01:00"}
    server.ingress("ingress_ended", "14:01:00", "ENDPOINT_INACTIVE", room_id="", resource_id="RT_1", **times)
    assert minutes_of(server.bodies) == {}
