"""Crossings and standings of limits as JSON, and the log that decides between limiters. Pure."""

from typing import Any

import orjson

from pipeline.metering.limits import Crossing, Standing, decimal, period
from pipeline.metering.units import format_time

Document = dict[str, Any]


def crossing_document(crossing: Crossing) -> Document:
    """Return a crossing as its JSON document (schemas/limit.v1.json); quantities are decimals in strings."""
    return {
        "id": crossing.id,
        "project": crossing.project,
        "meter": crossing.meter,
        "per": crossing.per,
        **_period(crossing.per, crossing.period_ms),
        "event": crossing.event,
        "threshold": crossing.threshold,
        "occurrence": (crossing.number + 1) // 2,
        "quantity": f"{decimal(crossing.quantity, crossing.unit_size):f}",
        "soft": _amount(crossing.soft, crossing.unit_size),
        "hard": _amount(crossing.hard, crossing.unit_size),
        "unit": crossing.unit,
        "as_of": format_time(crossing.as_of_ms),
    }


def encode_crossing(crossing: Crossing) -> bytes:
    """Write a crossing: the same crossing is the same bytes, always."""
    return orjson.dumps(crossing_document(crossing))


def crossing_id(payload: bytes) -> str:
    """Return the id of what `encode_crossing` wrote."""
    return str(orjson.loads(payload)["id"])


def standing_document(standing: Standing) -> Document:
    """Return how a limit stands, as the API answers."""
    limit = standing.limit
    return {
        "meter": limit.meter,
        "per": limit.per,
        **_period(limit.per, standing.period_ms),
        "quantity": f"{decimal(standing.quantity, limit.unit_size):f}",
        "soft": _amount(limit.soft, limit.unit_size),
        "hard": _amount(limit.hard, limit.unit_size),
        "unit": limit.unit,
        "percent": standing.percent,
        "state": standing.state,
    }


def encode_decision(teller: str, crossing: Crossing) -> bytes:
    """Write a crossing, and who worked it out, for the log that decides between limiters."""
    return orjson.dumps((teller, *crossing))


def decode_decision(payload: bytes) -> tuple[str, Crossing]:
    """Read what `encode_decision` wrote."""
    teller, *fields = orjson.loads(payload)
    return teller, Crossing(*fields)


def _period(per: Any, period_ms: int) -> Document:
    """Return begin and end of a period; sessions at one moment have none."""
    if per == "now":
        return {"period_start": None, "period_end": None}
    return {"period_start": format_time(period_ms), "period_end": format_time(period(per, period_ms)[1])}


def _amount(quantity: int | None, unit_size: int) -> str | None:
    return None if quantity is None else f"{decimal(quantity, unit_size):f}"
