"""The conservation laws: functions from what was read of a store to what differs. Pure.

What flows through the pipeline is conserved: every input is accounted for, every fact comes from an event, every
rollup follows from facts. Each law here says what it compares; a difference names where to look, and the hours
whose emission has to wait for it. What the next emission would mend by itself holds no hour: held, it never would.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from pipeline.metering.events import Reason
from pipeline.metering.meters import Meters
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, format_time, hour_of
from pipeline.metering.usage import CellKey

ProjectHour = tuple[str, int]
"""Project and start of the hour in ms: what emission can be stopped for."""


class Law(StrEnum):
    """The laws, under the names that metrics use; `NUMBERS` has those of the catalogue."""

    STAGE_BALANCE = "stage_balance"
    OFFSET_CONTINUITY = "offset_continuity"
    SESSION_HOURS = "session_hours"
    ROLLUPS = "rollups"
    FACTS = "facts"
    DELTAS = "deltas"
    ORPHANS = "orphans"
    WATERMARK_AGE = "watermark_age"
    UNIQUENESS = "uniqueness"
    CANARY = "canary"


NUMBERS: Final = dict(
    zip(Law, ("C1", "C2", "C3", "C4", "C4b", "C5", "C6", "C9", "C10", "C11"), strict=True),
)
#: What the event log may say of an input.
_DISPOSITIONS: Final = frozenset({"accepted", "ignored", *(reason.value for reason in Reason)})
#: The log keeps 60 days, dropped a whole day at a time: from this age on, days may be gone.
LOG_KEPT_MS: Final = 59 * MS_PER_DAY
#: How long a worker may be between writing events and writing that it did.
_SETTLED_AFTER_MS: Final = 10 * MS_PER_MINUTE
#: How far behind the clock a partition with something left to read, or a due hour, may be.
MOST_AGE_MS: Final = MS_PER_HOUR


class Difference(NamedTuple):
    """Where a law does not hold: names as far as they are known, what is wrong, and the hours to hold for it."""

    law: Law
    detail: str
    project: str = ""
    hour_ms: int | None = None
    meter: str = ""
    room: str = ""
    session: str = ""
    fact: str = ""
    holds: frozenset[ProjectHour] = frozenset()


@dataclass(slots=True)
class Checked:
    """One law: how many things were compared, what differs, and what a reader should know of the check."""

    law: Law
    checked: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Stage(NamedTuple):
    """One partition of a topic: what the log keeps of it, by disposition, and how far progress vouches for it.

    Offsets are inclusive; `kept` is empty where nothing is kept. Times in ms: broker's of the first and last
    record kept, and when the last row was written. `next_offset` is 0 without progress.
    """

    topic: str
    partition: int
    next_offset: int
    progress_ms: int
    first_offset: int = 0
    last_offset: int = -1
    first_ms: int = 0
    written_ms: int = 0
    kept: Mapping[str, int] = {}

    @property
    def name(self) -> str:
        """Topic and partition, for people."""
        return f"topic {self.topic} partition {self.partition}"


class Hole(NamedTuple):
    """Offsets that the log does not have: from `after` to `before`, both exclusive; broker's times of those two, ms."""

    topic: str
    partition: int
    after: int
    before: int
    after_ms: int
    before_ms: int


class HourTotals(NamedTuple):
    """Increments of a project and meter, summed over hours and over sessions; the hours out of bounds, in ms."""

    project: str
    meter: str
    by_hours: int
    by_sessions: int
    sessions: int
    crowded_hours_ms: Sequence[int] = ()


class Lives(NamedTuple):
    """Sessions of one project: started, and of those ended, presumed ended, open, and open in spite of silence."""

    project: str
    started: int
    ended: int
    presumed: int
    open: int
    silent: int


def stage_balance(stages: Iterable[Stage], now_ms: int, from_ms: int = 0) -> Checked:
    """C1: what progress vouches for is kept, and everything kept is accepted, ignored or dead for a known reason.

    `from_ms` is the broker's time from which on the log was read.
    """
    result = Checked(Law.STAGE_BALANCE)
    for stage in stages:
        total = sum(stage.kept.values())
        result.checked += total
        unknown = {name: count for name, count in stage.kept.items() if name not in _DISPOSITIONS}
        if unknown:
            result.differences.append(_of_stage(stage, f"dispositions that nobody defined: {unknown}"))
        if not total and stage.progress_ms < max(from_ms, now_ms - LOG_KEPT_MS):
            continue  # all of it is older, or was dropped in its time
        ahead = stage.next_offset - (stage.last_offset + 1)
        if ahead > 0:
            text = f"offsets up to {stage.next_offset - 1} were processed, the last one kept is {stage.last_offset}"
            result.differences.append(_of_stage(stage, text))
        elif ahead < 0 and now_ms - stage.written_ms > _SETTLED_AFTER_MS:
            text = f"offsets up to {stage.last_offset} are kept, progress still says {stage.next_offset}"
            result.differences.append(_of_stage(stage, text))
    return result


def offset_continuity(stages: Iterable[Stage], holes: Iterable[Hole], now_ms: int, *, is_whole: bool) -> Checked:
    """C2: no offset is missing between the first and the last kept.

    A gap is an alarm, whatever explains it. Only days that the log itself has dropped in their time are none: they
    are a note. `is_whole` tells that the log was read from its beginning.
    """
    result = Checked(Law.OFFSET_CONTINUITY)
    stages = [stage for stage in stages if stage.kept]
    result.checked = sum(stage.last_offset - stage.first_offset + 1 for stage in stages)
    for hole in holes:
        count = hole.before - hole.after - 1
        late = hole.before_ms - hole.after_ms
        cause = "" if late < LOG_KEPT_MS else ": the topic's retention may have deleted them before they were read"
        detail = (
            f"topic {hole.topic} partition {hole.partition}: {count} offsets after {hole.after} are missing, "
            f"from {format_time(hole.after_ms)} to {format_time(hole.before_ms)}{cause}"
        )
        result.differences.append(Difference(Law.OFFSET_CONTINUITY, detail, hour_ms=hour_of(hole.after_ms)))
    oldest_ms = min((stage.first_ms for stage in stages), default=now_ms)
    for stage in stages if is_whole else ():
        if stage.first_offset:
            text = f"the log begins at offset {stage.first_offset}, of {format_time(stage.first_ms)}"
            if now_ms - oldest_ms >= LOG_KEPT_MS:
                result.notes.append(f"{stage.name}: {text}: older days were dropped in their time")
            else:
                text += ": what was before was never read, or is lost; it is too young to have been dropped in its time"
                result.differences.append(_of_stage(stage, text)._replace(law=Law.OFFSET_CONTINUITY))
    return result


def _of_stage(stage: Stage, text: str) -> Difference:
    hour_ms = hour_of(stage.progress_ms)
    return Difference(Law.STAGE_BALANCE, f"{stage.name}: {text}", hour_ms=hour_ms)


def session_hours(totals: Iterable[HourTotals], meters: Meters) -> Checked:
    """C3: hours add up to the rounded totals of subjects (R1); a session has 1 to 60 minutes of an hour in it."""
    result = Checked(Law.SESSION_HOURS)
    for row in totals:
        result.checked += row.sessions
        if row.by_hours != row.by_sessions:
            detail = f"hours add up to {row.by_hours} increments, the sessions to {row.by_sessions}"
            result.differences.append(Difference(Law.SESSION_HOURS, detail, row.project, meter=row.meter))
        for hour_ms in row.crowded_hours_ms:
            meter = meters[row.meter]
            most = f" or more than {-(-MS_PER_HOUR // meter.increment)}" if meter.measures == "session" else ""
            detail = f"the hour has less than 1{most} increments for each session in it"
            holds = frozenset({(row.project, hour_ms)})
            result.differences.append(
                Difference(Law.SESSION_HOURS, detail, row.project, hour_ms, row.meter, holds=holds)
            )
    return result


def orphans(lives: Iterable[Lives]) -> Checked:
    """C6: every session started is ended, presumed ended or open, and none is open in spite of long silence (R9)."""
    result = Checked(Law.ORPHANS)
    for row in lives:
        result.checked += row.started
        if row.started != row.ended + row.presumed + row.open:
            detail = f"{row.started} started; {row.ended} ended, {row.presumed} presumed ended and {row.open} open"
            result.differences.append(Difference(Law.ORPHANS, detail, row.project))
        if row.silent:
            detail = f"{row.silent} sessions are open though nothing was seen of them for too long"
            result.differences.append(Difference(Law.ORPHANS, detail, row.project))
    return result


def watermark_age(stages: Iterable[Stage], ends: Mapping[int, int], overdue: Iterable[CellKey], now_ms: int) -> Checked:
    """C9: no partition of the lifecycle topic has waited for long, and no due hour with usage was left out (R18).

    `ends` are the topic's end offsets by partition, where the brokers could be asked; `overdue` are cells that had
    to be emitted an hour ago and were not.
    """
    result = Checked(Law.WATERMARK_AGE)
    for stage in stages:
        result.checked += 1
        age_ms = now_ms - stage.progress_ms
        left = ends.get(stage.partition, 0) - stage.next_offset
        result.notes.append(f"{stage.name}: watermark {format_time(stage.progress_ms)}, {age_ms // 1000} s old")
        if left > 0 and age_ms > MOST_AGE_MS:
            detail = f"{stage.name}: {left} records wait, the oldest since {format_time(stage.progress_ms)}"
            hour_ms = hour_of(stage.progress_ms)
            result.differences.append(Difference(Law.WATERMARK_AGE, detail, hour_ms=hour_ms))
    result.differences += [of_cell(Law.WATERMARK_AGE, key, "is due and was not emitted") for key in overdue]
    return result


def of_cell(
    law: Law, key: CellKey, detail: str, fact: str = "", holds: frozenset[ProjectHour] = frozenset()
) -> Difference:
    """Return a difference of one cell."""
    project, meter, hour_ms = key
    return Difference(law, detail, project, hour_ms, meter, fact=fact, holds=holds)
