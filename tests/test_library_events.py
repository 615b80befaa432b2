"""`import roommeter`: events that are right when they are made."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, get_args

import orjson
import pytest
from jsonschema import Draft202012Validator

import roommeter
from pipeline.embedded import now_ms
from pipeline.metering.events import EventType, InvalidEvent, Reason, parse_event
from pipeline.metering.meters import Kind
from pipeline.metering.units import parse_time
from pipeline.settings import Settings
from roommeter import producer as library
from tests.library_events import NOON, connected
from tests.metering.builders import METERS, ROOT, Document

_SCHEMAS: Final = {
    document["title"]: document
    for document in (json.loads(path.read_text()) for path in (ROOT / "schemas" / "events").iterdir())
}
_CLASSES: Final = {
    str(found.type): found
    for found in vars(roommeter).values()
    if isinstance(found, type) and issubclass(found, roommeter.Event) and found is not roommeter.Event
}
_EXAMPLES: Final = [
    pytest.param(example, id=f"{title}-{number}")
    for title, schema in sorted(_SCHEMAS.items())
    if title in _CLASSES
    for number, example in enumerate(schema["examples"], start=1)
]
_ODD: Final[list[object]] = [
    "x" * 257, "a\nb", "\ud800", "robot", 0, 1, -1, 2**63, 1.5, True, [], ["x"], {}, {"x": 1}, {"x": object()}, {1: 2},
    b"x", datetime(2026, 9, 21, 14), datetime(1999, 1, 1, tzinfo=UTC), object(),  # noqa: DTZ001 - that is the fault
]  # fmt: skip


def _made(example: Document) -> roommeter.Event:
    """Make the event of an example by the class of its type."""
    data: dict[str, Any] = {
        name: parse_time(value) if name.endswith("_at") else value
        for name, value in (example.get("data") or {}).items()
    }
    return _CLASSES[example["type"]](id=example["id"], at=parse_time(example["time"]), **data)


def _document(event: roommeter.Event) -> Document:
    return event.document(project="acme", source="sfu/eu-1")


def test_there_is_a_class_for_every_type() -> None:
    """What can be reported at all can be reported from Python."""
    amended = {str(EventType.SESSION_AMENDED)}  # an operator says that, with `roommeter amend`, and no producer
    assert _CLASSES.keys() == _SCHEMAS.keys() - amended == set(map(str, EventType)) - amended


@pytest.mark.parametrize("event_type", _CLASSES)
def test_a_class_has_the_fields_of_its_schema(event_type: str) -> None:
    """No field more and none less, in data; those that are required have no default."""
    data = _SCHEMAS[event_type]["properties"]["data"]
    names = {field.name for field in fields(_CLASSES[event_type])} - {"at", "id", "source"}
    assert names == set(data.get("properties", ()))


@pytest.mark.parametrize("example", _EXAMPLES)
def test_an_event_is_the_document_of_its_schemas_example(example: Document) -> None:
    """What a class makes is valid by its schema, an event for the core, and says what the example says."""
    document = _made(example).document(project="-", source=example["source"])
    assert Draft202012Validator(_SCHEMAS[example["type"]]).is_valid(document)
    assert parse_event(document, METERS) == parse_event(example, METERS) is not None
    assert document.get("data") == (example.get("data") or None)


@pytest.mark.parametrize("value", _ODD, ids=lambda value: repr(value).partition(" at 0x")[0][:30])
@pytest.mark.parametrize("event_type", _CLASSES)
def test_an_odd_value_in_any_field_is_refused_or_right(event_type: str, value: object) -> None:
    """R21, at the desk of who makes the mistake: nothing is made that would become a dead letter."""
    for field in fields(_CLASSES[event_type]):
        given = dict(_SCHEMAS[event_type]["examples"][-1].get("data") or {}, id="1", at=NOON)
        given |= {name: NOON for name in given if name.endswith("_at")} | {field.name: value}
        with suppress(InvalidEvent):
            document = orjson.loads(orjson.dumps(_document(_CLASSES[event_type](**given))))
            assert Draft202012Validator(_SCHEMAS[event_type]).is_valid(document), field.name


@pytest.mark.parametrize(
    ("changed", "reason", "words"),
    [
        ({"at": datetime(2026, 9, 21, 12)}, Reason.IMPOSSIBLE_TIME, "at has no time zone"),  # noqa: DTZ001
        ({"at": 1_790_000_000}, Reason.IMPOSSIBLE_TIME, "is it in ms"),
        ({"at": 1_790_000_000.5}, Reason.WRONG_FIELD, "at has to be a datetime or whole ms"),
        ({"kind": "robot"}, Reason.UNKNOWN_KIND, "data.kind is one of"),
        ({"room": ""}, Reason.MISSING_FIELD, "data.room is required"),
        ({"session": "x" * 257}, Reason.WRONG_FIELD, "session has to be printable"),
        ({"attributes": {"x": object()}}, Reason.WRONG_FIELD, "no JSON"),
    ],
)
def test_a_wrong_event_says_what_is_wrong(changed: Document, reason: Reason, words: str) -> None:
    """When it is made, with the reason that a dead letter would have."""
    with pytest.raises(InvalidEvent, match=words) as refused:
        connected(**changed)
    assert refused.value.reason is reason


def test_a_moment_is_the_same_in_any_zone_and_in_milliseconds() -> None:
    """Below a millisecond it is rounded down, as the core does."""
    berlin = NOON.astimezone(timezone(timedelta(hours=2)))
    whole_ms = int(NOON.timestamp()) * 1_000
    assert connected() == connected(at=berlin) == connected(at=whole_ms)
    assert connected() == connected(at=NOON + timedelta(microseconds=999))


def test_left_out_the_time_is_now() -> None:
    """Of making the event, not of sending it: sent again, it is the same event."""
    before_ms = now_ms()
    event = connected(at=None)
    assert before_ms <= parse_time(_document(event)["time"]) <= now_ms()
    assert _document(event) == _document(event)


def test_the_same_call_twice_is_the_same_event() -> None:
    """What is retried has the id that it had, in whatever order attributes come."""
    first, again = (connected(attributes=attributes) for attributes in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert _document(first)["id"] == _document(again)["id"]


@pytest.mark.parametrize(
    "changed",
    [
        {"at": NOON + timedelta(milliseconds=1)},
        {"session": "c-18"},
        {"room": "r"},
        {"project": "globex"},
        {"region": "eu"},
    ],
    ids=str,
)
def test_another_event_has_another_id(changed: Document) -> None:
    """An id is made of all that the event says."""
    assert _document(connected(**changed))["id"] != _document(connected())["id"]


def test_usage_needs_an_id_of_the_callers() -> None:
    """R14: one subject per id; only the caller can tell a repetition from the same usage once more."""
    with pytest.raises(InvalidEvent, match="id is required"):
        roommeter.UsageRecorded(id="", meter="llm_input_tokens", quantity=1)


def test_project_and_source_are_the_producers_unless_the_event_names_its_own() -> None:
    """One program may report for many projects and servers."""
    mine, theirs = _document(connected()), _document(connected(project="globex", source="sfu/us-1"))
    assert (mine["data"]["project"], mine["source"]) == ("acme", "sfu/eu-1")
    assert (theirs["data"]["project"], theirs["source"]) == ("globex", "sfu/us-1")


def test_without_any_project_an_event_is_not_sent() -> None:
    """Nobody could be billed for it."""
    with pytest.raises(InvalidEvent, match=r"data\.project is required"):
        connected().document(project="", source="sfu/eu-1")


def test_kinds_are_those_of_the_meters() -> None:
    """R16: what the type hints allow, the core takes, and nothing else."""
    assert {connected(kind=kind).kind for kind in get_args(Kind)} == set(get_args(Kind))


def test_the_largest_event_is_that_of_the_settings() -> None:
    """R21: as a pipeline is when nobody configures anything."""
    assert Settings.model_fields["max_event_bytes"].default == library.MAX_EVENT_BYTES


def test_importing_the_library_imports_none_of_the_pipelines_engines() -> None:
    """A program that only reports starts no Faust, no ClickHouse, no command line: in a second of CPU at most."""
    heavy = {"faust", "mode", "chdb", "pyarrow", "clickhouse_connect", "noida_db", "click", "rich", "aiohttp", "uvloop"}
    code = f"import sys, time, roommeter; print(sorted({heavy!r} & sys.modules.keys()), time.process_time() < 1)"
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'pipeline' / 'lib'}"}
    ran = subprocess.run((sys.executable, "-c", code), env=path, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[0] == "[] True"
