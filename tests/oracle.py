"""A second opinion on the bill: slow, minute by minute, written from the metering rules alone.

It shares no code with `pipeline`: it keeps every event in lists, finds what it needs by scanning them
anew, and puts each minute that a session has begun into a set. It covers the rules R1 to R9, R12 and R16
for meters of time; what is reported rather than timed (R13 to R15) is in `tests.oracle_counted`. Events are
canonical documents (dicts) that are valid; other types are passed over.

Where the rules leave a tie open, this is how it is read: silence of exactly `orphan_after` is silence
for `orphan_after`; a restart in the very millisecond of a session's start did not interrupt it; and of
several kinds or numbers that one session reported, the greatest text counts (R10: a join by maximum).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from tests.oracle_counted import counted, read_time

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_NEVER_MS: Final = 2**62
#: What is said of a session by somebody who did not see it.
_NO_SIGNS: Final = frozenset({"session.absent", "session.amended"})

#: R16: the meters of time that a kind of session feeds, and whether they need a rented number.
METERS_OF_KIND: Final = {
    "agent": [("agent_session_minutes", False)],
    "participant": [("webrtc_minutes", False)],
    "sip": [("telephony_minutes", False), ("phone_inbound_minutes", True)],
    "ingress": [("stream_import_minutes", False)],
    "egress": [("recording_export_minutes", False)],
}

SessionHour = tuple[str, str, str, int]
"""Project, room, session and start of the hour in ms."""
MeterHour = tuple[str, str, int]
"""Project, meter and start of the hour in ms."""


class Verdict(NamedTuple):
    """What the rules say of one session as of a moment; the end is None while it is open."""

    start_ms: int
    end_ms: int | None
    start_inferred: bool
    end_presumed: bool
    clock_skew: bool
    amended: bool


class _Fact(NamedTuple):
    type: str
    time_ms: int
    source: str
    data: dict[str, Any]


class _Log(NamedTuple):
    """All events of one session, all events of its room, and all restarts of any server."""

    own: list[_Fact]
    room: list[_Fact]
    restarts: list[_Fact]


def oracle(
    events: Iterable[dict[str, Any]], as_of_ms: int, orphan_after_ms: int = _DAY_MS
) -> dict[MeterHour, tuple[int, int, int]]:
    """Return (increments, increments of open sessions, sessions) by project, meter and hour."""
    cells: dict[MeterHour, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
    events = list(events)
    logs = _logs(events)
    for (project, _, _), log in logs.items():
        for hour_ms, minutes, minutes_open in _hours(log, as_of_ms, orphan_after_ms):
            for meter in _meters(log.own):
                total, total_open, sessions = cells[project, meter, hour_ms]
                cells[project, meter, hour_ms] = (total + minutes, total_open + minutes_open, sessions + 1)
    starts_ms = {key: _start_ms(log.own) for key, log in logs.items()}
    for cell in counted(events, starts_ms, as_of_ms):
        total, total_open, subjects = cells[cell.project, cell.meter, cell.hour_ms]
        cells[cell.project, cell.meter, cell.hour_ms] = (total + cell.increments, total_open, subjects + 1)
    return dict(cells)


def oracle_lines(
    events: Iterable[dict[str, Any]], as_of_ms: int, orphan_after_ms: int = _DAY_MS
) -> dict[tuple[str, str, str, str, int], tuple[int, int]]:
    """Return (minutes, minutes while open) by project, meter, room, session and hour; meter '' where it feeds none."""
    return {
        (key[0], meter, key[1], key[2], hour_ms): (minutes, minutes_open)
        for key, log in _logs(events).items()
        for hour_ms, minutes, minutes_open in _hours(log, as_of_ms, orphan_after_ms)
        for meter in _meters(log.own) or [""]
    }


def oracle_sessions(
    events: Iterable[dict[str, Any]], as_of_ms: int, orphan_after_ms: int = _DAY_MS
) -> dict[SessionHour, tuple[int, int]]:
    """Return (minutes, minutes while open) by project, room, session and hour, whatever the session's kind."""
    return {
        (*key, hour_ms): (minutes, minutes_open)
        for key, log in _logs(events).items()
        for hour_ms, minutes, minutes_open in _hours(log, as_of_ms, orphan_after_ms)
    }


def oracle_verdicts(
    events: Iterable[dict[str, Any]], as_of_ms: int, orphan_after_ms: int = _DAY_MS
) -> dict[tuple[str, str, str], Verdict | None]:
    """Return what the rules say of every session (project, room, session); None where it never started."""
    return {key: _verdict(log, as_of_ms, orphan_after_ms) for key, log in _logs(events).items()}


def _logs(events: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], _Log]:
    """Sort events into lists: R2's subject is the connection's id, in its room, in its project."""
    of_session: dict[tuple[str, str, str], list[_Fact]] = defaultdict(list)
    of_room: dict[tuple[str, str], list[_Fact]] = defaultdict(list)
    restarts: list[_Fact] = []
    for event in events:
        fact = _Fact(event["type"], read_time(event["time"]), event["source"], event.get("data") or {})
        if fact.type.startswith("session."):
            of_session[fact.data["project"], fact.data["room"], fact.data["session"]].append(fact)
        elif fact.type.startswith("room."):
            of_room[fact.data["project"], fact.data["room"]].append(fact)
        elif fact.type == "server.restarted":
            restarts.append(fact)
    return {key: _Log(own, of_room.get(key[:2], []), restarts) for key, own in of_session.items()}


def _verdict(log: _Log, as_of_ms: int, orphan_after_ms: int) -> Verdict | None:
    """Find S, D, R and E by scanning the lists (R3 to R6, R9)."""
    connects = [fact.time_ms for fact in log.own if fact.type == "session.connected"]
    begins = [
        read_time(fact.data["connected_at"])
        for fact in log.own
        if fact.type in ("session.disconnected", "session.sampled") and fact.data.get("connected_at")
    ]
    amended = _amended(log.own)
    set_start, set_end = amended.get("started_at"), amended.get("ended_at")
    if amended.get("void") or not (connects or begins or set_start):
        return None
    is_inferred = not connects and not set_start
    start_ms = read_time(set_start) if set_start else min(connects or begins)
    if set_end:
        end_ms = read_time(set_end)
        return Verdict(
            start_ms,
            max(start_ms, end_ms),
            is_inferred,
            end_presumed=False,
            clock_skew=end_ms < start_ms,
            amended=True,
        )
    ends = [fact.time_ms for fact in log.own if fact.type in ("session.disconnected", "session.aborted")]
    # All room ends from S on, not the first alone: the earliest of everything is the earliest of both.
    gone_ms = _gone_ms(log.own, start_ms)
    room_ends = [fact.time_ms for fact in log.room if fact.type == "room.ended" and fact.time_ms >= start_ms]
    ends += [end_ms for end_ms in room_ends if end_ms <= gone_ms]
    if ends:
        end_ms = min(ends)
        return Verdict(
            start_ms,
            max(start_ms, end_ms),
            is_inferred,
            end_presumed=False,
            clock_skew=end_ms < start_ms,
            amended=bool(amended),
        )
    seen_ms = max((fact.time_ms for fact in log.own if fact.type not in _NO_SIGNS), default=0)
    if _is_orphan(log, start_ms, seen_ms) or as_of_ms - seen_ms >= orphan_after_ms:
        end_ms, is_skewed = max(start_ms, seen_ms), seen_ms < start_ms
        return Verdict(start_ms, end_ms, is_inferred, end_presumed=True, clock_skew=is_skewed, amended=bool(amended))
    return Verdict(start_ms, None, is_inferred, end_presumed=False, clock_skew=False, amended=bool(amended))


def _start_ms(own: list[_Fact]) -> int | None:
    """S, as it does not depend on ends, rooms or servers (R3, R12)."""
    verdict = _verdict(_Log(own, [], []), 0, _DAY_MS)
    return verdict.start_ms if verdict else None


def _gone_ms(own: list[_Fact], start_ms: int) -> int:
    """R9: from when on its server did not know a session that nobody saw again: ends of its room say nothing then."""
    absent_ms = max((fact.time_ms for fact in own if fact.type == "session.absent"), default=0)
    seen_ms = max((fact.time_ms for fact in own if fact.type not in _NO_SIGNS), default=0)
    return absent_ms if absent_ms > start_ms and absent_ms >= seen_ms else _NEVER_MS


def _amended(own: list[_Fact]) -> dict[str, Any]:
    """R12: of the amendments the one of the highest epoch, of equals the greatest in all it says."""
    said = [fact.data for fact in own if fact.type == "session.amended"]

    def rank(data: dict[str, Any]) -> tuple[Any, ...]:
        times = (read_time(data[name]) if data.get(name) else _NEVER_MS for name in ("started_at", "ended_at"))
        return (data["epoch"], bool(data.get("void")), *times, data["actor"], data["reason"])

    return max(said, key=rank, default={})


def _is_orphan(log: _Log, start_ms: int, seen_ms: int) -> bool:
    """R9: the room or the server began anew, or did not know the session, and nothing was seen of it after that."""
    starts = [fact for fact in log.room if fact.type == "room.started"]
    anew = [read_time(fact.data["started_at"]) for fact in starts if fact.data.get("started_at")]
    anew += [fact.time_ms for fact in starts if not fact.data.get("started_at")]
    anew += [fact.time_ms for fact in log.own if fact.type == "session.absent"]
    servers = [fact.source for fact in log.own if fact.type not in _NO_SIGNS]
    anew += [fact.time_ms for fact in log.restarts if fact.source in servers]
    return any(moment_ms > start_ms and moment_ms >= seen_ms for moment_ms in anew)


def _hours(log: _Log, as_of_ms: int, orphan_after_ms: int) -> list[tuple[int, int, int]]:
    """Return (hour in ms, minutes, minutes while open): each begun minute in the hour of its begin (R1, R7, R8)."""
    verdict = _verdict(log, as_of_ms, orphan_after_ms)
    if verdict is None or verdict.start_ms >= as_of_ms:
        return []
    until_ms = as_of_ms if verdict.end_ms is None else min(verdict.end_ms, as_of_ms)
    begun = {verdict.start_ms}
    minute_ms = verdict.start_ms + _MINUTE_MS
    while minute_ms < until_ms:
        begun.add(minute_ms)
        minute_ms += _MINUTE_MS
    by_hour: dict[int, set[int]] = defaultdict(set)
    for moment_ms in begun:
        by_hour[moment_ms // _HOUR_MS * _HOUR_MS].add(moment_ms)
    is_open = verdict.end_ms is None
    return [(hour_ms, len(minutes), len(minutes) if is_open else 0) for hour_ms, minutes in sorted(by_hour.items())]


def _meters(own: list[_Fact]) -> list[str]:
    """Return the meters that a session feeds (R16); none where no event told its kind."""
    kind = max((fact.data.get("kind") or "" for fact in own if fact.type not in _NO_SIGNS), default="")
    carries = ("session.connected", "session.disconnected")
    has_number = any(fact.data.get("number") for fact in own if fact.type in carries)
    return [meter for meter, needs_number in METERS_OF_KIND.get(kind, []) if has_number or not needs_number]
