"""The canary (C11): a project whose sessions are simulated, so that the right answer to each is known. Pure.

The ids of simulated sessions name the seed and the start of their world. Whoever sends one (`roommeter canary`)
has its answers checked to the millisecond, from Kafka to the bill.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from pipeline.audit.laws import Checked, Difference, Law
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND, format_time, hour_of
from pipeline.rows import SessionRow
from pipeline.simulator import Scenario, TrueSession, simulate

#: The project that is simulated, and the seed of its worlds.
CANARY: Final = "canary"
_SEED: Final = 0xCA
_SESSIONS: Final = 10


def canary_scenario(start_ms: int) -> Scenario:
    """Return the world of a canary that starts at a moment (whole seconds), with a fault of each kind but a loss."""
    return Scenario(
        start_ms=start_ms,
        end_ms=start_ms + 10 * MS_PER_MINUTE,
        sessions=_SESSIONS,
        seed=_SEED,
        projects=(CANARY,),
        reconnect=0.2,
        duplicate=0.2,
        disorder_ms=2_000,
        abort=0.1,
        lost_connect=0.1,
    )


def finished_scenario(now_ms: int) -> Scenario:
    """Return a world that is over, to be sent all at once: its last call takes half an hour."""
    return canary_scenario((now_ms - MS_PER_HOUR) // MS_PER_SECOND * MS_PER_SECOND)


def canary_answers(sessions: Iterable[str], now_ms: int) -> list[TrueSession]:
    """Return what is true of every world that one of these session ids is of, once it is over for an hour."""
    starts_ms = set()
    for name in sessions:
        _, seed, start, *_ = (*name.split("_"), "", "", "")
        if seed == f"{_SEED:x}" and start:
            starts_ms.add(int(start, 16) * MS_PER_SECOND)
    worlds = [simulate(canary_scenario(start_ms)) for start_ms in sorted(starts_ms)]
    return [
        true
        for world in worlds
        if max(sent_at_ms for sent_at_ms, _ in world.events) + MS_PER_HOUR < now_ms
        for true in world.truth
        if true.is_exact
    ]


def compare_canary(answers: Iterable[TrueSession], found: Mapping[str, SessionRow]) -> Checked:
    """C11: every session of the canary has the start and the end that it really had."""
    result = Checked(Law.CANARY)
    for true in answers:
        result.checked += 1
        row = found.get(true.session)
        told = (row.started_at_ms, row.ended_at_ms) if row else None
        if told != (true.started_at_ms, true.ended_at_ms):
            said = f"{format_time(told[0])} to {format_time(told[1])}" if told else "nothing"
            detail = (
                f"it was there from {format_time(true.started_at_ms)} to {format_time(true.ended_at_ms)}, "
                f"and {said} is known of it"
            )
            hour_ms = hour_of(true.started_at_ms)
            result.differences.append(
                Difference(Law.CANARY, detail, CANARY, hour_ms, room=true.room, session=true.session)
            )
    return result
