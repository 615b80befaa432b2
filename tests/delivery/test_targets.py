"""What each billing system is sent for a rollup, and what its answers mean; by the systems' public documentation."""

from base64 import b64decode
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
import pytest

from pipeline.codec import encode_rollup
from pipeline.delivery.delivery import (
    Answer,
    Later,
    Refused,
    Request,
    Target,
    TargetHalted,
    Trying,
    parse_note,
    pause_ms,
    retry_after_ms,
)
from pipeline.delivery.targets import OpenMeter, Stripe, Webhook
from pipeline.metering.rollup import Rollup
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR
from tests.metering.builders import METERS

_HOUR_MS: Final = 1_790_006_400_000
_NOW_MS: Final = _HOUR_MS + 2 * MS_PER_HOUR
_ROLLUP: Final = Rollup("acme", "agent_session_minutes", _HOUR_MS, 1, 62, 2, 62, 3, _NOW_MS, _NOW_MS)
_WEBHOOK: Final = Webhook("https://billing.example/rollups", b"0123456789abcdef01234567")
_STRIPE: Final = Stripe(
    "https://api.stripe.com",
    "rk_test_1",
    {"acme": "cus_1"},
    {"agent_session_minutes": "agent_minutes", "data_transfer_gb": "transfer"},
    frozenset({"webrtc_minutes"}),
    METERS,
)
_OPENMETER: Final = OpenMeter("http://openmeter:8888", "om_1")
_TARGETS: Final[list[Target]] = [_WEBHOOK, _STRIPE, _OPENMETER]
_each_target = pytest.mark.parametrize("target", _TARGETS, ids=lambda target: target.name)


def _request(target: Target, rollup: Rollup = _ROLLUP, now_ms: int = _NOW_MS) -> Request | None:
    value = encode_rollup(rollup, METERS)
    return target.request(orjson.loads(value), value, now_ms)


def _form(rollup: Rollup = _ROLLUP) -> dict[str, str]:
    request = _request(_STRIPE, rollup)
    assert request is not None
    return {name: value for name, [value] in parse_qs(request.body.decode(), strict_parsing=True).items()}


def test_a_webhook_is_signed_as_standard_webhooks_says() -> None:
    """HMAC-SHA256 over id, timestamp in seconds and body, the example of the reference libraries."""
    webhook = Webhook("https://x.example", b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    request = webhook.request({"id": "msg_p5jXN8AQM9LWM0D4loKWxJek"}, b'{"test": 2432232314}', 1_614_265_330_999)
    assert request.headers["webhook-timestamp"] == "1614265330"
    assert request.headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_webhooks_body_is_the_rollup_as_it_was_emitted() -> None:
    """Byte for byte; its id is the rollup's."""
    request = _request(_WEBHOOK)
    assert request is not None
    assert (request.body, request.headers["webhook-id"]) == (encode_rollup(_ROLLUP, METERS), _ROLLUP.id)


def test_stripe_gets_the_delta_in_increments_at_the_hours_start() -> None:
    """Whole numbers, as Stripe asks: one unit there is one increment here (R16)."""
    assert _form() == {
        "event_name": "agent_minutes",
        "payload[stripe_customer_id]": "cus_1",
        "payload[value]": "62",
        "identifier": _ROLLUP.id,
        "timestamp": str(_HOUR_MS // 1000),
    }


def test_a_gb_is_a_hundred_whole_numbers_for_stripe() -> None:
    """The increment of data transfer is 0.01 GB."""
    assert _form(_ROLLUP._replace(meter="data_transfer_gb", delta=5))["payload[value]"] == "5"


def test_a_correction_is_a_negative_event_for_stripe() -> None:
    """Stripe's meters sum events; its documentation names negative quantities as the way to correct."""
    form = _form(_ROLLUP._replace(revision=2, increments=59, delta=-3))
    assert (form["payload[value]"], form["identifier"]) == ("-3", _ROLLUP._replace(revision=2).id)


@pytest.mark.parametrize(
    "rollup", [_ROLLUP._replace(revision=2, delta=0), _ROLLUP._replace(meter="webrtc_minutes")], ids=["zero", "ignored"]
)
def test_stripe_is_told_nothing_where_nothing_is_to_be_billed(rollup: Rollup) -> None:
    """A revision that moved no quantity, and a meter that the file says to ignore."""
    assert _request(_STRIPE, rollup) is None


@pytest.mark.parametrize(
    ("rollup", "reason"),
    [
        (_ROLLUP._replace(project="other"), r"'other' is not in \[stripe.customers\]"),
        (_ROLLUP._replace(meter="telephony_minutes"), r"'telephony_minutes' is not in \[stripe.events\]"),
        (_ROLLUP._replace(hour_ms=_NOW_MS - 36 * MS_PER_DAY), "more than 35 days ago"),
    ],
)
def test_what_stripe_cannot_bill_is_refused_with_the_reason(rollup: Rollup, reason: str) -> None:
    """A project or meter that nobody mapped is never passed over in silence."""
    with pytest.raises(Refused, match=reason):
        _request(_STRIPE, rollup)


def test_a_delta_in_other_increments_is_refused() -> None:
    """Emitted under another table of meters: no part of an increment is rounded away."""
    rollup = orjson.loads(encode_rollup(_ROLLUP, METERS)) | {"delta": "0.5"}
    with pytest.raises(Refused, match="no whole number of increments"):
        _STRIPE.request(rollup, b"", _NOW_MS)


def test_openmeter_gets_a_cloudevent() -> None:
    """Type = meter, subject = project; a meter there sums $.delta."""
    request = _request(_OPENMETER)
    assert request is not None
    event = orjson.loads(request.body)
    assert (request.url, request.headers["Content-Type"]) == (
        "http://openmeter:8888/api/v1/events",
        "application/cloudevents+json",
    )
    assert (event["id"], event["type"], event["subject"]) == (_ROLLUP.id, "agent_session_minutes", "acme")
    assert event["data"]["delta"] == "62"


@_each_target
@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_is_a_delivery(target: Target, status: int) -> None:
    """Any 2xx."""
    target.judge("id", Answer(status))


@_each_target
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_what_passes_by_itself_is_asked_again(target: Target, status: int) -> None:
    """Not sooner than the target said."""
    with pytest.raises(Later) as caught:
        target.judge("id", Answer(status, b"", 7_000))
    assert caught.value.wait_ms == 7_000


@_each_target
@pytest.mark.parametrize("status", [301, 307, 401, 403, 405, 410])
def test_what_is_not_about_the_rollup_stops_the_delivery(target: Target, status: int) -> None:
    """Credentials, address: no rollup would be taken, and none may be refused for that."""
    with pytest.raises(TargetHalted):
        target.judge("id", Answer(status))


@_each_target
@pytest.mark.parametrize("status", [400, 402, 413, 422])
def test_what_is_about_the_rollup_refuses_it(target: Target, status: int) -> None:
    """It is kept with the reason, and those behind it go on."""
    with pytest.raises(Refused, match=str(status)):
        target.judge("id", Answer(status, b"not JSON"))


def _stripe_error(message: Any) -> Answer:
    return Answer(400, orjson.dumps({"error": {"type": "invalid_request_error", "message": message}}))


def test_an_identifier_that_stripe_knows_is_delivered() -> None:
    """Stripe answers 400 to a repetition: that is proof that it has it."""
    _STRIPE.judge("id-1", _stripe_error("An event already exists with identifier id-1."))


@pytest.mark.parametrize("message", ["An event already exists with identifier id-2.", "No such customer", 7, None])
def test_any_other_400_of_stripe_is_a_refusal(message: Any) -> None:
    """Of another event, of this one, or without words."""
    with pytest.raises(Refused):
        _STRIPE.judge("id-1", _stripe_error(message))


def test_what_a_target_says_cannot_act_on_a_terminal() -> None:
    """It goes into logs."""
    with pytest.raises(Refused, match=r"HTTP 400: a\?\[31mb"):
        _OPENMETER.judge("id", Answer(400, orjson.dumps({"detail": "a\x1b[31mb"})))


@_each_target
def test_no_secret_is_shown(target: Target) -> None:
    """Where a target is printed, in a traceback for example."""
    assert not any(secret in repr(target) for secret in ("0123456789abcdef", "rk_test_1", "om_1"))


@pytest.mark.parametrize(
    ("header", "expected_ms"),
    [
        (None, 0),
        ("7", 7_000),
        ("99999999999999999999", MS_PER_HOUR),
        ("Mon, 21 Sep 2026 18:00:30 GMT", 30_000),
        ("Mon, 21 Sep 2026 17:00:00 GMT", 0),
        ("soon", 0),
        ("-3", 0),
        ("²", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, expected_ms: int) -> None:
    """RFC 9110, 10.2.3; at most an hour."""
    assert _NOW_MS == 1_790_013_600_000
    assert retry_after_ms(header, _NOW_MS) == expected_ms


@pytest.mark.parametrize(
    ("attempt", "asked_ms", "chance", "expected_ms"),
    [(1, 0, 0, 500), (1, 0, 1_000, 1_000), (3, 0, 1_000, 4_000), (99, 0, 1_000, 300_000), (1, 9_000, 1_000, 9_000)],
)
def test_pauses_double_and_keep_to_what_was_asked_for(
    attempt: int, asked_ms: int, chance: int, expected_ms: int
) -> None:
    """Half by chance, so that many deliverers do not come back at once; five minutes at most."""
    assert pause_ms(attempt, asked_ms, chance) == expected_ms


def test_a_note_is_read_back() -> None:
    """And anything else is none."""
    assert parse_note(Trying(17, _NOW_MS).note()) == Trying(17, _NOW_MS)
    assert [parse_note(text) for text in ("", "trying", "trying 1 x", "trying 1 2 3")] == [None] * 4
