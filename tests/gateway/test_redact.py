"""What may be kept of a body that cannot be an event."""

import orjson
import pytest

from pipeline.gateway.redact import CANONICAL, JANUS, LIVEKIT, Allowed, redact, redact_text
from tests.gateway.bodies import SECRETS, planted_events, planted_janus, planted_webhooks


def test_listed_values_stay_and_others_are_masked() -> None:
    """A value passes by its place; what is listed without its value is null, what is not listed is a number."""
    room = {"sid": "RM_1", "name": "Ada's room", "turnPassword": "x", "novelty": {"deep": "secret"}, "other": 1}
    kept = orjson.loads(redact({"event": "room_started", "room": room}, LIVEKIT))
    assert kept == {"event": "room_started", "room": {"sid": "RM_1", "name": None, "turnPassword": None, "?": 2}}


def test_both_spellings_are_known() -> None:
    """Senders of LiveKit's JSON may write snake_case."""
    participant = {"joined_at_ms": "1", "stream_key": "x"}
    kept = orjson.loads(redact({"participant": participant, "ingress_info": {"stream_key": "x"}}, LIVEKIT))
    assert kept == {"participant": {"joined_at_ms": "1", "?": 1}, "ingress_info": {"stream_key": None}}


@pytest.mark.parametrize("value", ["x" * 257, "a\nb", "\0"])
def test_what_is_listed_and_unfit_becomes_what_no_field_may_be(value: str) -> None:
    """A masked id must not make an event of a replayed dead letter: null would be absent, false is wrong."""
    assert orjson.loads(redact({"id": value, "source": {"a": value}}, CANONICAL)) == {"id": False, "source": False}


@pytest.mark.parametrize("value", ["text", 7, None, True, ["a", 1]])
def test_an_object_that_is_none_keeps_nothing(value: object) -> None:
    """Where an object is expected, nothing else passes."""
    assert set(orjson.dumps(orjson.loads(redact({"room": value}, LIVEKIT))["room"])) <= set(b"[]null,")


def test_attributes_are_known_by_name() -> None:
    """An attribute called like a field elsewhere is still somebody's attribute."""
    attributes = {"id": "patient-12", "sip.ruleID": "SDR_1", "sip.phoneNumber": "+15105550100"}
    kept = orjson.loads(redact({"participant": {"attributes": attributes}}, LIVEKIT))
    assert kept["participant"]["attributes"] == {"sip.ruleID": "SDR_1", "sip.phoneNumber": None, "?": 1}


@pytest.mark.parametrize(
    ("bodies", "allowed"),
    [(planted_webhooks(), LIVEKIT), (planted_janus(), JANUS), (planted_events(), CANONICAL)],
    ids=["livekit", "janus", "events"],
)
def test_nothing_planted_is_kept(bodies: list[bytes], allowed: Allowed) -> None:
    """Of real bodies full of secrets, decoded or cut off anywhere, none is kept."""
    for body in bodies:
        kept = redact(orjson.loads(body), allowed)
        kept += b"".join(redact_text(body[:end], allowed) for end in range(0, len(body), 7))
        kept += redact_text(body.replace(b'"', b"", 1), allowed)
        assert not any(secret in kept for secret in SECRETS)


def test_of_text_punctuation_and_known_words_stay() -> None:
    """What is not JSON may be read as what it was going to be."""
    text = b'{"event":"participant_joined","room":{"turnPassword":"s3cret, 12","sid":'
    assert redact_text(text, LIVEKIT) == b'{"event":"*","room":{"turnPassword":"*, *","sid":'


def test_text_never_grows() -> None:
    """What is kept of a body is no longer than the body."""
    text = bytes(range(256)) * 40
    assert len(redact_text(text, LIVEKIT)) <= len(text)
