"""The JSON Schemas of events, rollups and dead letters: they say what the code says."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pipeline.codec import rollup_document
from pipeline.deadletters import letter as deadletter
from pipeline.metering.events import EventType, InvalidEvent, Reason, parse_event
from pipeline.metering.meters import Kind, parse_meters
from pipeline.metering.rollup import Rollup, Status, quantities, rollup_id
from pipeline.metering.units import EARLIEST_MS, MS_PER_HOUR, NEVER_MS, format_time, parse_time

_SCHEMAS: Final = Path(__file__).parents[1] / "schemas"
_METERS: Final = parse_meters((_SCHEMAS / "meters.toml").read_text())
_FILES: Final = sorted(_SCHEMAS.glob("**/*.v1.json"))

Document = dict[str, Any]

_CONNECTION = {"agent", "identity", "number", "region", "attributes"}
#: The table of the metering rules: required and optional fields of data, by type.
_TABLE: Final[dict[str, tuple[set[str], set[str]]]] = {
    "room.started": ({"project", "room"}, {"name", "started_at", "region"}),
    "room.ended": ({"project", "room"}, {"reason"}),
    "session.connected": ({"project", "room", "session", "kind"}, _CONNECTION),
    "session.disconnected": (
        {"project", "room", "session"},
        _CONNECTION | {"kind", "connected_at", "reason", "bytes_in", "bytes_out", "reported_duration_ms"},
    ),
    "session.aborted": ({"project", "room", "session"}, {"kind", "reason"}),
    "session.sampled": ({"project", "room", "session"}, {"kind", "connected_at", "bytes_in", "bytes_out"}),
    "session.absent": ({"project", "room", "session"}, set()),
    "session.amended": ({"project", "room", "session", "epoch", "actor", "reason"}, {"void", "started_at", "ended_at"}),
    "job.dispatched": ({"project", "room", "job"}, {"agent", "identity", "status"}),
    "job.ended": ({"project", "room", "job"}, {"agent", "identity", "status"}),
    "server.restarted": (set(), set()),
    "usage.recorded": (
        {"project", "meter", "quantity"},
        {"room", "session", "model", "endpoint", "team", "key", "status", "latency_ms", "attributes"},
    ),
    "number.acquired": ({"project", "number"}, set()),
    "number.released": ({"project", "number"}, set()),
}
#: Fields of data that the core does not read: their form is the schema's business alone.
_UNREAD: Final = {
    "name", "reason", "reported_duration_ms", "status", "model", "endpoint", "team", "key", "latency_ms", "attributes",
}  # fmt: skip


@cache
def _schema(path: Path) -> Document:
    schema: Document = json.loads(path.read_text())
    return schema


def _of_type(event_type: str) -> Document:
    return _schema(_SCHEMAS / "events" / f"{event_type}.v1.json")


@cache
def _validator(event_type: str) -> Draft202012Validator:
    return Draft202012Validator(_of_type(event_type))


def _is_event(document: Document) -> bool:
    """Tell whether the core accepts a document as an event of a known type."""
    try:
        return parse_event(document, _METERS) is not None
    except InvalidEvent:
        return False


_EXAMPLES: Final = [
    pytest.param(example, id=f"{path.stem}-{number}")
    for path in sorted((_SCHEMAS / "events").glob("*.json"))
    for number, example in enumerate(_schema(path)["examples"], start=1)
]
_each_example = pytest.mark.parametrize("example", _EXAMPLES)
_each_file = pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
_each_type = pytest.mark.parametrize("event_type", [member.value for member in EventType])


def test_there_is_one_schema_for_every_type_and_none_for_another() -> None:
    """R21: schemas, code and the table of the rules know the same types."""
    of_files = {path.name.removesuffix(".v1.json") for path in (_SCHEMAS / "events").iterdir()}
    assert of_files == {member.value for member in EventType} == set(_TABLE)


@_each_file
def test_a_schema_is_itself_valid(path: Path) -> None:
    """JSON Schema 2020-12."""
    assert _schema(path)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(_schema(path))


@_each_type
def test_an_events_schema_is_named_by_its_type_and_version(event_type: str) -> None:
    """A urn, so that no address has to answer."""
    assert _of_type(event_type)["$id"] == f"urn:roommeter:event:{event_type}:v1"
    assert _of_type(event_type)["title"] == event_type


@_each_type
def test_an_events_schema_lists_the_fields_of_the_rules(event_type: str) -> None:
    """The table of metering-rules: required and optional fields, no more and no fewer."""
    data = _of_type(event_type)["properties"]["data"]
    required, optional = _TABLE[event_type]
    assert set(data.get("required", ())) == required
    assert set(data.get("properties", ())) == required | optional


def test_a_definition_reads_the_same_in_every_schema() -> None:
    """Each schema stands alone, so the words they share are written again; they may not drift apart."""
    texts: dict[str, set[str]] = {}
    for path in _FILES:
        for name, definition in _schema(path).get("$defs", {}).items():
            texts.setdefault(name, set()).add(json.dumps(definition))
    assert {name for name, found in texts.items() if len(found) > 1} == set()


@_each_file
def test_a_schema_has_examples_that_are_valid(path: Path) -> None:
    """At least two, one of them with the optional fields."""
    examples = _schema(path)["examples"]
    assert len(examples) >= 2
    for example in examples:
        Draft202012Validator(_schema(path)).validate(example)


@_each_example
def test_an_example_is_accepted_by_the_core(example: Document) -> None:
    """What the schema shows, the code reads, as the type it says."""
    event = parse_event(example, _METERS)
    assert event is not None
    assert (event.type, event.time_ms) == (example["type"], parse_time(example["time"]))


_WITHOUT: Final = [
    pytest.param(example, where, name, id=f"{example['type']}-{example['id']}-{where}{name}")
    for path in sorted((_SCHEMAS / "events").glob("*.json"))
    for example in _schema(path)["examples"]
    for where, names in (
        ("", _schema(path)["required"]),
        ("data.", _schema(path)["properties"]["data"].get("required", [])),
    )
    for name in names
]


@pytest.mark.parametrize(("example", "where", "name"), _WITHOUT)
def test_without_a_required_field_schema_and_core_refuse(example: Document, where: str, name: str) -> None:
    """R21: a missing field is a dead letter."""
    less = json.loads(json.dumps(example))
    del (less["data"] if where else less)[name]
    assert not _validator(example["type"]).is_valid(less)
    with pytest.raises(InvalidEvent) as caught:
        parse_event(less, _METERS)
    assert caught.value.reason in {Reason.MISSING_FIELD, Reason.UNKNOWN_VERSION}


@_each_example
def test_unknown_extra_fields_are_accepted_by_schema_and_core(example: Document) -> None:
    """R21: they are ignored, beside data and in it, and the event stays the same."""
    more = example | {"datacontenttype": "application/json", "traceparent": None}
    more["data"] = (example.get("data") or {}) | {"flavour": {"sweet": 1}, "connected": 3}
    assert _validator(example["type"]).is_valid(more)
    assert parse_event(more, _METERS) == parse_event(example, _METERS)


def _definition(name: str) -> Document:
    return next(_schema(path)["$defs"][name] for path in _FILES if name in _schema(path).get("$defs", {}))


@pytest.mark.parametrize("name", ["kind", "optional_kind"])
def test_the_schemas_kinds_are_the_cores(name: str) -> None:
    """R16: one closed list."""
    assert {kind for kind in _definition(name)["enum"] if kind} == set(get_args(Kind))


def test_the_schemas_reasons_are_the_cores() -> None:
    """R21: one closed list."""
    reasons = _schema(_SCHEMAS / "dead-letter.v1.json")["properties"]["reason"]["enum"]
    assert reasons == [reason.value for reason in Reason]


def test_the_schemas_statuses_are_the_cores() -> None:
    """R17: open or settled."""
    assert _schema(_SCHEMAS / "rollup.v1.json")["properties"]["status"]["enum"] == list(get_args(Status))


@pytest.mark.parametrize("example", _schema(_SCHEMAS / "rollup.v1.json")["examples"], ids=lambda example: example["id"])
def test_a_rollups_example_is_what_the_core_would_say(example: Document) -> None:
    """R17: id from its four parts; quantities as exact decimals of its increments."""
    hour_ms = parse_time(example["hour"])
    delta = {"62": 62, "-0.03": -3}[example["delta"]]
    key = (example["project"], example["meter"], hour_ms)
    said = Rollup(*key, example["revision"], example["increments"], example["increments_open"], delta, 1, 1, 1)
    assert example["id"] == said.id == rollup_id(*key, example["revision"])
    assert [example[name] for name in ("quantity", "quantity_open", "delta")] == list(
        map(str, quantities(said, _METERS))
    )
    assert (example["status"], example["unit"]) == (said.status, _METERS[said.meter].unit)
    assert format_time(hour_ms) == example["hour"]


@pytest.mark.parametrize("file", ["rollup", "dead-letter", "alert"])
def test_every_field_we_emit_is_required(file: str) -> None:
    """R17, R21: a consumer may rely on each; values of the wrong form are refused."""
    schema = _schema(_SCHEMAS / f"{file}.v1.json")
    validator = Draft202012Validator(schema)
    for name in schema["properties"]:
        assert not validator.is_valid({key: value for key, value in schema["examples"][0].items() if key != name})
        assert not validator.is_valid(schema["examples"][0] | {name: ["wrong"]})


@given(
    st.sampled_from(sorted(_METERS)),
    st.integers(EARLIEST_MS // MS_PER_HOUR, NEVER_MS // MS_PER_HOUR - 1),
    st.integers(0, 10**15),
    st.integers(-(10**15), 10**15),
)
def test_every_rollup_we_write_is_valid_by_its_schema(meter: str, hour: int, increments: int, delta: int) -> None:
    """R17: any meter, hour, amount and correction, as the codec writes it."""
    rollup = Rollup(
        "acme", meter, hour * MS_PER_HOUR, 3, increments, increments // 2, delta, 1, NEVER_MS - 1, EARLIEST_MS
    )
    Draft202012Validator(_schema(_SCHEMAS / "rollup.v1.json")).validate(rollup_document(rollup, _METERS))


@given(st.none() | st.binary(max_size=40), st.none() | st.binary(max_size=40), st.sampled_from(Reason))
def test_every_dead_letter_we_show_is_valid_by_its_schema(
    key: bytes | None, value: bytes | None, reason: Reason
) -> None:
    """R21: any bytes as key and value, and every reason, as the codec writes it."""
    headers = deadletter.record_headers("lifecycle", 3, 40_917, EARLIEST_MS, InvalidEvent(reason, "id is required"))
    document = deadletter.document(key, value, headers)
    Draft202012Validator(_schema(_SCHEMAS / "dead-letter.v1.json")).validate(document)


@pytest.mark.parametrize("text", ["62.0", "062", "6e1", "1.", ".5", "+1", "NaN", "1,5", "", "0.10"])
def test_a_quantity_has_one_spelling(text: str) -> None:
    """R17, R20: an exact decimal without exponent, sign of plus or padding."""
    schema = _schema(_SCHEMAS / "rollup.v1.json")
    assert not Draft202012Validator(schema).is_valid(schema["examples"][0] | {"quantity": text})


#: Values that some field accepts and others refuse. Left out: 1.0, an integer to JSON Schema but not to us;
#: '' for a time or a counter, which the core reads as null; and 30 February, a matter of calendars, not of form.
_ODD: Final[list[object]] = [
    None, "", "acme", "a b", "ünï", "x" * 256, "x" * 257, "a\nb", "a\0b", "\x7f", "\u00a0", "\u200b", "\u2028",
    "\ud800", 0, 1, -1, 2**63 - 1, 2**63, 1.5, True, [], ["x"], {}, {"x": 1}, "agent", "sip", "robot", "Agent",
    "2026-09-21T14:00:00Z", "2026-09-21t14:00:00.5z", "2026-09-21 14:00:60+02:00", "2026-09-21T14:00Z",
    "2026-09-21T14:00:00", "2026-09-21T14:00:00+0200", "2026-09-21T14:00:00,5Z", "2026-13-01T14:00:00Z",
    "1999-09-21T14:00:00Z", "2200-01-01T00:00:00Z", "2026-09-21T24:00:00Z", "2026-09-21T14:00:61Z",
    "2026-W39-1T14:00:00Z", "2026-09-21T14:00:00+24:00", "2026-09-21T14:00:00.Z", "tts_characters",
]  # fmt: skip
_READ_AS_NULL: Final = {"connected_at", "started_at", "ended_at", "bytes_in", "bytes_out"}


@st.composite
def _documents(draw: st.DrawFn) -> Document:
    """Draw an example with up to three fields replaced, removed or added, at the top or in data."""
    document: Document = json.loads(json.dumps(draw(st.sampled_from(_EXAMPLES)).values[0]))
    every_field = sorted(set().union(*(required | optional for required, optional in _TABLE.values())) - _UNREAD)
    for _ in range(draw(st.integers(0, 3))):
        data = document.get("data")
        is_top = draw(st.booleans()) or not isinstance(data, dict)
        target: Document = document if is_top or not isinstance(data, dict) else data
        name = draw(st.sampled_from(["specversion", "id", "source", "time", "data"] if is_top else every_field))
        if draw(st.integers(0, 3)):
            value = draw(st.sampled_from([odd for odd in _ODD if odd != "" or name not in _READ_AS_NULL]))
            target[name] = value
        else:
            target.pop(name, None)
    return document


def _names_a_meter(document: Document) -> bool:
    """Leave out what the schema cannot know: which identifiers are meters is settled by the table, at run time."""
    data = document.get("data")
    return not isinstance(data, dict) or document["type"] != "usage.recorded" or str(data.get("meter")) in _METERS


@settings(deadline=None)
@given(_documents().filter(_names_a_meter))
def test_a_document_is_valid_by_its_schema_exactly_when_the_core_accepts_it(document: Document) -> None:
    """R21: producers that check with the schema are never surprised by a dead letter, nor the other way round."""
    assert _validator(document["type"]).is_valid(document) == _is_event(document)


@pytest.mark.parametrize("value", _ODD, ids=repr)
@_each_type
def test_any_odd_value_in_any_field_is_judged_alike_by_schema_and_core(event_type: str, value: object) -> None:
    """R21: every field that the core reads, one at a time, in the fullest example of its type."""
    example = _of_type(event_type)["examples"][-1]
    required, optional = _TABLE[event_type]
    for name in (required | optional) - _UNREAD - {"meter"} - (_READ_AS_NULL if value == "" else set()):
        document = example | {"data": example["data"] | {name: value}}
        assert _validator(event_type).is_valid(document) == _is_event(document), name
