"""A batch worked out in stretches comes to the same facts, changelog and counts as all at once (R10)."""

from collections import Counter
from typing import Any

import orjson

from pipeline.deadletters.breaker import count_by_project
from pipeline.metering.units import MS_PER_DAY
from pipeline.rows import TABLES, Batch
from pipeline.tracker import Policy, Tracker
from pipeline.work import STRETCH_RECORDS, Work, work_out
from tests.bench.load import Line
from tests.metering.builders import METERS, clock, connected, disconnected, of_room

_POLICY = Policy(2_000, 60 * MS_PER_DAY, 0, 0)


def _lines() -> list[Line]:
    """Return two stretches and a half: sessions that end in another stretch than they began in, and a dead letter."""
    names = [f"PA_{number}" for number in range(STRETCH_RECORDS * 5 // 4 - 1)]
    log = [connected("14:00:00", session=name) for name in names]
    log += [disconnected("14:10:00", session=name, bytes_in=1) for name in names]
    payloads = [*map(orjson.dumps, log), b"{", orjson.dumps(of_room("room.ended", "14:10:00"))]
    return [Line("lifecycle", 0, number, clock("14:10:00"), None, value) for number, value in enumerate(payloads)]


def _joined(tables: list[tuple[str, Any]]) -> dict[str, set[str]]:
    """Return the rows that say most: of a session, and of a partition's progress, the last."""
    keys = {"session_facts": "session", "progress": "partition"}
    return {
        name: set({str(row[keys[name]] if name in keys else row): str(row) for row in table.to_pylist()}.values())
        for name, table in tables
    }


def _both() -> tuple[Work, Any]:
    return work_out(Tracker(METERS, _POLICY), iter(_lines())), Tracker(METERS, _POLICY).apply(_lines())


def test_the_rows_of_stretches_join_into_those_of_the_batch() -> None:
    """R10: a session of two stretches has two rows, and the later says all."""
    work, changes = _both()
    batch = Batch(changes.sessions, changes.rooms, changes.restarts, changes.events, changes.quantities)
    assert _joined(work.tables()) == _joined(batch.tables())


def test_tables_are_inserted_in_one_order_whatever_each_stretch_has() -> None:
    """R22: progress vouches for what comes before it; here a room's facts come from the last stretch alone."""
    names = [name for name, _ in _both()[0].tables()]
    assert names == [name for name in TABLES if name in names]
    assert {*names, "server_facts", "amendments", "discrete_facts", "number_facts"} == {*TABLES}


def test_the_changelog_of_stretches_recovers_what_is_in_memory() -> None:
    """Of a key the last entry counts."""
    work, changes = _both()
    assert dict(work.changelog[0]) == dict(changes.changelog[0])


def test_what_was_counted_in_stretches_is_what_the_batch_counts() -> None:
    """R21: dispositions, projects, dead letters, and the newest broker time."""
    work, changes = _both()
    assert work.dispositions == Counter(raw.disposition for raw in changes.events)
    assert work.counts == count_by_project(changes)
    assert work.dead_letters == changes.dead_letters
    assert work.broker_time_ms == clock("14:10:00")
