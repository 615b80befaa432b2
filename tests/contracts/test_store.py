"""What every store promises its callers: joins, plain values, order of writing, errors that say what to do."""

import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline.clickhouse import Store, StoreError, StoreUnavailable, chdb_directory
from pipeline.metering.events import Event, EventType
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Room, Session
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, NEVER_MS
from pipeline.metering.usage import Usage
from pipeline.rows import Batch, EventRow, RollupQuery, SessionQuery, UsageQuery

_HOUR_MS = 1_789_999_200_000
_LATER_MS = _HOUR_MS + 2 * MS_PER_HOUR
#: The log forgets after 60 days of broker time.
_NOW_MS = time.time_ns() // 1_000_000
_WHOLE = Session(
    kind="sip",
    number="+15550100",
    connected_at_ms=_HOUR_MS,
    begun_at_ms=_HOUR_MS + 7,
    disconnected_at_ms=_HOUR_MS + 70_000,
    last_seen_ms=_HOUR_MS + 70_000,
    sources=frozenset({"sfu-1", "sfu-2"}),
)
_PARTS = (
    Session(kind="sip", connected_at_ms=_HOUR_MS, last_seen_ms=_HOUR_MS, sources=frozenset({"sfu-1"})),
    Session(number="+15550100", last_seen_ms=_HOUR_MS + 30_000, connected_at_ms=_HOUR_MS + 900),
    Session(
        begun_at_ms=_HOUR_MS + 7,
        disconnected_at_ms=_HOUR_MS + 70_000,
        last_seen_ms=_HOUR_MS + 70_000,
        sources=frozenset({"sfu-2"}),
    ),
    Session(disconnected_at_ms=_HOUR_MS + 5 * MS_PER_HOUR),
)
_NAMES = (
    "x' OR 1=1 --",
    "back\\slash",
    "100%",
    "{p:String}",
    "$name",
    "Zürich 東京 🎧",
    '"quoted"',
    "`; DROP TABLE rollups",
)


def _of_one(session: Session, project: str = "acme") -> Batch:
    return Batch(sessions=[(project, "RM_1", "PA_1", session)])


def _agent(start_ms: int, end_ms: int = NEVER_MS) -> Session:
    seen_ms = start_ms if end_ms == NEVER_MS else end_ms
    return Session("agent", connected_at_ms=start_ms, disconnected_at_ms=end_ms, last_seen_ms=seen_ms)


def _event(offset: int, partition: int = 0, broker_time_ms: int = _NOW_MS) -> EventRow:
    event = Event(EventType.SESSION_CONNECTED, f"EV_{offset}", "sfu-1", _HOUR_MS, "acme", "RM_1", "PA_1", "agent")
    return ("lifecycle", partition, offset, broker_time_ms, "accepted", event, b'{"id": "EV_1"}')


def _rollup(revision: int, increments: int, hour_ms: int = _HOUR_MS, meter: str = "agent_session_minutes") -> Rollup:
    return Rollup("acme", meter, hour_ms, revision, increments, 1, 1, 2, _LATER_MS, _LATER_MS - 5)


@pytest.mark.parametrize("seed", range(5))
def test_partial_repeated_and_reordered_rows_are_their_join(store: Store, seed: int) -> None:
    """R10: in any order, any number of times, in any split over batches."""
    rows = random.Random(seed).choices(_PARTS, k=6) + list(_PARTS)  # noqa: S311
    random.Random(seed).shuffle(rows)  # noqa: S311
    for row in rows:
        store.write(_of_one(row))
    found = store.sessions(SessionQuery(as_of_ms=_LATER_MS))
    assert [(row.started_at_ms, row.ended_at_ms, row.number) for row in found] == [
        (_HOUR_MS, _HOUR_MS + 70_000, "+15550100"),
    ]


def test_a_stale_row_changes_nothing(store: Store) -> None:
    """R10: what was known before, written again after what is known now."""
    store.write(_of_one(_WHOLE))
    before = store.usage(UsageQuery(as_of_ms=_LATER_MS))
    store.write(_of_one(_PARTS[0]))
    assert store.usage(UsageQuery(as_of_ms=_LATER_MS)) == before


def test_a_whole_batch_written_again_changes_nothing(store: Store) -> None:
    """R10: after an error the caller writes the same batch again."""
    batch = Batch([("acme", "RM_1", "PA_1", _WHOLE)], [("acme", "RM_1", Room(frozenset({_LATER_MS})))], [], [_event(3)])
    store.write(batch)
    before = (store.usage(UsageQuery(as_of_ms=_LATER_MS)), store.progress("lifecycle"), list(store.open_rooms()))
    store.write(batch)
    again = (store.usage(UsageQuery(as_of_ms=_LATER_MS)), store.progress("lifecycle"), list(store.open_rooms()))
    assert again == before


def test_an_input_written_twice_is_one_row_of_the_log(store: Store) -> None:
    """An input is named by topic, partition and offset."""
    store.write(Batch(events=[_event(3), _event(3), _event(4)]))
    store.write(Batch(events=[_event(4)]))
    assert store.query("SELECT count() FROM events FINAL")[0][0] == 2


def test_a_dead_letter_is_kept_with_its_bytes(store: Store) -> None:
    """R21: input that is no event, byte for byte."""
    payload = bytes(range(256))
    store.write(Batch(events=[("lifecycle", 1, 9, _NOW_MS, "not_json", None, payload)]))
    found = store.query(
        "SELECT disposition, type, base64Encode(payload) = base64Encode(unhex({hex:String})) FROM events",
        hex=payload.hex(),
    )
    assert [tuple(row) for row in found] == [("not_json", "", 1)]


def test_progress_is_the_furthest_of_each_partition(store: Store) -> None:
    """R18: an older batch that is written again does not move it back."""
    store.write(Batch(events=[_event(8, 0, _NOW_MS + 5), _event(2, 1)]))
    store.write(Batch(events=[_event(6, 0, _NOW_MS + 1)]))
    assert store.progress("lifecycle") == {0: (9, _NOW_MS + 5), 1: (3, _NOW_MS)}


def test_progress_of_another_topic_is_another(store: Store) -> None:
    """A topic that nobody has processed has no progress."""
    store.write(Batch(events=[_event(8)]))
    assert store.progress("staging.lifecycle") == {}


def test_progress_is_written_after_what_it_vouches_for() -> None:
    """R18: a crash inside a write leaves facts without progress, never progress without facts."""
    batch = Batch([("acme", "RM_1", "PA_1", _WHOLE)], [("acme", "RM_1", Room())], [("sfu-1", _HOUR_MS)], [_event(1)])
    names = [name for name, _ in batch.tables()]
    assert names == ["session_facts", "room_facts", "server_facts", "events", "progress"]


@pytest.mark.parametrize("name", _NAMES)
def test_any_name_is_a_plain_value(store: Store, name: str) -> None:
    """No name reaches the SQL as SQL: it is found by itself, and only by itself."""
    store.write(Batch([(name, name, name, _agent(_HOUR_MS)), ("acme", "RM_1", "PA_1", _agent(_HOUR_MS))]))
    rows = store.sessions(SessionQuery(as_of_ms=_LATER_MS, project=name, room=name, session=name))
    cells = store.usage(UsageQuery(as_of_ms=_HOUR_MS + 1, project=name, meter="agent_session_minutes"))
    assert [row[:3] for row in rows] == [(name, name, name)]
    assert cells == [((name, "agent_session_minutes", _HOUR_MS), Usage(1, 1, 1))]


def test_a_project_that_looks_like_sql_finds_nothing(store: Store) -> None:
    """A condition that would be true for every row is a name that no row has."""
    store.write(_of_one(_WHOLE))
    assert store.usage(UsageQuery(as_of_ms=_LATER_MS, project="x' OR 1=1 --")) == []


def test_an_open_room_comes_back_with_all_its_facts(store: Store) -> None:
    """A worker without its changelog gets exactly what it had written."""
    room = Room(frozenset({_HOUR_MS - 5}), _HOUR_MS - 9, {"PA_1": _agent(_HOUR_MS), "PA_2": _WHOLE})
    store.write(
        Batch([("acme", "RM_1", name, facts) for name, facts in room.sessions.items()], [("acme", "RM_1", room)])
    )
    store.write(Batch([("acme", "RM_2", "PA_3", _WHOLE)]))
    assert list(store.open_rooms()) == [("acme", "RM_1", room)]


def test_a_room_that_ended_is_not_open(store: Store) -> None:
    """R5: the end of the room is an end of its sessions."""
    store.write(Batch([("acme", "RM_1", "PA_1", _agent(_HOUR_MS))], [("acme", "RM_1", Room(frozenset({_HOUR_MS})))]))
    assert list(store.open_rooms()) == []


def test_the_latest_rollup_is_that_of_the_highest_revision(store: Store, meters: Meters) -> None:
    """R19: whatever the order in which revisions were stored, and however often."""
    store.insert_rollups([_rollup(2, 7), _rollup(1, 9), _rollup(2, 7)], meters)
    store.insert_rollups([_rollup(1, 9)], meters)
    assert store.latest_rollups() == {_rollup(2, 7).key: _rollup(2, 7)}


def test_rollups_come_back_as_they_were(store: Store, meters: Meters) -> None:
    """R17: every revision once, in order, of the hours, project and meter asked for."""
    told = [_rollup(1, 9), _rollup(2, 7), _rollup(1, 2, _HOUR_MS + MS_PER_HOUR), _rollup(1, 3, meter="webrtc_minutes")]
    store.insert_rollups([*told, told[0]], meters)
    query = RollupQuery(from_ms=_HOUR_MS, to_ms=_HOUR_MS + 1, project="acme", meter="agent_session_minutes")
    assert store.rollups(query) == told[:2]
    assert store.rollups(RollupQuery()) == [told[0], told[1], told[2], told[3]]


def test_a_rollup_is_stored_with_its_id_and_exact_quantity(store: Store, meters: Meters) -> None:
    """R17: for those who read the table itself; 7 of 0.01 GB is 0.07 GB."""
    rollup = _rollup(1, 7, meter="data_transfer_gb")
    store.insert_rollups([rollup], meters)
    [row] = store.query("SELECT toString(id), toString(quantity), status FROM rollups")
    assert tuple(row) == (rollup.id, "0.07", "open")


def test_a_quantity_that_does_not_fit_is_refused_and_not_rounded(store: Store, meters: Meters) -> None:
    """R17: quantities are exact."""
    huge = {"data_transfer_gb": replace(meters["data_transfer_gb"], increment=10**30, unit_size=1)}
    with pytest.raises(StoreError, match=r"does not fit its column: .*Decimal"):
        store.insert_rollups([_rollup(1, 7, meter="data_transfer_gb")], huge)


def test_two_stores_of_one_process_see_the_same(open_store: Callable[[], Store], store: Store) -> None:
    """A long query and a writer open a store each."""
    store.write(_of_one(_agent(_HOUR_MS, _HOUR_MS + MS_PER_MINUTE)))
    assert open_store().usage(UsageQuery(as_of_ms=_LATER_MS)) == store.usage(UsageQuery(as_of_ms=_LATER_MS))


@pytest.mark.parametrize("year_ms", [946_684_800_000, NEVER_MS - 1])
def test_the_earliest_and_the_latest_possible_time_are_kept(store: Store, year_ms: int) -> None:
    """The years 2000 and 2199: no column wraps around or clamps."""
    store.write(_of_one(_agent(year_ms, year_ms)))
    [row] = store.sessions(SessionQuery(as_of_ms=NEVER_MS))
    assert (row.started_at_ms, row.ended_at_ms) == (year_ms, year_ms)
    assert sum(cell.increments for _, cell in store.usage(UsageQuery(as_of_ms=NEVER_MS))) == 1


def test_a_batch_may_touch_any_number_of_months(store: Store) -> None:
    """R11: late events of many years in one batch stop nothing."""
    months = [_agent(946_684_800_000 + number * 40 * 24 * MS_PER_HOUR, NEVER_MS) for number in range(300)]
    store.write(Batch([("acme", "RM_1", f"PA_{number}", session) for number, session in enumerate(months)]))
    assert len(store.sessions(SessionQuery(as_of_ms=_LATER_MS))) == 300


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    """R22: connection refused is a reason to wait."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(StoreUnavailable):
            Store.open(f"http://127.0.0.1:{unused.getsockname()[1]}")


def test_a_proxy_without_a_server_behind_it_is_unavailable() -> None:
    """R22: a 5xx that ClickHouse did not write is a reason to wait."""

    class BadGateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(502)

        do_GET = do_POST  # noqa: N815 - the base class's names

    with HTTPServer(("127.0.0.1", 0), BadGateway) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        with pytest.raises(StoreUnavailable):
            Store.open(f"http://127.0.0.1:{proxy.server_port}")
        proxy.shutdown()


def test_a_store_without_memory_is_unavailable(store: Store) -> None:
    """R22: what passes by itself is a reason to wait."""
    with pytest.raises(StoreUnavailable, match="MEMORY_LIMIT"):
        store.query("SELECT groupArray(number) FROM numbers(10000000) SETTINGS max_memory_usage = 1000000")


def test_a_store_that_was_not_migrated_refuses(open_store: Callable[[], Store]) -> None:
    """Waiting does not make a table."""
    with pytest.raises(StoreError) as caught:
        open_store().progress("lifecycle")
    assert type(caught.value) is StoreError


@pytest.mark.parametrize("dsn", ["", "clickhouse", "chdb://", "chdb:///", "chdb://data", "postgres://127.0.0.1"])
def test_an_address_of_no_store_says_what_one_is(dsn: str) -> None:
    """The message shows the two forms."""
    with pytest.raises(StoreError, match="chdb:///directory, or http"):
        Store.open(dsn)


def test_slashes_begin_an_absolute_path_and_none_a_relative_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clickhouse-connect reads it. The default, chdb:data/clickhouse, needs no right to write at the root."""
    monkeypatch.chdir(tmp_path)
    assert chdb_directory("chdb:data/x") == tmp_path / "data" / "x"
    assert chdb_directory(f"chdb://{tmp_path}/y") == tmp_path / "y"
    assert chdb_directory(f"chdb:///{tmp_path}/y") == tmp_path / "y"
    assert chdb_directory("https://user:password@127.0.0.1:8443") is None


@pytest.mark.parametrize("store_dsn", ["chdb"], indirect=True)
def test_a_second_process_is_told_who_to_ask(store: Store, store_dsn: str, tmp_path: Path) -> None:
    """One process has the embedded engine's directory; another one cannot open it."""
    assert store.progress("lifecycle") == {}
    program = f"from pipeline.clickhouse import Store; Store.open({store_dsn!r})"
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert "another process has it open; query the running `roommeter up`" in result.stderr.splitlines()[-1]


def test_a_config_file_in_the_current_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded engine would obey it silently."""
    (tmp_path / "config.xml").write_text("<clickhouse/>")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"config\.xml"):
        Store.open("chdb:data")


def test_a_name_of_a_database_that_is_no_word_is_refused(store_dsn: str) -> None:
    """Identifiers are the only thing that is formatted into SQL."""
    with pytest.raises(StoreError, match="has to be a word"):
        Store.open(store_dsn, "a b; DROP DATABASE default")
