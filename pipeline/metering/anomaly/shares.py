"""Parts of a whole: very short sessions, minutes that rounding added, wrong clocks, repetitions, dead letters.

The part of the last hour is compared with the usual part of earlier hours. What an hour counts is correlated (a client
that gives up does so again and again), so its variance is that of chance times 1 + (total - 1) * correlation: little
more where little is counted, far more in busy hours. Counts are divided by that design effect, J. N. K. Rao and A. J.
Scott, "A simple method for the analysis of clustered binary data", Biometrics 48 (1992), and how far the last hour lies
out is the root of its deviance: where little is expected, chance often crosses limits in binomial deviations. Usual
part and correlation are medians, since earlier hours may have been anomalous too.
"""

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Final, NamedTuple

from pipeline.metering.anomaly.alert import Detector, Finding
from pipeline.metering.anomaly.readings import Part, Share
from pipeline.metering.anomaly.rules import ShareRule
from pipeline.metering.anomaly.statistics import LN_2, LOG_BITS, log2, median, weighted_median
from pipeline.metering.units import MS_PER_HOUR

_MILLION: Final = 1_000_000
#: Hours with fewer than this many are put together with their neighbours; before so many such groups, nothing is usual.
_LEAST_TOTAL: Final = 50
_LEAST_GROUPS: Final = 24
#: The usual part is the median of about so many stretches: more than half of them are as usual, whatever happens.
_STRETCHES: Final = 12
#: The square of a normal deviation is 1 in the mean; this many times its median, in thousandths.
_MEAN_OF_SQUARES: Final = 2_198
#: What keeps an alert open is this part of what raises one, in percent.
_KEEP_PERCENT: Final = 50


class Words(NamedTuple):
    """How to say a share: what is counted, of what, and where to look.

    `is_of_meter` where it is about a meter, and each one counted costs an increment of it.
    """

    counted: str
    of: str
    look_at: str
    is_of_meter: bool = False


_SESSIONS: Final = "roommeter sessions --project {project}"

WORDS: Final[dict[Detector, Words]] = {
    "flapping": Words("ended within 15 s, billed a whole increment each", "sessions", _SESSIONS, is_of_meter=True),
    "rounding_loss": Words("were added by rounding up", "billed minutes", _SESSIONS, is_of_meter=True),
    "clock_skew": Words("end before they begin", "sessions", _SESSIONS),
    "duplicates": Words("had been sent before", "events", "roommeter audit"),
    "dead_letters": Words("cannot be events", "inputs", "roommeter dead-letters list"),
    "reconciliation": Words("are known otherwise by their server", "sessions", _SESSIONS),
    "ends_without_starts": Words("ended and never began, as far as is known: not billed", "sessions", _SESSIONS),
}


class Usual(NamedTuple):
    """The usual part, and how much what one hour counts is correlated, both in millionths."""

    part: int
    correlation: int


def share(
    detector: Detector,
    project: str,
    subject: str,
    found: Share,
    usual: Usual | None,
    as_of_ms: int,
    rule: ShareRule,
) -> Finding | None:
    """Return what is found where the last hour's part is far more than is usual."""
    some, total = found.latest
    if some * 100 < rule.least * _KEEP_PERCENT or not total:
        return None
    is_new = _is_high(found.latest, usual, rule, 100)
    if not is_new and not _is_high(found.latest, usual, rule, _KEEP_PERCENT):
        return None
    words = WORDS[detector]
    expected = 0 if usual is None else usual.part
    excess = max(0, some - total * expected // _MILLION)
    name = " ".join(filter(None, (project, subject))) or "all projects"
    seldom = "" if usual is None else f"; {expected // 10_000}.{expected // 1_000 % 10} % are usual"
    return Finding(
        detector,
        project,
        subject if words.is_of_meter else "",
        "" if words.is_of_meter else subject,
        as_of_ms - MS_PER_HOUR,
        rule.severity,
        some * 100_000 // total,
        expected // 10,
        "percent",
        excess if words.is_of_meter else 0,
        f"{name}: {some} of {total} {words.of} of an hour {words.counted}{seldom}",
        words.look_at.format(project=project),
        (("detail", found.detail), ("some", some), ("total", total)),
        is_new,
    )


def usual_part(past: Sequence[Part]) -> Usual | None:
    """Return what is usual in hours that are over, the newest first; None where they are too few."""
    groups = [*_groups(past, _LEAST_TOTAL)]
    if len(groups) < _LEAST_GROUPS:
        return None
    # Of stretches so large that what is rare happens in them: most hours have none of it, and so would their median.
    stretches = _groups(past, sum(hour.total for hour in past) // _STRETCHES)
    part = median(stretch.some * _MILLION // stretch.total for stretch in stretches)
    # What has never happened yet may still happen: as if the next group had one.
    part = min(max(part, _MILLION // (sum(group.total for group in groups) + 1), 1), _MILLION - 1)
    return Usual(part, max(0, weighted_median((_correlation(group, part), isqrt(group.total)) for group in groups)))


def _correlation(found: Part, part: int) -> int:
    """Return the correlation at which an hour's deviation would be the median one, in millionths.

    The median over hours estimates it whatever their sizes: half of the squared deviations lie below 0.455 times
    1 + (total - 1) * correlation. Weights are roots of totals: large hours tell more, and one storm does not decide.
    """
    squared = (found.some * _MILLION - found.total * part) ** 2 * 1_000 // (found.total * part * (_MILLION - part))
    return (squared * _MEAN_OF_SQUARES // 1_000 - 1_000) * 1_000 // (found.total - 1)


def _groups(past: Sequence[Part], least: int) -> Iterator[Part]:
    """Yield hours, those with less than `least` put together with the ones before."""
    some = total = 0
    for hour in past:
        some, total = some + hour.some, total + hour.total
        if total >= least:
            yield Part(some, total)
            some = total = 0


def _surprise(found: Part, usual: Usual) -> int:
    """Return how far a count lies above the expected one, in standard deviations, in thousandths; 0 where it is below.

    The root of the deviance, as right far out as in the middle: 5 where 0.4 are expected are 7 binomial standard
    deviations, yet no rarer than 4 normal ones. S. S. Wilks, Annals of Mathematical Statistics 9 (1938).
    """
    some, total = found
    part = usual.part
    if some * _MILLION <= total * part:
        return 0
    deviance = 0
    for count, expected in ((some, total * part), (total - some, total * (_MILLION - part))):
        if count:
            deviance += count * (log2(count * _MILLION) - log2(expected))
    effect = _MILLION + max(0, total - 1) * usual.correlation
    return isqrt(max(0, (2 * deviance * LN_2 * 1_000 >> LOG_BITS) * _MILLION // effect))


def _is_high(found: Part, usual: Usual | None, rule: ShareRule, percent: int) -> bool:
    """Tell whether a part is far more than is usual; `percent` of what is needed is enough."""
    some, total = found
    if some * 100 < rule.least * percent:
        return False
    if usual is None:
        return some * 10_000 >= total * rule.cold_percent * percent
    ratio_percent = 100 + (rule.ratio_percent - 100) * percent // 100
    return (
        some * 10_000 >= total * rule.percent * percent
        and some * _MILLION * 100 >= total * usual.part * ratio_percent
        and _surprise(found, usual) * 10 >= rule.deviations_percent * percent
    )
