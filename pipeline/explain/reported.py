"""Why a usage event or a number is billed as it is (R14, R15), as steps that a person can follow by hand. Pure."""

from collections.abc import Iterable, Mapping

from pipeline.explain.sessions import Explanation
from pipeline.explain.steps import HourShare, MeterShare, Source, Step, reported
from pipeline.metering.counted import held_by_hour
from pipeline.metering.meters import Meter
from pipeline.metering.quantities import Held, Recorded
from pipeline.metering.units import NEVER_MS, div_ceil, format_time


def explain_usage(
    subject: tuple[str, str, str],
    reports: Mapping[int, Recorded],
    meter: Meter,
    as_of_ms: int,
    sources: Iterable[Source],
) -> Explanation:
    """Explain a usage event, named by project, source and id, with its reports on its meter by hour."""
    project, source, name = subject
    events = tuple(sources)
    said = Recorded._make(max(values) for values in zip(*reports.values(), strict=True))
    labels = {key: value for key, value in said._asdict().items() if value and key not in ("quantity", "session")}
    steps = [Step("R14", f"usage event {name} of {source}, told {len(events)} times in the log: it counts once")]
    if labels:
        shown = ", ".join(f"{key} {value}" for key, value in labels.items())
        steps.append(Step("R14", f"ascribed to {shown}"))
    amounts = {hour_ms: (recorded.quantity,) for hour_ms, recorded in reports.items()}
    share, arithmetic = reported(amounts, meter, as_of_ms, "quantity")
    return _explanation(project, said.room, name, "usage event", [*steps, *arithmetic], share, events)


def explain_number(
    project: str, number: str, held: Held, meter: Meter, as_of_ms: int, sources: Iterable[Source]
) -> Explanation:
    """Explain the rental of a number, month by month."""
    steps = [Step("R15", f"acquired at {format_time(at_ms)}") for at_ms in sorted(held.acquired_ms)]
    steps += [Step("R15", f"released at {format_time(at_ms)}") for at_ms in sorted(held.released_ms)]
    increments = div_ceil(meter.unit_size, meter.increment)
    hours = tuple(HourShare(hour_ms, 0, increments) for hour_ms in held_by_hour(held, as_of_ms))
    for hour in hours:
        month = format_time(hour.hour_ms)[:7]
        steps.append(Step("R15", f"month {month}: first held in the hour {format_time(hour.hour_ms)}, one unit"))
    share = MeterShare(meter.name, len(hours), meter.increment, len(hours) * increments, hours, "numbers")
    return _explanation(project, "", number, "number", steps, share, tuple(sources))


def _explanation(
    project: str,
    room: str,
    name: str,
    subject: str,
    steps: Iterable[Step],
    share: MeterShare,
    events: tuple[Source, ...],
) -> Explanation:
    return Explanation(project, room, name, "", NEVER_MS, NEVER_MS, (), tuple(steps), (share,), events, subject)
