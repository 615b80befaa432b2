"""The simulator: repeatable, faulty as asked for, and true where its truth is exact."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.metering.events import parse_event
from pipeline.metering.meters import parse_meters
from pipeline.metering.session import Facts
from pipeline.metering.timeline import newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_DAY, parse_time
from pipeline.metering.usage import CellKey, usage
from pipeline.simulator import Scenario, Simulation, TrueSession, events_jsonl, simulate

_METERS = parse_meters((Path(__file__).parent.parent / "schemas" / "meters.toml").read_text())
_START_MS = parse_time("2026-09-21T00:00:00Z")
_DAY = Scenario(start_ms=_START_MS, end_ms=_START_MS + MS_PER_DAY, sessions=400, seed=7)
_AS_OF_MS = _START_MS + 5 * MS_PER_DAY
_METERS_OF = {
    "agent": ["agent_session_minutes"],
    "participant": ["webrtc_minutes"],
    "sip": ["telephony_minutes"],
    "ingress": ["stream_import_minutes"],
    "egress": ["recording_export_minutes"],
}


def _facts(simulation: Simulation) -> Facts:
    facts = Facts()
    for _, document in simulation.events:
        event = parse_event(document, _METERS)
        assert event is not None
        facts.observe(event)
    return facts


def _billed(simulation: Simulation) -> dict[CellKey, int]:
    """Return what is billed of connected time."""
    meters = {name: meter for name, meter in _METERS.items() if meter.measures == "session"}
    return {key: cell.increments for key, cell in usage(_facts(simulation), meters, _AS_OF_MS).items()}


def _totals(simulation: Simulation) -> dict[tuple[str, str], int]:
    """Return all increments of what is reported rather than timed, by project and meter."""
    totals: Counter[tuple[str, str]] = Counter()
    for (project, meter, _), cell in usage(_facts(simulation), _METERS, _AS_OF_MS).items():
        if _METERS[meter].measures != "session":
            totals[project, meter] += cell.increments
    return dict(totals)


def _counted(truth: Iterable[TrueSession]) -> dict[CellKey, int]:
    """Count the minutes of the truth one by one, each in the hour in which it begins (R1)."""
    minutes: Counter[CellKey] = Counter()
    for session in truth:
        minute_ms = session.started_at_ms
        while minute_ms < session.ended_at_ms or minute_ms == session.started_at_ms:
            for meter in _METERS_OF[session.kind] + (["phone_inbound_minutes"] if session.number else []):
                minutes[session.project, meter, minute_ms // 3_600_000 * 3_600_000] += 1
            minute_ms += 60_000
    return dict(minutes)


def _types(simulation: Simulation) -> Counter[str]:
    return Counter(document["type"] for _, document in simulation.events)


_RECOVERABLE: list[dict[str, Any]] = [
    {},
    {"duplicate": 0.5},
    {"disorder_ms": 3_600_000, "late": 0.2},
    {"reconnect": 0.5, "reused_rooms": 0.7},
    {"lost_connect": 0.5},
    {"abort": 0.5},
    {"sample_every_ms": 60_000, "sessions": 100},
    {"duplicate": 0.3, "disorder_ms": 60_000, "late": 0.1, "reconnect": 0.3, "reused_rooms": 0.3}
    | {"lost_connect": 0.2, "abort": 0.1},
]


@pytest.mark.parametrize("faults", _RECOVERABLE, ids=["-".join(faults) or "none" for faults in _RECOVERABLE])
def test_the_bill_equals_the_truth_minute_by_minute(faults: dict[str, Any]) -> None:
    """R1 to R10: what can be recovered is billed exactly, whatever happens to the events."""
    simulation = simulate(replace(_DAY, **faults))
    assert all(session.is_exact for session in simulation.truth)
    assert _billed(simulation) == _counted(simulation.truth)


@pytest.mark.parametrize("faults", [{}, {"duplicate": 0.5, "disorder_ms": 60_000, "late": 0.2, "reconnect": 0.3}])
def test_the_bill_of_what_is_reported_equals_the_truth(faults: dict[str, Any]) -> None:
    """R13 to R15, R10: bytes, models and numbers, each rounded up for itself; a day in a month rents a number once."""
    simulation = simulate(
        replace(_DAY, sessions=100, sample_every_ms=60_000, usage_every_ms=20_000, numbers=7, **faults)
    )
    truth: Counter[tuple[str, str]] = Counter()
    for session in simulation.truth:
        truth[session.project, "data_transfer_gb"] += -(-(session.bytes_in + session.bytes_out) // 10_000_000)
    for used in simulation.usage:
        truth[used.project, used.meter] += -(-used.quantity // _METERS[used.meter].increment)
    for rental in simulation.rentals:
        truth[rental.project, "number_rental"] += 1
    assert {meter for _, meter in truth} | set(sum(_METERS_OF.values(), ["phone_inbound_minutes"])) == set(_METERS)
    assert _totals(simulation) == {key: increments for key, increments in truth.items() if increments}


def test_a_session_called_exact_is_exact_in_a_world_of_losses() -> None:
    """R3, R5: lost events and dead servers spoil only the sessions that the truth says they spoil."""
    simulation = simulate(replace(_DAY, sessions=2_000, lost=0.1, crash=0.1, reconnect=0.2, lost_connect=0.1))
    facts = _facts(simulation)
    exact = [session for session in simulation.truth if session.is_exact]
    assert 0 < len(exact) < len(simulation.truth)
    for true in exact:
        room = facts.rooms[true.project, true.room]
        session = room.sessions[true.session]
        line = timeline(session, room, newest_restart_ms(session, facts.restarts_ms), _AS_OF_MS)
        assert line is not None
        assert (line.started_at_ms, line.ended_at_ms) == (true.started_at_ms, true.ended_at_ms)


def test_sessions_cut_by_a_crash_are_billed_to_where_they_were_last_seen() -> None:
    """R9: never past the crash, and with a sample a second at most a second before it."""
    simulation = simulate(replace(_DAY, sessions=60, crash=1.0, sample_every_ms=1_000))
    facts = _facts(simulation)
    for true in simulation.truth:
        room = facts.rooms[true.project, true.room]
        session = room.sessions[true.session]
        line = timeline(session, room, newest_restart_ms(session, facts.restarts_ms), _AS_OF_MS)
        assert line is not None
        assert 0 <= true.ended_at_ms - line.ended_at_ms <= 1_000
        assert line.end_presumed is not true.is_exact


def test_the_bytes_of_the_truth_are_those_reported() -> None:
    """R13: the largest counters of a session."""
    simulation = simulate(replace(_DAY, sample_every_ms=60_000))
    reported = {name: (session.bytes_in, session.bytes_out) for _, name, session in _facts(simulation).sessions()}
    assert {true.session: (true.bytes_in, true.bytes_out) for true in simulation.truth} == reported


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    """A failing run can be repeated."""
    scenario = replace(_DAY, duplicate=0.1, disorder_ms=1_000, lost=0.1, crash=0.1, abort=0.1)
    assert simulate(scenario) == simulate(scenario)
    assert simulate(scenario) != simulate(replace(scenario, seed=8))


def test_worlds_of_another_seed_or_start_share_no_session() -> None:
    """R2: two worlds in one pipeline do not become one."""
    worlds = [_DAY, replace(_DAY, seed=8), replace(_DAY, start_ms=_START_MS + 1_000)]
    names = [true.session for world in worlds for true in simulate(world).truth]
    assert len(set(names)) == len(names)


def test_events_come_in_the_order_in_which_they_are_sent() -> None:
    """Never before they happen."""
    sent = simulate(replace(_DAY, disorder_ms=60_000, late=0.1, duplicate=0.1)).events
    assert [at_ms for at_ms, _ in sent] == sorted(at_ms for at_ms, _ in sent)
    assert all(at_ms >= parse_time(document["time"]) for at_ms, document in sent)


def test_without_faults_everything_is_sent_once() -> None:
    """One connect and one disconnect a session, one start and one end a room."""
    simulation = simulate(_DAY)
    types = _types(simulation)
    assert types["session.connected"] == types["session.disconnected"] == len(simulation.truth)
    assert types["room.started"] == types["room.ended"] == len({true.room for true in simulation.truth})


def test_faults_are_as_frequent_as_asked_for() -> None:
    """Shares are of 1, within what chance allows."""
    scenario = replace(_DAY, sessions=2_000)
    plain, lossy = simulate(scenario), simulate(replace(scenario, lost=0.5))
    assert 0.45 < len(lossy.events) / len(plain.events) < 0.55
    twice = simulate(replace(scenario, duplicate=0.5))
    ids = Counter(document["id"] for _, document in twice.events)
    assert 0.45 < sum(count == 2 for count in ids.values()) / len(ids) < 0.55


def test_clocks_are_off_by_server_and_never_by_more_than_asked_for() -> None:
    """R6, R11: each server has its own clock."""
    simulation = simulate(replace(_DAY, skew_ms=2_000))
    starts_ms = {true.session: true.started_at_ms for true in simulation.truth}
    skews_ms = {
        (document["source"], parse_time(document["time"]) - starts_ms[document["subject"]])
        for _, document in simulation.events
        if document["type"] == "session.connected"
    }
    assert len(skews_ms) == len({source for source, _ in skews_ms}) > 1
    assert 0 < max(abs(skew_ms) for _, skew_ms in skews_ms) <= 2_000


def test_a_day_has_every_kind_busy_hours_and_lengths_from_seconds_to_hours() -> None:
    """What a bill is tried on has to look like a day."""
    truth = simulate(replace(_DAY, sessions=4_000)).truth
    by_hour = Counter(true.started_at_ms % MS_PER_DAY // 3_600_000 for true in truth)
    lengths_ms = sorted(true.ended_at_ms - true.started_at_ms for true in truth)
    assert {true.kind for true in truth} == set(_METERS_OF)
    assert any(true.number for true in truth)
    assert by_hour[11] > 5 * by_hour[3]
    assert lengths_ms[40] < 15_000
    assert 120_000 < lengths_ms[2_000] < 3_600_000 < lengths_ms[-1]


def test_jsonl_has_one_event_a_line_in_order() -> None:
    """A file for `read_events`, or for anyone."""
    simulation = simulate(_DAY)
    lines = b"".join(events_jsonl(simulation)).splitlines()
    assert [orjson.loads(line) for line in lines] == [document for _, document in simulation.events]
