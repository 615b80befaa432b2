"""What detectors look at: counts and facts as of a moment, as the store adds them up. Times in ms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.metering.limits import Limit
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE

#: A window of the last hours: counts are compared five minutes at a time, so that a burst shows at once.
WINDOW_MS: Final = 5 * MS_PER_MINUTE
WINDOWS_PER_HOUR: Final = 12
#: How many windows up to the moment are read, the newest first.
WINDOWS: Final = 18


def day_of(time_ms: int) -> int:
    """Return the start of the UTC day that a moment lies in, in ms."""
    return time_ms - time_ms % MS_PER_DAY


class Past(NamedTuple):
    """An hour that is over: the sum over its windows, the largest of those after the first, and the first.

    The first is apart since meetings begin at full hours.
    """

    total: int
    peak: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class Series:
    """Counts of one thing: hours of days that are over, by their start; windows up to the moment, the newest first.

    Hours without a count are left out. The day of the moment itself may be among them, and is not learned from.
    """

    hours: Mapping[int, Past]
    windows: Sequence[int]


@dataclass(frozen=True, slots=True)
class Activity:
    """A project's sessions of one meter: connects, and sessions that were connected at any time of a window."""

    connects: Series
    active: Series


class Part(NamedTuple):
    """So many of how many: of the sessions of an hour, say, those that were very short."""

    some: int
    total: int


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the hour up to the moment, and of hours that are over, the newest first; `detail` names the worst."""

    latest: Part
    past: Sequence[Part]
    detail: str = ""


class Lengths(NamedTuple):
    """How long sessions of a project and meter lasted that ended lately: how many, and quartiles in ms."""

    sessions: int
    lower_ms: int
    upper_ms: int


class Connected(NamedTuple):
    """A session: [began_ms, ended_ms), where one that is open ends at the moment."""

    project: str
    meter: str
    room: str
    identity: str
    session: str
    began_ms: int
    ended_ms: int
    is_open: bool


class Amended(NamedTuple):
    """Amendments of a project: of the last day, the usual number of a day, and of one session most."""

    last_day: int
    usual: int
    session: str
    of_session: int


class Hovering(NamedTuple):
    """A limit, and what was used of it in periods that are over, the newest first: (start in ms, base units)."""

    project: str
    limit: Limit
    periods: Sequence[tuple[int, int]]


ShareKey = tuple[str, str, str]
"""Detector, project, and meter or subject."""


@dataclass(frozen=True, slots=True)
class Readings:
    """All there is to look at as of a moment. What a detector is not asked for may be missing."""

    as_of_ms: int
    activity: Mapping[tuple[str, str], Activity] = field(default_factory=dict)
    reported: Mapping[tuple[str, str], Series] = field(default_factory=dict)
    servers: Mapping[str, Series] = field(default_factory=dict)
    shares: Mapping[ShareKey, Share] = field(default_factory=dict)
    lengths: Mapping[tuple[str, str], Lengths] = field(default_factory=dict)
    long: Sequence[Connected] = ()
    twins: Sequence[Connected] = ()
    amended: Mapping[str, Amended] = field(default_factory=dict)
    hovering: Sequence[Hovering] = ()
