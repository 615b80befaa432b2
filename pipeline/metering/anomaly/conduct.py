"""What looks like manipulation: sessions amended too often, usage that stays just below a limit."""

from collections.abc import Iterator
from typing import Final

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.anomaly.readings import Amended, Hovering
from pipeline.metering.anomaly.rules import AmendmentRule, HoverRule
from pipeline.metering.limits import decimal
from pipeline.metering.units import MS_PER_DAY

#: Of the rise over the usual number that raises an alert, what keeps it open.
_KEEP_PERCENT: Final = 50


def amendments(project: str, found: Amended, as_of_ms: int, rule: AmendmentRule) -> Iterator[Finding]:
    """Yield findings where a day has far more amendments than is usual, and where one session has many (R12).

    The usual number is the median of the last four weeks' days.
    """
    needed = max(rule.least, found.usual * rule.ratio_percent // 100)
    if found.last_day * 100 >= needed * _KEEP_PERCENT:
        yield Finding(
            "frequent_amendments",
            project,
            "",
            "",
            as_of_ms - MS_PER_DAY,
            rule.severity,
            found.last_day * 1_000,
            found.usual * 1_000,
            "amendment",
            0,
            f"{project}: {found.last_day} amendments within a day; {found.usual} are usual",
            f"roommeter sessions --project {project}",
            (),
            found.last_day >= needed,
        )
    if found.of_session >= rule.of_session:
        yield Finding(
            "frequent_amendments",
            project,
            "",
            found.session,
            as_of_ms - MS_PER_DAY,
            rule.severity,
            found.of_session * 1_000,
            1_000,
            "amendment",
            0,
            f"{project}: {found.session} was amended {found.of_session} times",
            f"roommeter explain {found.session} --project {project}",
        )


def hovering(found: Hovering, rule: HoverRule) -> Finding | None:
    """Return what is found where most of the last periods ended just below the hard limit, none beyond it."""
    project, limit, all_periods = found
    periods = all_periods[: rule.of_periods]
    if limit.hard is None or any(quantity > limit.hard for _, quantity in periods):
        return None
    near = [(start_ms, used) for start_ms, used in periods if used * 100 >= limit.hard * rule.from_percent]
    if len(near) < rule.periods:
        return None
    newest = near[0][1]
    return Finding(
        "limit_hovering",
        project,
        limit.meter,
        limit.per,
        near[-1][0],
        rule.severity,
        newest * 1_000 // limit.unit_size,
        limit.hard * 1_000 // limit.unit_size,
        limit.unit,
        0,
        f"{project}: {len(near)} of the last {len(periods)} {limit.per}s ended at {rule.from_percent} % or more of the"
        f" hard limit of {decimal(limit.hard, limit.unit_size):f} {limit.unit}s, and none beyond it",
        f"roommeter limits --project {project}",
    )
