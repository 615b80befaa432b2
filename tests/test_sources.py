"""Files as sources of events: formats, damage, and moving a recorded call to another time."""

import json
from pathlib import Path

import orjson
import pytest

from pipeline.metering.events import parse_event
from pipeline.metering.session import Facts
from pipeline.metering.units import format_time, parse_time
from pipeline.sources import UnreadableFile, detect_format, read_events, shifted

_DATA = Path(__file__).parent / "data"
_RECORDINGS = Path(__file__).parent.parent / "schemas" / "recordings"
_CALL = _RECORDINGS / "livekit-call.jsonl"
_CAPTURE = _RECORDINGS / "janus-capture.json"
_CASE = _DATA / "cases" / "a_lost_connect_is_recovered_from_the_disconnect.json"
_EVENT = (
    b'{"specversion":"1.0", "id":"E1","source":"s","type":"room.ended","time":"2026-09-21T14:00:00Z",'
    b'"data":{"project":"acme","room":"RM_1"}}'
)


def _file(tmp_path: Path, *lines: bytes) -> Path:
    path = tmp_path / "events"
    path.write_bytes(b"\n".join(lines))
    return path


def _facts(events: list[bytes]) -> Facts:
    facts = Facts()
    for raw in events:
        event = parse_event(orjson.loads(raw), ())
        assert event is not None
        facts.observe(event)
    return facts


@pytest.mark.parametrize(("path", "name"), [(_CALL, "livekit"), (_CAPTURE, "janus"), (_CASE, "canonical")])
def test_the_format_of_a_file_is_known_by_its_content(path: Path, name: str) -> None:
    """The file's name says nothing."""
    assert detect_format(path) == name


def test_the_format_is_known_behind_damaged_lines(tmp_path: Path) -> None:
    """R21: damage at the beginning of a file stops nothing behind it."""
    assert detect_format(_file(tmp_path, b"{broken", b"[1]", b"", _EVENT)) == "canonical"


@pytest.mark.parametrize("content", [b"", b"room,minutes\nRM_1,2\n", b"\x89PNG\r\n\x1a\n", b'{"event":7}', b"[]"])
def test_a_file_of_no_known_format_says_so(tmp_path: Path, content: bytes) -> None:
    """The message names the file and what to do."""
    with pytest.raises(UnreadableFile, match=r"events: no canonical event.*name the format"):
        list(read_events(_file(tmp_path, content)))


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    """The message names the file and what to do."""
    with pytest.raises(UnreadableFile, match=r"absent: No such file.*give the path"):
        list(read_events(tmp_path / "absent", "canonical"))


def test_a_livekit_call_becomes_the_events_of_a_project() -> None:
    """17 webhooks are 18 canonical events, in the file's order, billed to the project one names."""
    documents = [json.loads(raw) for raw in read_events(_CALL, project="initech")]
    assert (len(documents), {document["data"]["project"] for document in documents}) == (18, {"initech"})
    assert (documents[0]["type"], documents[-1]["id"]) == ("room.started", "EV_6oMSUAKckZqn#1")


def test_a_janus_array_and_janus_lines_give_the_same_events(tmp_path: Path) -> None:
    """A server's batches are arrays: one in a file, or one a line."""
    batches = json.loads(_CAPTURE.read_text())
    lines = _file(tmp_path, *(orjson.dumps(batches[i : i + 5]) for i in range(0, len(batches), 5)))
    assert list(read_events(lines)) == list(read_events(_CAPTURE))


def test_a_conformance_case_is_a_file_of_events() -> None:
    """{"events": [...]} with its rules and expectations beside."""
    assert [json.loads(raw) for raw in read_events(_CASE)] == json.loads(_CASE.read_text())["events"]


def test_canonical_lines_pass_as_they_stand(tmp_path: Path) -> None:
    """R21: valid or not, the pipeline sees the original bytes; blank lines are none."""
    lines = [b"{broken", _EVENT, b'{"specversion":"1.0"}', b"\xff\xfe", b"7"]
    assert list(read_events(_file(tmp_path, *lines[:2], b"", b"  ", *lines[2:], b""))) == lines


def test_lines_end_as_on_any_system(tmp_path: Path) -> None:
    r"""A file may come from a system that ends lines with \r\n."""
    assert list(read_events(_file(tmp_path, _EVENT + b"\r", _EVENT))) == [_EVENT, _EVENT]


def test_lines_are_read_one_at_a_time(tmp_path: Path) -> None:
    """A first event comes before later lines are looked at: a broken foreign line stops only what is behind it."""
    good = _CALL.read_bytes().splitlines()[0]
    events = read_events(_file(tmp_path, good, b"{broken"), "livekit")
    assert json.loads(next(events))["type"] == "room.started"
    with pytest.raises(UnreadableFile, match=r"events, entry 2: not a JSON object; mend or remove it"):
        next(events)


@pytest.mark.parametrize("format_name", ["livekit", "janus"])
def test_a_foreign_event_that_is_malformed_names_its_line(tmp_path: Path, format_name: str) -> None:
    """The message names file, line and reason; the payload may hold secrets and is not passed on."""
    line = b'{"event":"room_started","room":{"turnPassword":"secret"},"type":1}'
    with pytest.raises(UnreadableFile, match=rf"entry 1: not a {format_name} event \(missing_field") as refused:
        list(read_events(_file(tmp_path, line), format_name))  # type: ignore[arg-type]  # the parameter's two values
    assert "secret" not in str(refused.value)


def test_shifted_events_end_at_the_given_time_and_keep_their_distances() -> None:
    """All times move alike: the call of 1 min 56 s is as long as before."""
    to_ms = parse_time("2027-01-02T03:04:05.678Z")
    before = [json.loads(raw) for raw in read_events(_CALL)]
    after = [json.loads(raw) for raw in shifted(read_events(_CALL), to_ms)]
    moved_by = {parse_time(new["time"]) - parse_time(old["time"]) for old, new in zip(before, after, strict=True)}
    assert (len(moved_by), max(new["time"] for new in after)) == (1, format_time(to_ms))


def test_shifted_events_move_the_times_inside_them() -> None:
    """R3, R9: connected_at and started_at are times of the same call."""
    ended, started = (
        {**orjson.loads(_EVENT), "data": {"project": "acme", "room": "RM_1", name: "2026-09-21T13:59:00Z"}}
        for name in ("connected_at", "started_at")
    )
    moved = shifted(map(orjson.dumps, (ended, started)), parse_time("2026-09-21T14:00:01Z"))
    assert [min(json.loads(raw)["data"].values()) for raw in moved] == ["2026-09-21T13:59:01.000Z"] * 2


def test_a_call_shifted_twice_is_two_calls() -> None:
    """R10: ids of events, rooms and sessions differ from day to day, and are the same for the same day."""
    monday, tuesday = (parse_time(f"2027-01-0{day}T00:00:00Z") for day in (4, 5))
    first, second = (list(shifted(read_events(_CALL), to_ms)) for to_ms in (monday, tuesday))
    sessions = {name for _, name, _ in _facts(first + second).sessions()}
    assert len(sessions) == 2 * len(list(_facts(first).sessions()))
    assert len({json.loads(raw)["id"] for raw in first + second}) == 36
    assert list(shifted(read_events(_CALL), monday)) == first


def test_a_shifted_subject_follows_its_session() -> None:
    """Canonical event: the subject is the session it is about."""
    document = json.loads(list(shifted(read_events(_CASE), 1_800_000_000_000))[-1])
    assert document["subject"] == document["data"]["session"]


@pytest.mark.parametrize("raw", [b"{broken", b"7", b'{"time":"yesterday"}', b'{"data":{"connected_at":1}}'])
def test_what_is_no_event_is_not_shifted(raw: bytes) -> None:
    """R21: it passes as it stands."""
    assert next(shifted([raw, _EVENT], 0)) == raw


def test_nothing_shifted_is_nothing() -> None:
    """A file without events has no newest one."""
    assert list(shifted([], 1)) == []
