"""The one law (R1) on what is reported rather than timed: counters, discrete usage and rental (R13 to R15).

How the rules are read where they leave a choice, always so that nobody is billed for what cannot be shown:

- An hour begins with its first millisecond, so what is reported in that belongs to it. Reports are kept by the hour:
  as of a moment within an hour, all that is known of that hour counts.
- A report counts in its own hour and for its increase alone. Sent again with another time, a usage event adds nothing
  to a later hour unless its quantity is larger, and then only the difference.
- Bytes are billed of a session that connected (R4) and is not void (R12). A report after its end counts: R5 stops
  time, and the last report is what tells the total. An amended start or end moves time, not bytes.
- Nothing of it is open (R8): what was reported only grows, a late event cannot shrink it. A number that is held has
  used the months that have begun; a release that comes too late is a correction like any other (R11).
"""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.metering.quantities import Held
from pipeline.metering.units import NEVER_MS, div_ceil, hour_of, month_of, next_month


def reported_by_hour(reports: Mapping[int, Sequence[int]], increment: int, as_of_ms: int) -> Iterator[tuple[int, int]]:
    """Yield (hour in ms, increments) of one subject, by its largest reports of each hour (R1, R13).

    A report is one or several counters, each of which has a maximum of its own; Q is their sum.
    """
    largest: Sequence[int] = ()
    done = 0
    for hour_ms in sorted(reports):
        if hour_ms >= as_of_ms:
            return
        largest = [max(pair) for pair in zip(largest or reports[hour_ms], reports[hour_ms], strict=True)]
        total = div_ceil(sum(largest), increment)
        if total > done:
            yield hour_ms, total - done
        done = total


def held_by_hour(held: Held, as_of_ms: int) -> Iterator[int]:
    """Yield, for every calendar month in which a number is held, the hour in ms in which it is first held (R15).

    It is held from each acquire until the earliest release that is not before that, and at the acquire itself in any
    case. Acquired again while it is held, nothing changes; a release at the very start of a month is not in it.
    """
    first_ms: dict[int, int] = {}
    for acquired_ms in held.acquired_ms:
        released_ms = min((at_ms for at_ms in held.released_ms if at_ms >= acquired_ms), default=NEVER_MS)
        from_ms = acquired_ms
        while from_ms < as_of_ms and (from_ms < released_ms or from_ms == acquired_ms):
            month_ms = month_of(from_ms)
            first_ms[month_ms] = min(first_ms.get(month_ms, from_ms), from_ms)
            from_ms = next_month(month_ms)
    yield from (hour_of(from_ms) for from_ms in sorted(first_ms.values()))
