"""A session as a picture: its events, its start and end, and the increments of each hour on one line of time. Pure.

Places are percents of the width, so that a page of any width shows them without a script.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pipeline.console import words
from pipeline.explain.sessions import Explanation
from pipeline.explain.steps import MeterShare, Source
from pipeline.metering.events import EventType
from pipeline.metering.meters import Meters
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND, NEVER_MS

#: Steps between marks of time, the smallest first.
_STEPS_MS: Final = tuple(
    count * size_ms
    for size_ms, counts in (
        (MS_PER_SECOND, (1, 5, 10, 30)),
        (MS_PER_MINUTE, (1, 2, 5, 10, 15, 30)),
        (MS_PER_HOUR, (1, 2, 3, 6, 12)),
        (MS_PER_DAY, (1, 2, 7, 28, 91, 364)),
    )
    for count in counts
)
_MOST_TICKS: Final = 8
_MOST_MARKS: Final = 400
_MOST_CELLS: Final = 400
#: What is left free on each side, in percent, and how wide a cell has to be for its number to fit.
_PAD_PERCENT: Final = 4
_FITS_PERCENT: Final = 4.5


class Tick(NamedTuple):
    """A mark of time: where, what it says, and whether narrow pages leave the words out."""

    x: str
    text: str
    is_minor: bool


class Mark(NamedTuple):
    """An event: where, its type, when, and whether it is the session's own."""

    x: str
    type: str
    time_ms: int
    is_own: bool


class Bar(NamedTuple):
    """From start to end, or to the moment that was asked for."""

    x: str
    width: str
    is_open: bool
    is_presumed: bool


class Cell(NamedTuple):
    """What one hour is billed, in units of the meter, as wide as the hour is in the picture."""

    x: str
    width: str
    middle: str
    hour_ms: int
    text: str
    fits: bool


class Lane(NamedTuple):
    """A meter and its hours; there may be more hours than are drawn."""

    name: str
    unit: str
    cells: tuple[Cell, ...]


class Picture(NamedTuple):
    """All that is drawn; `outside` events of the room happened before or after what is shown."""

    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    bar: Bar | None
    lanes: tuple[Lane, ...]
    outside: int


class _Scale(NamedTuple):
    from_ms: int
    to_ms: int

    def percent(self, time_ms: int) -> float:
        """Return where a time lies; what is outside lies at the edge."""
        inside = min(max(time_ms, self.from_ms), self.to_ms) - self.from_ms
        return _PAD_PERCENT + (100 - 2 * _PAD_PERCENT) * inside / (self.to_ms - self.from_ms)

    def x(self, time_ms: int) -> str:
        """Return where a time lies, as SVG has it."""
        return _written(self.percent(time_ms))


def draw(explanation: Explanation, meters: Meters, as_of_ms: int) -> Picture | None:
    """Return the picture of a session as of a moment, None where nothing is known of when it was."""
    own = [source.event.time_ms for source in explanation.events if source.event.session == explanation.session]
    has_start = explanation.started_at_ms != NEVER_MS
    end_ms = as_of_ms if "is_open" in explanation.flags else explanation.ended_at_ms
    times_ms = own + ([explanation.started_at_ms, end_ms] if has_start else [])
    if not times_ms:
        return None
    scale = _Scale(min(times_ms), max(*times_ms, min(times_ms) + MS_PER_SECOND))
    marks = [_mark(source, explanation.session, scale) for source in explanation.events]
    shown = [mark for mark in marks if mark.is_own or scale.from_ms <= mark.time_ms <= scale.to_ms]
    return Picture(
        tuple(_ticks(scale)),
        tuple(_drawn(shown)),
        _bar(explanation, end_ms, scale) if has_start else None,
        tuple(_lane(share, meters, scale) for share in explanation.shares if share.total),
        len(marks) - len(shown),
    )


def _mark(source: Source, session: str, scale: _Scale) -> Mark:
    event = source.event
    return Mark(scale.x(event.time_ms), str(event.type), event.time_ms, event.session == session)


def _drawn(marks: Sequence[Mark]) -> Iterable[Mark]:
    """Leave out signs of life where there are too many."""
    if len(marks) <= _MOST_MARKS:
        return marks
    return [mark for mark in marks if mark.type != EventType.SESSION_SAMPLED][:_MOST_MARKS]


def _bar(explanation: Explanation, end_ms: int, scale: _Scale) -> Bar:
    width = scale.percent(end_ms) - scale.percent(explanation.started_at_ms)
    return Bar(
        scale.x(explanation.started_at_ms),
        _written(max(width, 0.4)),
        "is_open" in explanation.flags,
        "end_presumed" in explanation.flags,
    )


def _lane(share: MeterShare, meters: Meters, scale: _Scale) -> Lane:
    meter = meters[share.meter]
    cells = []
    for hour in share.hours[:_MOST_CELLS]:
        left, right = scale.percent(hour.hour_ms), scale.percent(hour.hour_ms + MS_PER_HOUR)
        width = max(right - left, 0.4)
        fits = width >= _FITS_PERCENT
        middle = _written(left + width / 2)
        text = words.number(meter.quantity(hour.increments))
        cells.append(Cell(_written(left), _written(width), middle, hour.hour_ms, text, fits))
    return Lane(words.label(meter), words.unit(meter, 0), tuple(cells))


def _ticks(scale: _Scale) -> Iterable[Tick]:
    span_ms = scale.to_ms - scale.from_ms
    step_ms = next((step for step in _STEPS_MS if span_ms // step < _MOST_TICKS), span_ms)
    first_ms = -(-scale.from_ms // step_ms) * step_ms
    for number, at_ms in enumerate(range(first_ms, scale.to_ms + 1, step_ms)):
        text = words.moment(at_ms)
        if step_ms >= MS_PER_DAY:
            shown = text[5:10]
        elif span_ms >= MS_PER_DAY:
            shown = text[5:16]
        else:
            shown = text[11:16] if step_ms >= MS_PER_MINUTE else text[11:19]
        yield Tick(scale.x(at_ms), shown, is_minor=number % 2 == 1)


def _written(percent: float) -> str:
    return f"{percent:.2f}%"
