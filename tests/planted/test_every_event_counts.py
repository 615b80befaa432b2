"""A log so long that losing one event in 100 000 shows: every single event decides a minute."""

from typing import Final, NamedTuple

from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, format_time
from pipeline.metering.usage import usage
from pipeline.tracker import ACCEPTED, Policy, Tracker
from tests.metering.builders import METERS, clock

_SESSIONS: Final = 55_000
_SESSIONS_OF_A_ROOM: Final = 5
_BATCH: Final = 5_000
_DAY_MS: Final = clock("0:00:00")
_EVENT: Final = (
    b'{"specversion":"1.0","id":"EV_%d","source":"sfu-1","type":"session.%s","time":"%s",'
    b'"data":{"project":"acme","room":"RM_%d","session":"PA_%d","kind":"agent"}}'
)


class _Record(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def _record(offset: int) -> _Record:
    """Return a connect or, right behind it, the disconnect 90 s later: without either the bill is another."""
    session, is_end = divmod(offset, 2)
    time_ms = _DAY_MS + session % 86_000 * 1_000 + is_end * 90_000
    name = b"disconnected" if is_end else b"connected"
    room = session // _SESSIONS_OF_A_ROOM
    value = _EVENT % (offset, name, format_time(time_ms).encode(), room, session)
    return _Record("lifecycle", 0, offset, time_ms, None, value)


def test_every_event_of_a_long_log_counts() -> None:
    """R1, R10: 110 000 events, none without effect; each session of 90 s is two minutes."""
    tracker = Tracker(METERS, Policy(16_384, 60 * MS_PER_DAY, 5 * MS_PER_MINUTE, MS_PER_HOUR))
    accepted = 0
    for first in range(0, 2 * _SESSIONS, _BATCH):
        changes = tracker.apply(map(_record, range(first, first + _BATCH)))
        accepted += sum(raw.disposition == ACCEPTED for raw in changes.events)
    assert accepted == 2 * _SESSIONS
    facts = tracker.partitions[0]
    cells = usage(facts, METERS, _DAY_MS + 3 * MS_PER_DAY)
    assert sum(cell.increments for cell in cells.values()) == 2 * _SESSIONS
    assert len(list(facts.sessions())) == _SESSIONS
