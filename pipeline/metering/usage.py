"""The one law (R1): increments by the hour in which they begin; here of sessions, in `counted` of all else."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from pipeline.metering.counted import held_by_hour, reported_by_hour
from pipeline.metering.events import MAX_QUANTITY
from pipeline.metering.meters import Measures, Meter, Meters
from pipeline.metering.session import Facts, Room, Session
from pipeline.metering.timeline import ORPHAN_AFTER_MS, Timeline, newest_restart_ms, start_ms, timeline
from pipeline.metering.units import MS_PER_HOUR, div_ceil, hour_of

CellKey = tuple[str, str, int]
"""Project, meter and start of the hour in ms."""


class Usage(NamedTuple):
    """One cell's usage in increments; `increments_open` is the part of sessions still open (R8).

    `sessions` counts subjects: sessions, usage events, or numbers.
    """

    increments: int
    increments_open: int
    sessions: int


Share = tuple[CellKey, int, int]
"""What one subject adds to a cell: increments, and those of them that are open."""

_NOTHING: Final = Usage(0, 0, 0)


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
    """Return the usage of every project, meter and hour as of a moment, from facts alone (R1 to R9, R13 to R15).

    Sessions that start at or after `as_of` have begun no increment yet and do not appear. A cell holds 64 bits: more
    is absurd, and shown as the most there is rather than stopping everybody's bill.
    """
    cells: dict[CellKey, Usage] = {}
    for meter in meters.values():
        for key, increments, increments_open in _BY_MEASURE[meter.measures](facts, meter, as_of_ms, orphan_after_ms):
            cell = cells.get(key, _NOTHING)
            cells[key] = Usage(
                min(cell.increments + increments, MAX_QUANTITY),
                cell.increments_open + increments_open,
                cell.sessions + 1,
            )
    return cells


def _of_sessions(facts: Facts, meter: Meter, as_of_ms: int, orphan_after_ms: int) -> Iterator[Share]:
    for (project, room_name), name, session in facts.sessions():
        if not feeds(session, meter):
            continue
        room = facts.rooms[project, room_name]
        restarted_at_ms = newest_restart_ms(session, facts.restarts_ms)
        line = timeline(session, room, restarted_at_ms, as_of_ms, orphan_after_ms)
        if line is None or line.started_at_ms >= as_of_ms:
            continue
        assert name, "a session without an id cannot have been joined"
        until_ms = metered_until_ms(line, as_of_ms)
        for hour_ms, increments in increments_by_hour(line.started_at_ms, until_ms, meter.increment):
            yield (project, meter.name, hour_ms), increments, increments if line.is_open() else 0


def _of_counters(facts: Facts, meter: Meter, as_of_ms: int, _orphan_after_ms: int) -> Iterator[Share]:
    """R13: of every session that connected, also where nobody told its kind."""
    for (project, room_name, name), reports in facts.quantities.of_sessions():
        room = facts.rooms.get((project, room_name), Room())
        if start_ms(room.sessions.get(name, Session())) < as_of_ms:
            for hour_ms, increments in reported_by_hour(reports, meter.increment, as_of_ms):
                yield (project, meter.name, hour_ms), increments, 0


def _of_events(facts: Facts, meter: Meter, as_of_ms: int, _orphan_after_ms: int) -> Iterator[Share]:
    """R14: each usage event for itself."""
    for project, name, reports in facts.quantities.of_events():
        if name == meter.name:
            amounts = {hour_ms: (recorded.quantity,) for hour_ms, recorded in reports.items()}
            for hour_ms, increments in reported_by_hour(amounts, meter.increment, as_of_ms):
                yield (project, meter.name, hour_ms), increments, 0


def _of_rentals(facts: Facts, meter: Meter, as_of_ms: int, _orphan_after_ms: int) -> Iterator[Share]:
    """R15: a number and month is a subject, whose Q jumps from 0 to one unit."""
    for (project, _), held in facts.quantities.numbers.items():
        for hour_ms in held_by_hour(held, as_of_ms):
            yield (project, meter.name, hour_ms), div_ceil(meter.unit_size, meter.increment), 0


_BY_MEASURE: Final[dict[Measures, Callable[[Facts, Meter, int, int], Iterator[Share]]]] = {
    "session": _of_sessions,
    "counter": _of_counters,
    "discrete": _of_events,
    "rental": _of_rentals,
}
