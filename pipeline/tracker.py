"""Records of the lifecycle topic in, changed facts and dead letters out. No I/O: the worker writes them.

One Tracker holds the facts of the partitions that a worker owns. Everything it returns may be
written any number of times: rows, changelog and dead letters are joins or keyed by offset.
"""

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipeline import codec
from pipeline.deadletters import letter as deadletter
from pipeline.messages import Headers
from pipeline.metering.events import Event, InvalidEvent, check_window
from pipeline.metering.meters import Meters, discrete_meters
from pipeline.metering.quantities import Quantities
from pipeline.metering.session import Facts, Room, RoomKey, Session
from pipeline.metering.timeline import is_live

ACCEPTED = "accepted"
IGNORED = "ignored"


class Record(Protocol):
    """What we read of a Kafka record; `timestamp` is the broker's, in ms (LogAppendTime)."""

    @property
    def topic(self) -> str: ...  # noqa: D102 - named by Kafka
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102


class RawEvent(NamedTuple):
    """One record as it is kept: where it came from, what became of it, and its bytes."""

    topic: str
    partition: int
    offset: int
    broker_time_ms: int
    disposition: str
    event: Event | None
    payload: bytes


class DeadLetter(NamedTuple):
    """A record that cannot be an event: its own key and bytes, and headers that explain (R21)."""

    key: bytes | None
    value: bytes | None
    headers: Headers


ChangelogEntry = tuple[bytes, bytes | None]
"""Key and value of a changed session, room or server in the table's changelog; no value forgets it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of R11 and R21 and the memory of closed rooms, in ms and bytes. No window without a broker."""

    max_event_bytes: int
    correction_window_ms: int | None
    future_skew_ms: int
    evict_after_ms: int


@dataclass(slots=True)
class Changes:
    """What a stretch of records changed: rows for the store, entries for the changelog, dead letters."""

    sessions: list[tuple[str, str, str, Session]] = field(default_factory=list)
    rooms: list[tuple[str, str, Room]] = field(default_factory=list)
    restarts: list[tuple[str, int]] = field(default_factory=list)
    events: list[RawEvent] = field(default_factory=list)
    quantities: Quantities = field(default_factory=Quantities)
    changelog: defaultdict[int, list[ChangelogEntry]] = field(default_factory=lambda: defaultdict(list))
    dead_letters: list[DeadLetter] = field(default_factory=list)


class Tracker:
    """The facts of the partitions that this worker owns, and how records change them."""

    def __init__(self, meters: Meters, policy: Policy) -> None:
        """Start with no partition; the first record or recovered entry of one makes it."""
        self._meters = discrete_meters(meters)
        self._policy = policy
        self.partitions: dict[int, Facts] = {}

    def apply(self, records: Iterable[Record]) -> Changes:
        """Join records, of any partitions, in their order; never raises for what a record contains."""
        changes = Changes()
        keep = changes.events.append
        meters, most_bytes = self._meters, self._policy.max_event_bytes
        window_ms, skew_ms = self._policy.correction_window_ms, self._policy.future_skew_ms
        touched: dict[tuple[int, str, str, str], None] = {}
        for record in records:
            number, value, time_ms = record.partition, record.value, record.timestamp
            try:
                event = codec.decode_event(value, meters, most_bytes)
                if event is not None and window_ms is not None:
                    check_window(event, time_ms, window_ms, skew_ms)
            except InvalidEvent as error:
                keep(_buried(record, error, changes))
                continue
            disposition = IGNORED if event is None else ACCEPTED
            kept = (record.topic, number, record.offset, time_ms, disposition, event, value or b"")
            keep(tuple.__new__(RawEvent, kept))  # as RawEvent(*kept), at half the cost
            if event is not None and self._facts(number).observe(event):
                touched[number, event.project or event.source, event.room, event.session] = None
        for number, name, room_name, session_name in touched:
            self._collect(changes, number, name, room_name, session_name)
        for facts in self.partitions.values():
            if not facts.quantities:
                continue
            if changes.quantities:
                changes.quantities.join(facts.take_quantities())
            else:
                changes.quantities = facts.take_quantities()
        return changes

    def _facts(self, number: int) -> Facts:
        facts = self.partitions.get(number)
        if facts is None:
            facts = self.partitions[number] = Facts()
        return facts

    def _collect(self, changes: Changes, number: int, name: str, room_name: str, session_name: str) -> None:
        """Add the row and the changelog entry of what was touched: a session, a room, or a server by its source."""
        facts = self.partitions[number]
        if session_name:
            session = facts.rooms[name, room_name].sessions[session_name]
            changes.sessions.append((name, room_name, session_name, session))
            key, value = codec.changelog_key(name, room_name, session_name), codec.encode_session(session)
        elif room_name:
            room = facts.rooms[name, room_name]
            changes.rooms.append((name, room_name, room))
            key, value = codec.changelog_key(name, room_name), codec.encode_room(room)
        else:
            restarted_at_ms = facts.restarts_ms[name]
            changes.restarts.append((name, restarted_at_ms))
            key, value = codec.changelog_key("", name), b"%d" % restarted_at_ms
        changes.changelog[number].append((key, value))

    def recover(self, number: int, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Join changelog entries of a partition; an entry without a value forgets what it names."""
        facts = self._facts(number)
        for key, value in entries:
            match codec.split_key(key):
                case (project, room_name, session_name):
                    room = facts.rooms.setdefault((project, room_name), Room())
                    if value is None:
                        room.sessions.pop(session_name, None)
                    else:
                        room.sessions[session_name] = codec.decode_session(value)
                case ("", source):
                    facts.join(Facts(restarts_ms={source: int(value or 0)}))
                case (project, room_name):
                    if value is None:
                        facts.rooms.pop((project, room_name), None)
                    else:
                        facts.rooms.setdefault((project, room_name), Room()).join(codec.decode_room(value))

    def join(self, number: int, key: RoomKey, room: Room) -> None:
        """Join a room read back from the store: what a worker does whose changelog is gone."""
        self._facts(number).join(Facts(rooms={key: room}))

    def keep_only(self, numbers: AbstractSet[int]) -> None:
        """Forget the partitions that another worker owns now."""
        for number in self.partitions.keys() - numbers:
            del self.partitions[number]

    def evict(self, now_ms: int) -> dict[int, list[ChangelogEntry]]:
        """Forget rooms that ended and rest; the store keeps their facts, so a late event still bills right.

        A room with a live session stays until it was last seen before the correction window; so does one to which a
        session connects late, when its end is forgotten here: it looks live, and only the store knows better.
        """
        entries: defaultdict[int, list[ChangelogEntry]] = defaultdict(list)
        for number, facts in self.partitions.items():
            for (project, name), room in list(facts.rooms.items()):
                if self._may_go(room, now_ms):
                    del facts.rooms[project, name]
                    keys = [codec.changelog_key(project, name, session) for session in room.sessions]
                    # The room last: what comes before its entry in the log is forgotten with it.
                    keys.append(codec.changelog_key(project, name))
                    entries[number] += [(key, None) for key in keys]
        return entries

    def _may_go(self, room: Room, now_ms: int) -> bool:
        seen_ms = max(
            room.started_at_ms,
            max(room.ends_ms, default=0),
            max((session.last_seen_ms for session in room.sessions.values()), default=0),
        )
        window_ms = self._policy.correction_window_ms
        if window_ms is not None and seen_ms <= now_ms - window_ms:
            return True
        is_resting = seen_ms <= now_ms - self._policy.evict_after_ms
        return is_resting and not any(is_live(session, room) for session in room.sessions.values())

    def count(self) -> tuple[int, int]:
        """Return how many rooms are in memory, and how many of their sessions are live."""
        rooms = [room for facts in self.partitions.values() for room in facts.rooms.values()]
        return len(rooms), sum(is_live(session, room) for room in rooms for session in room.sessions.values())


def _buried(record: Record, error: InvalidEvent, changes: Changes) -> RawEvent:
    """Add a record to the dead letters; return what is kept of it in the store."""
    headers = deadletter.record_headers(record.topic, record.partition, record.offset, record.timestamp, error)
    # A record without key and value cannot be sent on: an empty key stands for it.
    key = (record.key or b"") if record.value is None else record.key
    changes.dead_letters.append(DeadLetter(key, record.value, headers))
    # The dead-letter topic keeps the bytes; a copy here would make the store hold what nobody can bound.
    return RawEvent(record.topic, record.partition, record.offset, record.timestamp, error.reason.value, None, b"")
