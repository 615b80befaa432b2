"""The simulated store: our own Store on a client that loses, halves and delays what it is sent.

What ClickHouse does with rows of one key (min, max, union) is done here by `Facts.join`, and its SQL for usage by
`metering.usage`: that these agree is shown by tests/contracts/test_sql_equals_core.py. What is under test here is what
happens when rows arrive twice, late, in part, out of order, or from somebody who should be dead.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import orjson
import pyarrow as pa

from pipeline import migrations
from pipeline.clickhouse import Store, StoreError, StoreUnavailable
from pipeline.metering.events import EventType, parse_event
from pipeline.metering.quantities import Held, Quantities, Recorded, Transferred
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Facts, Room, Session
from pipeline.metering.timeline import is_live
from pipeline.metering.units import NEVER_MS, NOT_SEEN_MS
from pipeline.metering.usage import CellKey, Usage, usage
from pipeline.rows import ChangeQuery, Changes, RollupQuery, UsageQuery
from pipeline.tracker import ACCEPTED
from tests.metering.builders import METERS
from tests.simulation.faults import Fault
from tests.simulation.world import Process, World

_ROLLUP_COLUMNS = (
    "project", "meter", "hour", "revision", "increments", "increments_open", "increments_delta", "sessions", "as_of",
    "watermark",
)  # fmt: skip
#: Columns of a session's facts, and the fields that they hold.
_FIELDS = {
    **{name: name for name in ("kind", "number", "agent", "identity", "region", "bytes_in", "bytes_out", "sources")},
    **{f"{name}_at": f"{name}_at_ms" for name in ("connected", "begun", "disconnected", "absent")},
    "last_seen": "last_seen_ms",
}

EventPlace = tuple[int, int]
"""Partition and offset of the lifecycle topic."""


class Database:
    """What is stored, joined by key."""

    def __init__(self, world: World) -> None:
        """Start empty."""
        self.world = world
        self.is_up = True
        self.facts = Facts()
        #: What became of each input, and its bytes.
        self.events: dict[EventPlace, tuple[str, bytes]] = {}
        self.progress: dict[int, tuple[int, int]] = {}
        #: When each input was ingested last: no row of the log is replaced here, but a repeated one is a newer row.
        self.ingested_ms: dict[EventPlace, int] = {}
        self.rollups: dict[tuple[str, str, int, int], Rollup] = {}
        #: The emitted revisions as they were a while ago, for a replica that lags.
        self.older_rollups: dict[tuple[str, str, int, int], Rollup] = {}

    def come_back(self) -> None:
        """Answer again."""
        self.is_up = True

    def insert(self, name: str, table: pa.Table) -> None:
        """Store rows; `name` is one of the tables that our own code writes to."""
        getattr(self, f"_insert_{name}")(table)

    def _insert_session_facts(self, table: pa.Table) -> None:
        keys = _rows(table, ("project", "room", "session"))
        for (project, room, name), values in zip(keys, _rows(table, tuple(_FIELDS)), strict=True):
            session = Session(**dict(zip(_FIELDS.values(), values, strict=True)))
            session.sources = frozenset(session.sources)
            self.world.watch.session_stored(project, room, name, session)
            self.join_session(project, room, name, session)

    def join_session(self, project: str, room: str, name: str, session: Session) -> None:
        """Join one row into what is stored of a session."""
        self.facts.join(Facts(rooms={(project, room): Room(sessions={name: session})}))

    def _insert_room_facts(self, table: pa.Table) -> None:
        for project, name, ends_ms, started_at_ms in _rows(table, ("project", "room", "ends", "started_at")):
            room = Room(frozenset(ends_ms), started_at_ms)
            self.world.watch.room_stored(project, name, room)
            self.facts.join(Facts(rooms={(project, name): room}))

    def _insert_server_facts(self, table: pa.Table) -> None:
        self.facts.join(Facts(restarts_ms=dict(_rows(table, ("source", "restarted_at")))))

    def _insert_counter_facts(self, table: pa.Table) -> None:
        rows = _rows(table, ("project", "room", "session", "hour", *Transferred._fields))
        counters = {row[:4]: Transferred(*row[4:]) for row in rows}
        self.facts.join(Facts(quantities=Quantities(counters=counters)))

    def _insert_discrete_facts(self, table: pa.Table) -> None:
        rows = _rows(table, ("project", "source", "id", "meter", "hour", *Recorded._fields))
        discrete = {row[:5]: Recorded(*row[5:]) for row in rows}
        self.facts.join(Facts(quantities=Quantities(discrete=discrete)))

    def _insert_number_facts(self, table: pa.Table) -> None:
        rows = _rows(table, ("project", "number", "acquired", "released"))
        numbers = {row[:2]: Held(frozenset(row[2]), frozenset(row[3])) for row in rows}
        self.facts.join(Facts(quantities=Quantities(numbers=numbers)))

    def _insert_events(self, table: pa.Table) -> None:
        for partition, offset, *kept in _rows(table, ("partition", "offset", "disposition", "payload")):
            found = self.events.setdefault((partition, offset), (kept[0], kept[1]))
            self.ingested_ms[partition, offset] = self.world.now_ms
            self.world.expect(
                holds=found == tuple(kept), what=f"event {partition}/{offset} was judged {found[0]}, then {kept[0]}"
            )

    def _insert_progress(self, table: pa.Table) -> None:
        for partition, next_offset, time_ms in _rows(table, ("partition", "next_offset", "broker_time")):
            self.world.watch.is_durable_up_to(partition, next_offset, "progress vouches")
            known, known_ms = self.progress.get(partition, (0, 0))
            self.progress[partition] = (max(known, next_offset), max(known_ms, time_ms))

    def _insert_rollups(self, table: pa.Table) -> None:
        self.older_rollups = dict(self.rollups)
        for row in _rows(table, _ROLLUP_COLUMNS):
            rollup = Rollup(*row)
            key = (*rollup.key, rollup.revision)
            found = self.rollups.setdefault(key, rollup)
            self.world.expect(holds=found == rollup, what=f"stored twice with two contents: {found} and {rollup}")


class Client:
    """What our Store needs of its client library, for one process. A fault here is an answer that the library gives."""

    #: By name, as the library has them: none, for what is asked here is not SQL.
    server_settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, process: Process, database: Database) -> None:
        """Send what the process writes to a database."""
        self.process = process
        self.database = database

    def insert_arrow(self, name: str, table: pa.Table, settings: object = None) -> None:
        """Take an insert: it takes effect in whole, in part or not at all, and its sender may not hear of it."""
        del settings
        world, options = self.process.world, self.process.world.options
        if not self.database.is_up or world.happens(options.store_refused):
            world.count(Fault.REFUSED, self.process.name)
            if self.process.plan:
                world.count(Fault.SOME_TABLES, self.process.name)
            raise StoreUnavailable("refused")
        if world.happens(options.store_error):
            world.count(Fault.STORE_ERROR, self.process.name)
            raise StoreError("refused for good")
        if table.num_rows > 1 and world.happens(options.store_half):
            world.count(Fault.SOME_ROWS, self.process.name)
            self.send(name, table.take(sorted(world.random.sample(range(table.num_rows), table.num_rows // 2))))
            raise StoreUnavailable("connection reset")
        self.send(name, table)
        if world.happens(options.store_reply_lost):
            world.count(Fault.REPLY_LOST, self.process.name)
            raise StoreUnavailable("no answer")

    def send(self, name: str, table: pa.Table) -> None:
        """Let rows take effect when they have arrived."""
        self.process.plan.append((f"insert {name}", partial(self._arrive, name, table)))

    def _arrive(self, name: str, table: pa.Table) -> None:
        if self.process.is_stale():
            self.process.world.count(Fault.STALE_WRITE, self.process.name)
        self.database.insert(name, table)


class SimulatedStore(Store):
    """Our Store as it is where it writes; what its SQL would say is computed from what is stored."""

    client: type[Client] = Client

    def __init__(self, process: Process, database: Database) -> None:
        """Connect a process."""
        super().__init__(cast("Any", self.client(process, database)), migrations.Target("roommeter", ""))
        self._process = process
        self._database = database

    def _readable(self) -> Database:
        if not self._database.is_up or self._database.world.happens(self._database.world.options.store_refused):
            raise StoreUnavailable("refused")
        return self._database

    def usage(self, query: UsageQuery) -> list[tuple[CellKey, Usage]]:
        """Return usage per cell."""
        self._database.world.watch.was_processed_up_to(query.as_of_ms)
        cells = usage(self._readable().facts, METERS, query.as_of_ms, query.orphan_after_ms)
        to_ms = query.as_of_ms if query.to_ms is None else query.to_ms
        return sorted((key, cell) for key, cell in cells.items() if query.from_ms <= key[2] < to_ms)

    def changes(self, query: ChangeQuery) -> Changes:
        """Return from when on usage may have changed: the view `changes`, in Python."""
        database = self._readable()
        earliest_ms = min(_changed(database, query), default=NEVER_MS)
        return Changes(earliest_ms, database.world.now_ms)

    def progress(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return how far each partition has been processed."""
        del topic
        return dict(self._readable().progress)

    def rollups(self, query: RollupQuery) -> list[Rollup]:
        """Return every revision."""
        del query
        return [rollup for _, rollup in sorted(self._readable().rollups.items())]

    def latest_rollups(self, from_ms: int = 0, to_ms: int | None = None) -> dict[CellKey, Rollup]:
        """Return the highest revision of every cell: of a replica that lags, now and then."""
        database = self._readable()
        found = database.rollups
        if found != database.older_rollups and database.world.happens(database.world.options.stale_read):
            database.world.count(Fault.STALE_READ, self._process.name)
            found = database.older_rollups
        newest = {rollup.key: rollup for _, rollup in sorted(found.items()) if rollup.hour_ms >= from_ms}
        return {key: rollup for key, rollup in newest.items() if to_ms is None or rollup.hour_ms < to_ms}

    def open_rooms(self) -> Iterator[tuple[str, str, Room]]:
        """Yield every room with a session of which no end is known."""
        for (project, name), room in self._readable().facts.rooms.items():
            if any(is_live(session, room) for session in room.sessions.values()):
                copy = Room()
                copy.join(room)
                yield project, name, copy


def _changed(database: Database, query: ChangeQuery) -> Iterator[int]:
    """Yield a time for everything that changed: from then on its subject may have usage."""
    facts = database.facts
    recent = [database.events[place] for place, at_ms in database.ingested_ms.items() if at_ms >= query.since_ms]
    events = [parse_event(orjson.loads(payload), METERS) for disposition, payload in recent if disposition == ACCEPTED]
    rooms = {(event.project, event.room) for event in events if event is not None}
    subjects = {(event.project, event.source, event.id) for event in events if event is not None}
    for event in events:
        if event is not None:
            yield NOT_SEEN_MS if event.type is EventType.SERVER_RESTARTED else event.time_ms
    for key, _, session in facts.sessions():
        times_ms = session.connected_at_ms, session.begun_at_ms
        if any(query.after_ms <= time_ms < query.until_ms for time_ms in times_ms):
            rooms.add(key)
        is_silent = query.after_ms < session.last_seen_ms + query.orphan_after_ms <= query.until_ms
        if key in rooms or (is_silent and session.disconnected_at_ms == NEVER_MS):
            yield min(times_ms)
    yield from (hour_ms for *key, _, hour_ms in facts.quantities.counters if (*key,) in rooms)
    yield from (hour_ms for *key, _, hour_ms in facts.quantities.discrete if (*key,) in subjects)


def _rows(table: pa.Table, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return columns of an Arrow table as rows of plain values; times as ms."""
    columns = []
    for name in names:
        column = table.column(name)
        kind = column.type
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.int64())
        elif pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
            column = column.cast(pa.list_(pa.int64()))
        columns.append(column.to_pylist())
    return list(zip(*columns, strict=True))
