"""Alerts to a webhook: every revision as its document, signed by Standard Webhooks, in order, at least once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.delivery.delivery import Answer, Refused, Request
from pipeline.delivery.targets import Webhook


@dataclass(frozen=True, slots=True)
class AlertWebhook:
    """A receiver of alerts. What is muted is passed over."""

    webhook: Webhook
    name: str = "alerts"
    forgets_after_ms: int | None = None

    def request(self, alert: Mapping[str, Any], value: bytes, now_ms: int) -> Request | None:
        """Return the document, signed for this attempt; its id, `webhook-id`, names the revision."""
        if alert["muted"]:
            return None
        return self.webhook.request({"id": f"{alert['id']}.{alert['revision']}"}, value, now_ms)

    def judge(self, _alert_id: str, answer: Answer) -> None:
        """Judge by the status."""
        self.webhook.judge(_alert_id, answer)


def read_alert(value: bytes | None) -> Mapping[str, Any]:
    """Return the document of an alert, as far as the webhook looks at it; raises Refused for anything else."""
    try:
        document = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or not {"id", "revision", "muted"} <= document.keys():
        raise Refused("not an alert (schemas/alert.v1.json)")
    return document
