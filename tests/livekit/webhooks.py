"""Short ways to say LiveKit webhooks in tests, and to bill them with the core."""

import json
from collections.abc import Iterable
from typing import Any, Final

from pipeline.livekit.webhooks import canonical
from pipeline.metering.units import MS_PER_DAY
from pipeline.metering.usage import usage
from tests.metering.builders import METERS, ROOT, facts_of, parsed

CALL: Final = [
    json.loads(line) for line in (ROOT / "schemas" / "recordings" / "livekit-call.jsonl").read_text().splitlines()
]
#: 2026-09-21T14:00:00Z
T0_S: Final = 1_789_999_200


def minutes_of(payloads: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the minutes of each meter that the payloads bill, through the core."""
    facts = facts_of(parsed(document) for payload in payloads for document in canonical(payload, "acme"))
    minutes: dict[str, int] = {}
    for (_, meter, _), cell in usage(facts, METERS, T0_S * 1000 + 10 * MS_PER_DAY).items():
        minutes[meter] = minutes.get(meter, 0) + cell.increments
    return minutes


def webhook(event: str, **parts: Any) -> dict[str, Any]:
    """Return a webhook body with an id, a time and a room, and other parts as given."""
    return {"event": event, "id": "EV_1", "createdAt": str(T0_S), "room": {"sid": "RM_1", "name": "r"}, **parts}


def joined(**participant: Any) -> dict[str, Any]:
    """Return ada's participant_joined."""
    return webhook("participant_joined", participant={"sid": "PA_1", "identity": "ada", **participant})


def egress(event: str, *, start_s: int | None = None, **info: Any) -> dict[str, Any]:
    """Return a webhook of a recording."""
    started = {} if start_s is None else {"startedAt": ns(start_s)}
    return webhook(event, egressInfo={"egressId": "EG_1", "roomId": "RM_1", **started, **info})


def ingress(event: str, **info: Any) -> dict[str, Any]:
    """Return a webhook of an import."""
    state = {"roomId": "RM_1", "resourceId": "RT_1", "startedAt": ns(0)}
    return webhook(event, ingressInfo={"ingressId": "IN_1", "state": state, **info})


def ns(after_t0_s: int) -> str:
    """Write seconds after T0 as LiveKit's nanoseconds."""
    return str((T0_S + after_t0_s) * 1_000_000_000)


def data_of(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the data of the one canonical event of a webhook."""
    (document,) = canonical(payload, "acme")
    return dict(document["data"])
