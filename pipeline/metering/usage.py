"""The one law (R1) on sessions: increments by the hour in which they begin."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.metering.meters import Meter, Meters
from pipeline.metering.session import Facts, Session
from pipeline.metering.timeline import ORPHAN_AFTER_MS, Timeline, newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_HOUR, div_ceil, hour_of

CellKey = tuple[str, str, int]
"""Project, meter and start of the hour in ms."""


class Usage(NamedTuple):
    """One cell's usage in increments; `increments_open` is the part of sessions still open (R8)."""

    increments: int
    increments_open: int
    sessions: int


def billed(elapsed_ms: int, increment_ms: int) -> int:
    """Return the increments begun after `elapsed_ms` of a session (R1); none before or at its start."""
    return max(0, div_ceil(elapsed_ms, increment_ms))


def increments_by_hour(started_at_ms: int, until_ms: int, increment_ms: int) -> Iterator[tuple[int, int]]:
    """Yield (hour in ms, increments) of one session metered until `until_ms`; the hours add up to the total.

    A session bills at least one increment (R7), in the hour of its start; increment k belongs to the
    hour in which it begins, at start + k * increment (R1).
    """
    total = max(1, billed(until_ms - started_at_ms, increment_ms))
    done = 0
    hour_ms = hour_of(started_at_ms)
    while done < total:
        upto = min(total, billed(hour_ms + MS_PER_HOUR - started_at_ms, increment_ms))
        if upto > done:
            yield hour_ms, upto - done
        done = upto
        hour_ms += MS_PER_HOUR


def feeds(session: Session, meter: Meter) -> bool:
    """Tell whether a session counts on a meter (R16)."""
    return (
        meter.measures == "session" and meter.kind == session.kind and (session.number != "" or not meter.with_number)
    )


def metered_until_ms(line: Timeline, as_of_ms: int) -> int:
    """Return the end of what can be billed at `as_of`: the end, or the moment itself while open (R8)."""
    return min(line.ended_at_ms, as_of_ms)


def usage(facts: Facts, meters: Meters, as_of_ms: int, orphan_after_ms: int = ORPHAN_AFTER_MS) -> dict[CellKey, Usage]:
    """Return the usage of every project, meter and hour as of a moment, from facts alone (R1 to R9).

    Sessions that start at or after `as_of` have begun no increment yet and do not appear.
    """
    cells: dict[CellKey, Usage] = {}
    for (project, room_name), name, session in facts.sessions():
        line = timeline(
            session,
            facts.rooms[project, room_name],
            newest_restart_ms(session, facts.restarts_ms),
            as_of_ms,
            orphan_after_ms,
        )
        if line is None or line.started_at_ms >= as_of_ms:
            continue
        assert name, "a session without an id cannot have been joined"
        until_ms = metered_until_ms(line, as_of_ms)
        for meter in meters.values():
            if feeds(session, meter):
                for hour_ms, increments in increments_by_hour(line.started_at_ms, until_ms, meter.increment):
                    key = (project, meter.name, hour_ms)
                    cell = cells.get(key, Usage(0, 0, 0))
                    cells[key] = Usage(
                        cell.increments + increments,
                        cell.increments_open + (increments if line.is_open() else 0),
                        cell.sessions + 1,
                    )
    return cells
