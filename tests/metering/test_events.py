"""Canonical events: what is read, what is ignored and every reason to refuse (R21, R11)."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.metering.events import (
    MAX_NAME_LENGTH,
    MAX_QUANTITY,
    Amendment,
    Attribution,
    Event,
    EventType,
    InvalidEvent,
    Reason,
    check_window,
    parse_event,
)
from pipeline.metering.session import Facts
from pipeline.metering.units import NEVER_MS
from tests.metering.builders import METERS, Document, clock, connected, disconnected, event, parsed, sampled

_WINDOW_MS = 60 * 86_400_000
_SKEW_MS = 300_000
_NOON_MS = clock("12:00:00")


def _with(document: Document, **fields: object) -> Document:
    return document | fields


def _reason(document: object) -> Reason:
    with pytest.raises(InvalidEvent) as caught:
        parse_event(document, METERS)
    return caught.value.reason


_USAGE = event("usage.recorded", "12:00:00", project="acme", meter="llm_input_tokens", quantity=7)
_REFUSED: list[tuple[object, Reason]] = [
    (None, Reason.NOT_AN_OBJECT),
    ([], Reason.NOT_AN_OBJECT),
    ("text", Reason.NOT_AN_OBJECT),
    (7, Reason.NOT_AN_OBJECT),
    ({}, Reason.UNKNOWN_VERSION),
    (_with(connected("12:00:00"), specversion="0.3"), Reason.UNKNOWN_VERSION),
    (_with(connected("12:00:00"), specversion=1.0), Reason.UNKNOWN_VERSION),
    (_with(connected("12:00:00"), type="session.connected.v2"), Reason.UNKNOWN_VERSION),
    (_with(connected("12:00:00"), type=None), Reason.MISSING_FIELD),
    (_with(connected("12:00:00"), id=""), Reason.MISSING_FIELD),
    (_with(connected("12:00:00"), source=None), Reason.MISSING_FIELD),
    (_with(connected("12:00:00"), time=None), Reason.MISSING_FIELD),
    (_with(connected("12:00:00"), data=None), Reason.MISSING_FIELD),
    (connected("12:00:00", session=""), Reason.MISSING_FIELD),
    (connected("12:00:00", kind=None), Reason.MISSING_FIELD),
    (_with(connected("12:00:00"), type=["session.connected"]), Reason.WRONG_FIELD),
    (_with(connected("12:00:00"), id=7), Reason.WRONG_FIELD),
    (_with(connected("12:00:00"), time=1_789_992_000), Reason.WRONG_FIELD),
    (_with(connected("12:00:00"), data=[]), Reason.WRONG_FIELD),
    (_with(connected("12:00:00"), data=0), Reason.WRONG_FIELD),
    (_with(connected("12:00:00"), data="{}"), Reason.WRONG_FIELD),
    (connected("12:00:00", agent=7), Reason.WRONG_FIELD),
    (connected("12:00:00", session="a\0b"), Reason.WRONG_FIELD),
    (connected("12:00:00", session="a\nb"), Reason.WRONG_FIELD),
    (connected("12:00:00", room="x" * (MAX_NAME_LENGTH + 1)), Reason.WRONG_FIELD),
    (connected("12:00:00", agent=["support"]), Reason.WRONG_FIELD),
    (sampled("12:00:00", bytes_in="9"), Reason.WRONG_FIELD),
    (sampled("12:00:00", bytes_in=9.0), Reason.WRONG_FIELD),
    (sampled("12:00:00", bytes_in=True), Reason.WRONG_FIELD),
    (sampled("12:00:00", bytes_in=MAX_QUANTITY + 1), Reason.WRONG_FIELD),
    (sampled("12:00:00", bytes_out=-1), Reason.NEGATIVE_QUANTITY),
    (event("usage.recorded", "12:00:00", project="acme", meter="tts_characters"), Reason.MISSING_FIELD),
    (
        event("usage.recorded", "12:00:00", project="acme", meter="tts_characters", quantity=-1),
        Reason.NEGATIVE_QUANTITY,
    ),
    (event("usage.recorded", "12:00:00", project="acme", meter="tts_character", quantity=1), Reason.UNKNOWN_METER),
    (connected("12:00:00", kind="robot"), Reason.UNKNOWN_KIND),
    (disconnected("12:00:00", kind="Agent"), Reason.UNKNOWN_KIND),
    (_with(connected("12:00:00"), time="yesterday"), Reason.IMPOSSIBLE_TIME),
    (_with(connected("12:00:00"), time="1970-01-01T00:00:00Z"), Reason.IMPOSSIBLE_TIME),
    (_with(connected("12:00:00"), time="9999-12-31T23:59:60Z"), Reason.IMPOSSIBLE_TIME),
    (disconnected("12:00:00", connected_at="2026-02-30T12:00:00Z"), Reason.IMPOSSIBLE_TIME),
]


@pytest.mark.parametrize(("document", "reason"), _REFUSED)
def test_what_is_not_a_valid_event_is_refused_with_its_reason(document: object, reason: Reason) -> None:
    """R21: every fault has one reason from the closed list."""
    assert _reason(document) is reason


def test_every_reason_of_the_closed_list_can_happen() -> None:
    """R21: the core gives all of them but the two that are about bytes, and R11's two that need a clock."""
    of_bytes = {Reason.NOT_JSON, Reason.TOO_LARGE}
    of_the_window = {Reason.TOO_OLD, Reason.IN_THE_FUTURE}
    assert {reason for _, reason in _REFUSED} | of_bytes | of_the_window == set(Reason)


def test_a_refusal_names_the_field_and_not_its_value() -> None:
    """R21: the detail is for a person and may be logged, so it carries nothing personal."""
    with pytest.raises(InvalidEvent, match=r"^wrong_field: identity has to be") as caught:
        parse_event(connected("12:00:00", identity="Jane\nDoe"), METERS)
    assert "Jane" not in caught.value.detail


@pytest.mark.parametrize(
    "name", ["session.exploded", "track.published", "Session.Connected", "x", "session.connected.vx"]
)
def test_a_type_that_nobody_defined_is_no_event_and_no_fault(name: str) -> None:
    """R21: an unknown type is ignored, whatever else it says."""
    assert parse_event({"specversion": "1.0", "type": name}, METERS) is None


_EVERYTHING: dict[str, Any] = {
    "project": "acme",
    "room": "RM_1",
    "session": "PA_1",
    "job": "AJ_1",
    "kind": "agent",
    "number": "+15550100",
    "agent": "support",
    "identity": "agent-AJ_1",
    "region": "eu",
    "meter": "llm_input_tokens",
    "quantity": 7,
    "connected_at": "2026-09-21T11:00:00Z",
    "started_at": "2026-09-21T10:00:00Z",
    "bytes_in": 1,
    "bytes_out": 2,
    "epoch": 1,
    "actor": "jo",
    "reason": "ticket 4711",
    "model": "llama-3.3-70b",
    "endpoint": "chat",
    "team": "support",
    "key": "key-7",
    "status": "ok",
    "latency_ms": 412,
}
_NEEDED = {
    *("project", "room", "session", "job", "kind", "number", "meter", "quantity"),
    "epoch",
    "actor",
    "reason",
    "started_at",
}
_CONNECTION = {"kind", "number", "agent", "identity", "region"}
_IN_ROOM = {"project", "room"}
#: The fields of metering-rules' table that the core keeps, by type.
_KEPT: dict[EventType, set[str]] = {
    EventType.ROOM_STARTED: _IN_ROOM | {"started_at", "region"},
    EventType.ROOM_ENDED: _IN_ROOM,
    EventType.SESSION_CONNECTED: _IN_ROOM | _CONNECTION | {"session"},
    EventType.SESSION_DISCONNECTED: _IN_ROOM | _CONNECTION | {"session", "connected_at", "bytes_in", "bytes_out"},
    EventType.SESSION_ABORTED: _IN_ROOM | {"session", "kind"},
    EventType.SESSION_SAMPLED: _IN_ROOM | {"session", "kind", "connected_at", "bytes_in", "bytes_out"},
    EventType.SESSION_ABSENT: _IN_ROOM | {"session"},
    EventType.SESSION_AMENDED: _IN_ROOM | {"session", "amendment"},
    EventType.JOB_DISPATCHED: _IN_ROOM | {"agent", "identity"},
    EventType.JOB_ENDED: _IN_ROOM | {"agent", "identity"},
    EventType.SERVER_RESTARTED: set(),
    EventType.USAGE_RECORDED: _IN_ROOM | {"session", "meter", "quantity", "attribution"},
    EventType.NUMBER_ACQUIRED: {"project", "number"},
    EventType.NUMBER_RELEASED: {"project", "number"},
}


@pytest.mark.parametrize("event_type", EventType)
def test_every_field_of_a_type_is_kept_and_no_other(event_type: EventType) -> None:
    """R21: unknown extra fields are ignored, also those that another type knows."""
    times = {"connected_at": clock("11:00:00"), "started_at": clock("10:00:00")}
    amendment = Amendment(
        1, is_void=False, started_at_ms=clock("10:00:00"), ended_at_ms=NEVER_MS, actor="jo", reason="ticket 4711"
    )
    attribution = Attribution("llama-3.3-70b", "chat", "support", "key-7", "ok", 412)
    values = _EVERYTHING | times | {"amendment": amendment, "attribution": attribution}
    kept = {f"{n}_ms" if n in times else n: values[n] for n in _KEPT[event_type]}
    found = parsed(event(event_type.value, "12:00:00", **_EVERYTHING))
    assert found == Event(event_type, "EV_1", "sfu-1", _NOON_MS, **kept)


@pytest.mark.parametrize("event_type", EventType)
def test_a_field_that_the_type_does_not_have_may_hold_anything(event_type: EventType) -> None:
    """R21: what is ignored cannot be wrong."""
    required = {n: _EVERYTHING[n] for n in _NEEDED}
    kept = _KEPT[event_type] | (set(Attribution._fields) if "attribution" in _KEPT[event_type] else set())
    extra = {n: ["anything"] for n in _EVERYTHING.keys() - kept - _NEEDED}
    assert parsed(event(event_type.value, "12:00:00", **required | extra, flavour={"sweet": 1})).type is event_type


def test_what_an_event_does_not_say_is_empty() -> None:
    """R21: texts are '', numbers None; of an attribution with any label the others are '' and 0."""
    restart = parsed(event("server.restarted", "12:00:00"))
    texts, numbers = ("",) * 8, (None,) * 4
    assert restart == (EventType.SERVER_RESTARTED, "EV_1", "sfu-1", _NOON_MS, *texts, *numbers, "", None, None, None)
    for label, attribution in (("team", ("", "", "a", "", "", 0)), ("status", ("", "", "", "", "a", 0))):
        used = parsed(_with(_USAGE, data=_USAGE["data"] | {label: "a"}))
        assert used.attribution == attribution


@pytest.mark.parametrize("name", ["kind", "number", "agent", "identity", "connected_at", "bytes_in"])
def test_an_optional_field_that_is_null_says_nothing(name: str) -> None:
    """R21: null is what many producers write for "not known"."""
    nothing: dict[str, Any] = {name: None}
    assert parsed(disconnected("12:00:00", **nothing)) == parsed(disconnected("12:00:00"))


def test_a_room_event_that_names_a_session_is_still_about_the_room() -> None:
    """R21, R5: an extra field turns no room's end into a session's."""
    facts = Facts()
    facts.observe(parsed(event("room.ended", "12:00:00", project="acme", room="RM_1", session="PA_1")))
    assert facts.rooms["acme", "RM_1"].ends_ms == {_NOON_MS}
    assert not facts.rooms["acme", "RM_1"].sessions


def test_a_counter_may_be_as_large_as_a_column_holds() -> None:
    """R21: 2^63 - 1 is the limit and is within it."""
    assert parsed(sampled("12:00:00", bytes_in=MAX_QUANTITY)).bytes_in == MAX_QUANTITY


def test_usage_of_nothing_is_an_event() -> None:
    """R14: a quantity of 0 is legal."""
    assert parsed(_with(_USAGE, data=_USAGE["data"] | {"quantity": 0})).quantity == 0


def test_a_server_restart_needs_no_data() -> None:
    """The table of events: its source names the server."""
    restart = event("server.restarted", "12:00:00")
    del restart["data"]
    assert parsed(restart).source == "sfu-1"


def _check(document: Document, broker_time_ms: int) -> None:
    check_window(parsed(document), broker_time_ms, _WINDOW_MS, _SKEW_MS)


@pytest.mark.parametrize(
    ("document", "broker_time_ms"),
    [
        (connected("12:00:00"), _NOON_MS),
        (connected("12:00:00"), _NOON_MS + _WINDOW_MS),
        (connected("12:00:00"), _NOON_MS - _SKEW_MS),
        (disconnected("12:00:00", connected_at="2026-09-21T11:00:00Z"), clock("11:00:00") + _WINDOW_MS),
        (disconnected("12:00:00", connected_at="2026-09-21T12:00:00Z"), _NOON_MS - _SKEW_MS),
        (
            event("room.started", "12:00:00", project="acme", room="RM_1", started_at="2026-09-21T12:00:00Z"),
            _NOON_MS - _SKEW_MS,
        ),
        (event("room.started", "12:00:00", project="acme", room="RM_1", started_at="2020-01-01T00:00:00Z"), _NOON_MS),
    ],
)
def test_an_event_counts_up_to_both_edges_of_the_window(document: Document, broker_time_ms: int) -> None:
    """R11: exactly as old as the correction window, or exactly as far ahead as the skew allows, counts."""
    _check(document, broker_time_ms)


@pytest.mark.parametrize(
    ("document", "broker_time_ms", "reason"),
    [
        (connected("12:00:00"), _NOON_MS + _WINDOW_MS + 1, Reason.TOO_OLD),
        (disconnected("12:00:00", connected_at="2026-09-21T11:00:00Z"), _NOON_MS + _WINDOW_MS, Reason.TOO_OLD),
        (connected("12:00:00"), _NOON_MS - _SKEW_MS - 1, Reason.IN_THE_FUTURE),
        (disconnected("12:00:00", connected_at="2026-09-21T13:00:00Z"), _NOON_MS, Reason.IN_THE_FUTURE),
        (
            event("room.started", "12:00:00", project="acme", room="RM_1", started_at="2026-09-21T13:00:00Z"),
            _NOON_MS,
            Reason.IN_THE_FUTURE,
        ),
    ],
)
def test_an_event_outside_the_window_is_refused(document: Document, broker_time_ms: int, reason: Reason) -> None:
    """R11: judged by the broker's time alone, and by every time the event reports."""
    with pytest.raises(InvalidEvent) as caught:
        _check(document, broker_time_ms)
    assert caught.value.reason is reason


@pytest.mark.parametrize("build", [connected, disconnected, sampled])
def test_an_event_is_a_value(build: Callable[[str], Document]) -> None:
    """R10: the same document is the same event, so that repetition can be compared."""
    assert parsed(build("12:00:00")) == parsed(build("12:00:00"))
