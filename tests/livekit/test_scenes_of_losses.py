"""What LiveKit servers lose, repeat, add or date wrongly, and the minutes that one counts by hand."""

import json
from typing import Any

import pytest

from pipeline.metering.events import InvalidEvent, Reason
from tests.livekit.scenes import minutes_of
from tests.livekit_server import LivekitServer


def test_a_lost_joined_is_recovered_from_the_left(server: LivekitServer) -> None:
    """R3: 14:00:03.905 to 14:01:14 is 70.095 s."""
    server.signalled("14:00:03.905", "PA_1")
    server.left("14:01:14", "PA_1")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 2}


@pytest.mark.parametrize(("knows_ms", "minutes"), [(True, 1), (False, 2)])
def test_an_old_server_tells_a_lost_join_in_whole_seconds(knows_ms: bool, minutes: int) -> None:  # noqa: FBT001 - a case
    """R3: 60.1 s after 14:00:03.900, in the whole seconds of a left, is 60 s and 61 s after 14:00:03."""
    server = LivekitServer(knows_ms=knows_ms)
    server.room_started("14:00:00")
    server.signalled("14:00:03.900", "PA_1")
    server.left("14:01:04.000" if not knows_ms else "14:01:03.999", "PA_1")
    assert minutes_of(server.bodies) == {"webrtc_minutes": minutes}


def test_a_lost_room_finished_changes_nothing_where_every_left_is_there(server: LivekitServer) -> None:
    """R5: the participant's own end is enough."""
    server.joined("14:00:00", "PA_1")
    server.left("14:01:00", "PA_1")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 1}


def test_a_lost_left_is_bounded_by_the_rooms_end(server: LivekitServer) -> None:
    """R5: 14:00:00 to 14:03:00, when the room ended."""
    server.joined("14:00:00", "PA_1")
    server.room_finished("14:03:00")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 3}


def test_retries_and_a_second_url_bill_once(server: LivekitServer) -> None:
    """R10: the same bytes, twice to each of two URLs."""
    server.joined("14:00:00", "PA_1")
    server.left("14:01:10", "PA_1")
    server.room_finished("14:01:30")
    assert minutes_of(server.bodies * 4) == {"webrtc_minutes": 2}


def _close_of_a_big_room(server: LivekitServer) -> tuple[list[bytes], list[bytes]]:
    """Let 250 people be seen at 14:09:00 and go at 14:10:00; return what was sent before the close, and at it."""
    people = [f"PA_{number}" for number in range(250)]
    for sid in people:
        server.joined("14:00:00", sid)
        server.published("14:09:00", sid)
    before = list(server.bodies)
    for sid in people:
        server.left("14:10:00", sid, "ROOM_CLOSED")
    server.room_finished("14:10:00")
    return before, server.bodies[len(before) :]


def test_a_close_burst_that_loses_its_tail_bills_the_rest_as_last_seen(server: LivekitServer) -> None:
    """R9: the queue takes 200 of 251: 200 people have ten minutes, 50 the nine that can be shown."""
    before, burst = _close_of_a_big_room(server)
    assert minutes_of(before + burst[:200]) == {"webrtc_minutes": 200 * 10 + 50 * 9}


def test_a_close_burst_of_which_only_the_last_arrives_bills_all(server: LivekitServer) -> None:
    """R5: the room's end ends every session in it."""
    before, burst = _close_of_a_big_room(server)
    assert minutes_of([*before, burst[-1]]) == {"webrtc_minutes": 250 * 10}


def _with(body: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(body) | fields).encode()


def test_an_unknown_webhook_and_unknown_fields_change_nothing(server: LivekitServer) -> None:
    """R21: ignored, at every depth."""
    server.joined("14:00:00", "PA_1")
    joined = server.bodies.pop()
    participant = json.loads(joined)["participant"] | {"hologram": {"kind": "AGENT"}}
    server.bodies.append(_with(joined, participant=participant, futureField=[1]))
    server.left("14:01:00", "PA_1")
    server.bodies.append(_with(joined, event="participant_teleported", id="EV_future"))
    assert minutes_of(server.bodies) == {"webrtc_minutes": 1}


def test_a_participant_of_an_unknown_kind_is_quarantined_and_the_others_are_billed(server: LivekitServer) -> None:
    """R21: never billed as another kind; neither is a number that nobody has a name for."""
    body = server.joined("14:00:00", "PA_1")
    server.left("14:01:00", "PA_1")
    for kind in ("HOLOGRAM", 99):
        alien = _with(body, id="EV_alien", participant={"sid": "PA_alien", "kind": kind})
        with pytest.raises(InvalidEvent) as refused:
            minutes_of([*server.bodies, alien])
        assert refused.value.reason is Reason.UNKNOWN_KIND
    assert minutes_of(server.bodies) == {"webrtc_minutes": 1}


@pytest.mark.parametrize(
    ("ahead_at_join_ms", "ahead_at_left_ms", "left_at", "minutes"),
    [
        (0, 0, "14:01:00", 1),
        (2_000, -2_000, "14:01:00", 1),  # 60 s look like 56 s
        (-2_000, 2_000, "14:01:00", 2),  # and like 64 s
        (2_000, -2_000, "14:01:04", 1),
        (2_000, -2_000, "14:00:03", 1),  # 3 s look like -1 s
    ],
)
def test_servers_whose_clocks_differ_by_two_seconds_each_are_off_by_no_more(
    ahead_at_join_ms: int, ahead_at_left_ms: int, left_at: str, minutes: int
) -> None:
    """R6: what the clocks say is billed; an end before the start is a session of zero length."""
    one, other = LivekitServer("1", skew_ms=ahead_at_join_ms), LivekitServer("2", skew_ms=ahead_at_left_ms)
    for server in (one, other):
        server.room_started("13:59:00")
    one.joined("14:00:00", "PA_1")
    other.signalled("14:00:00", "PA_1")
    other.left(left_at, "PA_1")
    assert minutes_of([*one.bodies, other.bodies[-1]]) == {"webrtc_minutes": minutes}


def test_an_orphan_accrues_for_a_day_and_is_then_billed_as_last_seen(server: LivekitServer) -> None:
    """R8, R9: open for 5000 minutes, last seen after 30; six hours in, 360 have begun."""
    server.joined("14:00:00", "PA_1")
    server.published("14:30:00", "PA_1")
    assert minutes_of(server.bodies, as_of="20:00:00") == {"webrtc_minutes": 360}
    assert minutes_of(server.bodies, as_of="97:20:00") == {"webrtc_minutes": 30}


def test_the_end_of_an_orphan_that_comes_after_all_replaces_the_presumed_one(server: LivekitServer) -> None:
    """R9: it was there for 5000 minutes."""
    server.joined("14:00:00", "PA_1")
    server.left("97:20:00", "PA_1")
    assert minutes_of(server.bodies) == {"webrtc_minutes": 5000}
