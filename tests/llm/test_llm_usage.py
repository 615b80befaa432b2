"""LLM usage of real gateways and APIs as canonical events: counted once each, and nothing private in them."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from pipeline.llm import litellm as llm_litellm
from pipeline.llm import openai as llm_openai
from pipeline.llm import otlp as llm_otlp
from pipeline.metering.events import Event, InvalidEvent, Reason, parse_event
from pipeline.sources import UnreadableFile, detect_format, read_events
from tests.metering.builders import METERS, ROOT

_SAMPLES: Final = ROOT / "tests" / "data" / "llm"
_FILES: Final = {"litellm": "litellm.json", "openai-log": "openai-log.jsonl", "otlp": "otlp.json"}
_LITELLM: Final[list[dict[str, Any]]] = orjson.loads((_SAMPLES / "litellm.json").read_bytes())
_OPENAI: Final = [orjson.loads(line) for line in (_SAMPLES / "openai-log.jsonl").read_bytes().splitlines()]
_OTLP: Final[dict[str, Any]] = orjson.loads((_SAMPLES / "otlp.json").read_bytes())
_each_format = pytest.mark.parametrize("name", _FILES)


def _events(name: str) -> list[dict[str, Any]]:
    return [orjson.loads(event) for event in read_events(_SAMPLES / _FILES[name], project="acme")]


def _quantities(name: str) -> list[tuple[str, int]]:
    short = {"llm_input_tokens": "in", "llm_output_tokens": "out"}
    return [(short[event["data"]["meter"]], event["data"]["quantity"]) for event in _events(name)]


def _parsed(document: dict[str, Any]) -> Event:
    event = parse_event(document, METERS)
    assert event is not None
    return event


@_each_format
def test_the_format_of_a_log_is_known_by_its_content(name: str) -> None:
    """As `produce` finds it without being told."""
    assert detect_format(_SAMPLES / _FILES[name]) == name


@_each_format
def test_every_event_is_one_that_the_pipeline_takes(name: str) -> None:
    """Of the project named, with an id of its own (R14)."""
    events = [_parsed(document) for document in _events(name)]
    assert {event.project for event in events} == {"acme"}
    assert len({(event.source, event.id) for event in events}) == len(events) > 0


@_each_format
def test_a_log_read_again_is_the_same_events(name: str) -> None:
    """Byte for byte: a repetition counts once (R14)."""
    path = _SAMPLES / _FILES[name]
    assert list(read_events(path, project="acme")) == list(read_events(path, project="acme"))


@_each_format
def test_nothing_private_passes(name: str) -> None:
    """Prompts, answers, people, addresses, keys: by an allow-list, so also what nobody thought of."""
    said = orjson.dumps(_events(name)).decode()
    private = ("hunter2", "ada", "078-05", "203.0.113", "sk-", "AIza", "pass", "secret", "Voice", "production")
    assert [word for word in private if word in said] == []


def test_litellm_counts_what_went_to_a_model() -> None:
    """Not a failure that used nothing, nor an answer of LiteLLM's own cache."""
    assert _quantities("litellm") == [("in", 1024), ("out", 218), ("in", 30), ("out", 12)]


def test_openai_counts_every_answer_once() -> None:
    """Chat, the last chunk of a stream, a text completion, a response, a line of a batch."""
    expected = [("in", 2006), ("out", 300), ("in", 19), ("out", 10), ("in", 5), ("out", 7)]
    assert _quantities("openai-log") == [*expected, ("in", 36), ("out", 87), ("in", 22), ("out", 2)]


def test_otlp_counts_the_sums_of_its_histogram() -> None:
    """And passes over other metrics."""
    assert _quantities("otlp") == [("in", 1234), ("out", 321)]


def test_litellm_says_whose_usage_it_is() -> None:
    """Model, host, team, key by its hash, status and latency; at the time it ended."""
    event = _events("litellm")[0]
    assert (event["source"], event["id"]) == ("llm/litellm", "chatcmpl-9f2c1a7e/llm_input_tokens")
    assert event["time"] == "2026-09-21T14:13:21.500Z"
    assert event["data"] == {
        "project": "acme",
        "meter": "llm_input_tokens",
        "quantity": 1024,
        "model": "gpt-4o-mini",
        "endpoint": "api.openai.com",
        "team": "team-voice",
        "key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "status": "success",
        "latency_ms": 1250,
    }


def test_a_raw_key_is_hashed_and_an_address_is_its_host() -> None:
    """Where LiteLLM hands on the key itself, and where a key stands in the address."""
    [event, _] = llm_litellm.canonical(_LITELLM[3], "acme")
    assert event["data"]["endpoint"] == "generativelanguage.googleapis.com"
    assert len(event["data"]["key"]) == 64


def test_openai_says_model_and_status() -> None:
    """A response has one, a chat completion has none."""
    response = _events("openai-log")[6]
    assert (response["source"], response["data"]["status"]) == ("llm/openai", "completed")
    assert response["data"]["model"] == "gpt-4.1-2025-04-14"


def test_otlp_says_provider_model_and_server() -> None:
    """The model that answered, else the one asked for; the provider by its new name or its old one."""
    first, second = _events("otlp")
    assert (first["source"], second["source"]) == ("llm/openai", "llm/openai")
    assert (first["data"]["model"], second["data"]["model"]) == ("gpt-4o-2024-08-06", "gpt-4o")
    assert first["data"]["endpoint"] == "api.openai.com"


def test_an_otlp_point_of_another_process_or_time_is_another_event() -> None:
    """Two instances count the same at the same time; each counts."""
    other, later = deepcopy(_OTLP), deepcopy(_OTLP)
    other["resourceMetrics"][0]["resource"]["attributes"][1]["value"]["stringValue"] = "another"
    point = _points(later)[0]
    point["startTimeUnixNano"], point["timeUnixNano"] = point["timeUnixNano"], "1790000120000000000"
    ids = {llm_otlp.canonical(request, "acme")[0]["id"] for request in (_OTLP, other, later)}
    assert len(ids) == 3


def test_an_id_that_is_too_long_is_its_digest() -> None:
    """Some gateways put half a request into theirs; the same one stays the same."""
    long = _OPENAI[0] | {"id": "resp_" + "x" * 500}
    [event, _] = llm_openai.canonical(long, "acme")
    assert len(event["id"]) < 128
    assert llm_openai.canonical(long, "acme")[0] == event


def _points(request: dict[str, Any]) -> list[dict[str, Any]]:
    metric = request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]
    points: list[dict[str, Any]] = metric["histogram"]["dataPoints"]
    return points


def _otlp(**changes: Any) -> Callable[[], list[dict[str, Any]]]:
    request = deepcopy(_OTLP)
    _points(request)[0].update(changes)
    return lambda: llm_otlp.canonical(request, "acme")


def _otlp_histogram(**changes: Any) -> Callable[[], list[dict[str, Any]]]:
    request = deepcopy(_OTLP)
    request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["histogram"].update(changes)
    return lambda: llm_otlp.canonical(request, "acme")


def _litellm(**changes: Any) -> Callable[[], list[dict[str, Any]]]:
    return lambda: llm_litellm.canonical(_LITELLM[0] | changes, "acme")


def _openai(**changes: Any) -> Callable[[], list[dict[str, Any]]]:
    return lambda: llm_openai.canonical(_OPENAI[0] | changes, "acme")


_TOTAL: Final = [{"key": "gen_ai.token.type", "value": {"stringValue": "total"}}]


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (_litellm(id=None), Reason.MISSING_FIELD),
        (_litellm(id=7), Reason.WRONG_FIELD),
        (_litellm(prompt_tokens=-1), Reason.NEGATIVE_QUANTITY),
        (_litellm(prompt_tokens=1.5), Reason.WRONG_FIELD),
        (_litellm(completion_tokens=True), Reason.WRONG_FIELD),
        (_litellm(completion_tokens=2**63), Reason.WRONG_FIELD),
        (_litellm(endTime=None), Reason.MISSING_FIELD),
        (_litellm(endTime="2026-09-21"), Reason.WRONG_FIELD),
        (_litellm(endTime=1e300), Reason.IMPOSSIBLE_TIME),
        (_litellm(endTime=float("inf")), Reason.IMPOSSIBLE_TIME),
        (_litellm(metadata=[]), Reason.WRONG_FIELD),
        (_openai(object="list"), Reason.WRONG_FIELD),
        (_openai(object=[]), Reason.WRONG_FIELD),
        (_openai(usage=7), Reason.WRONG_FIELD),
        (_openai(created=0), Reason.IMPOSSIBLE_TIME),
        (_otlp(sum=None), Reason.MISSING_FIELD),
        (_otlp(sum=0.5), Reason.WRONG_FIELD),
        (_otlp(sum=-1.0), Reason.NEGATIVE_QUANTITY),
        (_otlp(sum=2.0**60), Reason.WRONG_FIELD),
        (_otlp(sum=float("nan")), Reason.WRONG_FIELD),
        (_otlp(sum=True), Reason.WRONG_FIELD),
        (_otlp(timeUnixNano="soon"), Reason.WRONG_FIELD),
        (_otlp(timeUnixNano="99999999999999999999"), Reason.WRONG_FIELD),
        (_otlp(timeUnixNano=1), Reason.IMPOSSIBLE_TIME),
        (_otlp(attributes=_TOTAL), Reason.WRONG_FIELD),
        (_otlp(attributes=7), Reason.WRONG_FIELD),
        (_otlp_histogram(aggregationTemporality=2), Reason.WRONG_FIELD),
        (_otlp_histogram(aggregationTemporality="AGGREGATION_TEMPORALITY_CUMULATIVE"), Reason.WRONG_FIELD),
        (_otlp_histogram(dataPoints={}), Reason.WRONG_FIELD),
    ],
)
def test_what_cannot_be_counted_is_refused_with_a_reason(
    read: Callable[[], list[dict[str, Any]]], reason: Reason
) -> None:
    """From the closed list of R21; nothing is guessed."""
    with pytest.raises(InvalidEvent) as caught:
        read()
    assert caught.value.reason is reason


def test_a_point_without_a_value_is_passed_over() -> None:
    """OTLP's flag NO_RECORDED_VALUE: there is nothing to count."""
    assert [event["data"]["quantity"] for event in _otlp(flags=1, sum=None)()] == [321]


def test_a_temporality_may_be_written_by_name() -> None:
    """Some exporters write enums so."""
    assert len(_otlp_histogram(aggregationTemporality="AGGREGATION_TEMPORALITY_DELTA")()) == 2


@pytest.mark.parametrize("value", [7, ["x"], "a\nb", "x" * 300, None])
def test_a_label_that_is_unfit_costs_no_usage(value: Any) -> None:
    """It is left out."""
    events = _litellm(model=value, api_base=value, custom_llm_provider=value, status=value)()
    assert [set(event["data"]) & {"model", "endpoint", "status"} for event in events] == [set(), set()]


def test_a_cumulative_file_says_what_to_change(tmp_path: Path) -> None:
    """The reader can mend it."""
    request = deepcopy(_OTLP)
    request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["histogram"]["aggregationTemporality"] = 2
    (tmp_path / "otlp.json").write_bytes(orjson.dumps(request))
    with pytest.raises(UnreadableFile, match="has to be delta: cumulative sums cannot be billed"):
        list(read_events(tmp_path / "otlp.json"))
