"""The canonical events as frozen dataclasses, checked when they are made by the rules of the pipeline (R21)."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

import orjson

from pipeline.metering.events import EventType, InvalidEvent, Reason, parse_event
from pipeline.metering.meters import Kind
from pipeline.metering.units import EARLIEST_MS, NEVER_MS, format_time

Time = datetime | int
"""A moment: a datetime with a time zone, or whole milliseconds since the epoch."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: What makes up the envelope; every other field of an event belongs to its data.
_ENVELOPE: Final = ("at", "id", "source")
#: What an event is about, for people, the first that it has; the key of events without a room (numbers).
_SUBJECTS: Final = ("session", "job", "number", "room")
#: Takes the place of a project or source that the producer adds later, so that the rest can be checked now.
_LATER: Final = "-"


class _AnyMeter:
    """Which meters there are is settled where events are metered: an operator may have a table of his own."""

    def __contains__(self, _name: object) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event has: when it happened, and where an id of its own and another source.

    `at` is a Time, now if left out, and whole ms since the epoch once the event is made. Left out, the `id` is
    made of all that the event says (UsageRecorded needs one), and `source` is the producer's. Raises InvalidEvent.
    """

    type: ClassVar[EventType]
    at: Time | None = None
    id: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Settle the times, and check everything as the pipeline will."""
        at = time.time_ns() // 1_000_000 if self.at is None else self.at
        object.__setattr__(self, "at", _whole_ms("at", at))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_at") and value is not None:
                object.__setattr__(self, field.name, _whole_ms(field.name, value))
            if value is not None and field.name in _CHECKS:
                _CHECKS[field.name](field.name, value)
        self.document(project=_LATER, source=_LATER)

    def document(self, *, project: str, source: str) -> dict[str, Any]:
        """Return the CloudEvents document; `project` and `source` count where the event names none of its own.

        Raises InvalidEvent.
        """
        assert isinstance(self.at, int)
        data = {field.name: _plain(field.name, getattr(self, field.name)) for field in fields(self)}
        if "project" in data:
            data["project"] = project if data["project"] == "" else data["project"]
        data = {name: value for name, value in data.items() if name not in _ENVELOPE and value not in ("", None)}
        digest = self._digest(data)
        document: dict[str, Any] = {
            "specversion": "1.0",
            "id": digest if self.id == "" and self.type is not EventType.USAGE_RECORDED else self.id,
            "source": source if self.source == "" else self.source,
            "type": str(self.type),
            "time": format_time(self.at),
        }
        if subject := next((data[name] for name in _SUBJECTS if name in data), None):
            document["subject"] = subject
        document |= {"data": data} if data else {}
        parse_event(document, _AnyMeter())
        return document

    def _digest(self, data: Mapping[str, Any]) -> str:
        """Return an id made of all that the event says: said again, it is the same event. Raises InvalidEvent."""
        try:
            said = orjson.dumps((str(self.type), self.at, data), option=orjson.OPT_SORT_KEYS)
        except TypeError as error:
            raise InvalidEvent(Reason.WRONG_FIELD, f"what the event says is no JSON: {error}") from error
        return hashlib.sha256(said).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfProject(Event):
    """An event that somebody is billed for; left out, `project` is the producer's."""

    project: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _InRoom(_OfProject):
    room: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomStarted(_InRoom):
    """A room started; `started_at` is when this life of it did, where that is known better than `at`."""

    type: ClassVar = EventType.ROOM_STARTED
    name: str = ""
    started_at: Time | None = None
    region: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEnded(_InRoom):
    """A room ended, and all sessions in it with it (R5)."""

    type: ClassVar = EventType.ROOM_ENDED
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfSession(_InRoom):
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConnected(_OfSession):
    """A connection is up: metering starts (R3). `number` is the rented number that a call came in on."""

    type: ClassVar = EventType.SESSION_CONNECTED
    kind: Kind
    agent: str = ""
    identity: str = ""
    number: str = ""
    region: str = ""
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDisconnected(_OfSession):
    """A connection ended. `connected_at` mends a lost connect (R3); bytes are totals of the session (R13)."""

    type: ClassVar = EventType.SESSION_DISCONNECTED
    kind: Kind | None = None
    connected_at: Time | None = None
    reason: str = ""
    bytes_in: int | None = None
    bytes_out: int | None = None
    reported_duration_ms: int | None = None
    agent: str = ""
    identity: str = ""
    number: str = ""
    region: str = ""
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAborted(_OfSession):
    """A connection failed: it ends what had begun, and starts nothing (R4)."""

    type: ClassVar = EventType.SESSION_ABORTED
    kind: Kind | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSampled(_OfSession):
    """A sign of life of a connection (R9), with its begin where only that is known (R3), and its bytes so far (R13)."""

    type: ClassVar = EventType.SESSION_SAMPLED
    kind: Kind | None = None
    connected_at: Time | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAbsent(_OfSession):
    """Its server was asked and does not know the connection any more: its end is presumed (R9)."""

    type: ClassVar = EventType.SESSION_ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfJob(_InRoom):
    job: str
    agent: str = ""
    identity: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDispatched(_OfJob):
    """An agent was asked for; it is metered when it connects, not before (R4)."""

    type: ClassVar = EventType.JOB_DISPATCHED


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(_OfJob):
    """An agent's job ended."""

    type: ClassVar = EventType.JOB_ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRestarted(Event):
    """The server that `source` names restarted: what it had reported and is silent since has ended (R9)."""

    type: ClassVar = EventType.SERVER_RESTARTED


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecorded(_OfProject):
    """So much of a meter was used (R14), in the meter's base unit.

    The `id` has to be given: it alone tells a repetition from the same usage once more. `key` is an id or fingerprint
    of an API key, never the secret.
    """

    type: ClassVar = EventType.USAGE_RECORDED
    id: str
    meter: str
    quantity: int
    room: str = ""
    session: str = ""
    model: str = ""
    endpoint: str = ""
    team: str = ""
    key: str = ""
    status: str = ""
    latency_ms: int | None = None
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfNumber(_OfProject):
    number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberAcquired(_OfNumber):
    """A phone number was rented (R15)."""

    type: ClassVar = EventType.NUMBER_ACQUIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberReleased(_OfNumber):
    """A phone number was given back (R15)."""

    type: ClassVar = EventType.NUMBER_RELEASED


def _whole_ms(name: str, moment: Time) -> int:
    """Return a moment in ms since the epoch; below a millisecond, round down. Raises InvalidEvent."""
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise InvalidEvent(Reason.IMPOSSIBLE_TIME, f"{name} has no time zone: use datetime.now(UTC) or the like")
        time_ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    elif type(moment) is int:
        time_ms = moment
    else:
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be a datetime or whole ms since the epoch")
    if not EARLIEST_MS <= time_ms < NEVER_MS:
        raise InvalidEvent(Reason.IMPOSSIBLE_TIME, f"{name} is outside the years 2000 to 2199: is it in ms?")
    return time_ms


def _plain(name: str, value: object) -> object:
    """Return a field's value as it stands in JSON."""
    if name.endswith("_at") and isinstance(value, int):
        return format_time(value)
    return dict(value) if isinstance(value, Mapping) else value


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidEvent(Reason.WRONG_FIELD, f"data.{name} has to be text")


def _check_ms(name: str, value: object) -> None:
    if type(value) is not int or value < 0:
        raise InvalidEvent(Reason.WRONG_FIELD, f"data.{name} has to be a number of whole milliseconds, not negative")


def _check_object(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise InvalidEvent(Reason.WRONG_FIELD, f"data.{name} has to be an object")


#: Fields that the pipeline keeps unread: only the schemas say what they may hold.
_CHECKS: Final[dict[str, Callable[[str, object], None]]] = {
    **dict.fromkeys(("name", "reason", "status"), _check_text),
    "reported_duration_ms": _check_ms,
    "attributes": _check_object,
}
