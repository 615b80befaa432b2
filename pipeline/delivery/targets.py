"""The billing systems that rollups are delivered to: a signed webhook, Stripe's meter events, OpenMeter. Pure.

Each knows a repetition by the rollup's id, which is the same for the same revision for ever (R19).
"""

import hmac
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from pipeline.delivery.delivery import Answer, Refused, Request, judge_status
from pipeline.metering.meters import Meters
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_SECOND, parse_time

#: The version of Stripe's API whose documentation this follows.
STRIPE_VERSION: Final = "2025-04-30.basil"
#: Stripe takes timestamps of the last 35 days.
_STRIPE_WINDOW_MS: Final = 35 * MS_PER_DAY
#: Stripe knows an identifier again for at least 24 hours; an hour is left for clocks and for the request itself.
_STRIPE_FORGETS_MS: Final = 23 * MS_PER_HOUR
_NOTHING: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Any receiver of the rollup's document as it is, signed by Standard Webhooks (HMAC-SHA256)."""

    url: str
    secret: bytes = field(repr=False)
    name: str = "webhook"
    forgets_after_ms: int | None = None

    def request(self, rollup: Mapping[str, Any], value: bytes, now_ms: int) -> Request:
        """Return the document, signed for this attempt."""
        rollup_id, time_s = rollup["id"], now_ms // MS_PER_SECOND
        signed = b"%s.%d.%s" % (rollup_id.encode(), time_s, value)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": rollup_id,
            "webhook-timestamp": str(time_s),
            "webhook-signature": f"v1,{b64encode(hmac.digest(self.secret, signed, 'sha256')).decode()}",
        }
        return Request(self.url, headers, value)

    def judge(self, _rollup_id: str, answer: Answer) -> None:
        """Judge by the status; what the receiver says otherwise is not looked at."""
        judge_status(answer)


@dataclass(frozen=True, slots=True)
class Stripe:
    """Stripe's billing meter events: the delta of each revision in increments, which are whole numbers as Stripe asks.

    A correction is a further event of the same hour, negative where usage shrank: Stripe's meters sum them.
    """

    url: str
    key: str = field(repr=False)
    #: Stripe's customer by project, and event name by meter.
    customers: Mapping[str, str]
    events: Mapping[str, str]
    #: Meters that are not billed here.
    ignored: frozenset[str]
    meters: Meters
    name: str = "stripe"
    forgets_after_ms: int | None = _STRIPE_FORGETS_MS

    def request(self, rollup: Mapping[str, Any], _value: bytes, now_ms: int) -> Request | None:
        """Return a meter event at the hour's start; None where the delta is nothing, or the meter is ignored."""
        meter, delta = rollup["meter"], Decimal(rollup["delta"])
        if meter in self.ignored or delta == _NOTHING:
            return None
        for known, name, what in ((self.customers, rollup["project"], "customers"), (self.events, meter, "events")):
            if name not in known:
                raise Refused(f"{name!r} is not in [stripe.{what}]")
        hour_ms = parse_time(rollup["hour"])
        if hour_ms < now_ms - _STRIPE_WINDOW_MS:
            raise Refused("the hour is more than 35 days ago: Stripe takes no event of it; mend the invoice by hand")
        form = {
            "event_name": self.events[meter],
            "payload[stripe_customer_id]": self.customers[rollup["project"]],
            "payload[value]": str(self._increments(meter, delta)),
            "identifier": rollup["id"],
            "timestamp": str(hour_ms // MS_PER_SECOND),
        }
        # No Idempotency-Key: under it Stripe would repeat its own server error for a day. The identifier does it.
        headers = {
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Stripe-Version": STRIPE_VERSION,
        }
        return Request(f"{self.url}/v1/billing/meter_events", headers, urlencode(form).encode())

    def _increments(self, name: str, delta: Decimal) -> int:
        if name not in self.meters:
            raise Refused(f"meter {name!r} is not in the table of meters")
        meter = self.meters[name]
        increments, rest = divmod(delta * meter.unit_size, meter.increment)
        if rest:
            raise Refused(f"the delta {delta} is no whole number of increments of {name!r}: another table of meters?")
        return int(increments)

    def judge(self, rollup_id: str, answer: Answer) -> None:
        """Judge; what Stripe has already, it has: it answers 400 to an identifier that it knows."""
        said = _text(answer.body, "error", "message")
        if answer.status == 400 and said.startswith(f"An event already exists with identifier {rollup_id}"):  # noqa: PLR2004
            return
        if answer.status == 404:  # noqa: PLR2004 - Stripe's word for a customer or a meter that it does not know
            raise Refused(f"HTTP 404: {said[:200]}")
        judge_status(answer, said)


@dataclass(frozen=True, slots=True)
class OpenMeter:
    """OpenMeter's events: one CloudEvent a revision, type = meter, subject = project, data = the rollup's document."""

    url: str
    token: str = field(repr=False, default="")
    name: str = "openmeter"
    forgets_after_ms: int | None = None

    def request(self, rollup: Mapping[str, Any], _value: bytes, _now_ms: int) -> Request:
        """Return the event, at the hour's start."""
        event = {
            "specversion": "1.0",
            "id": rollup["id"],
            "source": "roommeter",
            "type": rollup["meter"],
            "subject": rollup["project"],
            "time": rollup["hour"],
            "data": rollup,
        }
        headers = {"Content-Type": "application/cloudevents+json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return Request(f"{self.url}/api/v1/events", headers, orjson.dumps(event))

    def judge(self, _rollup_id: str, answer: Answer) -> None:
        """Judge by the status; a refusal carries the detail of its problem document."""
        judge_status(answer, _text(answer.body, "detail"))


def _text(body: bytes, *path: str) -> str:
    """Return the text at a place of a JSON answer, made safe for logs; '' where there is none."""
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return "".join(char if char.isprintable() else "?" for char in found) if isinstance(found, str) else ""
