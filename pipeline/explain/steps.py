"""The parts of an explanation: steps by rule, shares by meter and hour, and those of what is reported (R13). Pure."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pipeline.metering.counted import reported_by_hour
from pipeline.metering.events import Event
from pipeline.metering.meters import Meter
from pipeline.metering.units import format_time

Base = Literal["ms", "bytes", "quantity", "numbers"]
"""What an amount is counted in."""


class Source(NamedTuple):
    """An event and where it lies in the log; the broker's time in ms."""

    topic: str
    partition: int
    offset: int
    broker_time_ms: int
    event: Event

    @property
    def name(self) -> str:
        """What a person needs to find it."""
        return f"event {self.event.id} (topic {self.topic} partition {self.partition} offset {self.offset})"


class Step(NamedTuple):
    """One rule that was applied, and what followed."""

    rule: str
    text: str


class HourShare(NamedTuple):
    """Increments of a subject that begin in an hour (R1): begun by its end, less those begun by its start."""

    hour_ms: int
    begun_before: int
    begun_after: int

    @property
    def increments(self) -> int:
        """What the hour is billed."""
        return self.begun_after - self.begun_before


class MeterShare(NamedTuple):
    """What a subject is billed on a meter: its amount and the increment in base units, the total, and hour by hour."""

    meter: str
    amount: int
    increment: int
    total: int
    hours: tuple[HourShare, ...]
    base: Base = "ms"


def reported(
    reports: Mapping[int, Sequence[int]], meter: Meter, as_of_ms: int, base: Base
) -> tuple[MeterShare, list[Step]]:
    """Return the share of a subject with reports by hour (R13, R14), and the arithmetic."""
    told = [pair for hour_ms, pair in reports.items() if hour_ms < as_of_ms]
    largest = [max(values) for values in zip(*told, strict=True)]
    hours, steps, done = [], [], 0
    for hour_ms, increments in reported_by_hour(reports, meter.increment, as_of_ms):
        hours.append(HourShare(hour_ms, done, done + increments))
        done += increments
    share = MeterShare(meter.name, sum(largest), meter.increment, done, tuple(hours), base)
    parts = " + ".join(map(str, largest)) or "0"
    total = f" = {share.amount}" if len(largest) > 1 else ""
    rule = "R13" if base == "bytes" else "R14"
    steps.append(Step(rule, f"largest reported: {parts}{total} {base}, on {meter.name}"))
    steps.append(Step("R1", f"ceil({share.amount} / {meter.increment}) = {done} increments"))
    for hour in hours:
        text = (
            f"{hour.begun_after} begun by reports of it and before - {hour.begun_before} before it = {hour.increments}"
        )
        steps.append(Step("R1", f"hour {format_time(hour.hour_ms)}: {text}"))
    return share, steps
