"""`GET /v1/limits/{project}`, and the documents of limits: as their schemas say."""

from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import orjson
import pytest
from jsonschema import Draft202012Validator

from pipeline.http import Readiness, make_app, serve
from pipeline.limits import codec as limit_codec
from pipeline.limits.page import LimitsPage
from pipeline.metering.limits import THRESHOLDS, Crossing, Limit, Standing, decimal
from pipeline.metering.units import parse_time
from pipeline.metrics import Metrics
from tests.metering.builders import ROOT, clock

_SCHEMA: Final[dict[str, Any]] = orjson.loads((ROOT / "schemas" / "limit.v1.json").read_bytes())
_OPENAPI: Final[dict[str, Any]] = orjson.loads((ROOT / "schemas" / "openapi-limits.json").read_bytes())
_DAILY: Final = Limit("agent_session_minutes", "day", 60_000_000, 72_000_000, "minute", 60_000)
_AT_ONCE: Final = Limit("concurrent_agent", "now", None, 8, "session", 1)
_AS_OF_MS: Final = clock("14:00:00")


@pytest.fixture
def page() -> LimitsPage:
    """Return the page, that nobody answers yet."""
    return LimitsPage()


@pytest.fixture
async def session(page: LimitsPage) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve the page as `up` does."""
    metrics = Metrics()
    async with (
        serve(make_app(Readiness(metrics), metrics, limits=page)) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


def _tells(project: str) -> tuple[int, list[Standing]]:
    """Answer for acme, which has used up half of its minutes and all of its agents."""
    standings = [
        Standing(project, _DAILY, clock("0:00:00"), clock("24:00:00"), 30_000_000),
        Standing(project, _AT_ONCE, 0, clock("24:00:00"), 9),
    ]
    return _AS_OF_MS, standings if project == "acme" else []


async def _asked(session: aiohttp.ClientSession, project: str) -> tuple[int, Any]:
    """Return status and document of an answer that the OpenAPI document allows."""
    async with session.get(f"/v1/limits/{project}") as response:
        document = orjson.loads(await response.read())
        responses = _OPENAPI["paths"]["/v1/limits/{project}"]["get"]["responses"]
        schema = responses[str(response.status)]["content"][response.content_type]["schema"]
        Draft202012Validator(schema | {"components": _OPENAPI["components"]}).validate(document)
        return response.status, document


async def test_a_project_is_told_how_its_limits_stand(session: aiohttp.ClientSession, page: LimitsPage) -> None:
    """Quantities are exact decimals; sessions at one moment have no period."""
    page.ask = _tells
    status, answer = await _asked(session, "acme")
    assert (status, answer["as_of"]) == (200, "2026-09-21T14:00:00.000Z")
    assert [(limit["quantity"], limit["percent"], limit["state"]) for limit in answer["limits"]] == [
        ("500", 50, "under"),
        ("9", 112, "exceeded"),
    ]
    assert [limit["period_start"] for limit in answer["limits"]] == ["2026-09-21T00:00:00.000Z", None]


async def test_a_project_without_limits_has_none(session: aiohttp.ClientSession, page: LimitsPage) -> None:
    """Known or not: who enforces sees an empty list, and nothing to enforce."""
    page.ask = _tells
    assert await _asked(session, "globex") == (
        200,
        {"project": "globex", "as_of": "2026-09-21T14:00:00.000Z", "limits": []},
    )


async def test_before_the_first_evaluation_nobody_is_told_anything(session: aiohttp.ClientSession) -> None:
    """503, so that whoever enforces decides knowingly."""
    assert (await _asked(session, "acme"))[0] == 503


@pytest.mark.parametrize("name", ["a%00b", "x" * 257])
async def test_what_cannot_be_a_project_is_refused(session: aiohttp.ClientSession, name: str) -> None:
    """R21: names are printable, and not longer than that."""
    assert (await _asked(session, name))[0] == 400


@pytest.mark.parametrize("example", _SCHEMA["examples"], ids=lambda example: str(example["id"]))
def test_an_example_of_a_crossing_is_what_the_core_would_say(example: dict[str, Any]) -> None:
    """By its own fields: id, event, period and decimals."""
    unit_size = 60_000 if example["unit"] == "minute" else 1

    def base(name: str) -> int | None:
        return None if example[name] is None else int(example[name]) * unit_size

    crossing = Crossing(
        project=example["project"],
        meter=example["meter"],
        per=example["per"],
        period_ms=parse_time(example["period_start"]) if example["period_start"] else 0,
        threshold=example["threshold"],
        number=2 * example["occurrence"] - (example["event"] != "back_under"),
        quantity=base("quantity") or 0,
        soft=base("soft"),
        hard=base("hard"),
        unit=example["unit"],
        unit_size=unit_size,
        as_of_ms=parse_time(example["as_of"]),
    )
    assert orjson.loads(limit_codec.encode_crossing(crossing)) == example
    Draft202012Validator(_SCHEMA).validate(example)


def test_the_schema_has_the_thresholds_of_the_code() -> None:
    """A closed list."""
    assert _SCHEMA["properties"]["threshold"]["enum"] == list(THRESHOLDS)


def test_a_decision_is_read_as_it_was_written() -> None:
    """With who worked it out."""
    crossing = Crossing("acme", "m", "hour", _AS_OF_MS, "50", 1, 5, None, 9, "minute", 60_000, _AS_OF_MS)
    assert limit_codec.decode_decision(limit_codec.encode_decision("me", crossing)) == ("me", crossing)
    assert decimal(90_000, 60_000).as_tuple().digits == (1, 5)
