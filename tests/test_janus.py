"""Events of a Janus server as canonical events: a real capture, and what Janus does beyond it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.janus.events import JanusAdapter
from pipeline.metering.events import InvalidEvent, Reason, parse_event
from pipeline.metering.meters import parse_meters
from pipeline.metering.session import Facts
from pipeline.metering.units import MS_PER_DAY
from pipeline.metering.usage import usage

_HERE = Path(__file__).parent
_METERS = parse_meters((_HERE.parent / "schemas" / "meters.toml").read_text())
_CAPTURE: list[dict[str, Any]] = json.loads(
    (_HERE.parent / "schemas" / "recordings" / "janus-capture.json").read_text()
)
_SESSION = "janus-a/3384302670814722/6202080597847752"
_ROOM = "janus-a/4711/1795297129335"
_T0_US = 1_790_000_000_000_000
_PUBLISHER, _RECEIVER = 20, 21


def _facts(documents: list[dict[str, Any]]) -> Facts:
    facts = Facts()
    for document in documents:
        event = parse_event(document, _METERS)
        assert event is not None
        facts.observe(event)
    return facts


def _minutes(documents: list[dict[str, Any]]) -> int:
    """Return the WebRTC minutes that canonical events bill, through the core."""
    cells = usage(_facts(documents), _METERS, _T0_US // 1000 + 100 * MS_PER_DAY)
    assert {meter for _, meter, _ in cells} <= {"webrtc_minutes", "data_transfer_gb"}
    return sum(cell.increments for (_, meter, _), cell in cells.items() if meter == "webrtc_minutes")


def _event(event_type: int, at_s: int, body: dict[str, Any], handle: int | None = _PUBLISHER) -> dict[str, Any]:
    """Return one event of session 10 of a server, `at_s` seconds after the start."""
    place = {} if handle is None else {"session_id": 10, "handle_id": handle}
    return {"emitter": "j", "type": event_type, "timestamp": _T0_US + at_s * 1_000_000, **place, "event": body}


def _room(at_s: int, event: str, handle: int | None = _PUBLISHER, **data: Any) -> dict[str, Any]:
    body = {"plugin": "janus.plugin.videoroom", "data": {"event": event, "room": 1, **data}}
    return _event(64, at_s, body, handle)


def _up(at_s: int, handle: int = _PUBLISHER) -> dict[str, Any]:
    return _event(16, at_s, {"connection": "webrtcup"}, handle)


def _down(at_s: int, handle: int = _PUBLISHER) -> dict[str, Any]:
    return _event(16, at_s, {"connection": "hangup", "reason": "ICE failed"}, handle)


def _stats(at_s: int, received: int, sent: int, handle: int = _PUBLISHER, mid: str = "0") -> dict[str, Any]:
    return _event(32, at_s, {"mid": mid, "bytes-received": received, "bytes-sent": sent}, handle)


def _told(events: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return type and subject of what a new adapter makes of events."""
    return [(document["type"], document["subject"]) for document in JanusAdapter("acme").canonical(events)]


def test_the_capture_of_a_real_call_becomes_its_canonical_events() -> None:
    """Canonical event: 42 events of a server are 11 facts, from its start to the end of the call."""
    documents = JanusAdapter("acme").canonical(_CAPTURE)
    assert [(document["type"], document["time"][11:-1], document["subject"]) for document in documents] == [
        ("server.restarted", "21:38:46.976", "janus-a"),
        ("room.started", "21:38:49.335", _ROOM),
        ("session.connected", "21:38:49.430", _SESSION),
        ("session.sampled", "21:38:54.840", _SESSION),
        ("session.sampled", "21:38:59.840", _SESSION),
        ("session.disconnected", "21:39:01.441", _SESSION),
        ("room.ended", "21:39:02.443", _ROOM),
        ("session.sampled", "21:39:02.443", _SESSION),
        ("session.disconnected", "21:39:02.444", _SESSION),
        ("session.disconnected", "21:39:02.947", _SESSION),
        ("session.disconnected", "21:39:02.948", _SESSION),
    ]
    assert {document["source"] for document in documents} == {"janus/janus-a"}


def test_the_capture_bills_what_one_counts_by_hand() -> None:
    """R1, R5, R7: up at 21:38:49.430, left at 21:39:01.441: 12.011 s are 1 minute."""
    assert _minutes(JanusAdapter("acme").canonical(_CAPTURE)) == 1


def test_the_bytes_of_the_capture_are_the_largest_reported() -> None:
    """R13: 6 210, 11 960, 14 950 bytes in are 14 950, and nothing out."""
    facts = _facts(JanusAdapter("acme").canonical(_CAPTURE))
    ((_, name, session),) = facts.sessions()
    assert (name, session.bytes_in, session.bytes_out) == (_SESSION, 14_950, 0)


def test_a_batch_that_is_sent_again_tells_nothing_new() -> None:
    """R10: Janus repeats a batch whose answer was lost; ids and facts stay the same."""
    adapter = JanusAdapter("acme")
    first, again = adapter.canonical(_CAPTURE), adapter.canonical(_CAPTURE)
    assert [document["id"] for document in again] == [document["id"] for document in first]
    assert _facts(first + again) == _facts(first)


def test_repeated_bytes_are_never_dated_back() -> None:
    """R13: what is largest up to a moment must not grow when an old sample comes again."""
    adapter = JanusAdapter("acme")
    adapter.canonical([_up(0), _stats(1, 10, 0), _stats(7200, 99, 0)])
    (again,) = adapter.canonical([_stats(1, 10, 0)])
    assert (again["time"][11:19], again["data"]["bytes_in"]) == ("16:13:20", 99)


def test_bytes_are_summed_over_the_media_of_a_session() -> None:
    """R13: of each medium the largest, then the sum: 100 + 1 000 in, 7 + 8 out."""
    events = [_up(0), _stats(1, 100, 7, mid="0"), _stats(1, 1_000, 8, mid="1"), _stats(2, 90, 7, mid="0")]
    data = JanusAdapter("acme").canonical(events)[-1]["data"]
    assert (data["bytes_in"], data["bytes_out"]) == (1_100, 15)


def test_bytes_of_an_earlier_connection_are_not_counted_again() -> None:
    """R13: a second connection of a handle counts from nothing."""
    documents = JanusAdapter("acme").canonical([_up(0), _stats(5, 100, 0), _down(10), _up(20), _stats(25, 7, 0)])
    assert [session.bytes_in for _, _, session in _facts(documents).sessions()] == [100, 7]


def test_an_event_has_one_id_however_it_is_written() -> None:
    """R14: the order of a JSON object's members means nothing."""
    event = _up(0)
    (one,), (other,) = (
        JanusAdapter("acme").canonical([dict(items)]) for items in (event.items(), [*event.items()][::-1])
    )
    assert one["id"] == other["id"]


def test_a_late_hang_up_ends_the_room_that_was_left() -> None:
    """R5: one handle leaves a room and joins another before the hang-up is reported."""
    joined = _room(70, "joined", id=6)
    joined["event"]["data"]["room"] = 2
    documents = JanusAdapter("acme").canonical([_room(0, "joined", id=5), _up(0), joined, _down(71), _up(72)])
    assert [document["data"]["room"] for document in documents] == ["j/1", "j/1", "j/2"]


def test_a_participant_who_joins_and_never_connects_is_aborted() -> None:
    """R4: joining is signalling; without a connection there is nothing to meter."""
    events = [_room(0, "joined", id=5), _event(2, 60, {"name": "detached"})]
    assert _told(events) == [("session.aborted", "j/10/20")]


@pytest.mark.parametrize("name", ["destroyed", "timeout"])
def test_the_end_of_a_janus_session_ends_its_connections(name: str) -> None:
    """R5: also where neither hang-up nor leaving is reported."""
    events = [_up(0), _up(1, 22), _event(1, 61, {"name": name})]
    assert _told(events)[2:] == [("session.disconnected", "j/10/20"), ("session.disconnected", "j/10/22")]


@pytest.mark.parametrize("event", ["leaving", "kicked"])
def test_leaving_names_only_the_participant_and_still_ends_the_session(event: str) -> None:
    """R5: the plugin reports it without session and handle; 59 s are 1 minute, the hang-up at 61 s is too late."""
    events = [_room(0, "joined", id=5), _up(0), _room(59, event, None, id=5), _down(61)]
    assert _minutes(JanusAdapter("acme").canonical(events)) == 1


def test_a_handle_that_connects_again_is_another_session() -> None:
    """R2: unpublish and publish on one handle: 10 s and 10 s are 2 minutes."""
    events = [_room(0, "joined", id=5), _up(0), _down(10), _up(20), _down(30)]
    assert _minutes(JanusAdapter("acme").canonical(events)) == 2


def test_a_second_connection_survives_repetition() -> None:
    """R10: the repeated ends of the first connection do not end the second."""
    adapter = JanusAdapter("acme")
    batch = [_room(0, "joined", id=5), _up(0), _down(10), _up(20)]
    documents = adapter.canonical(batch) + adapter.canonical(batch) + adapter.canonical([_down(140)])
    assert _minutes(documents) == 1 + 2


def test_receiving_is_part_of_the_participant_who_publishes() -> None:
    """R2: Janus connects once to send and once to receive; it is one participant of 61 s, 2 minutes."""
    events = [
        _room(0, "joined", id=5, private_id=77),
        _up(0),
        _room(1, "subscribing", _RECEIVER, private_id=77),
        _up(2, _RECEIVER),
        _stats(50, 0, 500, _RECEIVER),
        _down(60, _RECEIVER),
        _down(61),
    ]
    documents = JanusAdapter("acme").canonical(events)
    assert _minutes(documents) == 2
    assert [session.bytes_out for _, _, session in _facts(documents).sessions()] == [500]


def test_one_who_only_receives_is_a_participant() -> None:
    """R16: a viewer without a publisher of his own is connected all the same."""
    events = [_room(1, "subscribing", _RECEIVER, private_id=0), _up(2, _RECEIVER), _down(3, _RECEIVER)]
    assert _minutes(JanusAdapter("acme").canonical(events)) == 1


def test_a_room_id_that_is_used_again_is_another_room() -> None:
    """R5: room ids are small numbers; the instance is named by its creation."""
    events = [_room(0, "created"), _room(10, "destroyed"), _room(20, "created")]
    assert _told(events) == [
        ("room.started", "j/1/1790000000000"),
        ("room.ended", "j/1/1790000000000"),
        ("room.started", "j/1/1790000020000"),
    ]


def test_only_the_longest_unseen_is_forgotten() -> None:
    """R3: memory is bounded; a call that shows signs of life keeps its room among any number of others."""
    adapter = JanusAdapter("acme")
    adapter.canonical([_room(0, "joined", id=5), _up(0)])
    for handle in range(100, 20_100):
        adapter.canonical([_up(1, handle)])
        if handle % 5_000 == 0:
            adapter.canonical([_stats(2, 1, 1)])
    rooms = [adapter.canonical([_down(3, handle)])[0]["data"]["room"] for handle in (_PUBLISHER, 100)]
    assert rooms == ["j/1", "j/10"]
    assert adapter.canonical([_down(3, 100)])[0]["type"] == "session.aborted"


def test_a_server_that_restarts_ends_its_silent_sessions() -> None:
    """R9: last seen at 61 s, so 2 minutes, though nothing reported an end."""
    events = [_up(0), _stats(61, 1, 1), _event(256, 600, {"status": "started"}, None)]
    assert _minutes(JanusAdapter("acme").canonical(events)) == 2


def test_nothing_personal_passes() -> None:
    """Only listed fields pass: no display name, token, SDP, candidate or address."""
    extra = _room(0, "joined", id=5, display="planted", token="planted", metadata={"x": "planted"})  # noqa: S106 - planted
    text = json.dumps(JanusAdapter("acme").canonical([*_CAPTURE, extra | {"future": "planted"}, _up(1)]))
    for marker in ("planted", "Ada", "10.213.0.1", "127.0.0.1", "sdp", "candidate", "fingerprint"):
        assert marker not in text


def test_what_says_nothing_of_sessions_is_ignored() -> None:
    """R21: transports, SDP, other plugins and types of events to come."""
    events = [
        _event(128, 0, {}),
        _event(8, 0, {}),
        _event(512, 0, {}),
        _event(64, 0, {"plugin": "janus.plugin.echotest", "data": {}}),
    ]
    assert _told(events) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"emitter": None}, Reason.MISSING_FIELD),
        ({"emitter": ["j"]}, Reason.WRONG_FIELD),
        ({"timestamp": None}, Reason.MISSING_FIELD),
        ({"timestamp": "now"}, Reason.WRONG_FIELD),
        ({"timestamp": 1_790_000_000}, Reason.IMPOSSIBLE_TIME),
        ({"event": "webrtcup"}, Reason.WRONG_FIELD),
        ({"event": None}, Reason.MISSING_FIELD),
        ({"handle_id": None}, Reason.MISSING_FIELD),
        ({"type": 32, "event": {"mid": "0", "bytes-received": -1, "bytes-sent": 0}}, Reason.NEGATIVE_QUANTITY),
    ],
)
def test_a_malformed_event_is_refused_with_a_reason(change: dict[str, Any], reason: Reason) -> None:
    """R21: the closed list of reasons."""
    with pytest.raises(InvalidEvent) as refused:
        JanusAdapter("acme").canonical([_up(0) | change])
    assert refused.value.reason is reason
