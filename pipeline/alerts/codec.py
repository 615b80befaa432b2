"""Alerts as JSON and as rows of the store, and the log that decides between alerters. Pure."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

import orjson
import pyarrow as pa

from pipeline.metering.anomaly.alert import Alert, Finding, Looked, Mute, decimal
from pipeline.metering.units import format_time

Document = dict[str, Any]

_TIME: Final = pa.timestamp("ms", "UTC")
_QUANTITY: Final = pa.decimal128(38, 3)
#: The fields of a document, in the order in which the store is asked for them.
_STORED: Final = (
    *("id", "revision", "status", "detector", "severity", "project", "meter", "subject", "since", "updated_at"),
    *(
        "resolved_at",
        "observed",
        "expected",
        "unit",
        "increments",
        "cost",
        "currency",
        "message",
        "look_at",
        "evidence",
    ),
    "muted",
)


def alert_document(alert: Alert) -> Document:
    """Return a revision as its JSON document (schemas/alert.v1.json); quantities and cost are decimals in strings."""
    finding = alert.finding
    return {
        "id": alert.id,
        "revision": alert.revision,
        "status": alert.status,
        "detector": finding.detector,
        "severity": finding.severity,
        "project": finding.project,
        "meter": finding.meter,
        "subject": finding.subject,
        "since": format_time(finding.since_ms),
        "updated_at": format_time(alert.as_of_ms),
        "resolved_at": format_time(alert.as_of_ms) if alert.status == "resolved" else None,
        "observed": f"{decimal(finding.observed):f}",
        "expected": f"{decimal(finding.expected):f}",
        "unit": finding.unit,
        "increments": finding.increments,
        "cost": alert.cost,
        "currency": alert.currency,
        "message": finding.message,
        "look_at": finding.look_at,
        "evidence": dict(finding.evidence),
        "muted": alert.muted,
    }


def stored_document(row: Sequence[Any]) -> Document:
    """Return a row of the view `current_alerts` as an alert's document (schemas/alert.v1.json)."""
    found = dict(zip(_STORED, row, strict=True))
    for name in ("since", "updated_at", "resolved_at"):
        found[name] = format_time(found[name]) if found[name] else None
    found["evidence"] = orjson.loads(found["evidence"])
    return found


def encode_alert(alert: Alert) -> bytes:
    """Write a revision: the same one is the same bytes, always."""
    return orjson.dumps(alert_document(alert))


def alert_key(payload: bytes) -> str:
    """Return what names a revision among all that `encode_alert` wrote."""
    document = orjson.loads(payload)
    return f"{document['id']}.{document['revision']}"


def alert_table(alerts: Iterable[Alert]) -> pa.Table:
    """Return revisions as the columns of the table `alerts`."""
    rows = [(alert, alert.finding) for alert in alerts]
    findings = [finding for _, finding in rows]

    def texts(values: Iterable[str]) -> pa.Array:
        return pa.array(list(values), pa.string())

    def times(values: Iterable[int]) -> pa.Array:
        return pa.array(list(values), _TIME)

    return pa.table(
        {
            "id": texts(alert.id for alert, _ in rows),
            "project": texts(finding.project for finding in findings),
            "meter": texts(finding.meter for finding in findings),
            "detector": texts(finding.detector for finding in findings),
            "severity": texts(finding.severity for finding in findings),
            "subject": texts(finding.subject for finding in findings),
            "status": texts(alert.status for alert, _ in rows),
            "since": times(finding.since_ms for finding in findings),
            "updated_at": times(alert.as_of_ms for alert, _ in rows),
            "resolved_at": times(alert.resolved_at_ms for alert, _ in rows),
            "observed": pa.array([decimal(finding.observed) for finding in findings], _QUANTITY),
            "expected": pa.array([decimal(finding.expected) for finding in findings], _QUANTITY),
            "unit": texts(finding.unit for finding in findings),
            "increments": pa.array([finding.increments for finding in findings], pa.int64()),
            "cost": pa.array([Decimal(alert.cost) for alert, _ in rows], _QUANTITY),
            "currency": texts(alert.currency for alert, _ in rows),
            "message": texts(finding.message for finding in findings),
            "look_at": texts(finding.look_at for finding in findings),
            "evidence": texts(orjson.dumps(dict(finding.evidence)).decode() for finding in findings),
            "muted": pa.array([alert.muted for alert, _ in rows], pa.bool_()),
            "revision": pa.array([alert.revision for alert, _ in rows], pa.uint32()),
        }
    )


def mute_table(mutes: Iterable[Mute]) -> pa.Table:
    """Return mutes as the columns of the table `alert_mutes`."""
    rows = list(mutes)
    types = {name: _TIME if name.endswith("_ms") else pa.string() for name in Mute._fields}
    columns = zip(types.items(), zip(*rows, strict=True), strict=True)
    return pa.table({name.removesuffix("_ms"): pa.array(values, kind) for (name, kind), values in columns})


Decision = Alert | Looked | Mute
"""What the log that decides between alerters holds: revisions, how far was looked, what is muted."""


def encode_decision(teller: str, decision: Decision) -> bytes:
    """Write a decision, and who worked it out."""
    if isinstance(decision, Alert):
        finding, *rest = decision
        return orjson.dumps((teller, "alert", [*finding], *rest))
    return orjson.dumps((teller, "looked" if isinstance(decision, Looked) else "mute", *decision))


def decode_decision(payload: bytes) -> tuple[str, Decision]:
    """Read what `encode_decision` wrote."""
    teller, kind, *fields = orjson.loads(payload)
    if kind == "looked":
        return teller, Looked(*fields)
    if kind == "mute":
        return teller, Mute(*fields)
    found = dict(zip(Finding._fields, fields[0], strict=True))
    found["evidence"] = tuple(map(tuple, found["evidence"]))
    return teller, Alert(Finding(**found), *fields[1:])
