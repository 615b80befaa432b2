"""Bytes to events and back: the one place where JSON is read and written. Pure."""

from collections.abc import Container
from typing import Any, Final

import orjson

from pipeline.metering.events import Amendment, Event, InvalidEvent, Reason, parse_event
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup, quantities
from pipeline.metering.session import Room, Session, shared_set
from pipeline.metering.units import format_time
from pipeline.plain import plain_event


def decode_event(payload: bytes | None, meters: Container[str], max_bytes: int) -> Event | None:
    """Read an event from the bytes of a record; None for a type nobody defined.

    Raises InvalidEvent with the reason for the dead-letter topic (R21).
    """
    if payload is None:
        raise InvalidEvent(Reason.NOT_JSON, "the record has no value")
    if len(payload) > max_bytes:
        raise InvalidEvent(Reason.TOO_LARGE, f"{len(payload)} bytes, at most {max_bytes} are allowed")
    event = plain_event(payload)
    if event is not None:
        return event
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(Reason.NOT_JSON, str(error)) from error
    return parse_event(document, meters)


def rollup_document(rollup: Rollup, meters: Meters) -> dict[str, Any]:
    """Return a rollup as its JSON document (schemas/rollup.v1.json, R17); quantities are decimals in strings."""
    quantity, quantity_open, delta = quantities(rollup, meters)
    return {
        "id": rollup.id,
        "project": rollup.project,
        "meter": rollup.meter,
        "hour": format_time(rollup.hour_ms),
        "revision": rollup.revision,
        "quantity": f"{quantity:f}",
        "quantity_open": f"{quantity_open:f}",
        "delta": f"{delta:f}",
        "unit": meters[rollup.meter].unit,
        "increments": rollup.increments,
        "increments_open": rollup.increments_open,
        "sessions": rollup.sessions,
        "status": rollup.status,
        "as_of": format_time(rollup.as_of_ms),
        "watermark": format_time(rollup.watermark_ms),
    }


def encode_rollup(rollup: Rollup, meters: Meters) -> bytes:
    """Write a rollup: the same rollup is the same bytes, always (R19, R20)."""
    return orjson.dumps(rollup_document(rollup, meters))


def encode_decision(rollup: Rollup) -> bytes:
    """Write a rollup for the log that decides between emitters (R19)."""
    return orjson.dumps(tuple(rollup))


def decode_decision(payload: bytes) -> Rollup:
    """Read what `encode_decision` wrote."""
    return Rollup(*orjson.loads(payload))


_SEPARATOR: Final = "\0"  # no identifier contains it: events refuse what is not printable


def changelog_key(*names: str) -> bytes:
    """Return the changelog's key: (project, room), (project, room, session), or ('', source) for a server."""
    return _SEPARATOR.join(names).encode()


def split_key(key: bytes) -> tuple[str, ...]:
    """Return the names that `changelog_key` joined."""
    return tuple(key.decode().split(_SEPARATOR))


def _compact(fields: tuple[Any, ...]) -> bytes:
    """Write what a batch keeps thousands of, in memory of its own size.

    What orjson returns leaves a kilobyte of working memory beside it unused, and touching so many fresh pages
    takes longer than the writing. A slice is a copy.
    """
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)[:-1]


def encode_room(room: Room) -> bytes:
    """Write a room's own facts for the changelog; its sessions have entries of their own."""
    return _compact((list(room.ends_ms), room.started_at_ms))


def decode_room(payload: bytes) -> Room:
    """Read what `encode_room` wrote."""
    ends_ms, started_at_ms = orjson.loads(payload)
    return Room(frozenset(ends_ms), started_at_ms)


def encode_session(session: Session) -> bytes:
    """Write a session's facts for the changelog, compactly: a list in the order of its fields."""
    return _compact(
        (
            session.kind,
            session.number,
            session.agent,
            session.identity,
            session.region,
            session.connected_at_ms,
            session.begun_at_ms,
            session.disconnected_at_ms,
            session.last_seen_ms,
            session.absent_at_ms,
            session.bytes_in,
            session.bytes_out,
            list(session.sources),
            session.amendment and tuple(session.amendment),
        ),
    )


def decode_session(payload: bytes) -> Session:
    """Read what `encode_session` wrote."""
    fields: list[Any] = orjson.loads(payload)
    fields[-2] = shared_set(frozenset(fields[-2]))
    fields[-1] = fields[-1] and Amendment(*fields[-1])
    return Session(*fields)
