"""LiveKit webhooks as canonical events: recordings and imports, from first to last byte."""

from typing import Any

import pytest

from pipeline.livekit.webhooks import canonical
from tests.livekit.webhooks import T0_S, data_of, egress, minutes_of, ns, webhook


def test_a_recording_is_billed_from_its_first_to_its_last_byte() -> None:
    """R1: results 10 s to 69 s are 1 minute, though the recorder was there from 0 s to 80 s."""
    file = {"startedAt": ns(10), "endedAt": ns(69)}
    events = [
        egress("egress_started", start_s=0),
        egress("egress_ended", start_s=0, endedAt=ns(80), status="EGRESS_COMPLETE", fileResults=[file]),
    ]
    assert minutes_of(events) == {"recording_export_minutes": 1}


def test_a_recording_with_several_results_is_billed_from_the_first_to_the_last() -> None:
    """R1: a file from 10 s to 30 s and a stream from 20 s to 71 s are 61 s: 2 minutes."""
    results: dict[str, Any] = {
        "fileResults": [{"startedAt": ns(10), "endedAt": ns(30)}],
        "streamResults": [{"startedAt": ns(20), "endedAt": ns(71)}],
    }
    connected, disconnected = canonical(egress("egress_ended", status="EGRESS_COMPLETE", **results), "acme")
    assert (connected["time"][14:19], disconnected["time"][14:19]) == ("00:10", "01:11")


@pytest.mark.parametrize("ended_at", [ns(9), "-62135596800000000000", None])
def test_a_result_that_ends_before_it_starts_is_dropped(ended_at: str | None) -> None:
    """R3: then the recording's own begin and end count: 80 s are 2 minutes."""
    file = {"startedAt": ns(10), "endedAt": ended_at}
    ended = egress("egress_ended", start_s=0, endedAt=ns(80), status="EGRESS_COMPLETE", fileResults=[file])
    assert minutes_of([ended]) == {"recording_export_minutes": 2}


def test_a_recording_that_ends_before_it_starts_ends_when_it_is_reported() -> None:
    """R5: from 0 s to the webhook's own time, 70 s, is 2 minutes."""
    ended = egress("egress_ended", start_s=0, endedAt=ns(-5), status="EGRESS_COMPLETE")
    assert minutes_of([ended | {"createdAt": str(T0_S + 70)}]) == {"recording_export_minutes": 2}


def test_a_recording_that_failed_before_it_recorded_is_not_billed() -> None:
    """R4: started is not recording; without ACTIVE and without results nothing shows that it was."""
    events = [
        egress("egress_started", start_s=0),
        egress("egress_ended", start_s=0, endedAt=ns(80), status="EGRESS_FAILED"),
    ]
    assert minutes_of(events) == {}


def test_two_runs_of_one_recording_are_two_sessions() -> None:
    """R2: a recording that is tried again keeps its id and counts: 10 s and 10 s are 2 minutes."""
    runs = [
        egress("egress_ended", start_s=at_s, endedAt=ns(at_s + 10), status="EGRESS_COMPLETE", retryCount=retry)
        for retry, at_s in ((0, 0), (1, 100))
    ]
    assert minutes_of(runs) == {"recording_export_minutes": 2}


def test_a_count_of_runs_that_is_none_is_the_first() -> None:
    """Canonical event: an id stays an id, whatever the number."""
    started = egress("egress_started", retryCount=2**64)
    assert data_of(started)["session"] == "EG_1"


def test_one_run_of_a_recording_is_one_session_whatever_its_start() -> None:
    """R2: the launcher tells another startedAt than the recorder: 70 s from ACTIVE to the crash are 2 minutes."""
    events = [
        egress("egress_started", start_s=0),
        egress("egress_updated", start_s=1, updatedAt=ns(2), status="EGRESS_ACTIVE"),
        egress("egress_ended", start_s=0, endedAt=ns(72), status="EGRESS_FAILED"),
    ]
    assert minutes_of(events) == {"recording_export_minutes": 2}


def test_a_recording_that_never_got_an_id_yields_nothing() -> None:
    """R4: an automatic recording that could not start reports an end without an id."""
    assert canonical(webhook("egress_ended", egressInfo={"status": "EGRESS_FAILED"}), "acme") == []


def test_the_recording_of_a_web_page_is_a_room_of_its_own() -> None:
    """Canonical event: a room is required, and a web page has none; a room's name is never an id."""
    started = webhook("egress_started", room={"name": "r"}, egressInfo={"egressId": "EG_web", "roomName": "r"})
    assert data_of(started)["room"] == "EG_web"


def test_two_streams_into_one_ingress_are_two_sessions() -> None:
    """R2: a reusable ingress keeps its id; the resource id names the stream."""
    streams = []
    for resource, start_s in (("RT_1", 0), ("RT_2", 100)):
        state = {"roomId": "RM_1", "resourceId": resource, "startedAt": ns(start_s)}
        streams.append(webhook("ingress_started", ingressInfo={"ingressId": "IN_1", "state": state}))
        ended = state | {"endedAt": ns(start_s + 61)}
        streams.append(webhook("ingress_ended", ingressInfo={"ingressId": "IN_1", "state": ended}))
    assert minutes_of(streams) == {"stream_import_minutes": 4}
