"""Records of the lifecycle topic in, changed facts and dead letters out. No I/O: the worker writes them.

One Tracker holds the facts of the partitions that a worker owns. Everything it returns may be
written any number of times: rows, changelog and dead letters are joins or keyed by offset.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipeline import codec
from pipeline.metering.events import Event, EventType, InvalidEvent, check_window
from pipeline.metering.meters import Meters
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
    headers: codec.Headers


class ChangelogEntry(NamedTuple):
    """A changed room or server for the table's changelog; no value forgets it."""

    partition: int
    key: bytes
    value: bytes | None


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
    changelog: list[ChangelogEntry] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


@dataclass(slots=True)
class Partition:
    """The facts of one partition, and when each room was last touched, in broker time (ms)."""

    facts: Facts = field(default_factory=Facts)
    touched_at_ms: dict[RoomKey, int] = field(default_factory=dict)


class Tracker:
    """The facts of the partitions that this worker owns, and how records change them."""

    def __init__(self, meters: Meters, policy: Policy) -> None:
        """Start with no partition; the first record or recovered entry of one makes it."""
        self._meters = meters
        self._policy = policy
        self.partitions: dict[int, Partition] = {}

    def apply(self, records: Iterable[Record]) -> Changes:
        """Join records, of any partitions, in their order; never raises for what a record contains."""
        changes = Changes()
        touched: dict[tuple[int, RoomKey], set[str]] = {}
        servers: dict[tuple[int, str], None] = {}
        for record in records:
            event = self._decode(record, changes)
            if event is None:
                continue
            partition = self._partition(record.partition)
            room = partition.facts.observe(event)
            if room is not None:
                partition.touched_at_ms[room] = record.timestamp
                sessions = touched.get((record.partition, room))
                if sessions is None:
                    sessions = touched[record.partition, room] = set()
                sessions.add(event.session)
            elif event.type is EventType.SERVER_RESTARTED:
                servers[record.partition, event.source] = None
        self._collect(changes, touched)
        for number, source in servers:
            restarted_at_ms = self.partitions[number].facts.restarts_ms[source]
            changes.restarts.append((source, restarted_at_ms))
            changes.changelog.append(ChangelogEntry(number, codec.server_key(source), b"%d" % restarted_at_ms))
        return changes

    def _decode(self, record: Record, changes: Changes) -> Event | None:
        """Read one record and note what became of it; None unless it is an event to join."""
        event = None
        payload = record.value or b""
        try:
            event = codec.decode_event(record.value, self._meters, self._policy.max_event_bytes)
            if event is not None and self._policy.correction_window_ms is not None:
                check_window(event, record.timestamp, self._policy.correction_window_ms, self._policy.future_skew_ms)
            disposition = IGNORED if event is None else ACCEPTED
        except InvalidEvent as error:
            headers = codec.dead_letter_headers(record.topic, record.partition, record.offset, record.timestamp, error)
            # A record without key and value cannot be sent on: an empty key stands for it.
            key = (record.key or b"") if record.value is None else record.key
            changes.dead_letters.append(DeadLetter(key, record.value, headers))
            # The dead-letter topic keeps the bytes; a copy here would make the store hold what nobody can bound.
            event, disposition, payload = None, error.reason.value, b""
        changes.events.append(
            RawEvent(record.topic, record.partition, record.offset, record.timestamp, disposition, event, payload),
        )
        return event

    def _partition(self, number: int) -> Partition:
        partition = self.partitions.get(number)
        if partition is None:
            partition = self.partitions[number] = Partition()
        return partition

    def _collect(self, changes: Changes, touched: dict[tuple[int, RoomKey], set[str]]) -> None:
        """Add the rows and the changelog entries of the touched rooms."""
        for (number, key), names in touched.items():
            room = self.partitions[number].facts.rooms[key]
            project, room_name = key
            for name in names:
                if name:
                    changes.sessions.append((project, room_name, name, room.sessions[name]))
                else:
                    changes.rooms.append((project, room_name, room))
            changes.changelog.append(
                ChangelogEntry(number, codec.room_key(project, room_name), codec.encode_room(room))
            )

    def recover(self, number: int, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Join changelog entries of a partition; an entry without a value forgets its room."""
        partition = self._partition(number)
        for key, value in entries:
            project, name = codec.split_key(key)
            if value is None:
                partition.facts.rooms.pop((project, name), None)
                partition.touched_at_ms.pop((project, name), None)
            elif project:
                self.join(number, (project, name), codec.decode_room(value))
            else:
                partition.facts.join(Facts(restarts_ms={name: int(value)}))

    def join(self, number: int, key: RoomKey, room: Room) -> None:
        """Join what is known of a room from the changelog or the store; its last event counts as its last touch."""
        partition = self._partition(number)
        known = partition.facts.rooms.get(key)
        if known is None:
            known = partition.facts.rooms[key] = room
        else:
            known.join(room)
        seen_ms = (session.last_seen_ms for session in known.sessions.values())
        partition.touched_at_ms[key] = max((known.started_at_ms, *known.ends_ms, *seen_ms))

    def keep_only(self, numbers: AbstractSet[int]) -> None:
        """Forget the partitions that another worker owns now."""
        for number in self.partitions.keys() - numbers:
            del self.partitions[number]

    def evict(self, now_ms: int) -> list[ChangelogEntry]:
        """Forget rooms that ended and rest; the store keeps their facts, so a late event still bills right.

        A room with a live session stays until its last event is older than the correction window.
        """
        entries = []
        for number, partition in self.partitions.items():
            for key, touched_at_ms in list(partition.touched_at_ms.items()):
                if touched_at_ms <= now_ms - self._policy.evict_after_ms and self._may_go(
                    partition.facts.rooms[key], touched_at_ms, now_ms
                ):
                    del partition.facts.rooms[key], partition.touched_at_ms[key]
                    entries.append(ChangelogEntry(number, codec.room_key(*key), None))
        return entries

    def _may_go(self, room: Room, touched_at_ms: int, now_ms: int) -> bool:
        window_ms = self._policy.correction_window_ms
        expired = window_ms is not None and touched_at_ms <= now_ms - window_ms
        return expired or not any(is_live(session, room) for session in room.sessions.values())

    def count(self) -> tuple[int, int]:
        """Return how many rooms are in memory, and how many of their sessions are live."""
        rooms = [room for partition in self.partitions.values() for room in partition.facts.rooms.values()]
        return len(rooms), sum(is_live(session, room) for room in rooms for session in room.sessions.values())
