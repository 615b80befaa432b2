"""Bytes to events and back: nothing is lost on the way, and the same thing is always the same bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import codec
from pipeline.metering.events import Event, EventType, InvalidEvent, Reason
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Room, Session
from pipeline.metering.units import NEVER_MS
from tests.metering.builders import METERS, clock

_EVENT = (
    b'{"specversion":"1.0","id":"E1","source":"sfu-1","type":"room.ended","time":"2026-09-21T14:00:00Z",'
    b'"data":{"project":"acme","room":"RM_1"}}'
)
_ROLLUP = Rollup(
    "acme", "data_transfer_gb", clock("14:00:00"), 2, 7, 1, -3, 4, clock("15:05:00"), clock("15:05:00.007")
)

#: What an event may be named: printable text, in any script.
_names = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=30)
_texts = st.just("") | _names
_times_ms = st.integers(0, NEVER_MS)
_counts = st.integers(0, 2**63 - 1)
_sessions = st.builds(
    Session, _texts, _texts, _texts, _texts, _texts, _times_ms, _times_ms, _times_ms, _times_ms, _times_ms,
    _counts, _counts, st.frozensets(_names, max_size=3),
)  # fmt: skip
_rollups = st.builds(
    Rollup, _names, _names, _times_ms, st.integers(1, 2**32 - 1), _counts, _counts,
    st.integers(-(2**63), 2**63 - 1), _counts, _times_ms, _times_ms,
)  # fmt: skip


def _reason(payload: bytes | None, max_bytes: int = 1_000) -> Reason:
    with pytest.raises(InvalidEvent) as caught:
        codec.decode_event(payload, METERS, max_bytes)
    return caught.value.reason


def test_an_event_is_read_from_its_bytes() -> None:
    """The canonical event, as a producer writes it."""
    expected = Event(EventType.ROOM_ENDED, "E1", "sfu-1", clock("14:00:00"), "acme", "RM_1")
    assert codec.decode_event(_EVENT, METERS, 1_000) == expected


def test_a_type_that_nobody_defined_is_no_event_and_no_error() -> None:
    """R21: it is counted and ignored."""
    assert codec.decode_event(_EVENT.replace(b"room.ended", b"room.painted"), METERS, 1_000) is None


@pytest.mark.parametrize("payload", [None, b"", b"{", b"\xff", b"NaN", _EVENT[:-1], _EVENT + b"{}"], ids=repr)
def test_what_is_not_json_is_refused_as_such(payload: bytes | None) -> None:
    """R21: a record without a value too."""
    assert _reason(payload) is Reason.NOT_JSON


def test_the_largest_event_is_accepted_and_one_byte_more_is_refused_unread() -> None:
    """R21: the limit is on the bytes, so that what is too large costs nothing."""
    assert codec.decode_event(_EVENT, METERS, len(_EVENT)) is not None
    assert _reason(_EVENT, len(_EVENT) - 1) is Reason.TOO_LARGE
    assert _reason(b"{" * 1_001) is Reason.TOO_LARGE


@given(_names, _names, _names)
def test_a_key_of_the_changelog_says_what_it_is_of(project: str, name: str, session: str) -> None:
    """A room, a session or a server, of any name that an event may have, in any script; no two share a key."""
    for names in ((project, name), (project, name, session), ("", name)):
        assert codec.split_key(codec.changelog_key(*names)) == names


@given(st.frozensets(_times_ms, max_size=5), _times_ms)
def test_a_room_comes_back_from_the_changelog_as_it_was(ends_ms: frozenset[int], started_at_ms: int) -> None:
    """All its ends and its newest start; its sessions have entries of their own."""
    room = Room(ends_ms, started_at_ms)
    assert codec.decode_room(codec.encode_room(room)) == room


@given(_sessions)
def test_a_session_comes_back_from_the_changelog_as_it_was(session: Session) -> None:
    """Every fact, to the last millisecond and byte."""
    assert codec.decode_session(codec.encode_session(session)) == session


@given(_rollups)
def test_a_decision_comes_back_from_its_log_as_it_was(rollup: Rollup) -> None:
    """R19: everybody reads the same rollup there."""
    assert codec.decode_decision(codec.encode_decision(rollup)) == rollup


def test_a_rollup_is_these_bytes_for_ever() -> None:
    """R19, R20: what was published once is published again byte for byte, by any version of the program."""
    assert codec.encode_rollup(_ROLLUP, METERS) == (
        b'{"id":"02ddcc5a-ddc3-5903-80bc-5326c4acbfa7","project":"acme","meter":"data_transfer_gb",'
        b'"hour":"2026-09-21T14:00:00.000Z","revision":2,"quantity":"0.07","quantity_open":"0.01","delta":"-0.03",'
        b'"unit":"GB","increments":7,"increments_open":1,"sessions":4,"status":"open",'
        b'"as_of":"2026-09-21T15:05:00.000Z","watermark":"2026-09-21T15:05:00.007Z"}'
    )


@given(st.sampled_from(sorted(METERS)), _counts, st.integers(-(2**63), 2**63 - 1))
def test_a_quantity_is_exact_however_large(meter: str, increments: int, delta: int) -> None:
    """R17: decimals in strings, which times the meter's unit are its increments again; never a float."""
    document = codec.rollup_document(_ROLLUP._replace(meter=meter, increments=increments, delta=delta), METERS)
    found = [_in_base_units(document[name], METERS[meter].unit_size) for name in ("quantity", "delta")]
    assert found == [(count * METERS[meter].increment, 0) for count in (increments, delta)]


def _in_base_units(text: str, unit_size: int) -> tuple[int, int]:
    """Return a decimal's (whole base units, what is left over), by integers alone."""
    whole, _, decimals = text.partition(".")
    scale: int = 10 ** len(decimals)
    return divmod(int(whole + decimals) * unit_size, scale)
