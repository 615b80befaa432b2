"""Dead letters: whole, explained, and readable as JSON, whoever refused them (R21)."""

import base64
import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pipeline.deadletters import letter as deadletter
from pipeline.deadletters.text import ADVICE, advice, payload_text, visible
from pipeline.metering.events import InvalidEvent, Reason
from pipeline.metering.units import EARLIEST_MS

_SCHEMA: Final = Path(__file__).parents[1] / "schemas" / "dead-letter.v1.json"
_NO_VALUE: Final = InvalidEvent(Reason.NOT_JSON, "no value")
_RECORD: Final = deadletter.record_headers("lifecycle", 0, 0, EARLIEST_MS, _NO_VALUE)
_BODY: Final = deadletter.gateway_headers("webhooks/livekit", "acme", EARLIEST_MS, _NO_VALUE, b"Ada")


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(_SCHEMA.read_text()))


@given(st.binary(max_size=60), st.integers(0, 2**31), st.integers(0, 2**62), st.sampled_from(Reason))
def test_a_workers_dead_letter_says_where_it_came_from_and_keeps_its_bytes(
    payload: bytes, partition: int, offset: int, reason: Reason
) -> None:
    """R21: topic, partition, offset, reason and time; the payload byte for byte."""
    headers = deadletter.record_headers("lifecycle", partition, offset, EARLIEST_MS, InvalidEvent(reason, "naïve"))
    document = deadletter.document(b"acme/RM_1", payload, headers)
    assert base64.b64decode(document.pop("payload_base64")) == payload
    expected: dict[str, Any] = {"topic": "lifecycle", "partition": partition, "offset": offset, "reason": reason.value}
    expected |= {"detail": "naïve", "time": "2000-01-01T00:00:00.000Z", "key": "acme/RM_1", "project": "acme"}
    assert document == expected | dict.fromkeys(("origin", "sha256", "size"))


@given(st.binary(max_size=60), st.sampled_from(Reason))
def test_a_gateways_dead_letter_says_who_sent_what_and_when(original: bytes, reason: Reason) -> None:
    """R21: the body is masked, so digest and size stand for what came; there is no record that it came from."""
    headers = deadletter.gateway_headers(
        "webhooks/livekit", "acme", EARLIEST_MS, InvalidEvent(reason, "naïve"), original
    )
    document = deadletter.document(None, b'{"name":"***"}', headers)
    assert base64.b64decode(document.pop("payload_base64")) == b'{"name":"***"}'
    expected = {"origin": "webhooks/livekit", "project": "acme", "reason": reason.value, "detail": "naïve"}
    expected |= {"time": "2000-01-01T00:00:00.000Z", "sha256": sha256(original).hexdigest()}
    nothing = dict.fromkeys(("topic", "partition", "offset", "key"))
    assert document == expected | {"size": len(original)} | nothing


def test_a_dead_letter_without_key_or_value_says_so() -> None:
    """R21: nothing is not the same as empty."""
    document = deadletter.document(None, None, _RECORD)
    assert (document["key"], document["payload_base64"]) == (None, None)
    assert deadletter.document(b"", b"", _RECORD)["payload_base64"] == ""


@given(st.none() | st.binary(max_size=40), st.none() | st.binary(max_size=40), st.sampled_from(Reason), st.text())
def test_every_gateways_dead_letter_is_valid_by_its_schema(
    key: bytes | None, value: bytes | None, reason: Reason, project: str
) -> None:
    """R21: any bytes, every reason; the worker's are checked with the other schemas."""
    error = InvalidEvent(reason, "id is required")
    headers = deadletter.gateway_headers("v1/events", project, EARLIEST_MS, error, value or b"")
    _validator().validate(deadletter.document(key, value, headers))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", b"00-1")],
        [(name, raw) for name, raw in _RECORD if name != "reason"],
        [(name, raw) for name, raw in _BODY if name != "size"],
        [(name, b"seven" if name == "offset" else raw) for name, raw in _RECORD],
    ],
    ids=["none", "others", "no reason", "no size", "no number"],
)
def test_a_record_of_somebody_else_is_no_dead_letter(headers: list[tuple[str, bytes]]) -> None:
    """Anybody may write to a topic: what is not ours is told apart, not shown as if it were."""
    with pytest.raises(deadletter.NotADeadLetter):
        deadletter.document(b"k", b"v", headers)


@pytest.mark.parametrize(
    ("key", "value", "headers", "project"),
    [
        (b"north/RM_1", b'{"data":{"project":"south"}}', _BODY, "acme"),
        (b"north/RM_1", b'{"data":{"project":"south"}}', _RECORD, "south"),
        (b"north/RM_1", b'{"data":{"project":7}}', _RECORD, "north"),
        (b"north/RM_1", b'{"data":{"project":"\\u001b[2J"}}', _RECORD, "north"),
        (b"north/RM_1", b'{"data":[]}', _RECORD, "north"),
        (b"north/RM_1", b"[]", _RECORD, "north"),
        (b"north/RM_1", b"{", _RECORD, "north"),
        (b"north/RM_1", None, _RECORD, "north"),
        (b"north", None, _RECORD, ""),
        (None, None, _RECORD, ""),
    ],
)
def test_a_dead_letters_project_is_its_headers_else_its_payloads_else_its_keys(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], project: str
) -> None:
    """Whoever authenticated is known for certain; a payload and a key only say so."""
    assert deadletter.project_of(key, value, headers) == project


def test_there_is_advice_for_every_reason() -> None:
    """R21: the closed list; each says whether a replay can help."""
    assert ADVICE.keys() == set(Reason)
    assert [reason for reason in Reason if "replay" not in advice(reason)] == []
    assert "newer version" in advice("a reason of next year")


@given(st.none() | st.binary() | st.text().map(str.encode))
def test_a_payload_is_shown_without_acting_on_the_terminal(value: bytes | None) -> None:
    """What anybody sent is on an operator's screen: no control characters, no change of direction."""
    assert payload_text(value).replace("\n", "").isprintable()


@given(st.text())
def test_a_text_made_visible_stays_itself_where_it_was(text: str) -> None:
    """Letters of any script are shown as they are."""
    assert visible(text).replace("\n", "").isprintable()
    assert visible("Zürich 東京") == "Zürich 東京"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'{"quantity":1000000000000000000000000000000}', '{\n  "quantity": 1000000000000000000000000000000\n}'),
        (b"PA_1 joined\x1b[2J", "PA_1 joined\\x1b[2J"),
        (b"\xff\x00\x01", "ff 00 01"),
        (b"[" * 50_000, "[" * 16_384 + "\n... 50000 bytes in all"),
        (None, "no payload: the record has no value"),
    ],
    ids=["JSON", "text", "bytes", "too much", "nothing"],
)
def test_a_payload_is_shown_as_what_it_is(value: bytes | None, shown: str) -> None:
    """JSON in lines with its numbers as they came, text with escapes, bytes in hex, and never too much."""
    assert payload_text(value) == shown
