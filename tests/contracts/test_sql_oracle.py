"""Three oracles that share no code, and the pipeline: a faulty day of 20 000 sessions, compared per session and hour.

Brute force in Python (tests/oracle.py), SQL over the raw events (tests/sql_oracle.sql), and the simulated servers'
own truth where what they sent shows it. Sums are never all that is compared: two errors could cancel.
ROOMMETER_TEST_SESSIONS makes the day another size.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple
from uuid import uuid4

import orjson
import pytest

from pipeline.clickhouse import Store
from pipeline.metering.meters import Meters
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, format_time, parse_time
from pipeline.metering.usage import feeds, increments_by_hour
from pipeline.rows import Batch, SessionQuery, UsageQuery
from pipeline.simulator import Scenario, Simulation, simulate
from pipeline.tracker import Policy, Tracker
from tests.metering.builders import METERS, event
from tests.oracle import METERS_OF_KIND, oracle, oracle_sessions
from tests.sql_oracle import Line, digest, sql_digest, sql_oracle, sql_oracle_counted

_SESSIONS: Final = int(os.environ.get("ROOMMETER_TEST_SESSIONS", "20000"))
_PARTITIONS: Final = 4
_BATCH: Final = max(100, _SESSIONS * 3 // 20)
#: A whole day, so recent that the log of events keeps it, so long ago that all of it has arrived.
_START_MS: Final = time.time_ns() // 1_000_000 // MS_PER_DAY * MS_PER_DAY - 10 * MS_PER_DAY
_DAY: Final = Scenario(
    start_ms=_START_MS,
    end_ms=_START_MS + MS_PER_DAY,
    sessions=_SESSIONS,
    seed=20_260_921,
    reconnect=0.1,
    crash=0.05,
    duplicate=0.1,
    disorder_ms=30_000,
    late=0.02,
    lost=0.01,
    abort=0.02,
    lost_connect=0.03,
    reused_rooms=0.2,
    usage_every_ms=30 * MS_PER_MINUTE,
    numbers=20,
)
_LONG_AFTER_MS: Final = _START_MS + 8 * MS_PER_DAY
_MOMENTS: Final = {
    "on the hour": (_START_MS + 14 * MS_PER_HOUR, MS_PER_DAY),
    "in the middle, soon orphans": (_START_MS + 16 * MS_PER_HOUR + 1_234_567, 10 * MS_PER_MINUTE),
    "long after": (_LONG_AFTER_MS, MS_PER_DAY),
}
moments = pytest.mark.parametrize(("as_of_ms", "orphan_after_ms"), _MOMENTS.values(), ids=_MOMENTS)
#: A project whose rooms and sessions have ids that another project has too.
_MIRROR: Final = "mirror"
Document = dict[str, Any]


class Record(NamedTuple):
    """A record of the lifecycle topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Metered(NamedTuple):
    """What was sent, what really was, whose sessions were amended, and the store that the pipeline filled."""

    documents: list[Document]
    simulation: Simulation
    amended: set[str]
    store: Store
    meters: Meters
    #: How often a worker was killed, a batch written again, and an event dated later than one that came before it.
    faults: Counter[str]
    #: What the oracle in SQL has answered, by moment: nothing is stored any more, and it takes seconds.
    answers: dict[tuple[int, int], list[Line]]

    def oracle(self, as_of_ms: int, orphan_after_ms: int) -> list[Line]:
        """Return what the raw events bill as of a moment."""
        moment = as_of_ms, orphan_after_ms
        if moment not in self.answers:
            self.answers[moment] = sql_oracle(self.store, *moment)
        return self.answers[moment]


def _more(chance: random.Random, simulation: Simulation) -> tuple[list[tuple[int, Document]], set[str]]:
    """Return what the servers do not send: answers about absent sessions, begins told by samples, amendments."""
    sent: list[tuple[int, Document]] = []
    amended: set[str] = set()
    for true in simulation.truth:
        data: Document = {"project": true.project, "room": true.room, "session": true.session}
        after_ms = true.ended_at_ms + chance.randrange(1, 10) * MS_PER_MINUTE
        pick = chance.random()
        if pick < 0.1:
            # Before the end too: its room's end, where its own was lost, shows nothing then.
            asked_ms = chance.choice((after_ms, chance.randint(true.started_at_ms, true.ended_at_ms)))
            sent.append((after_ms, event("session.absent", asked_ms, "reconcile/sim", **data)))
        elif pick < 0.13:
            begun = data | {"kind": true.kind, "connected_at": format_time(true.started_at_ms)}
            sent.append((after_ms, event("session.sampled", true.ended_at_ms, "reconcile/sim", **begun)))
        elif pick < 0.14:
            amended.add(true.session)
            for epoch in range(1, chance.choice((2, 3))):
                said = chance.choice(
                    (
                        {"void": True},
                        {"started_at": format_time(true.started_at_ms - MS_PER_MINUTE)},
                        {"ended_at": format_time(true.ended_at_ms + MS_PER_MINUTE)},
                        {},
                    )
                )
                who = {"epoch": epoch, "actor": "jo", "reason": "ticket 4711"}
                sent.append((after_ms, event("session.amended", after_ms, "roommeter/amend", **data, **who, **said)))
    return sent, amended


def _mirrored(chance: random.Random, sent: list[tuple[int, Document]]) -> Iterator[tuple[int, Document]]:
    """Yield what happens in another project under the same room and session ids, half an hour around the first."""
    shifts_ms: dict[str, int] = {}
    for sent_at_ms, document in sent:
        room = document["data"].get("room")
        if room is None or sum(room.encode()) % 10:
            continue
        shift_ms = shifts_ms.setdefault(room, chance.randrange(-30, 30) * MS_PER_MINUTE)
        times = {
            name: format_time(parse_time(document["data"][name]) + shift_ms)
            for name in ("connected_at", "started_at", "ended_at")
            if name in document["data"]
        }
        moved = {"time": format_time(parse_time(document["time"]) + shift_ms), "id": f"{document['id']}_M"}
        yield sent_at_ms + shift_ms, document | moved | {"data": document["data"] | times | {"project": _MIRROR}}


def _records(sent: list[tuple[int, Document]]) -> Iterator[Record]:
    """Yield records in order of arrival; a room stays in its partition, a restart goes to all."""
    offsets = [0] * _PARTITIONS
    for sent_at_ms, document in sent:
        room = document["data"].get("room")
        numbers = range(_PARTITIONS) if room is None else [sum(room.encode()) % _PARTITIONS]
        for number in numbers:
            yield Record("lifecycle", number, offsets[number], sent_at_ms, None, orjson.dumps(document))
            offsets[number] += 1


def _process(store: Store, meters: Meters, records: list[Record], chance: random.Random) -> Counter[str]:
    """Meter records as workers do that are killed now and then, before and after a batch is wholly stored."""
    faults: Counter[str] = Counter()
    policy = Policy(16_384, 60 * MS_PER_DAY, 5 * MS_PER_MINUTE, MS_PER_HOUR)
    tracker = Tracker(meters, policy)
    for first in range(0, len(records), _BATCH):
        records_of_batch = records[first : first + _BATCH]
        changes = tracker.apply(records_of_batch)
        if chance.random() < 0.3:
            faults["killed"] += 1
            tables = Batch(
                changes.sessions, changes.rooms, changes.restarts, changes.events, changes.quantities
            ).tables()
            for name, table in tables[: chance.randrange(len(tables) + 1)]:
                store.insert(name, table)
            # Its next owner knows nothing, and begins with the batch that was not acknowledged.
            tracker = Tracker(meters, policy)
            changes = tracker.apply(records_of_batch)
        for _ in range(chance.choice((1, 1, 2))):
            faults["written"] += 1
            store.write(Batch(changes.sessions, changes.rooms, changes.restarts, changes.events, changes.quantities))
        tracker.evict(records_of_batch[-1].timestamp)
    faults["disorder"] = sum(_dated(later) < _dated(earlier) for earlier, later in pairwise(records))
    faults["batches"] = -(-len(records) // _BATCH)
    return faults


def _dated(record: Record) -> str:
    return str(orjson.loads(record.value or b"")["time"])


@pytest.fixture(scope="module")
def metered(store_dsn: str, meters: Meters) -> Iterator[Metered]:
    """A faulty day, metered."""
    chance = random.Random(7)  # noqa: S311 - the same day in every run
    simulation = simulate(_DAY)
    more, amended = _more(chance, simulation)
    sent = simulation.events + more
    sent = sorted([*sent, *_mirrored(chance, sent)], key=lambda one: one[0])
    database = f"test_{uuid4().hex}"
    store = Store.open(store_dsn, database)
    store.migrate(meters)
    faults = _process(store, meters, list(_records(sent)), chance)
    yield Metered([document for _, document in sent], simulation, amended, store, meters, faults, {})
    store._client.command(f"DROP DATABASE {database} SYNC")
    store.close()


def _stored(metered: Metered, as_of_ms: int, orphan_after_ms: int) -> list[Line]:
    """Return what the pipeline bills, session by session, from the facts that it stored."""
    query = SessionQuery(as_of_ms=as_of_ms, orphan_after_ms=orphan_after_ms, limit=10 * _SESSIONS)
    lines = []
    for row in metered.store.sessions(query):
        if row.started_at_ms >= as_of_ms:
            continue
        session = Session(row.kind, row.number)
        names = [meter.name for meter in metered.meters.values() if feeds(session, meter)]
        until_ms = min(row.ended_at_ms, as_of_ms)
        for hour_ms, minutes in increments_by_hour(row.started_at_ms, until_ms, MS_PER_MINUTE):
            open_minutes = minutes if row.is_open else 0
            lines += [
                Line(row.project, name, row.room, row.session, hour_ms, minutes, open_minutes) for name in names or [""]
            ]
    return lines


def test_the_day_is_as_faulty_as_it_is_meant_to_be(metered: Metered) -> None:
    """No test below passes because nothing happened."""
    types = Counter(document["type"] for document in metered.documents)
    assert len(metered.simulation.truth) >= 0.95 * _SESSIONS
    least = min(types[f"session.{name}"] for name in ("absent", "aborted", "sampled", "amended"))
    assert least > _SESSIONS // 200
    assert sum(document["data"].get("project") == _MIRROR for document in metered.documents) > _SESSIONS // 10
    assert types["server.restarted"] > _SESSIONS // 400
    assert metered.faults["killed"] >= 5
    assert metered.faults["written"] > metered.faults["batches"]
    assert metered.faults["disorder"] > _SESSIONS // 2
    repeated = Counter(map(orjson.dumps, metered.documents))
    assert sum(times > 1 for times in repeated.values()) > _SESSIONS // 4


@moments
def test_raw_events_bill_what_the_pipeline_bills_per_session_and_hour(
    metered: Metered, as_of_ms: int, orphan_after_ms: int
) -> None:
    """R1 to R10, R12, R16: line by line, open minutes too."""
    found = metered.oracle(as_of_ms, orphan_after_ms)
    assert sorted(found) == sorted(_stored(metered, as_of_ms, orphan_after_ms))
    assert len(found) > _SESSIONS // 4


@moments
def test_raw_events_bill_what_the_pipeline_rolls_up(metered: Metered, as_of_ms: int, orphan_after_ms: int) -> None:
    """R16, R17: per project, meter and hour, as the store's own view sums it."""
    cells: dict[tuple[str, str, int], list[int]] = {}
    for line in metered.oracle(as_of_ms, orphan_after_ms):
        if line.meter:
            cell = cells.setdefault((line.project, line.meter, line.hour_ms), [0, 0, 0])
            cell[:] = cell[0] + line.minutes, cell[1] + line.minutes_open, cell[2] + 1
    for key, (increments, subjects) in sql_oracle_counted(metered.store, as_of_ms).items():
        cells[key] = [increments, 0, subjects]
    assert {key[1] for key in cells} == set(METERS)
    query = UsageQuery(as_of_ms=as_of_ms, orphan_after_ms=orphan_after_ms)
    assert [(key, list(cell)) for key, cell in metered.store.usage(query)] == sorted(cells.items())


@moments
def test_brute_force_bills_the_same_per_session_and_rolled_up(
    metered: Metered, as_of_ms: int, orphan_after_ms: int
) -> None:
    """R1 to R9, R12: the oracle in Python has seen the events themselves, not what was stored of them."""
    found = metered.oracle(as_of_ms, orphan_after_ms)
    by_session = {(one.project, one.room, one.session, one.hour_ms): (one.minutes, one.minutes_open) for one in found}
    assert by_session == oracle_sessions(metered.documents, as_of_ms, orphan_after_ms)
    query = UsageQuery(as_of_ms=as_of_ms, orphan_after_ms=orphan_after_ms)
    expected = oracle(metered.documents, as_of_ms, orphan_after_ms)
    assert metered.store.usage(query) == sorted(expected.items())


def test_every_session_whose_truth_is_shown_bills_its_truth(metered: Metered) -> None:
    """R1, R10: what the servers know of themselves, minute by minute."""
    expected: Counter[tuple[str, str, str, str, int]] = Counter()
    exact = [true for true in metered.simulation.truth if true.is_exact and true.session not in metered.amended]
    for true in exact:
        for minute_ms in range(true.started_at_ms, max(true.started_at_ms + 1, true.ended_at_ms), MS_PER_MINUTE):
            for meter, needs_number in METERS_OF_KIND[true.kind]:
                if true.number or not needs_number:
                    hour_ms = minute_ms - minute_ms % MS_PER_HOUR
                    expected[true.project, meter, true.room, true.session, hour_ms] += 1
    names = {true.session for true in exact}
    found = metered.oracle(_LONG_AFTER_MS, MS_PER_DAY)
    assert {line[:5]: line.minutes for line in found if line.session in names and line.project != _MIRROR} == expected
    assert len(exact) > 0.8 * _SESSIONS


@moments
def test_the_digests_agree_whatever_the_order(metered: Metered, as_of_ms: int, orphan_after_ms: int) -> None:
    """R20: count and sum of hashes, computed by the store over raw events and here over the pipeline's lines."""
    lines = _stored(metered, as_of_ms, orphan_after_ms)
    assert digest(lines) == sql_digest(metered.store, as_of_ms, orphan_after_ms)
    assert digest([line._replace(minutes=line.minutes + (line is lines[0])) for line in lines]) != digest(lines)
