"""Readings of a list of sessions, counted one by one: slow, and plain to see."""

from collections.abc import Iterable

from pipeline.metering.anomaly.baseline import WEEKS
from pipeline.metering.anomaly.readings import (
    WINDOW_MS,
    WINDOWS,
    WINDOWS_PER_HOUR,
    Activity,
    Connected,
    Past,
    Readings,
    Series,
    day_of,
)
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR


def readings(sessions: Iterable[Connected], as_of_ms: int) -> Readings:
    """Return the activity of sessions as of a moment; what begins later is not known yet."""
    known = [session for session in sessions if session.began_ms < as_of_ms]
    keys = sorted({(session.project, session.meter) for session in known})
    return Readings(
        as_of_ms,
        activity={
            key: _activity([session for session in known if (session.project, session.meter) == key], as_of_ms)
            for key in keys
        },
    )


def _activity(sessions: list[Connected], as_of_ms: int) -> Activity:
    day_ms = day_of(as_of_ms)
    from_ms = max(0, day_ms - 7 * WEEKS * MS_PER_DAY)
    begun: dict[int, Past] = {}
    connected: dict[int, Past] = {}
    first_ms = min(session.began_ms for session in sessions)
    for hour_ms in range(max(from_ms, first_ms - first_ms % MS_PER_HOUR), day_ms, MS_PER_HOUR):
        starts = [hour_ms + number * WINDOW_MS for number in range(WINDOWS_PER_HOUR)]
        counts = [_count(sessions, start_ms) for start_ms in starts]
        if any(active for _, active in counts):
            begun[hour_ms], connected[hour_ms] = (
                Past(sum(values), max(values[1:]), values[0]) for values in zip(*counts, strict=True)
            )
    windows = [_count(sessions, as_of_ms - number * WINDOW_MS) for number in range(1, WINDOWS + 1)]
    return Activity(
        Series(begun, [one for one, _ in windows]),
        Series(connected, [one for _, one in windows]),
    )


def _count(sessions: list[Connected], start_ms: int) -> tuple[int, int]:
    """Return how many sessions began in a window, and how many were connected at any time of it."""
    end_ms = start_ms + WINDOW_MS
    begun = sum(start_ms <= session.began_ms < end_ms for session in sessions)
    connected = sum(
        session.began_ms < end_ms and max(session.ended_ms, session.began_ms + 1) > start_ms for session in sessions
    )
    return begun, connected
