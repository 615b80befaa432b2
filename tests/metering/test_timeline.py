"""From facts to a session's start, end and flags (R3 to R6, R9)."""

import pytest
from hypothesis import given

from pipeline.metering.timeline import Timeline, is_live
from tests.metering.builders import (
    Document,
    aborted,
    absent,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    of_room,
    parsed,
    sampled,
    timelines,
)
from tests.metering.strategies import logs, moments_ms, orphan_afters_ms
from tests.oracle import oracle_verdicts

_PA_1 = ("acme", "RM_1", "PA_1")
_BEGUN_AT_14 = sampled("14:05:00", connected_at="2026-09-21T14:00:00Z")


def _line(log: list[Document], as_of: str = "15:30:00") -> Timeline | None:
    return timelines([parsed(document) for document in log], clock(as_of))[_PA_1]


def _said(log: list[Document], as_of: str = "15:30:00") -> tuple[int, int | None, set[str]]:
    """Return start, end (None while open) and the flags that are set."""
    line = _line(log, as_of)
    assert line is not None
    flags = {name for name in ("start_inferred", "end_presumed", "clock_skew") if getattr(line, name)}
    return line.started_at_ms, None if line.is_open() else line.ended_at_ms, flags


@pytest.mark.parametrize(
    ("log", "start", "end", "flags"),
    [
        ([connected("14:00:00")], "14:00:00", None, set()),
        ([connected("14:00:00"), disconnected("14:01:00")], "14:00:00", "14:01:00", set()),
        ([connected("14:00:00"), aborted("14:01:00")], "14:00:00", "14:01:00", set()),
        ([connected("14:00:00"), disconnected("14:00:00")], "14:00:00", "14:00:00", set()),
        ([connected("14:00:00"), disconnected("13:59:59")], "14:00:00", "14:00:00", {"clock_skew"}),
        ([connected("14:00:00"), of_room("room.ended", "14:00:00")], "14:00:00", "14:00:00", set()),
        ([connected("14:00:00"), of_room("room.ended", "13:59:59.999")], "14:00:00", None, set()),
        ([connected("14:00:00"), of_room("room.ended", "14:05:00", room="RM_2")], "14:00:00", None, set()),
        ([connected("14:00:00"), of_room("room.ended", "14:05:00", project="globex")], "14:00:00", None, set()),
        (
            [disconnected("14:05:00", connected_at="2026-09-21T14:00:00Z")],
            "14:00:00",
            "14:05:00",
            {"start_inferred"},
        ),
        (
            [disconnected("14:05:00", connected_at="2026-09-21T14:00:00Z"), connected("14:02:00")],
            "14:02:00",
            "14:05:00",
            set(),
        ),
        (
            [disconnected("14:05:00", connected_at="2026-09-21T14:06:00Z")],
            "14:06:00",
            "14:06:00",
            {"start_inferred", "clock_skew"},
        ),
        (
            [connected("14:00:00"), sampled("14:10:00"), event("server.restarted", "14:10:00")],
            "14:00:00",
            "14:10:00",
            {"end_presumed"},
        ),
        (
            [connected("14:00:00"), sampled("14:10:00.001"), event("server.restarted", "14:10:00")],
            "14:00:00",
            None,
            set(),
        ),
        ([connected("14:00:00"), event("server.restarted", "14:10:00", source="sfu-2")], "14:00:00", None, set()),
        ([connected("14:00:00"), sampled("14:10:00"), absent("14:10:00")], "14:00:00", "14:10:00", {"end_presumed"}),
        ([connected("14:00:00"), absent("14:10:00"), sampled("14:10:00.001")], "14:00:00", None, set()),
        ([connected("14:00:00"), absent("14:10:00"), disconnected("14:20:00")], "14:00:00", "14:20:00", set()),
        (
            [connected("14:00:00"), sampled("14:07:00"), absent("14:08:00"), of_room("room.ended", "16:00:00")],
            "14:00:00",
            "14:07:00",
            {"end_presumed"},
        ),
        ([connected("14:00:00"), absent("14:08:00"), of_room("room.ended", "14:05:00")], "14:00:00", "14:05:00", set()),
        ([sampled("14:05:00", connected_at="2026-09-21T14:00:00Z")], "14:00:00", None, {"start_inferred"}),
        ([connected("14:00:00"), absent("14:00:00"), of_room("room.ended", "14:30:00")], "14:00:00", "14:30:00", set()),
        ([connected("14:00:00"), absent("14:30:00"), of_room("room.ended", "14:30:00")], "14:00:00", "14:30:00", set()),
        (
            [connected("14:00:00"), sampled("14:10:00"), absent("14:10:00"), of_room("room.ended", "14:30:00")],
            "14:00:00",
            "14:10:00",
            {"end_presumed"},
        ),
        ([connected("14:00:00"), event("server.restarted", "13:59:00")], "14:00:00", None, set()),
        ([connected("14:00:00"), event("server.restarted", "14:00:00")], "14:00:00", None, set()),
        ([connected("14:00:00"), of_room("room.started", "14:10:00")], "14:00:00", "14:00:00", {"end_presumed"}),
        (
            [connected("14:00:00"), of_room("room.started", "14:10:00", started_at="2026-09-21T13:59:00Z")],
            "14:00:00",
            None,
            set(),
        ),
        (
            [connected("14:00:00"), event("server.restarted", "14:10:00"), disconnected("14:30:00")],
            "14:00:00",
            "14:30:00",
            set(),
        ),
        (
            [connected("14:00:00"), event("server.restarted", "14:10:00"), of_room("room.ended", "14:05:00")],
            "14:00:00",
            "14:05:00",
            set(),
        ),
    ],
)
def test_start_end_and_flags_follow_from_the_facts(
    log: list[Document], start: str, end: str | None, flags: set[str]
) -> None:
    """R3, R5, R6, R9: one row is one reading of the rules; a presumed end yields to a real one."""
    assert _said(log) == (clock(start), None if end is None else clock(end), flags)


@pytest.mark.parametrize(
    "log",
    [
        [disconnected("14:05:00")],
        [aborted("14:05:00")],
        [sampled("14:05:00")],
        [absent("14:05:00")],
        [aborted("14:05:00", connected_at="2026-09-21T14:00:00Z")],
        [disconnected("14:05:00"), of_room("room.started", "14:00:00"), of_room("room.ended", "14:06:00")],
    ],
)
def test_what_never_connected_has_no_timeline(log: list[Document]) -> None:
    """R3, R4: an end, an abort or signalling alone shows no start."""
    assert _line(log) is None


@pytest.mark.parametrize(
    ("as_of", "end"),
    [("37:59:59.999", None), ("38:00:00", "14:00:00"), ("99:00:00", "14:00:00")],
)
def test_silence_of_a_day_presumes_the_end_where_the_session_was_last_seen(as_of: str, end: str | None) -> None:
    """R9: a millisecond less than `orphan_after` and it is still open."""
    assert _said([connected("14:00:00")], as_of)[1] == (None if end is None else clock(end))


@pytest.mark.parametrize(
    ("log", "live"),
    [
        ([connected("14:00:00")], True),
        ([_BEGUN_AT_14], True),
        ([connected("14:00:00"), event("server.restarted", "14:10:00"), absent("14:20:00")], True),
        ([connected("14:00:00"), of_room("room.ended", "13:59:59.999")], True),
        ([connected("14:00:00"), of_room("room.ended", "14:00:00")], False),
        ([connected("14:00:00"), of_room("room.ended", "13:00:00"), of_room("room.ended", "14:30:00")], False),
        ([connected("14:00:00"), disconnected("14:01:00")], False),
        ([connected("14:00:00"), aborted("14:01:00"), of_room("room.ended", "13:00:00")], False),
        ([_BEGUN_AT_14, of_room("room.ended", "14:05:00"), connected("14:10:00")], True),
        ([disconnected("14:01:00")], False),
    ],
)
def test_a_session_is_live_until_a_real_end_is_known(log: list[Document], *, live: bool) -> None:
    """R5, R9: its own or its room's; what is only presumed can still be replaced."""
    facts = facts_of([parsed(document) for document in log])
    [(key, _, session)] = facts.sessions()
    assert is_live(session, facts.rooms[key]) is live


@given(logs, moments_ms, orphan_afters_ms)
def test_any_session_starts_and_ends_where_the_oracle_says(
    log: list[Document], as_of_ms: int, orphan_after_ms: int
) -> None:
    """R3 to R6, R9: start, end and every flag, on any log."""
    lines = timelines([parsed(document) for document in log], as_of_ms, orphan_after_ms)
    found = {
        key: line and (line.started_at_ms, None if line.is_open() else line.ended_at_ms, *line[2:])
        for key, line in lines.items()
    }
    assert found == oracle_verdicts(log, as_of_ms, orphan_after_ms)
