"""Logs of a LiteLLM proxy over HTTP: by a project's token, counted once, with nothing private kept anywhere."""

from typing import Any, Final

import orjson
import pytest

from pipeline.metering.events import Reason
from tests.gateway.running import ACME, NOW_MS, TOKEN, Running, border
from tests.metering.builders import ROOT

_BODY: Final = (ROOT / "tests" / "data" / "llm" / "litellm.json").read_bytes()
_LOGS: Final[list[dict[str, Any]]] = orjson.loads(_BODY)
_AUTHORIZED: Final = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
_PRIVATE: Final = (b"hunter2", b"ada@", b"laptop", b"078-05", b"203.0.113", b"sk-", b"AIza", b"Voice")


async def _post(gateway: Running, logs: object) -> dict[str, Any]:
    status, answer = await gateway.post("/webhooks/litellm", orjson.dumps(logs), _AUTHORIZED)
    assert status == 200
    return answer


async def test_a_batch_becomes_usage_of_the_tokens_project(gateway: Running) -> None:
    """Input and output of each log that used something; the others are told to be ignored."""
    answer = await _post(gateway, _LOGS)
    assert (answer["accepted"], answer["ignored"], answer["dead_letter"]) == (2, 2, 0)
    events = gateway.outbox.documents()
    assert [event["data"]["quantity"] for event in events] == [1024, 218, 30, 12]
    assert {(event["type"], event["data"]["project"]) for event in events} == {("usage.recorded", "acme")}


async def test_a_single_log_is_taken_too(gateway: Running) -> None:
    """LiteLLM's log_format `single`."""
    assert (await _post(gateway, _LOGS[0]))["accepted"] == 1


async def test_a_batch_sent_again_is_the_same_events(gateway: Running) -> None:
    """Under the same ids: each counts once (R14)."""
    await _post(gateway, _LOGS)
    first = gateway.outbox.documents()
    await _post(gateway, _LOGS)
    assert gateway.outbox.documents() == first * 2


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic YTpi"])
async def test_without_a_projects_token_nothing_is_taken(authorization: str, gateway: Running) -> None:
    """As for posted events."""
    headers = {"Authorization": authorization} if authorization else {}
    assert (await gateway.post("/webhooks/litellm", _BODY, headers))[0] == 401
    assert gateway.outbox.messages == []


async def test_a_log_that_cannot_be_counted_is_a_dead_letter_and_stops_nothing(gateway: Running) -> None:
    """R21; what is kept of it is what the adapter reads."""
    answer = await _post(gateway, [_LOGS[0] | {"prompt_tokens": -1}, _LOGS[3]])
    assert [event["disposition"] for event in answer["events"]] == ["dead_letter", "accepted"]
    [letter] = gateway.outbox.letters()
    assert dict(letter.headers)["reason"] == Reason.NEGATIVE_QUANTITY.encode()
    assert orjson.loads(letter.value)["completion_tokens"] == 218


async def test_nothing_private_reaches_kafka(gateway: Running) -> None:
    """In events and in dead letters, whole bodies and broken ones."""
    await _post(gateway, _LOGS)
    await _post(gateway, [log | {"id": None} for log in _LOGS])
    await gateway.post("/webhooks/litellm", _BODY[:-9], _AUTHORIZED)
    kept = b"".join(message.value or b"" for message in gateway.outbox.messages)
    assert len(gateway.outbox.letters()) == 4
    assert [word for word in _PRIVATE if word in kept] == []


async def test_more_logs_than_are_taken_at_once_are_refused_whole(gateway: Running) -> None:
    """The sender can make its batches smaller."""
    body = orjson.dumps([_LOGS[2]] * 1001)
    assert (await gateway.post("/webhooks/litellm", body, _AUTHORIZED))[0] == 413


def test_a_dead_letter_of_a_log_counts_once_it_is_replayed() -> None:
    """What is kept of it is enough for the tokens."""
    damaged = orjson.dumps(_LOGS[0] | {"endTime": 0})
    [letter] = border().from_litellm(damaged, ACME, NOW_MS).messages
    mended = orjson.loads(letter.value) | {"endTime": _LOGS[0]["endTime"]}
    messages = border().from_litellm(orjson.dumps(mended), ACME, NOW_MS).messages
    assert [orjson.loads(message.value)["data"]["quantity"] for message in messages] == [1024, 218]
