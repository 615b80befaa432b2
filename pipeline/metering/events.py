"""Canonical events: what a producer reports, and every reason to refuse it (R21)."""

from collections.abc import Callable, Container
from enum import StrEnum
from sys import intern
from typing import Any, Final, NamedTuple

from pipeline.metering.meters import KINDS
from pipeline.metering.units import NEVER_MS, parse_time

#: The longest identifier (project, room, session, number ...), in characters.
MAX_NAME_LENGTH: Final = 256
#: The largest counter or quantity: what a signed 64-bit column holds.
MAX_QUANTITY: Final = 2**63 - 1


_Check = Callable[[str, Any], Any]
"""What checks a field: takes its name and value, returns what an event keeps, raises InvalidEvent."""


class EventType(StrEnum):
    """The types we act on, or know and keep; any other type is counted and ignored (R21)."""

    ROOM_STARTED = "room.started"
    ROOM_ENDED = "room.ended"
    SESSION_CONNECTED = "session.connected"
    SESSION_DISCONNECTED = "session.disconnected"
    SESSION_ABORTED = "session.aborted"
    SESSION_SAMPLED = "session.sampled"
    SESSION_ABSENT = "session.absent"
    SESSION_AMENDED = "session.amended"
    JOB_DISPATCHED = "job.dispatched"
    JOB_ENDED = "job.ended"
    SERVER_RESTARTED = "server.restarted"
    USAGE_RECORDED = "usage.recorded"
    NUMBER_ACQUIRED = "number.acquired"
    NUMBER_RELEASED = "number.released"


class Reason(StrEnum):
    """Why input is a dead letter: the closed list of R21, and R11's two."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    TOO_LARGE = "too_large"
    MISSING_FIELD = "missing_field"
    WRONG_FIELD = "wrong_field"
    UNKNOWN_VERSION = "unknown_version"
    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_METER = "unknown_meter"
    IMPOSSIBLE_TIME = "impossible_time"
    NEGATIVE_QUANTITY = "negative_quantity"
    TOO_OLD = "too_old"
    IN_THE_FUTURE = "in_the_future"


class InvalidEvent(ValueError):
    """Input that cannot be an event: `reason` for counting, `detail` for a person."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Keep both parts; `detail` names fields and limits, never the values of personal fields."""
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class Amendment(NamedTuple):
    """What an operator says a session is, in place of what was observed (R12); no change to an earlier amendment.

    The greatest amendment wins, by its epoch first. NEVER_MS stands for a start or end that is left as observed; one
    that sets nothing and voids nothing takes earlier ones back.
    """

    epoch: int
    is_void: bool
    started_at_ms: int
    ended_at_ms: int
    actor: str
    reason: str


class Attribution(NamedTuple):
    """Whom discrete usage is ascribed to, by its producer; `key` is an id or fingerprint, never a secret. ms."""

    model: str = ""
    endpoint: str = ""
    team: str = ""
    key: str = ""
    status: str = ""
    latency_ms: int = 0


class Event(NamedTuple):
    """One immutable fact from a producer (CloudEvents 1.0); '' and None where it says nothing.

    Times are ms since the epoch. A NamedTuple because it is made once per event on the hot path.
    """

    type: EventType
    id: str
    source: str
    time_ms: int
    project: str = ""
    room: str = ""
    session: str = ""
    kind: str = ""
    number: str = ""
    agent: str = ""
    identity: str = ""
    region: str = ""
    connected_at_ms: int | None = None
    started_at_ms: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    meter: str = ""
    quantity: int | None = None
    amendment: Amendment | None = None
    attribution: Attribution | None = None


_REQUIRED: Final[dict[EventType, tuple[str, ...]]] = {
    EventType.ROOM_STARTED: ("project", "room"),
    EventType.ROOM_ENDED: ("project", "room"),
    EventType.SESSION_CONNECTED: ("project", "room", "session", "kind"),
    EventType.SESSION_DISCONNECTED: ("project", "room", "session"),
    EventType.SESSION_ABORTED: ("project", "room", "session"),
    EventType.SESSION_SAMPLED: ("project", "room", "session"),
    EventType.SESSION_ABSENT: ("project", "room", "session"),
    EventType.SESSION_AMENDED: ("project", "room", "session", "epoch", "actor", "reason"),
    EventType.JOB_DISPATCHED: ("project", "room", "job"),
    EventType.JOB_ENDED: ("project", "room", "job"),
    EventType.SERVER_RESTARTED: (),
    EventType.USAGE_RECORDED: ("project", "meter", "quantity"),
    EventType.NUMBER_ACQUIRED: ("project", "number"),
    EventType.NUMBER_RELEASED: ("project", "number"),
}
#: What else of a type is kept; any other field is an unknown extra one, ignored whatever it holds (R21).
_CONNECTION: Final = ("kind", "number", "agent", "identity", "region")
_OPTIONAL: Final[dict[EventType, tuple[str, ...]]] = {
    EventType.ROOM_STARTED: ("started_at", "region"),
    EventType.SESSION_CONNECTED: _CONNECTION,
    EventType.SESSION_DISCONNECTED: (*_CONNECTION, "connected_at", "bytes_in", "bytes_out"),
    EventType.SESSION_ABORTED: ("kind",),
    EventType.SESSION_SAMPLED: ("kind", "connected_at", "bytes_in", "bytes_out"),
    EventType.SESSION_AMENDED: ("void", "started_at", "ended_at"),
    EventType.JOB_DISPATCHED: ("agent", "identity"),
    EventType.JOB_ENDED: ("agent", "identity"),
    EventType.USAGE_RECORDED: ("room", "session", *Attribution._fields),
}
_TYPES: Final = {str(member): member for member in EventType}


def parse_event(document: object, meters: Container[str]) -> Event | None:
    """Turn a decoded CloudEvents document into an event, field by field; None for a type nobody defined (R21).

    `meters` are those that usage events may name. Unknown extra fields are ignored. Raises InvalidEvent with a reason
    from the closed list.
    """
    if not isinstance(document, dict):
        raise InvalidEvent(Reason.NOT_AN_OBJECT, f"a JSON object is expected, not {type(document).__name__}")
    if document.get("specversion") != "1.0":
        raise InvalidEvent(Reason.UNKNOWN_VERSION, "specversion has to be '1.0' (CloudEvents)")
    event_type = _event_type(_required(document, "type"))
    if event_type is None:
        return None
    values = _values(document.get("data"), _FIELDS[event_type])
    for name in _REQUIRED[event_type]:
        if name not in values:
            raise InvalidEvent(Reason.MISSING_FIELD, f"data.{name} is required for {event_type}")
    if values.get("kind", "agent") not in KINDS:
        raise InvalidEvent(Reason.UNKNOWN_KIND, f"data.kind is one of {sorted(KINDS)}")
    if event_type is EventType.USAGE_RECORDED and values["meter"] not in meters:
        raise InvalidEvent(Reason.UNKNOWN_METER, "data.meter is no discrete one of the table of meters")
    time_ms = _time("time", document.get("time"))
    values.pop("job", None)
    if event_type is EventType.SESSION_AMENDED:
        values["amendment"] = _amendment(values)
    elif labels := {name: values.pop(name) for name in Attribution._fields if name in values}:
        values["attribution"] = Attribution(**labels)
    return Event(event_type, _required(document, "id"), intern(_required(document, "source")), time_ms, **values)


def _amendment(values: dict[str, Any]) -> Amendment:
    """Take the fields of an amendment out of an event's (R12)."""
    started_at_ms, ended_at_ms = values.pop("started_at_ms", NEVER_MS), values.pop("ended_at_ms", NEVER_MS)
    is_void = values.pop("void", False)
    if is_void and (started_at_ms != NEVER_MS or ended_at_ms != NEVER_MS):
        raise InvalidEvent(Reason.WRONG_FIELD, "data.void says that there is no session: it has no start and no end")
    if values["epoch"] == 0:
        raise InvalidEvent(Reason.WRONG_FIELD, "data.epoch counts from 1")
    return Amendment(
        values.pop("epoch"), is_void, started_at_ms, ended_at_ms, values.pop("actor"), values.pop("reason")
    )


def _event_type(name: str) -> EventType | None:
    """Return the type of a name, None for an unknown one; a version that we do not know is refused."""
    event_type = _TYPES.get(name)
    if event_type is None:
        stem, _, version = name.rpartition(".v")
        if stem in _TYPES and version.isdigit():
            raise InvalidEvent(Reason.UNKNOWN_VERSION, f"type {stem!r} has no version {version}")
    return event_type


def _values(data: object, fields: dict[str, _Check]) -> dict[str, Any]:
    """Return the fields of `data` that an event of this type keeps, each checked."""
    if not isinstance(data, dict):
        if data is None:
            return {}
        raise InvalidEvent(Reason.WRONG_FIELD, "data has to be an object")
    values: dict[str, Any] = {}
    name: str  # the keys of a JSON object
    for name, value in data.items():
        check = fields.get(name)
        if check is None or value is None or value == "":
            continue
        values[_RENAMED.get(name, name)] = check(name, value)
    # Few projects, many events: one string object for each keeps open sessions small.
    if "project" in values:
        values["project"] = intern(values["project"])
    return values


def check_window(event: Event, broker_time_ms: int, correction_window_ms: int, future_skew_ms: int) -> None:
    """Refuse an event too old or too far ahead, by the broker's timestamp alone (R11).

    A second run sees the same broker timestamps, so it judges alike. A reported begin counts too:
    what began before the correction window could bill hours that nobody can dispute any more.
    """
    oldest_ms, newest_ms = broker_time_ms - correction_window_ms, broker_time_ms + future_skew_ms
    time_ms, connected_at_ms, started_at_ms = event.time_ms, event.connected_at_ms or 0, event.started_at_ms or 0
    if time_ms < oldest_ms or 0 < connected_at_ms < oldest_ms:
        raise InvalidEvent(Reason.TOO_OLD, f"older than the correction window of {correction_window_ms} ms")
    if event.amendment is not None:
        _check_amendment(event.amendment, oldest_ms, broker_time_ms)
    if time_ms > newest_ms or connected_at_ms > newest_ms or started_at_ms > newest_ms:
        raise InvalidEvent(Reason.IN_THE_FUTURE, f"more than {future_skew_ms} ms ahead of the broker")


def _check_amendment(amendment: Amendment, oldest_ms: int, broker_time_ms: int) -> None:
    """Refuse to move a session to where nobody can dispute it any more, or to where nothing has happened yet."""
    times_ms = [at_ms for at_ms in (amendment.started_at_ms, amendment.ended_at_ms) if at_ms != NEVER_MS]
    if any(at_ms < oldest_ms for at_ms in times_ms):
        raise InvalidEvent(Reason.TOO_OLD, "the amendment lies before the correction window")
    if any(at_ms > broker_time_ms for at_ms in times_ms):
        raise InvalidEvent(Reason.IN_THE_FUTURE, "the amendment lies ahead of the broker")


def _required(document: dict[str, Any], name: str) -> str:
    """Return a required text of the envelope."""
    value = document.get(name)
    if value is None or value == "":
        raise InvalidEvent(Reason.MISSING_FIELD, f"{name} is required")
    return _text(name, value)


def _text(name: str, value: object) -> str:
    if type(value) is str and len(value) <= MAX_NAME_LENGTH and value.isprintable():
        return value
    raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be printable text of at most {MAX_NAME_LENGTH} characters")


def _count(name: str, value: object) -> int:
    if type(value) is not int or value > MAX_QUANTITY:
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be an integer of at most 2^63 - 1")
    if value < 0:
        raise InvalidEvent(Reason.NEGATIVE_QUANTITY, f"{name} is negative")
    return value


def _flag(name: str, value: object) -> bool:
    if type(value) is not bool:
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be true or false")
    return value


def _time(name: str, value: object) -> int:
    if value is None or value == "":
        raise InvalidEvent(Reason.MISSING_FIELD, f"{name} is required")
    if type(value) is not str:
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be a text in RFC 3339")
    try:
        return parse_time(value)
    except ValueError as error:
        raise InvalidEvent(Reason.IMPOSSIBLE_TIME, f"{name}: {error}") from error


#: How each field of a type is checked; _text is by far the most frequent.
_RENAMED: Final = {name: f"{name}_ms" for name in ("connected_at", "started_at", "ended_at")}
_CHECKS: Final[dict[str, _Check]] = {
    **dict.fromkeys(_RENAMED, _time),
    **dict.fromkeys(("bytes_in", "bytes_out", "quantity", "epoch", "latency_ms"), _count),
    "void": _flag,
}
_FIELDS: Final = {
    member: {name: _CHECKS.get(name, _text) for name in _REQUIRED[member] + _OPTIONAL.get(member, ())}
    for member in EventType
}
