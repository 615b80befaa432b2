"""What goes to Kafka: which key an event has, so that what belongs together shares a partition."""

from typing import Any

import pytest

from pipeline.llm.usage import Used, events
from pipeline.messages import EVERY_PARTITION, event_key, lifecycle_message
from tests.metering.builders import Document, connected, event

_USED: Document = event("usage.recorded", "14:00:00", project="acme", meter="tts_characters", quantity=1)
_NUMBER: Document = event("number.acquired", "14:00:00", project="acme", number="+1")


@pytest.mark.parametrize(
    ("document", "key"),
    [
        (connected("14:00:00") | {"subject": "PA_1"}, b"acme/RM_1"),
        (_USED | {"subject": "PA_1"}, b"acme/PA_1"),
        (_USED, b"acme/EV_1"),
        (_NUMBER | {"subject": "+2"}, b"acme/+2"),
        (_NUMBER, b"acme/+1"),
    ],
)
def test_an_event_has_the_key_of_its_room_else_of_its_subject(document: Document, key: bytes) -> None:
    """Who names neither reports of a number, or of a usage event, which is its own subject (R14)."""
    assert event_key(document) == key


def test_a_models_answer_is_the_subject_of_its_usage() -> None:
    """Input and output of one answer share a partition."""
    used = Used(source="litellm", id="chatcmpl-1", time_ms=0, project="acme", input_tokens=1, output_tokens=2)
    assert [event_key(document) for document in events(used)] == [b"acme/chatcmpl-1"] * 2


@pytest.mark.parametrize("document", [None, [], {"data": []}, {"data": {"project": 1}}, {"id": "EV_1", "data": {}}])
def test_what_names_no_project_has_no_key(document: Any) -> None:
    """The worker says what is wrong with it."""
    assert event_key(document) is None


def test_a_restart_goes_to_every_partition() -> None:
    """R9: it concerns rooms anywhere."""
    message = lifecycle_message("lifecycle", event("server.restarted", "14:00:00"))
    assert (message.key, message.partition) == (None, EVERY_PARTITION)
