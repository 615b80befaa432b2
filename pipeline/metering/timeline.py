"""From facts to a session's start and end (R3 to R6, R9, R12), as seen at a moment `as_of`.

Nothing computed here is ever stored as a fact: an orphan's end is only presumed, and a real end
that arrives later replaces it.
"""

from typing import NamedTuple

from pipeline.metering.events import Amendment
from pipeline.metering.session import Room, Session
from pipeline.metering.units import MS_PER_DAY, NEVER_MS, NOT_SEEN_MS

#: R9's default: how long nothing may be seen of an open session before its end is presumed.
ORPHAN_AFTER_MS = MS_PER_DAY

_AS_OBSERVED = Amendment(0, is_void=False, started_at_ms=NEVER_MS, ended_at_ms=NEVER_MS, actor="", reason="")


class Timeline(NamedTuple):
    """One session's metered time: start, end (NEVER_MS while open) in ms, and the flags of the rules."""

    started_at_ms: int
    ended_at_ms: int
    start_inferred: bool
    end_presumed: bool
    clock_skew: bool
    amended: bool

    def is_open(self) -> bool:
        """Tell whether no end is known or presumed (R8)."""
        return self.ended_at_ms == NEVER_MS


def timeline(
    session: Session,
    room: Room,
    restarted_at_ms: int,
    as_of_ms: int,
    orphan_after_ms: int = ORPHAN_AFTER_MS,
) -> Timeline | None:
    """Return when a session started and ended, or None where nothing shows that it started (R3, R4) or it is void.

    `restarted_at_ms` is the newest restart of any server that reported this session (R9).
    """
    amendment = session.amendment or _AS_OBSERVED
    start_inferred = session.connected_at_ms == NEVER_MS and amendment.started_at_ms == NEVER_MS
    started_at_ms = start_ms(session)
    if started_at_ms == NEVER_MS:
        return None
    ended_at_ms = amendment.ended_at_ms
    if ended_at_ms == NEVER_MS:
        room_end_ms = min((end for end in room.ends_ms if end >= started_at_ms), default=NEVER_MS)
        if started_at_ms < session.absent_at_ms < room_end_ms and session.absent_at_ms >= session.last_seen_ms:
            room_end_ms = NEVER_MS  # the end of its room shows nothing of a session that was gone by then
        ended_at_ms = min(session.disconnected_at_ms, room_end_ms)
    end_presumed = ended_at_ms == NEVER_MS and _is_orphan(
        started_at_ms,
        session.last_seen_ms,
        max(room.started_at_ms, restarted_at_ms, session.absent_at_ms),
        as_of_ms - orphan_after_ms,
    )
    if end_presumed:
        ended_at_ms = session.last_seen_ms
    clock_skew = ended_at_ms < started_at_ms
    return Timeline(
        started_at_ms,
        max(started_at_ms, ended_at_ms),
        start_inferred,
        end_presumed,
        clock_skew,
        session.amendment is not None,
    )


def _is_orphan(started_at_ms: int, last_seen_ms: int, gone_at_ms: int, silent_since_ms: int) -> bool:
    """R9: silent for too long, or since its room or server began anew, or its server did not know it any more."""
    is_gone = gone_at_ms > started_at_ms and gone_at_ms >= last_seen_ms
    return is_gone or last_seen_ms <= silent_since_ms


def start_ms(session: Session) -> int:
    """Return S: the amended start (R12), else the observed one (R3); NEVER_MS without one, or where it is void."""
    amendment = session.amendment or _AS_OBSERVED
    if amendment.is_void:
        return NEVER_MS
    return observed_start_ms(session) if amendment.started_at_ms == NEVER_MS else amendment.started_at_ms


def observed_start_ms(session: Session) -> int:
    """Return the start that was observed: the earliest connect, else the earliest begin reported (R3), or NEVER_MS."""
    return session.begun_at_ms if session.connected_at_ms == NEVER_MS else session.connected_at_ms


def is_live(session: Session, room: Room) -> bool:
    """Tell whether no real end was observed: what is presumed can still be replaced (R9)."""
    started_at_ms = observed_start_ms(session)
    return session.disconnected_at_ms == NEVER_MS and not any(end >= started_at_ms for end in room.ends_ms)


def newest_restart_ms(session: Session, restarts_ms: dict[str, int]) -> int:
    """Return the newest restart of any server that reported this session, NOT_SEEN_MS if none did."""
    return max((restarts_ms.get(source, NOT_SEEN_MS) for source in session.sources), default=NOT_SEEN_MS)
