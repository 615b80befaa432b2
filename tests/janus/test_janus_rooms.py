"""Whose a Janus room is, who is in it, and what happens when the same names or the same batch come again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.janus.events import JanusAdapter
from pipeline.metering.events import InvalidEvent, Reason, parse_event
from pipeline.metering.meters import parse_meters
from pipeline.metering.session import Facts
from pipeline.metering.timeline import timeline

_METERS = parse_meters((Path(__file__).parents[2] / "schemas" / "meters.toml").read_text())
_T0_US = 1_790_000_000_000_000
_T0_MS = _T0_US // 1_000


def _event(event_type: int, at_s: int, body: Any, handle: int = 20, opaque_id: str = "") -> dict[str, Any]:
    """Return one event of session 10 of a server, `at_s` seconds after the start; handle 0 is none."""
    place = {"session_id": 10, "handle_id": handle} if handle else {}
    who = {"opaque_id": opaque_id} if opaque_id else {}
    return {"emitter": "j", "type": event_type, "timestamp": _T0_US + at_s * 1_000_000, **place, **who, "event": body}


def _room(at_s: int, event: str, handle: int = 20, opaque_id: str = "", **data: Any) -> dict[str, Any]:
    body = {"plugin": "janus.plugin.videoroom", "data": {"event": event, "room": "acme-1", **data}}
    return _event(64, at_s, body, handle, opaque_id)


def _joined(at_s: int, participant: int, handle: int = 20, **data: Any) -> dict[str, Any]:
    return _room(at_s, "joined", handle, id=participant, **data)


def _left(at_s: int, participant: int) -> dict[str, Any]:
    return _room(at_s, "leaving", 0, id=participant)


def _up(at_s: int, handle: int = 20, opaque_id: str = "") -> dict[str, Any]:
    return _event(16, at_s, {"connection": "webrtcup"}, handle, opaque_id)


def _down(at_s: int, handle: int = 20) -> dict[str, Any]:
    return _event(16, at_s, {"connection": "hangup", "reason": "ICE failed"}, handle)


def _by_room(room: str, _opaque_id: str) -> str | None:
    return room.partition("-")[0] or None


def _by_opaque_id(_room: str, opaque_id: str) -> str | None:
    return opaque_id.partition("-")[0] or None


def _seconds(documents: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return when sessions started and ended, in seconds since the start, as the core sees it."""
    facts = Facts()
    for document in documents:
        event = parse_event(document, _METERS)
        assert event is not None
        facts.observe(event)
    times = {}
    for key, name, session in facts.sessions():
        line = timeline(session, facts.rooms[key], 0, _T0_MS)
        if line is not None:
            times[name] = ((line.started_at_ms - _T0_MS) // 1_000, (line.ended_at_ms - _T0_MS) // 1_000)
    return times


def _projects(adapter: JanusAdapter, events: Sequence[dict[str, Any]]) -> list[str]:
    """Return the project of each event read, or the reason why it has none."""
    found = []
    for event in events:
        try:
            found += [document["data"].get("project", "") for document in adapter.read(event)]
        except InvalidEvent as error:
            found.append(error.reason)
    return found


def test_a_rule_on_rooms_names_the_project_of_all_that_happens_there() -> None:
    """R21: also of what names no room: connections, samples, ends."""
    events = [_room(0, "created"), _joined(1, 5), _up(2), _left(9, 5), _room(10, "destroyed")]
    assert _projects(JanusAdapter(_by_room), events) == ["acme"] * 4


def test_a_rule_on_opaque_ids_is_asked_once_per_room() -> None:
    """A room and all sessions in it share a project, so that the end of the room ends them (R5)."""
    events = [
        _room(0, "created", opaque_id="acme-owner"),
        _room(1, "joined", 21, opaque_id="beta-guest", id=6),
        _up(2, 21, "beta-guest"),
        _room(3, "destroyed", 22),
    ]
    assert _projects(JanusAdapter(_by_opaque_id), events) == ["acme"] * 3


def test_the_first_who_names_a_project_decides() -> None:
    """Backends create rooms without an opaque id: that event is refused, the room is not."""
    events = [_room(0, "created"), _room(1, "joined", 21, opaque_id="beta-guest", id=6), _up(2, 21), _left(3, 6)]
    assert _projects(JanusAdapter(_by_opaque_id), events) == [Reason.MISSING_FIELD, "beta", "beta"]


def test_a_room_without_a_project_is_refused_and_remembered() -> None:
    """R21: once the rule is mended, what was refused can be read, and what follows belongs to it."""
    known: dict[str, str] = {}
    adapter = JanusAdapter(lambda room, _: known.get(room))
    assert _projects(adapter, [_room(0, "created"), _joined(1, 5), _up(2)]) == [Reason.MISSING_FIELD] * 2
    known["acme-1"] = "acme"
    documents = [document for event in (_up(2), _down(70)) for document in adapter.read(event)]
    assert {document["data"]["room"] for document in documents} == {f"j/acme-1/{_T0_MS}"}
    assert _seconds(documents) == {"j/10/20": (2, 70)}


def test_an_end_tells_the_begin_that_was_refused() -> None:
    """R3: refused when it connected, named when it ended: the start is inferred from the end."""
    adapter = JanusAdapter(_by_opaque_id)
    assert _projects(adapter, [_joined(1, 5), _up(2)]) == [Reason.MISSING_FIELD]
    adapter.read(_room(3, "joined", 21, opaque_id="acme-late", id=6))
    assert _seconds(adapter.read(_down(70))) == {"j/10/20": (2, 70)}


def test_what_never_connected_and_is_nobodys_is_ignored() -> None:
    """R4: a backend's handle that only creates rooms is no loss to anybody."""
    events = [_event(2, 0, {"name": "attached"}), _event(2, 1, {"name": "detached"})]
    assert _projects(JanusAdapter(_by_room), events) == []


def test_a_restart_needs_no_project() -> None:
    """R9: the source names the server, whoever is billed there."""
    (document,) = JanusAdapter(_by_room).read(_event(256, 0, {"status": "started"}, 0))
    assert (document["source"], document["data"]) == ("janus/j", {})


def test_the_name_of_the_source_is_part_of_all_ids() -> None:
    """Two servers that nobody named call themselves alike; they stay two."""
    (document,) = JanusAdapter("acme", name="eu-1").canonical([_joined(0, 5), _up(1)])
    assert (document["source"], document["data"]["room"]) == ("janus/eu-1/j", "eu-1/j/acme-1")
    assert document["data"]["session"] == "eu-1/j/10/20"


def test_identities_are_as_the_project_wants_them() -> None:
    """The policy is that of the room's project, also for events that name nobody."""
    adapter = JanusAdapter(_by_room, lambda project, identity: f"{project}/{identity[::-1]}")
    documents = adapter.canonical([_room(0, "joined", opaque_id="ada", id=5), _up(1), _left(2, 5)])
    assert [document["data"]["identity"] for document in documents] == ["acme/ada"] * 2


def test_a_wrong_event_does_not_lose_the_others() -> None:
    """R21: events of a batch are read one by one."""
    adapter = JanusAdapter("acme")
    assert _projects(adapter, [_joined(0, 5), _up(1) | {"timestamp": "now"}, _up(2)]) == [Reason.WRONG_FIELD, "acme"]


def test_a_connection_after_a_failed_attempt_is_metered() -> None:
    """R4: the attempt that was given up does not end the connection that came later."""
    events = [_joined(0, 5), _down(5), _up(10), _down(70)]
    assert _seconds(JanusAdapter("acme").canonical([*events, *events])) == {"j/10/20/2": (10, 70)}


def test_a_connection_told_after_its_end_counts() -> None:
    """R10: an end that came first was no failed attempt."""
    assert _seconds(JanusAdapter("acme").canonical([_joined(0, 5), _down(70), _up(10), _down(70)])) == {
        "j/10/20": (10, 70)
    }


def test_a_batch_that_comes_again_ends_nobody_who_came_later() -> None:
    """R10: a participant's id is used again; the repeated leaving is still the first one's."""
    adapter = JanusAdapter("acme")
    documents = adapter.canonical([_joined(0, 5), _up(1)])
    batch = [_left(10, 5), _joined(20, 5, 21), _up(21, 21)]
    documents += adapter.canonical(batch) + adapter.canonical(batch) + adapter.canonical([_left(90, 5)])
    assert _seconds(documents) == {"j/10/20": (1, 10), "j/10/21": (21, 90)}


def test_a_batch_that_comes_again_speaks_of_the_same_rooms() -> None:
    """R10: a room's id is used again; the repeated end is still the first one's."""
    adapter = JanusAdapter("acme")
    adapter.canonical([_room(0, "created")])
    batch = [_room(10, "destroyed"), _room(20, "created")]
    assert adapter.canonical(batch) == adapter.canonical(batch)


def test_the_end_of_a_janus_session_has_an_id_for_each_handle() -> None:
    """R14: the same ids for the same handles, whichever of them was heard of last."""
    adapter = JanusAdapter("acme")
    adapter.canonical([_up(0, 22), _up(0, 21)])
    end = _event(1, 60, {"name": "timeout"}, 22)
    first = {document["subject"]: document["id"] for document in adapter.read(end)}
    adapter.canonical([_event(2, 61, {"name": "detached"}, 21)])
    assert {document["subject"]: document["id"] for document in adapter.read(end)} == first
    assert [name.partition("#")[2] for name in first.values()] == ["21", "22"]


def test_media_can_be_reported_together() -> None:
    """R13: Janus's combine_media_stats makes a list of them, which is one sample."""
    media = [{"mid": mid, "bytes-received": count, "bytes-sent": 0} for mid, count in (("0", 100), ("1", 1_000))]
    (document,) = JanusAdapter("acme").canonical([_event(32, 1, media)])
    assert document["data"]["bytes_in"] == 1_100


def test_connections_of_a_handle_are_bounded() -> None:
    """Memory is: of a thousand connections of one handle the last hundred are remembered, and all are metered."""
    adapter = JanusAdapter("acme")
    documents = adapter.canonical([event for at_s in range(0, 4_000, 4) for event in (_up(at_s), _down(at_s + 2))])
    assert set(_seconds(documents).values()) == {(at_s, at_s + 2) for at_s in range(0, 4_000, 4)}
    assert sum(len(entry or b"") for entry in adapter.changed().values()) < 10_000


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (None, Reason.NOT_AN_OBJECT),
        ([1], Reason.NOT_AN_OBJECT),
        (_event(32, 0, {"mid": "0", "bytes-received": 2**53 + 1, "bytes-sent": 0}), Reason.WRONG_FIELD),
        (_event(32, 0, [1]), Reason.WRONG_FIELD),
        (_up(0) | {"emitter": "x" * 257}, Reason.WRONG_FIELD),
        (_up(0) | {"emitter": "\x00"}, Reason.WRONG_FIELD),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(event: object, reason: Reason) -> None:
    """R21: the closed list of reasons, whatever it is."""
    with pytest.raises(InvalidEvent) as refused:
        JanusAdapter("acme").read(event)
    assert refused.value.reason is reason


def test_an_event_nested_too_deeply_is_refused() -> None:
    """R21: no body may take the gateway's stack."""
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    with pytest.raises(InvalidEvent, match="wrong_field"):
        JanusAdapter("acme").read(_up(0) | {"more": deep})
