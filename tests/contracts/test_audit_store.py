"""The audit on a real store: clean where all is well, and one changed value is found and named, whichever it is."""

from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest

from pipeline.audit import recompute as audit_recompute
from pipeline.audit import store as audit_store
from pipeline.audit.auditor import Auditor, Report
from pipeline.audit.canary import CANARY, canary_scenario
from pipeline.audit.laws import Difference, Law
from pipeline.audit.loop import audit_once
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metering.events import parse_event
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup, revise
from pipeline.metering.session import Room, Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, hour_of
from pipeline.replay import replay
from pipeline.rows import Batch, RollupQuery, SessionQuery, UsageQuery
from pipeline.settings import Settings
from pipeline.simulator import Scenario, simulate
from tests.metering.builders import connected, disconnected, event

_METER: Final = "agent_session_minutes"
_SETTINGS: Final = Settings()
#: The log drops what is old by the real clock, so these events are of yesterday.
_NOW_MS: Final = now_ms()
_HOUR_MS: Final = hour_of(_NOW_MS) - MS_PER_DAY
_FACTS: Final[dict[str, dict[str, Any]]] = {
    "connected_at": {"connected_at_ms": _HOUR_MS - 1},
    "begun_at": {"begun_at_ms": _HOUR_MS - 1},
    "disconnected_at": {"disconnected_at_ms": _HOUR_MS + 1},
    "last_seen": {"last_seen_ms": _NOW_MS},
    "absent_at": {"absent_at_ms": _NOW_MS},
    "kind": {"kind": "participant"},
    "number": {"number": "+15550100"},
    "agent": {"agent": "zz"},
    "identity": {"identity": "zz", "last_seen_ms": _HOUR_MS},  # of what was last seen long ago, it is forgotten
    "region": {"region": "zz"},
    "bytes_in": {"bytes_in": 2**40},
    "bytes_out": {"bytes_out": 2**40},
    "sources": {"sources": frozenset({"elsewhere"})},
}
#: What may happen to a rollup that is stored, by column.
_CHANGED: Final = {
    "quantity": "quantity + 1",
    "quantity_open": "1",
    "delta": "0.5",
    "status": "'open'",
    "id": "generateUUIDv4()",
    "increments": "increments + 1",
    "increments_delta": "increments_delta - 1",
    "increments_open": "1",
    "sessions": "2",
}


class Books:
    """A store with events, their facts, and hours emitted from them; audited without waiting."""

    def __init__(self, store: Store, meters: Meters) -> None:
        """Begin with an empty store."""
        self.store = store
        self.meters = meters
        self.waits_ms: list[int] = []
        self.auditor = Auditor(_SETTINGS, meters, store, self.waits_ms.append)

    def replay(self, documents: list[dict[str, Any]], topic: str = "file:books") -> None:
        """Store events and their facts, as `roommeter replay` does."""
        payloads = [orjson.dumps(document) for document in documents]
        list(replay(payloads, topic, self.store, self.meters, _NOW_MS, 262_144, 30_000))

    def emit(self) -> list[Rollup]:
        """Store what an emitter would emit now."""
        as_of_ms = hour_of(_NOW_MS) + _SETTINGS.grace_period_ms - MS_PER_HOUR
        current = dict(self.store.usage(UsageQuery(as_of_ms=as_of_ms, to_ms=hour_of(as_of_ms))))
        rollups = list(revise(self.store.latest_rollups(), current, as_of_ms, as_of_ms))
        self.store.insert_rollups(rollups, self.meters)
        return rollups

    def run(self, **scope: Any) -> Report:
        """Audit everything, or less."""
        return self.auditor.run(_NOW_MS, **scope)

    def differences(self, **scope: Any) -> list[Difference]:
        """Return what an audit finds."""
        return [difference for law in self.run(**scope).laws for difference in law.differences]

    def alter(self, statement: str, **values: object) -> None:
        """Change what is stored, behind everybody's back."""
        self.store._client.command(f"{statement} SETTINGS mutations_sync = 2", values)


def _world(sessions: int = 300) -> list[dict[str, Any]]:
    scenario = Scenario(
        start_ms=_HOUR_MS, end_ms=_HOUR_MS + 6 * MS_PER_HOUR, sessions=sessions, projects=("acme", "globex"),
        reconnect=0.1, crash=0.1, duplicate=0.1, late=0.05, abort=0.1, lost_connect=0.1, reused_rooms=0.1,
        sample_every_ms=10 * MS_PER_MINUTE,
    )  # fmt: skip
    return [document for _, document in simulate(scenario).events]


def _call(session: str = "PA_1", minutes: int = 10, project: str = "acme") -> list[dict[str, Any]]:
    """Return an agent's session of yesterday."""
    end_ms = _HOUR_MS + minutes * MS_PER_MINUTE
    return [connected(_HOUR_MS, session, project=project), disconnected(end_ms, session, project=project)]


@pytest.fixture
def books(store: Store, meters: Meters) -> Books:
    """An empty installation."""
    return Books(store, meters)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the log and the facts in many small pieces."""
    monkeypatch.setattr(audit_store, "READ_EVENTS", 97)
    monkeypatch.setattr(audit_store, "MOST_ROOMS", 2)
    monkeypatch.setattr(audit_recompute, "MOST_ROOMS", 2)
    monkeypatch.setattr(audit_recompute, "RANGE_SESSIONS", 20)


def _checked(report: Report) -> Iterator[tuple[Law, int]]:
    return ((law.law, law.checked) for law in report.laws)


@pytest.mark.usefixtures("small")
def test_every_law_holds_for_a_simulated_day(books: Books) -> None:
    """Faults of every kind went in, and nothing differs; every law had something to look at."""
    books.replay(_world())
    books.replay([document for _, document in simulate(canary_scenario(_HOUR_MS)).events], "file:canary")
    books.emit()
    report = books.run()
    assert [law for law in report.laws if law.differences] == []
    assert {law for law, count in _checked(report) if not count} == {Law.WATERMARK_AGE}
    assert books.waits_ms.count(0) == len(books.waits_ms)


def test_an_empty_store_keeps_every_law(books: Books) -> None:
    """Nothing is wrong with nothing."""
    assert books.differences() == []


@pytest.mark.usefixtures("small")
def test_each_fact_that_no_event_tells_is_named(books: Books) -> None:
    """C4b: project, room, session and fact; each changed in a session of its own."""
    books.replay([*_world(100), *(document for fact in _FACTS for document in _call(fact))])
    books.store.write(Batch([("acme", "RM_1", fact, Session(**value)) for fact, value in _FACTS.items()]))
    found = [one for one in books.differences() if one.law is Law.FACTS]
    assert sorted((one.project, one.room, one.session, one.fact) for one in found) == [
        ("acme", "RM_1", fact, fact) for fact in sorted(_FACTS)
    ]


def test_a_fact_that_was_lost_is_named_with_the_hours_it_changes(books: Books) -> None:
    """C4b: without its first end the session goes on to the next one, and both hours are held."""
    later_ms = _HOUR_MS + 70 * MS_PER_MINUTE
    books.replay([*_call(), disconnected(later_ms)])
    books.alter("ALTER TABLE session_facts DELETE WHERE session = 'PA_1'")
    facts = Session("agent", connected_at_ms=_HOUR_MS, disconnected_at_ms=later_ms, last_seen_ms=later_ms)
    facts.sources = frozenset({"sfu-1"})
    books.store.write(Batch([("acme", "RM_1", "PA_1", facts)]))
    [found] = books.differences()
    assert (found.session, found.fact, found.hour_ms) == ("PA_1", "disconnected_at", _HOUR_MS)
    assert found.holds == {("acme", _HOUR_MS), ("acme", _HOUR_MS + MS_PER_HOUR)}


def test_a_session_that_was_lost_is_named(books: Books) -> None:
    """C4b: every fact of it is missing."""
    books.replay([*_call(), *_call("PA_2")])
    books.alter("ALTER TABLE session_facts DELETE WHERE session = 'PA_2'")
    found = books.differences()
    assert {one.session for one in found} == {"PA_2"}
    assert {"connected_at", "disconnected_at", "kind"} <= {one.fact for one in found}


def test_an_end_of_a_room_that_no_event_tells_is_named(books: Books) -> None:
    """C4b: the room's facts are compared too."""
    books.replay(_call())
    books.store.write(Batch(rooms=[("acme", "RM_1", Room(frozenset({_HOUR_MS + 1}), _HOUR_MS))]))
    found = books.differences()
    assert [(one.room, one.session, one.fact) for one in found] == [("RM_1", "", "ends"), ("RM_1", "", "started_at")]


def test_a_restart_that_no_event_tells_is_named(books: Books) -> None:
    """C4b: it would presume the end of every open session of that server (R9)."""
    books.replay([*_call(), event("server.restarted", _HOUR_MS)])
    assert books.differences() == []
    books.store.write(Batch(restarts=[("sfu-1", _NOW_MS)]))
    [found] = books.differences()
    assert found.fact == "restarted_at"


def test_an_event_on_its_way_is_no_difference(books: Books) -> None:
    """A worker stores facts first: at the second look the event is there."""
    books.replay(_call())
    late = orjson.dumps(disconnected(_HOUR_MS + 1, "PA_1"))
    books.store.write(Batch([("acme", "RM_1", "PA_1", Session(disconnected_at_ms=_HOUR_MS + 1))]))

    def arrive(wait_ms: int) -> None:
        if wait_ms:
            row = ("file:books", 0, 2, _NOW_MS, "accepted", parse_event(orjson.loads(late), books.meters), late)
            books.store.write(Batch(events=[row]))

    assert [one for law in Auditor(_SETTINGS, books.meters, books.store, arrive).run(_NOW_MS).laws
            for one in law.differences] == []  # fmt: skip


def test_what_is_older_than_what_is_read_is_compared_one_way(books: Books) -> None:
    """C4b: with --from, what began before is not called unfounded; what the log has is still looked for."""
    books.replay(_call())
    books.store.write(Batch([("acme", "RM_1", "PA_1", Session(agent="zz"))]))
    assert books.differences(from_ms=_NOW_MS - MS_PER_MINUTE) == []
    books.alter("ALTER TABLE session_facts DELETE WHERE session = 'PA_1'")
    assert {one.session for one in books.differences(from_ms=_NOW_MS - MS_PER_MINUTE)} == {"PA_1"}


def test_part_of_the_time_can_be_looked_at(books: Books) -> None:
    """--from and --to, on the hour or not: sums of hours and of sessions are of the same hours."""
    books.replay(_world())
    books.emit()
    span = {"from_ms": _HOUR_MS + 90 * MS_PER_MINUTE, "to_ms": _HOUR_MS + 200 * MS_PER_MINUTE}
    report = books.run(**span)
    assert [law for law in report.laws if law.differences] == []
    assert 0 < dict(_checked(report))[Law.SESSION_HOURS] < dict(_checked(books.run()))[Law.SESSION_HOURS]
    assert not report.is_whole


def test_one_project_can_be_looked_at_alone(books: Books) -> None:
    """--project: another's difference is not its own."""
    books.replay([*_call(), *_call("PA_2", project="globex")])
    books.store.write(Batch([("globex", "RM_1", "PA_2", Session(agent="zz"))]))
    assert books.differences(project="acme") == []
    assert [one.project for one in books.differences(project="globex")] == ["globex"]


def test_each_changed_value_of_a_rollup_is_named(books: Books) -> None:
    """C4, C5: project, meter and hour, whichever column it was; each changed in a project of its own."""
    books.replay([document for column in _CHANGED for document in _call(project=column)])
    books.replay(_call(project="acme"), "file:unchanged")
    books.emit()
    for column, value in _CHANGED.items():
        books.alter(f"ALTER TABLE rollups UPDATE {column} = {value} WHERE project = '{column}'")
    found = books.differences()
    assert {(one.meter, one.hour_ms) for one in found} == {(_METER, _HOUR_MS)}
    laws = {column: {one.law for one in found if one.project == column} for column in {one.project for one in found}}
    summed = ("increments", "increments_delta")
    assert laws == {column: {Law.ROLLUPS, *({Law.DELTAS} if column in summed else ())} for column in _CHANGED}


def test_an_hour_that_the_facts_have_left_behind_is_named_and_not_held(books: Books) -> None:
    """C4: a late event that was never emitted; held, the emitter could never mend it."""
    books.replay(_call())
    books.emit()
    books.replay(_call("PA_2"), "file:late")
    [found] = books.differences()
    assert (found.law, found.hour_ms, found.holds) == (Law.ROLLUPS, _HOUR_MS, frozenset())
    assert "revision 1 says 10 increments (0 open) of 1 sessions; the facts give 20" in found.detail


def test_an_hour_that_the_emitter_revises_meanwhile_is_no_difference(books: Books) -> None:
    """C4: what differs is looked at again, when the emitter has had its turn."""
    books.replay(_call())
    books.emit()
    books.replay(_call("PA_2"), "file:late")

    def revise_meanwhile(wait_ms: int) -> None:
        if wait_ms:
            books.emit()

    auditor = Auditor(_SETTINGS, books.meters, books.store, revise_meanwhile)
    assert [law.law for law in auditor.run(_NOW_MS).laws if law.differences] == []


def test_an_hour_that_was_left_out_is_named(books: Books) -> None:
    """C4: later hours were emitted and this one was not."""
    books.replay([*_call(), *_call("PA_2", minutes=100)])
    books.emit()
    books.alter("ALTER TABLE rollups DELETE WHERE hour = fromUnixTimestamp64Milli({hour:Int64}, 'UTC')", hour=_HOUR_MS)
    [found] = books.differences()
    assert (found.law, found.hour_ms) == (Law.ROLLUPS, _HOUR_MS)
    assert found.detail.startswith("nothing was emitted")


def test_a_rollup_of_an_orphan_is_judged_as_of_its_own_moment(books: Books) -> None:
    """C4, R20: by now the session is presumed ended; when its hours were emitted it was open, and that was right."""
    start_ms = hour_of(_NOW_MS) - 23 * MS_PER_HOUR
    books.replay([connected(start_ms), *_call("PA_2", project="globex")])
    books.emit()
    later_ms = hour_of(_NOW_MS) + 2 * MS_PER_HOUR
    [cell] = [row for row in books.store.rollups(RollupQuery()) if row.project == "globex"]
    books.store.insert_rollups([cell._replace(revision=2, delta=0, as_of_ms=later_ms)], books.meters)
    auditor = Auditor(_SETTINGS, books.meters, books.store, books.waits_ms.append)
    [law] = [law for law in auditor.run(later_ms + MS_PER_MINUTE).laws if law.law is Law.ROLLUPS]
    assert (law.checked, law.differences) == (23, [])


def test_a_missing_revision_is_named(books: Books) -> None:
    """C5: revisions are 1, 2, 3 ..."""
    books.replay(_call())
    books.emit()
    books.replay(_call("PA_2"), "file:late")
    books.emit()
    books.alter("ALTER TABLE rollups DELETE WHERE revision = 1")
    [found] = books.differences()
    assert (found.law, found.project, found.hour_ms) == (Law.DELTAS, "acme", _HOUR_MS)


def test_two_contents_of_one_revision_are_named(books: Books) -> None:
    """C10: as two emitters without a common log would leave them."""
    books.replay(_call())
    [rollup] = books.emit()
    books.store.insert_rollups([rollup._replace(sessions=2)], books.meters)
    assert Law.UNIQUENESS in {one.law for one in books.differences()}


def test_a_hole_in_the_log_is_named(books: Books) -> None:
    """C2: from where to where, and C1 finds no fault with what is there."""
    books.replay([*_call(), *_call("PA_2"), *_call("PA_3")])
    books.alter("ALTER TABLE events DELETE WHERE offset IN (2, 3)")
    [hole] = [one for one in books.differences() if one.law is Law.OFFSET_CONTINUITY]
    assert "partition 0: 2 offsets after 1 are missing" in hole.detail


def test_records_that_were_processed_and_not_kept_are_named(books: Books) -> None:
    """C1: progress vouches for more than is there."""
    books.replay(_call())
    books.alter("ALTER TABLE events DELETE WHERE offset = 1")
    [found] = [one for one in books.differences() if one.law is Law.STAGE_BALANCE]
    assert "processed, the last one kept is 0" in found.detail


def test_a_canary_that_is_billed_wrong_is_named(books: Books) -> None:
    """C11: known answers, to the millisecond."""
    books.replay([document for _, document in simulate(canary_scenario(_HOUR_MS)).events])
    rows = books.store.sessions(SessionQuery(as_of_ms=_NOW_MS, project=CANARY))
    row = next(row for row in rows if row.started_at_ms < row.ended_at_ms - 1)
    books.store.write(Batch([(CANARY, row.room, row.session, Session(disconnected_at_ms=row.started_at_ms + 1))]))
    assert {one.session for one in books.differences() if one.law is Law.CANARY} == {row.session}


def test_a_wrong_hour_is_held_until_it_is_right(books: Books) -> None:
    """A difference stops the emission of its hour, and of no other; when it is mended the hour is let go."""
    books.replay([*_call(), *_call("PA_2", project="globex")])
    books.emit()
    books.alter("ALTER TABLE rollups UPDATE quantity = 5 WHERE project = 'acme'")
    audit_once(books.auditor, _NOW_MS, is_whole=False)
    assert books.auditor.held() == {("acme", _HOUR_MS)}
    books.alter("ALTER TABLE rollups UPDATE quantity = 10 WHERE project = 'acme'")
    assert audit_once(books.auditor, _NOW_MS + 1, is_whole=False).is_whole
    assert books.auditor.held() == frozenset()
    assert len(books.store.rollups(RollupQuery())) == 2
