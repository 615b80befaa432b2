"""What is sent to Stripe and OpenMeter, by the schemas that they publish, for every meter of the table."""

from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
import pytest
from jsonschema import Draft202012Validator

from pipeline.codec import encode_rollup
from pipeline.delivery.delivery import Request, Target
from pipeline.delivery.targets import OpenMeter, Stripe
from pipeline.metering.rollup import Rollup
from pipeline.metering.units import MS_PER_HOUR, parse_time
from tests.metering.builders import METERS

_HOUR_MS: Final = 1_790_006_400_000
_NOW_MS: Final = _HOUR_MS + 2 * MS_PER_HOUR
#: The form of POST /v1/billing/meter_events in Stripe's OpenAPI document; values of a meter event are whole numbers.
_STRIPE: Final = {
    "type": "object",
    "required": ["event_name", "payload"],
    "additionalProperties": False,
    "properties": {
        "event_name": {"type": "string", "maxLength": 100},
        "identifier": {"type": "string", "maxLength": 100},
        "timestamp": {"type": "integer"},
        "payload": {
            "type": "object",
            "required": ["stripe_customer_id", "value"],
            "additionalProperties": {"type": "string"},
            "properties": {"value": {"pattern": r"^-?\d+$"}},
        },
    },
}
#: CloudEvents 1.0's JSON schema, and `subject`, which OpenMeter asks for.
_CLOUDEVENT: Final = {
    "type": "object",
    "required": ["id", "source", "specversion", "type", "subject"],
    "properties": {
        **{name: {"type": "string", "minLength": 1} for name in ("id", "source", "type", "subject")},
        "specversion": {"const": "1.0"},
        "time": {"type": ["string", "null"]},
        "data": {"type": ["object", "string", "number", "array", "boolean", "null"]},
    },
    "propertyNames": {"pattern": "^[a-z0-9]+$"},
}
_SENT: Final = [(meter, delta) for meter in METERS for delta in (1, 62, -7)]
_each_rollup = pytest.mark.parametrize(("meter", "delta"), _SENT)


def _request(target: Target, meter: str, delta: int) -> Request:
    """Return what a target is sent of a second revision that changes an hour by so many increments."""
    value = encode_rollup(Rollup("acme", meter, _HOUR_MS, 2, 100, 2, delta, 3, _NOW_MS, _NOW_MS), METERS)
    request = target.request(orjson.loads(value), value, _NOW_MS)
    assert request is not None
    return request


def _nested(form: list[tuple[str, str]]) -> dict[str, Any]:
    """Return a form as Stripe reads it: a[b]=c is a member b of a, numbers are numbers."""
    document: dict[str, Any] = {"payload": {}}
    for name, value in form:
        if name.startswith("payload["):
            document["payload"][name.removeprefix("payload[").removesuffix("]")] = value
        else:
            document[name] = int(value) if name == "timestamp" else value
    return document


@_each_rollup
def test_a_meter_event_is_one_by_stripes_schema(meter: str, delta: int) -> None:
    """A correction is a negative one; the identifier is the rollup's own, so that it counts once."""
    stripe = Stripe("https://api.stripe.com", "rk_test_1", {"acme": "cus_1"}, {meter: meter}, frozenset(), METERS)
    event = _nested(parse_qsl(_request(stripe, meter, delta).body.decode(), strict_parsing=True))
    Draft202012Validator(_STRIPE).validate(event)
    assert event["payload"] == {"stripe_customer_id": "cus_1", "value": str(delta)}
    assert event["timestamp"] * 1_000 == _HOUR_MS


@_each_rollup
def test_a_cloudevent_is_one_by_its_schema(meter: str, delta: int) -> None:
    """Its time is RFC 3339 of the hour, its id the rollup's."""
    event = orjson.loads(_request(OpenMeter("http://openmeter:8888", "om_1"), meter, delta).body)
    Draft202012Validator(_CLOUDEVENT).validate(event)
    assert parse_time(event["time"]) == _HOUR_MS
    assert event["id"] == event["data"]["id"]
