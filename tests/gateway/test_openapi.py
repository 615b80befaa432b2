"""The gateway does what its OpenAPI document says, asked by schemathesis with and without credentials."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.specs.openapi.checks import (
    missing_required_header,
    negative_data_rejection,
    positive_data_acceptance,
)

from pipeline.metering.events import Reason
from tests.gateway.running import JANUS, KEY, NOW_MS, SECRET, TOKEN, Running
from tests.gateway.signing import sign_livekit

_ROOT: Final = Path(__file__).parents[2]
_PATH: Final = _ROOT / "schemas" / "openapi.json"
_DOCUMENT: Final[dict[str, Any]] = orjson.loads(_PATH.read_bytes())


class _Signed(requests.auth.AuthBase):
    """The credentials of each route; LiveKit's is a signature of the very bytes that are sent."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request that is ready to be sent."""
        body = request.body or b""
        assert isinstance(body, str | bytes)
        body = body.encode() if isinstance(body, str) else body
        path = request.path_url.partition("?")[0]
        if path == "/webhooks/livekit":
            request.headers["Authorization"] = sign_livekit(KEY, SECRET, body, NOW_MS // 1000)
        else:
            request.headers["Authorization"] = JANUS if path == "/webhooks/janus" else f"Bearer {TOKEN}"
        return request


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run a gateway in a process of its own."""
    command = [sys.executable, "-m", "tests.gateway.running"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


_schema = schemathesis.openapi.from_path(_PATH)
_BOUNDED: Final = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@_schema.parametrize()
@_BOUNDED
def test_who_is_known_is_answered_as_documented(case: schemathesis.Case[Any], url: str) -> None:
    """Statuses, headers, content types and bodies of every answer, to right and wrong requests alike.

    But for two checks: whoever is known is not refused for what the body says (R21), and here the credential is never
    missing.
    """
    if case.media_type == "application/json" and case.path == "/v1/events":
        # The header that makes plain JSON binary mode: OpenAPI has no words for headers of one content type.
        case.headers["ce-specversion"] = "1.0"
    excluded = [negative_data_rejection, missing_required_header]
    case.call_and_validate(base_url=url, auth=_Signed(), excluded_checks=excluded)


@_schema.parametrize()
@_BOUNDED
def test_who_is_not_known_is_answered_as_documented(case: schemathesis.Case[Any], url: str) -> None:
    """The same without credentials: nothing is accepted."""
    case.call_and_validate(base_url=url, excluded_checks=[negative_data_rejection, positive_data_acceptance])


def test_the_checks_are_all_that_schemathesis_has() -> None:
    """A check that comes with a newer version is a decision, taken here."""
    load_all_checks()
    assert {check.__name__ for check in CHECKS.get_all()} == {
        *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
        *("response_schema_conformance", "negative_data_rejection", "positive_data_acceptance"),
        *("missing_required_header", "unsupported_method", "allow_header_conformance", "use_after_free"),
        *("ensure_resource_availability", "ignored_auth", "object_level_authorization"),
    }


async def test_the_document_is_served(gateway: Running) -> None:
    """As it stands in the repository."""
    async with gateway.client.get("/openapi.json") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert orjson.loads(await response.read()) == _DOCUMENT


def test_every_reason_is_documented() -> None:
    """The closed list of reasons in answers is the code's."""
    documented = _DOCUMENT["components"]["schemas"]["Answer"]["properties"]["reason"]["enum"]
    assert set(documented) == {*Reason, "project", "source"}
