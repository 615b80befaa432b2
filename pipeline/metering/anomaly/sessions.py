"""Single sessions: far longer than others, and two of one identity at once."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Final

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.anomaly.readings import Connected, Lengths
from pipeline.metering.anomaly.rules import LengthRule, TwinRule
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, div_ceil

#: How long an alert about a session stays open after it ended.
_LINGER_MS: Final = MS_PER_HOUR


def fence_ms(lengths: Lengths | None, rule: LengthRule) -> int:
    """Return the length beyond which a session is far longer than others, in ms.

    Tukey's outer fence, of logarithms since lengths of calls are about log-normal: upper * (upper / lower) ** k.
    J. W. Tukey, "Exploratory Data Analysis" (1977).
    """
    if lengths is None or lengths.sessions < rule.sessions:
        return rule.cold_minutes * MS_PER_MINUTE
    lower, upper = max(lengths.lower_ms, 1), max(lengths.upper_ms, 1)
    whole, hundredths = divmod(rule.fence_percent, 100)
    # A part of the exponent is taken linearly: close enough for a fence, and exact in integers.
    fence: int = upper ** (whole + 1) // lower**whole
    fence += fence * (upper - lower) * hundredths // (100 * lower)
    return max(fence, rule.least_minutes * MS_PER_MINUTE)


def long_session(session: Connected, lengths: Lengths | None, rule: LengthRule) -> Finding | None:
    """Return what is found where a session is far longer than others of its project and meter, while it is open."""
    fence = fence_ms(lengths, rule)
    lasted = session.ended_ms - session.began_ms
    if not session.is_open or lasted < fence:
        return None
    return Finding(
        "long_session",
        session.project,
        session.meter,
        session.session,
        session.began_ms + fence,
        rule.severity,
        lasted * 1_000 // MS_PER_MINUTE,
        fence * 1_000 // MS_PER_MINUTE,
        "minute",
        div_ceil(lasted - fence, MS_PER_MINUTE),
        f"{session.project}: {session.session} has been connected for {lasted // MS_PER_MINUTE} minutes;"
        f" beyond {fence // MS_PER_MINUTE} is far longer than others",
        f"roommeter explain {session.session} --project {session.project}",
        (("identity", session.identity), ("room", session.room)),
    )


def twins(sessions: Iterable[Connected], as_of_ms: int, rule_of: Callable[[str], TwinRule]) -> Iterator[Finding]:
    """Yield a finding for each identity that was in one room twice at once, for longer than a reconnect takes.

    `rule_of` returns the rule of a project. Of more than two, those that overlap longest are named.
    """
    place = attrgetter("project", "room", "identity")
    for (project, room, identity), group in groupby(sorted(sessions, key=place), key=place):
        ordered = sorted(group, key=attrgetter("began_ms", "session"))
        overlaps = [
            (min(one.ended_ms, other.ended_ms) - other.began_ms, one, other)
            for number, one in enumerate(ordered)
            for other in ordered[number + 1 :]
            if other.began_ms < one.ended_ms
        ]
        longest = max(overlaps, key=lambda overlap: (overlap[0], overlap[1].session), default=None)
        rule = rule_of(project)
        if longest is None or longest[0] < rule.overlap_minutes * MS_PER_MINUTE:
            continue
        overlap_ms, one, other = longest
        if min(one.ended_ms, other.ended_ms) < as_of_ms - _LINGER_MS:
            continue
        yield Finding(
            "overlapping_twins",
            project,
            one.meter,
            f"{room}/{identity}",
            other.began_ms,
            rule.severity,
            overlap_ms * 1_000 // MS_PER_MINUTE,
            0,
            "minute",
            div_ceil(overlap_ms, MS_PER_MINUTE),
            f"{project}: {identity} is in {room} twice at once, as {one.session} and {other.session},"
            f" for {overlap_ms // MS_PER_MINUTE} minutes",
            f"roommeter explain {other.session} --project {project}",
            (("first", one.session), ("second", other.session)),
        )
