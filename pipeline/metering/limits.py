"""Limits: how far a project has used up what it may use, and what there is to say when that changes.

Every threshold of a limit in one period is a small story that alternates: reached (1), back under (2), reached
again (3) and so on. A crossing is the next number of its story, and its id comes from project, meter, period,
threshold and number alone: whoever works it out again, after a restart or beside another, tells the same one.
What was said last is all the memory there is; quantities come from the facts.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Final, Literal, NamedTuple
from uuid import UUID, uuid5

from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, NEVER_MS, NOT_SEEN_MS, hour_of

#: `now` is the period of concurrent sessions: they have no other.
Per = Literal["hour", "day", "month", "now"]
Threshold = Literal["50", "80", "100", "hard"]
State = Literal["under", "reached", "exceeded"]

#: All that is told of a limit, lowest first: percents of its soft quantity, and the hard one.
THRESHOLDS: Final[tuple[Threshold, ...]] = ("50", "80", "100", "hard")
#: The project whose limits hold for all that have none of their own.
EVERY_PROJECT: Final = "*"
CONCURRENT: Final = "concurrent_"

#: The name space of crossings' ids: fixed for ever, or the same crossing would get a second id.
_NAMESPACE: Final = UUID("b4b1f1d4-0b0c-4a64-9c05-5a8f0d1c7e42")
_EXACT: Final = Context(prec=80)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Limit(NamedTuple):
    """What a project may use of a meter in a period; `soft` and `hard` in base units (ms, sessions), None where none.

    For sessions at one moment, `meter` is "concurrent_" and the kind, and `per` is "now".
    """

    meter: str
    per: Per
    soft: int | None
    hard: int | None
    unit: str
    unit_size: int

    def full(self) -> int:
        """Return the quantity that is 100 %: the soft one, where there is none the hard one."""
        full = self.hard if self.soft is None else self.soft
        assert full is not None, "a limit limits something"
        return full

    def is_past(self, threshold: Threshold, quantity: int) -> bool:
        """Tell whether a quantity has reached a percentage, or is more than the hard quantity."""
        if threshold == "hard":
            return self.hard is not None and quantity > self.hard
        return quantity * 100 >= self.full() * int(threshold)


class Limits:
    """All limits: a project's own first, then those of every project."""

    def __init__(self, limits: Iterable[tuple[str, Limit]] = ()) -> None:
        """Take pairs of a project, or EVERY_PROJECT, and a limit."""
        self._by_project: dict[str, dict[tuple[str, Per], Limit]] = {}
        for project, limit in limits:
            self._by_project.setdefault(project, {})[limit.meter, limit.per] = limit

    def of(self, project: str) -> list[Limit]:
        """Return a project's limits; its own replaces the common one of the same meter and period."""
        common = self._by_project.get(EVERY_PROJECT, {})
        return list((common | self._by_project.get(project, {})).values())

    def names(self) -> frozenset[str] | None:
        """Return the projects that have limits, None where every project has."""
        return None if EVERY_PROJECT in self._by_project else frozenset(self._by_project)

    def all(self) -> list[Limit]:
        """Return every limit, of whatever project."""
        return [limit for own in self._by_project.values() for limit in own.values()]


class Standing(NamedTuple):
    """How a limit stands: its period [period_ms, period_end_ms), and the quantity used, in base units."""

    project: str
    limit: Limit
    period_ms: int
    period_end_ms: int
    quantity: int

    @property
    def percent(self) -> int:
        """Whole percents used, rounded down: 100 is never said too early."""
        return self.quantity * 100 // self.limit.full()

    @property
    def state(self) -> State:
        """Whether the soft quantity is reached, or the hard one exceeded."""
        if self.limit.is_past("hard", self.quantity):
            return "exceeded"
        return "reached" if self.limit.is_past("100", self.quantity) else "under"


StoryKey = tuple[str, str, Per, int, Threshold]
"""Project, meter, period's name, start of the period in ms, and threshold."""


class Crossing(NamedTuple):
    """A threshold passed, or left again: the `number`-th time that it changed; odd is past, even is back under.

    Quantities in base units of `unit_size` to a unit. Where the period is over or the limit gone, `quantity` is 0.
    """

    project: str
    meter: str
    per: Per
    period_ms: int
    threshold: Threshold
    number: int
    quantity: int
    soft: int | None
    hard: int | None
    unit: str
    unit_size: int
    as_of_ms: int

    @property
    def story(self) -> StoryKey:
        """What this is the next change of."""
        return (self.project, self.meter, self.per, self.period_ms, self.threshold)

    @property
    def id(self) -> str:
        """The id, from the story and the number alone."""
        return str(uuid5(_NAMESPACE, "\0".join(map(str, (*self.story, self.number)))))

    @property
    def is_past(self) -> bool:
        """Whether the threshold was passed, and not left."""
        return self.number % 2 == 1

    @property
    def event(self) -> Literal["reached", "exceeded", "back_under"]:
        """What happened."""
        if not self.is_past:
            return "back_under"
        return "exceeded" if self.threshold == "hard" else "reached"


def period(per: Per, time_ms: int) -> tuple[int, int]:
    """Return begin and end, in ms, of the UTC hour, day or month that a moment lies in; `now` has neither."""
    if per == "now":
        return NOT_SEEN_MS, NEVER_MS
    if per == "hour":
        return hour_of(time_ms), hour_of(time_ms) + MS_PER_HOUR
    day_ms = time_ms - time_ms % MS_PER_DAY
    if per == "day":
        return day_ms, day_ms + MS_PER_DAY
    first = (_EPOCH + timedelta(milliseconds=day_ms)).replace(day=1)
    days = (first - _EPOCH).days
    next_days = ((first + timedelta(days=31)).replace(day=1) - _EPOCH).days
    return days * MS_PER_DAY, next_days * MS_PER_DAY


def follows(crossing: Crossing, previous: Crossing | None) -> bool:
    """Tell whether a crossing is the next of its story: what comes second in the log is not."""
    return crossing.number == (1 if previous is None else previous.number + 1)


def crossings(standings: Iterable[Standing], said: Mapping[StoryKey, Crossing], as_of_ms: int) -> Iterator[Crossing]:
    """Yield what is to be said: every threshold that stands otherwise than what was said of it last.

    `standings` have to be all of the projects in `said`: of a story that is not among them any more, because its
    period is over or its limit gone, the end is said.
    """
    seen = set()
    for standing in standings:
        project, limit, period_ms, _, quantity = standing
        for threshold in THRESHOLDS:
            story = (project, limit.meter, limit.per, period_ms, threshold)
            seen.add(story)
            previous = said.get(story)
            is_past = limit.is_past(threshold, quantity)
            if is_past != (previous is not None and previous.is_past):
                number = 1 if previous is None else previous.number + 1
                quantities = (quantity, limit.soft, limit.hard, limit.unit, limit.unit_size)
                yield Crossing(*story, number, *quantities, as_of_ms)
    for story, previous in said.items():
        if previous.is_past and story not in seen:
            yield previous._replace(number=previous.number + 1, quantity=0, as_of_ms=as_of_ms)


def decimal(quantity: int, unit_size: int) -> Decimal:
    """Return base units as an exact decimal of the unit, without an exponent."""
    exact = _EXACT.divide(Decimal(quantity), Decimal(unit_size)).normalize(_EXACT)
    return _EXACT.add(exact, Decimal(0))
