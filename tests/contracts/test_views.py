"""The views for analysts: they say what the core says, under the columns that they promise."""

import re
from typing import Final

import pytest

from pipeline.clickhouse import Store
from pipeline.metering.events import Amendment
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Room, Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, NEVER_MS, parse_time
from pipeline.migrations import shipped_migrations
from pipeline.rows import Batch, SessionQuery, UsageQuery

_DAY_MS: Final = parse_time("2026-09-21T00:00:00Z")
_NOON_MS: Final = _DAY_MS + 12 * MS_PER_HOUR
_SPAN: Final = "project = '', from = '2026-09-21', to = '2026-09-22', as_of = '2026-09-21 12:00:00'"
_SESSIONS: Final = """
SELECT
    session, toUnixTimestamp64Milli(started_at), toUnixTimestamp64Milli(ended_at), minutes, is_open, start_inferred
FROM v_sessions(project = {project:String}, from = '2026-09-21', to = '2026-09-22', as_of = '2026-09-21 12:00:00')
ORDER BY session
"""
_OPEN: Final = """
SELECT session, minutes, silent_ms FROM v_open_sessions(project = {project:String}, as_of = '2026-09-21 12:00:00')
ORDER BY session
"""
#: How each view is called: those without parameters are tables to a query.
_CALLS: Final = {
    **dict.fromkeys(("v_sessions", "v_unbilled_sessions", "v_usage_live", "v_attribution"), f"({_SPAN})"),
    "v_open_sessions": "(project = '', as_of = '2026-09-21 12:00:00')",
    **dict.fromkeys(
        ("v_rollups", "v_usage_hourly", "v_usage_daily", "v_projects", "v_invoices", "v_amendments", "v_events"), ""
    ),
}


def _written_views() -> dict[str, str]:
    """Return what the migrations say of each view for analysts, the newest last."""
    text = "".join(migration.script for migration in shipped_migrations())
    return dict(re.findall(r"^CREATE OR REPLACE VIEW \$\{database\}\.(v_\w+)(.*?;)\n", text, re.DOTALL | re.MULTILINE))


def _columns(written: str) -> list[tuple[str, str]]:
    return re.findall(
        r"^    (\w+) ([^\n]*?) COMMENT '[^\n]{3,}',?$", written.partition("\n)\n")[0] + "\n", re.MULTILINE
    )


@pytest.fixture
def fed(store: Store) -> Store:
    """Sessions of every kind of story on one day, and one of the day before that runs into it."""
    minute = MS_PER_MINUTE
    sessions = {
        "ended": Session("agent", connected_at_ms=_DAY_MS, disconnected_at_ms=_DAY_MS + 61_000),
        "yesterday": Session("agent", connected_at_ms=_DAY_MS - minute, disconnected_at_ms=_DAY_MS + 2 * minute),
        "by its room": Session("participant", connected_at_ms=_DAY_MS + minute),
        "inferred": Session("sip", begun_at_ms=_DAY_MS + minute, disconnected_at_ms=_DAY_MS + 2 * minute),
        "never connected": Session("agent", disconnected_at_ms=_DAY_MS + 3 * minute),
        "open": Session("participant", connected_at_ms=_NOON_MS - 90_000),
        "orphan": Session("participant", connected_at_ms=_DAY_MS - 2 * MS_PER_DAY),
    }
    for name, session in sessions.items():
        session.last_seen_ms = session.disconnected_at_ms if session.disconnected_at_ms < NEVER_MS else 0
        session.last_seen_ms = session.last_seen_ms or session.connected_at_ms
        room = "RM_ends" if name == "by its room" else f"RM_{name}"
        store.write(Batch(sessions=[("acme", room, name, session), ("bolt", room, name, session)]))
    store.write(Batch(rooms=[("acme", "RM_ends", Room(frozenset({_DAY_MS + 5 * minute}), 0))]))
    return store


def test_every_column_of_every_view_has_a_comment_and_the_type_it_says(store: Store) -> None:
    """A server does not keep comments of parameterised views apart: what is written has to be what comes out."""
    written = _written_views()
    assert written.keys() == _CALLS.keys()
    for view, call in _CALLS.items():
        described = [(name, kind) for name, kind, *_ in store.query(f"DESCRIBE {view}{call}")]
        assert described == _columns(written[view]), view


def test_every_view_says_what_it_stands_on() -> None:
    """Whoever asks for months has to know which views are small."""
    assert [view for view, text in _written_views().items() if not re.search(r"COMMENT '.*Stands on: \w+", text)] == []


def test_sessions_are_those_that_began_in_the_span_with_what_the_core_says_of_them(fed: Store) -> None:
    """R3 to R9, as `roommeter sessions` shows them."""
    found = fed.query(_SESSIONS, project="acme")
    core = {row.session: row for row in fed.sessions(SessionQuery(as_of_ms=_NOON_MS, project="acme"))}
    assert [(row[0], row[3]) for row in found] == [("by its room", 4), ("ended", 2), ("inferred", 1), ("open", 2)]
    for name, started_at_ms, ended_at_ms, _, is_open, start_inferred in found:
        row = core[name]
        assert (started_at_ms, is_open, start_inferred) == (row.started_at_ms, row.is_open, row.start_inferred)
        assert ended_at_ms == (None if is_open else row.ended_at_ms)


def test_sessions_of_every_project_are_those_of_each(fed: Store) -> None:
    """'' means all; a project that there is not has none."""
    both = fed.query(_SESSIONS, project="")
    assert len(both) == 2 * len(fed.query(_SESSIONS, project="bolt")) == 8
    assert fed.query(_SESSIONS, project="nobody") == []


def test_a_question_of_one_day_reads_the_rooms_of_that_day(fed: Store) -> None:
    """Their sessions, and what is known of the rooms themselves: not of those of the days before and after."""
    plan = "\n".join(row[0] for row in fed.query(f"EXPLAIN indexes = 1 {_SESSIONS}", project="acme"))
    rooms_of_the_day = "6"
    assert re.findall(r"\(project, room\) in (\d+)-element set", plan) == [rooms_of_the_day] * 2


def test_an_amended_session_is_where_the_amendment_puts_it(fed: Store) -> None:
    """R12: whatever was observed, and however long ago."""
    end_ms = _DAY_MS + 3 * MS_PER_MINUTE
    amendment = Amendment(1, is_void=False, started_at_ms=_DAY_MS, ended_at_ms=end_ms, actor="eve", reason="asleep")
    amended = Session("participant", amendment=amendment)
    fed.write(Batch(sessions=[("acme", "RM_orphan", "orphan", amended)]))
    assert [row[3] for row in fed.query(_SESSIONS, project="acme") if row[0] == "orphan"] == [3]


def test_what_ended_and_is_not_billed_is_told_with_the_reason(fed: Store) -> None:
    """R3, R4, R12."""
    nothing = {"started_at_ms": NEVER_MS, "ended_at_ms": NEVER_MS}
    amendment = Amendment(1, is_void=True, actor="eve", reason="a test call", **nothing)
    voided = Session("agent", amendment=amendment)
    fed.write(Batch(sessions=[("acme", "RM_ended", "ended", voided)]))
    found = fed.query(f"SELECT session, reason FROM v_unbilled_sessions({_SPAN}) ORDER BY project, session")  # noqa: S608
    assert found == [("ended", "voided"), *[("never connected", "end_without_start")] * 2]


def test_open_sessions_are_those_without_an_end_and_no_orphans(fed: Store) -> None:
    """R8, R9: what accrues right now."""
    found = fed.query(_OPEN, project="acme")
    assert found == [("open", 2, 90_000)]
    assert [row[0] for row in fed.query(_OPEN, project="bolt")] == ["by its room", "open"]


def test_the_views_go_by_the_rule_for_orphans_that_migrate_was_told(fed: Store, meters: Meters) -> None:
    """R9: the number that the emitter goes by; who migrates without it changes nothing."""
    fed.migrate(meters, 3 * MS_PER_DAY)
    fed.migrate(meters)
    assert [row[0] for row in fed.query(_OPEN, project="acme")] == ["open", "orphan"]


def test_live_usage_is_the_usage_of_the_core_in_units(fed: Store) -> None:
    """R1, R8: the same cells, before any hour is emitted."""
    found = fed.query(
        f"SELECT project, meter, toUnixTimestamp64Milli(hour), increments, quantity FROM v_usage_live({_SPAN})"  # noqa: S608
    )
    cells = fed.usage(UsageQuery(as_of_ms=_NOON_MS, from_ms=_DAY_MS, to_ms=_DAY_MS + MS_PER_DAY))
    assert sorted(row[:4] for row in found) == [(*key, cell.increments) for key, cell in cells]
    assert all(row[3] == row[4] for row in found)


@pytest.fixture
def emitted(store: Store, meters: Meters) -> Store:
    """An hour that was corrected from 60 to 45 minutes, and one of 7; stored twice, in another order."""
    first = Rollup("acme", "webrtc_minutes", _DAY_MS, 1, 60, 10, 60, 4, _NOON_MS, _NOON_MS)
    second = Rollup("acme", "webrtc_minutes", _DAY_MS, 2, 45, 0, -15, 3, _NOON_MS + 1, _NOON_MS + 1)
    other = Rollup("acme", "webrtc_minutes", _DAY_MS + MS_PER_HOUR, 1, 7, 0, 7, 1, _NOON_MS, _NOON_MS)
    for rollups in ([first, other], [second], [second, first]):
        store.insert_rollups(rollups, meters)
    return store


def test_emitted_usage_is_the_newest_revision(emitted: Store) -> None:
    """R17: and what corrections have changed."""
    hours = emitted.query(
        "SELECT quantity, quantity_open, increments, sessions, revision, corrected FROM v_usage_hourly ORDER BY hour"
    )
    assert hours == [(45, 0, 45, 3, 2, -15), (7, 0, 7, 1, 1, 0)]
    revisions = emitted.query("SELECT revision, quantity, delta, status FROM v_rollups WHERE quantity != 7")
    assert revisions == [(1, 60, 60, "open"), (2, 45, -15, "settled")]


def test_the_hours_of_a_day_add_up_to_the_day(emitted: Store) -> None:
    """R17: the deltas of an hour add up to its newest quantity; a repeated row counts once."""
    days = emitted.query("SELECT toString(day), quantity, increments, corrected, hours FROM v_usage_daily")
    assert days == [("2026-09-21", 52, 52, -15, 2)]
    projects = emitted.query("SELECT project, meters, hours, corrections FROM v_projects")
    assert projects == [("acme", ["webrtc_minutes"], 2, 1)]
