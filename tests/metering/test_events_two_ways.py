"""The two ways to read an event, the quick and the careful: each right alone, and never of two minds (R21)."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.events import (
    MAX_NAME_LENGTH,
    MAX_QUANTITY,
    Event,
    EventType,
    InvalidEvent,
    Reason,
    check_window,
    parse_event,
)
from pipeline.metering.units import NEVER_MS
from pipeline.plain import plain_event
from tests.metering.builders import METERS, Document, clock, event
from tests.metering.strategies import documents

_ROOM: dict[str, Any] = {"project": "acme", "room": "RM_1"}
_SESSION: dict[str, Any] = _ROOM | {"session": "PA_1"}
_CONNECTION: dict[str, Any] = {
    "kind": "agent",
    "number": "+15550100",
    "agent": "support",
    "identity": "agent-1",
    "region": "eu",
}
_COUNTERS: dict[str, Any] = {"bytes_in": 1, "bytes_out": MAX_QUANTITY}
_BEGUN: dict[str, Any] = {"connected_at": "2026-09-21T11:00:00Z"}
#: What each type needs and may have besides: the table of the metering rules.
_NEEDED: dict[str, dict[str, Any]] = {
    "room.started": _ROOM,
    "room.ended": _ROOM,
    "session.connected": _SESSION | {"kind": "agent"},
    "session.disconnected": _SESSION,
    "session.aborted": _SESSION,
    "session.sampled": _SESSION,
    "session.absent": _SESSION,
    "session.amended": _SESSION | {"epoch": 1, "actor": "jo", "reason": "ticket 4711"},
    "job.dispatched": _ROOM | {"job": "AJ_1"},
    "job.ended": _ROOM | {"job": "AJ_1"},
    "server.restarted": {},
    "usage.recorded": {"project": "acme", "meter": "llm_input_tokens", "quantity": 7},
    "number.acquired": {"project": "acme", "number": "+15550100"},
    "number.released": {"project": "acme", "number": "+15550100"},
}
_ALLOWED: dict[str, dict[str, Any]] = {
    "room.started": {"region": "eu", "started_at": "2026-09-21T10:00:00Z"},
    "session.connected": _CONNECTION,
    "session.disconnected": _CONNECTION | _COUNTERS | _BEGUN,
    "session.aborted": {"kind": "agent"},
    "session.sampled": {"kind": "agent"} | _COUNTERS | _BEGUN,
    "job.dispatched": {"agent": "support", "identity": "agent-1"},
    "job.ended": {"agent": "support", "identity": "agent-1"},
    "usage.recorded": {"room": "RM_1", "session": "PA_1"},
}
_QUICK = [name for name in _NEEDED if name.startswith(("room.", "session.", "job."))]
_QUICK = [name for name in _QUICK if name not in ("session.absent", "session.amended")]
_TIMES = {"connected_at": clock("11:00:00"), "started_at": clock("10:00:00")}


def _full(name: str) -> Document:
    return event(name, "12:00:00", **_NEEDED[name] | _ALLOWED.get(name, {}))


def quick_event(document: Document) -> Event | None:
    """Read a document by the quick way, which takes bytes."""
    return plain_event(orjson.dumps(document))


def _careful(document: Document) -> Event:
    found = parse_event(document, METERS)
    assert found is not None
    return found


def _expected(document: Document) -> Event:
    """Return the event of a document field by field."""
    data = {f"{key}_ms" if key in _TIMES else key: _TIMES.get(key, value) for key, value in document["data"].items()}
    data.pop("job", None)
    return Event(EventType(document["type"]), "EV_1", "sfu-1", clock("12:00:00"), **data)


def test_the_types_are_those_of_the_rules() -> None:
    """The table of events; a name that changed would be a type that nobody defined."""
    assert {str(member) for member in EventType} == set(_NEEDED)


def test_the_reasons_are_a_closed_list_of_names() -> None:
    """R21: in headers, metrics and the store; people and alerts look for them."""
    assert {str(reason) for reason in Reason} == {
        *("not_json", "not_an_object", "too_large", "missing_field", "wrong_field", "unknown_version"),
        *("unknown_kind", "unknown_meter", "impossible_time", "negative_quantity", "too_old", "in_the_future"),
    }


def test_limits_are_what_columns_and_people_are_told() -> None:
    """A signed 64-bit column, and 256 characters."""
    assert (MAX_NAME_LENGTH, MAX_QUANTITY) == (256, 9_223_372_036_854_775_807)


def test_what_an_event_does_not_say_is_nothing() -> None:
    """Every field but the envelope's has a bottom."""
    said = Event(EventType.ROOM_ENDED, "EV_1", "sfu-1", 1)
    assert said[4:12] == ("",) * 8
    assert said[12:] == (None, None, None, None, "", None, None, None)


@pytest.mark.parametrize("name", [name for name in _NEEDED if name != "session.amended"])
def test_the_careful_way_keeps_every_field_of_a_type(name: str) -> None:
    """R21: needed and allowed ones."""
    assert _careful(_full(name)) == _expected(_full(name))


@pytest.mark.parametrize("name", _QUICK)
def test_the_quick_way_reads_whatever_is_plain(name: str) -> None:
    """Nearly all events are; reading them field by field would take twice as long."""
    needed = event(name, "12:00:00", **_NEEDED[name])
    assert quick_event(_full(name)) == _expected(_full(name))
    assert quick_event(needed) == _expected(needed)


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in _NEEDED.items() for field in fields])
@pytest.mark.parametrize("nothing", [(), (None,), ("",)], ids=["absent", "null", "empty"])
def test_an_event_without_a_needed_field_is_refused(name: str, field: str, nothing: tuple[str | None, ...]) -> None:
    """R21: whichever it is, by its name, and the quick way leaves it to the careful one."""
    document = _full(name)
    del document["data"][field]
    for value in nothing:
        document["data"][field] = value
    assert quick_event(document) is None
    with pytest.raises(InvalidEvent, match=f"data.{field} is required for {name}") as caught:
        parse_event(document, METERS)
    assert caught.value.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize("field", ["id", "source", "type", "time"])
@pytest.mark.parametrize("nothing", [(), (None,), ("",)], ids=["absent", "null", "empty"])
def test_an_event_without_a_part_of_its_envelope_is_refused(field: str, nothing: tuple[str | None, ...]) -> None:
    """R21: CloudEvents 1.0."""
    document = _full("session.connected")
    del document[field]
    for value in nothing:
        document[field] = value
    assert quick_event(document) is None
    with pytest.raises(InvalidEvent, match=f": {field} is required"):
        parse_event(document, METERS)


@pytest.mark.parametrize("version", [{}, {"specversion": "1.1"}], ids=["absent", "another"])
def test_an_event_of_another_specification_is_refused(version: dict[str, str]) -> None:
    """R21: only CloudEvents 1.0 is understood."""
    document = _full("room.ended")
    del document["specversion"]
    assert quick_event(document | version) is None
    with pytest.raises(InvalidEvent, match="unknown_version"):
        parse_event(document | version, METERS)


def test_a_version_of_a_type_that_nobody_defined_is_ignored() -> None:
    """R21: only a version of a type that we know could be meant for us."""
    document = _full("room.ended") | {"type": "track.published.v2"}
    assert quick_event(document) is parse_event(document, METERS) is None


@pytest.mark.parametrize("field", ["bytes_in", "bytes_out"])
@pytest.mark.parametrize("count", [0, MAX_QUANTITY])
@pytest.mark.parametrize("name", ["session.sampled", "session.disconnected"])
def test_a_counter_at_a_limit_is_plain(name: str, field: str, count: int) -> None:
    """R13, R21: nothing yet, and as much as a column holds."""
    document = event(name, "12:00:00", **_SESSION | {field: count})
    assert quick_event(document) == _careful(document) == _expected(document)


@pytest.mark.parametrize("name", _QUICK)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, wrong) for field in ("number", "agent", "identity", "region") for wrong in (7, "a\nb", "x" * 257)),
        *((field, wrong) for field in ("bytes_in", "bytes_out") for wrong in (-1, True, 1.0, "1", MAX_QUANTITY + 1)),
        *((field, wrong) for field in ("connected_at", "started_at") for wrong in (7, "noon", "1999-12-31T00:00:00Z")),
        ("kind", "robot"),
    ],
)
def test_a_wrong_field_is_refused_by_whoever_has_it(name: str, field: str, value: object) -> None:
    """R21: and ignored where the type does not have it, by both ways."""
    document = _full(name)
    document["data"][field] = value
    if field in _ALLOWED.get(name, {}) or field in _NEEDED[name]:
        assert quick_event(document) is None
        with pytest.raises(InvalidEvent):
            parse_event(document, METERS)
    else:
        assert _careful(document) == _expected(_full(name))
        assert quick_event(document) in (None, _careful(document))


@pytest.mark.parametrize(("length", "is_fit"), [(256, True), (257, False)])
def test_a_name_has_at_most_256_characters(length: int, *, is_fit: bool) -> None:
    """R21: each by itself, however long all of them are together."""
    document = event("room.ended", "12:00:00", project="p" * length, room="RM_1")
    assert quick_event(document) is None
    if is_fit:
        assert _careful(document).project == "p" * length
    else:
        with pytest.raises(InvalidEvent):
            parse_event(document, METERS)


@pytest.mark.parametrize(("length", "is_quick"), [(240, True), (241, False)])
def test_the_quick_way_looks_at_all_names_together(length: int, *, is_quick: bool) -> None:
    """EV_1, sfu-1, acme and RM_ are 16 characters."""
    document = event("room.ended", "12:00:00", project="acme", room="RM_" + "x" * length)
    assert (quick_event(document) is not None) is is_quick
    assert _careful(document).room == "RM_" + "x" * length


def test_projects_and_sources_are_one_object_each() -> None:
    """A million open sessions of a few projects and servers hold their names once."""
    one, other = (
        # Texts of their own, as they come out of JSON.
        way(event("room.ended", "12:00:00", f"sfu-{clock('0:00:00')}", project=f"acme-{clock('0:00:00')}", room="RM_1"))
        for way in (quick_event, _careful)
    )
    assert one is not None
    assert other is not None
    assert one.project is other.project
    assert one.source is other.source


def _amendment(**data: object) -> Document:
    return event("session.amended", "12:00:00", **_NEEDED["session.amended"] | data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, (1, False, NEVER_MS, NEVER_MS)),
        ({"void": True}, (1, True, NEVER_MS, NEVER_MS)),
        ({"void": False, "epoch": 7}, (7, False, NEVER_MS, NEVER_MS)),
        ({"started_at": "2026-09-21T11:00:00Z"}, (1, False, clock("11:00:00"), NEVER_MS)),
        ({"ended_at": "2026-09-21T11:00:00Z"}, (1, False, NEVER_MS, clock("11:00:00"))),
        (
            {"started_at": "2026-09-21T11:00:00Z", "ended_at": "2026-09-21T10:00:00Z"},
            (1, False, clock("11:00:00"), clock("10:00:00")),
        ),
    ],
    ids=["takes back", "void", "epoch", "start", "end", "start and end"],
)
def test_an_amendment_says_what_it_sets_and_who_and_why(data: dict[str, Any], said: tuple[Any, ...]) -> None:
    """R12: what it leaves as observed is no time; an end before the start is for R6 to judge."""
    assert _careful(_amendment(**data)).amendment == (*said, "jo", "ticket 4711")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"void": True, "started_at": "2026-09-21T11:00:00Z"}, Reason.WRONG_FIELD),
        ({"void": True, "ended_at": "2026-09-21T11:00:00Z"}, Reason.WRONG_FIELD),
        ({"void": "yes"}, Reason.WRONG_FIELD),
        ({"void": 1}, Reason.WRONG_FIELD),
        ({"epoch": 0}, Reason.WRONG_FIELD),
        ({"epoch": -1}, Reason.NEGATIVE_QUANTITY),
    ],
)
def test_an_amendment_that_contradicts_itself_is_refused(data: dict[str, Any], reason: Reason) -> None:
    """R12, R21: what is void has no times; epochs count from 1."""
    with pytest.raises(InvalidEvent) as caught:
        parse_event(_amendment(**data), METERS)
    assert caught.value.reason is reason


_WINDOW_MS = 3_600_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, None),
        ({"void": True}, None),
        ({"started_at": "2026-09-21T11:00:00Z"}, None),
        ({"ended_at": "2026-09-21T12:00:00Z"}, None),
        ({"started_at": "2026-09-21T11:00:00Z", "ended_at": "2026-09-21T12:00:00Z"}, None),
        ({"started_at": "2026-09-21T10:59:59.999Z"}, Reason.TOO_OLD),
        ({"started_at": "2026-09-21T10:59:59.999Z", "ended_at": "2026-09-21T12:00:00Z"}, Reason.TOO_OLD),
        ({"ended_at": "2026-09-21T12:00:00.001Z"}, Reason.IN_THE_FUTURE),
        ({"started_at": "2026-09-21T11:00:00Z", "ended_at": "2026-09-21T12:00:00.001Z"}, Reason.IN_THE_FUTURE),
    ],
)
def test_an_amendment_moves_a_session_within_the_window_and_not_ahead(
    data: dict[str, Any], reason: Reason | None
) -> None:
    """R11, R12: up to the edge of the correction window, and up to now: nothing later has happened yet."""
    said = _careful(_amendment(**data))
    if reason is None:
        check_window(said, clock("12:00:00"), _WINDOW_MS, 300_000)
    else:
        with pytest.raises(InvalidEvent) as caught:
            check_window(said, clock("12:00:00"), _WINDOW_MS, 300_000)
        assert caught.value.reason is reason


_odd: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "a", "a\n", 0, -1, 7, True, 1.5, [], {}, "agent", "2026-09-21T12:00:00Z", "1.0"]
)


@given(
    documents,
    st.dictionaries(st.sampled_from([*_CONNECTION, *_COUNTERS, *_TIMES, "project", "room", "session"]), _odd),
    st.dictionaries(st.sampled_from(["specversion", "id", "source", "type", "time", "data"]), _odd, max_size=1),
)
def test_the_quick_way_reads_what_the_careful_one_reads_or_leaves_it(
    document: Document, data: dict[str, Any], envelope: dict[str, Any]
) -> None:
    """R21: whatever stands where."""
    changed = document | {"data": document["data"] | data} | envelope
    quick = quick_event(changed)
    assert quick is None or quick == parse_event(changed, METERS)


#: What two readers of JSON may take for different things, or one of them for none.
_TRAPS = [
    b'"',
    b"\\",
    b"\\ud800",
    b"\xff",
    b"\x01",
    b",",
    b"}",
    b"[",
    b"null",
    b"-0",
    b"1e999",
    b"1.0",
    b'"z":1e999,',
    b'"z":"\xff",',
]


@given(
    st.sampled_from(_QUICK), st.lists(st.tuples(st.integers(0, 400), st.sampled_from(_TRAPS)), min_size=1, max_size=3)
)
def test_what_the_quick_way_reads_both_readers_of_json_read_alike(name: str, put: list[tuple[int, bytes]]) -> None:
    """R21: what is no JSON for the careful way is not an event for the quick one either, whatever stands where."""
    payload = orjson.dumps(_full(name))
    for place, piece in put:
        payload = payload[:place] + piece + payload[place:]
    quick = plain_event(payload)
    assert quick is None or quick == parse_event(orjson.loads(payload), METERS)


@pytest.mark.parametrize("value", [b"1e999", b'"\xff"'], ids=["infinite", "no text"])
def test_what_only_one_reader_of_json_forgives_is_left_to_the_other(value: bytes) -> None:
    """R21: even in a field that nobody reads, these are no JSON."""
    payload = orjson.dumps(_full("room.ended"))
    assert plain_event(payload) is not None
    assert plain_event(payload[:-1] + b',"x":' + value + b"}") is None
