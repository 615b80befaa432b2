"""CloudEvents over HTTP: content modes by content type, attributes by header."""

import pytest

from pipeline.gateway.cloudevents import Mode, UnsupportedMode, attributes, mode_of


@pytest.mark.parametrize(
    ("content_type", "has_version", "mode"),
    [
        ("application/cloudevents+json", False, "structured"),
        ("Application/CloudEvents+JSON", True, "structured"),
        ("application/cloudevents-batch+json", False, "batch"),
        ("application/json", True, "binary"),
        ("application/vnd.acme+json", True, "binary"),
        ("application/octet-stream", True, "binary"),
    ],
)
def test_the_content_type_tells_the_mode(content_type: str, mode: Mode, *, has_version: bool) -> None:
    """HTTP protocol binding, section 3: and where it is none of theirs, a ce-specversion header tells binary mode."""
    assert mode_of(content_type, has_version=has_version) == mode


@pytest.mark.parametrize(
    ("content_type", "has_version"),
    [
        ("application/json", False),
        ("application/cloudevents", True),
        ("application/cloudevents+xml", True),
        ("application/cloudevents-batch+avro", True),
        ("text/plain", True),
    ],
)
def test_other_modes_are_not_guessed(content_type: str, *, has_version: bool) -> None:
    """Formats that are not JSON, and JSON without any attributes."""
    with pytest.raises(UnsupportedMode):
        mode_of(content_type, has_version=has_version)


@pytest.mark.parametrize(
    ("value", "decoded"),
    [("plain", "plain"), ("Euro%20%E2%82%AC", "Euro €"), ('"a \\"b\\" %25"', 'a "b" %'), ('"', '"'), ("", "")],
)
def test_values_of_headers_are_decoded(value: str, decoded: str) -> None:
    """HTTP protocol binding, section 3.1.3.2: quotes first, then percent-encoding."""
    assert attributes([("ce-id", value)]) == {"id": decoded}


def test_only_ce_headers_are_attributes() -> None:
    """Names are those of HTTP: in any case."""
    assert attributes([("CE-Id", "1"), ("Authorization", "x"), ("ce", "x"), ("X-ce-id", "x")]) == {"id": "1"}
