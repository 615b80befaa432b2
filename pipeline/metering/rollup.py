"""Hourly rollups: revisions and deltas of an hour's usage (R17 to R19)."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Literal, NamedTuple
from uuid import UUID, uuid5

from pipeline.metering.meters import Meters
from pipeline.metering.units import NOT_SEEN_MS, hour_of
from pipeline.metering.usage import CellKey, Usage

Status = Literal["open", "settled"]

#: The name space of rollup ids: fixed for ever, or the same rollup would get a second id (R19).
_NAMESPACE = UUID("6f1c9a52-7f4b-4f43-9d0f-0d6c0b6b7a11")
_NOTHING = Usage(0, 0, 0)


class Rollup(NamedTuple):
    """One emitted revision of one cell (R17). Quantities in increments; times in ms; `hour_ms` is the hour's start.

    `status` is "open" while some of the quantity comes from sessions whose end is not known (R8).
    """

    project: str
    meter: str
    hour_ms: int
    revision: int
    increments: int
    increments_open: int
    delta: int
    sessions: int
    as_of_ms: int
    watermark_ms: int

    @property
    def id(self) -> str:
        """The id, from project, meter, hour and revision alone (R17)."""
        return rollup_id(self.project, self.meter, self.hour_ms, self.revision)

    @property
    def status(self) -> Status:
        """Whether the hour still contains open sessions."""
        return "open" if self.increments_open else "settled"

    @property
    def key(self) -> CellKey:
        """The cell this is a revision of."""
        return (self.project, self.meter, self.hour_ms)


def rollup_id(project: str, meter: str, hour_ms: int, revision: int) -> str:
    """Return the id of a revision: the same one for the same four parts, for ever (R17)."""
    return str(uuid5(_NAMESPACE, "\0".join((project, meter, str(hour_ms), str(revision)))))


def complete_until_ms(watermark_ms: int, grace_period_ms: int) -> int:
    """Return the end of the last hour past which, plus the grace period, every partition is processed (R18), in ms."""
    return hour_of(max(0, watermark_ms - grace_period_ms))


def watermark_ms(
    end_offsets: Mapping[int, int],
    progress: Mapping[int, tuple[int, int]],
    now_ms: int,
) -> int:
    """Return the broker time up to which every partition has been processed, in ms (R18).

    `progress` holds, by partition, the next offset to process and the broker time of the last
    processed record. `now_ms` must be taken before `end_offsets` are asked for: then a partition
    whose end is reached has nothing older than `now_ms` left to read.
    """
    watermark = now_ms
    for partition, end in end_offsets.items():
        next_offset, broker_time_ms = progress.get(partition, (0, NOT_SEEN_MS))
        if next_offset < end:
            watermark = min(watermark, broker_time_ms)
    return watermark


def revise(
    emitted: Mapping[CellKey, Rollup],
    current: Mapping[CellKey, Usage],
    as_of_ms: int,
    watermark_ms: int,
) -> Iterator[Rollup]:
    """Yield the next revision of every cell whose usage differs from what was last emitted, in key order.

    A cell that vanished (its session moved to another hour) is revised to nothing. The deltas of a
    cell add up to its newest quantity (R17).
    """
    for key in sorted(current.keys() | emitted.keys()):
        usage = current.get(key, _NOTHING)
        previous = emitted.get(key)
        seen = _NOTHING if previous is None else Usage(previous.increments, previous.increments_open, previous.sessions)
        if usage != seen:
            yield Rollup(
                *key,
                revision=1 if previous is None else previous.revision + 1,
                increments=usage.increments,
                increments_open=usage.increments_open,
                delta=usage.increments - seen.increments,
                sessions=usage.sessions,
                as_of_ms=as_of_ms,
                watermark_ms=watermark_ms,
            )


def follows(rollup: Rollup, previous: Rollup | None) -> bool:
    """Tell whether a rollup is the next revision of its cell: what comes second in the log does not (R19)."""
    return rollup.revision == (1 if previous is None else previous.revision + 1)


def quantities(rollup: Rollup, meters: Meters) -> tuple[Decimal, Decimal, Decimal]:
    """Return quantity, open quantity and delta as exact decimals of the meter's unit (R17)."""
    meter = meters[rollup.meter]
    return meter.quantity(rollup.increments), meter.quantity(rollup.increments_open), meter.quantity(rollup.delta)
