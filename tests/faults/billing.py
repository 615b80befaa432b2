"""A fake of the billing systems that rollups are delivered to, as strict as their public documentation says.

Webhook: Standard Webhooks 1.0.0 (signature over id, timestamp and body; a timestamp of now), the body by our schema.
Stripe: POST /v1/billing/meter_events, form-encoded, whole numbers, the last 35 days, identifiers unique for a day, with
400 "An event already exists with identifier ..." for a second one. OpenMeter: POST /api/v1/events with one CloudEvent.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import re
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from aiohttp import web
from jsonschema import Draft202012Validator

from tests.metering.builders import ROOT

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the example of the specification
KEY: Final = "rk_test_0123456789abcdef"
_ROLLUP: Final = Draft202012Validator(orjson.loads((ROOT / "schemas" / "rollup.v1.json").read_bytes()))
_EVENT: Final = Draft202012Validator(
    {
        "type": "object",
        "required": ["id", "source", "specversion", "type", "subject"],
        "properties": {
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1},
            "specversion": {"const": "1.0"},
            "type": {"type": "string", "minLength": 1},
            "subject": {"type": "string", "minLength": 1},
            "time": {"type": "string", "format": "date-time"},
            "data": {"type": ["object", "null"]},
        },
    }
)
_STRIPE_FIELDS: Final = {"event_name", "payload[stripe_customer_id]", "payload[value]", "identifier", "timestamp"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request: a status in place of the answer, before or after it took effect; or more."""

    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    #: Whether the request takes effect all the same.
    is_taken: bool = False
    #: A process that is killed (SIGKILL) before it has the answer.
    kills: int = 0


class Billing:
    """What the fake has: deliveries by id, how often each came, and the faults that are still to happen."""

    def __init__(self) -> None:
        """Have nothing."""
        self.url = ""
        self.taken: dict[str, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        self.wrong: list[str] = []
        #: What happens to the next requests; None is nothing.
        self.faults: deque[Fault | None] = deque()
        self.customers = {"cus_acme"}
        #: The most requests at once for one customer and meter: Stripe allows one.
        self.most_at_once = 0
        self._under_way: Counter[Any] = Counter()

    async def webhook(self, request: web.Request) -> web.StreamResponse:
        """Take a rollup's document."""
        body = await request.read()
        sent = request.headers
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        if sent["webhook-signature"] != f"v1,{expected}" or abs(time.time() - int(sent["webhook-timestamp"])) > 60:
            return self._refuse(401, "signature")
        document = orjson.loads(body)
        if sent["Content-Type"] != "application/json" or not _ROLLUP.is_valid(document):
            return self._refuse(400, "document")
        return await self._answer(sent["webhook-id"], document, web.Response(status=204))

    async def stripe(self, request: web.Request) -> web.StreamResponse:
        """Take a meter event."""
        form = dict(parse_qsl((await request.read()).decode(), strict_parsing=True))
        if request.headers["Authorization"] != f"Bearer {KEY}":
            return self._stripe_error(401, "Invalid API Key provided: rk_test_***")
        if request.headers["Content-Type"] != "application/x-www-form-urlencoded" or set(form) != _STRIPE_FIELDS:
            return self._refuse(400, f"form {sorted(form)}")
        age_s = time.time() - int(form["timestamp"])
        problems = {
            "identifier": len(form["identifier"]) > 100,
            "event_name": len(form["event_name"]) > 100,
            "payload[value]": not re.fullmatch(r"-?\d+", form["payload[value]"]),
            "timestamp": not -300 <= age_s <= 35 * 86_400,
        }
        if any(problems.values()):
            return self._refuse(400, str(problems))
        if form["payload[stripe_customer_id]"] not in self.customers:
            return self._stripe_error(400, f"No such customer: '{form['payload[stripe_customer_id]']}'")
        if form["identifier"] in self.taken:
            self.asked[form["identifier"]] += 1
            return self._stripe_error(400, f"An event already exists with identifier {form['identifier']}.")
        cell = (form["payload[stripe_customer_id]"], form["event_name"])
        self._under_way[cell] += 1
        self.most_at_once = max(self.most_at_once, *self._under_way.values())
        await asyncio.sleep(0)
        self._under_way[cell] -= 1
        return await self._answer(form["identifier"], form, web.json_response({"object": "billing.meter_event"}))

    async def openmeter(self, request: web.Request) -> web.StreamResponse:
        """Take a CloudEvent."""
        event = orjson.loads(await request.read())
        if request.headers["Content-Type"] != "application/cloudevents+json" or not _EVENT.is_valid(event):
            return self._refuse(400, "event")
        return await self._answer(event["id"], event, web.Response(status=204))

    async def _answer(self, delivery: str, content: dict[str, Any], answer: web.Response) -> web.StreamResponse:
        self.asked[delivery] += 1
        fault = self.faults.popleft() if self.faults else None
        if fault is None or fault.is_taken:
            self.taken[delivery] = content
        if fault is None:
            return answer
        if fault.kills:
            os.kill(fault.kills, signal.SIGKILL)
        return web.Response(status=fault.status, headers=fault.headers)

    def _refuse(self, status: int, problem: str) -> web.Response:
        self.wrong.append(problem)
        return web.json_response({"detail": problem}, status=status)

    @staticmethod
    def _stripe_error(status: int, message: str) -> web.Response:
        error = {"type": "invalid_request_error", "message": message}
        return web.json_response({"error": error}, status=status)


@asynccontextmanager
async def billing() -> AsyncIterator[Billing]:
    """Serve the fake on a free port of loopback."""
    fake = Billing()
    app = web.Application()
    app.router.add_post("/rollups", fake.webhook)
    app.router.add_post("/v1/billing/meter_events", fake.stripe)
    app.router.add_post("/api/v1/events", fake.openmeter)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        fake.url = f"http://{host}:{port}"
        yield fake
    finally:
        await runner.cleanup()
