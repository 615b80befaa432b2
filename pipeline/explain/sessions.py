"""Why a session is billed as it is: its facts and events as steps that a person can follow by hand. Pure.

Start and end are the core's own; what is found here is which rule decided, and which event. Each step names its rule.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pipeline.explain.steps import HourShare, MeterShare, Source, Step, reported
from pipeline.metering.events import Event, EventType
from pipeline.metering.meters import Meter, Meters
from pipeline.metering.quantities import Transferred
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Room, Session
from pipeline.metering.timeline import Timeline, newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_HOUR, NEVER_MS, NOT_SEEN_MS, format_time
from pipeline.metering.usage import CellKey, billed, feeds, increments_by_hour, metered_until_ms

_ENDS: Final = (EventType.SESSION_DISCONNECTED, EventType.SESSION_ABORTED)
_REPORTS_BEGIN: Final = (EventType.SESSION_DISCONNECTED, EventType.SESSION_SAMPLED)


class Explanation(NamedTuple):
    """One session, explained. Times in ms, NEVER_MS where there is none; `events` are its own and its room's.

    `subject` says where it is something else: a usage event or a number, with its name in place of the session's.
    """

    project: str
    room: str
    session: str
    kind: str
    started_at_ms: int
    ended_at_ms: int
    flags: tuple[str, ...]
    steps: tuple[Step, ...]
    shares: tuple[MeterShare, ...]
    events: tuple[Source, ...]
    subject: str = "session"

    def increments(self, meter: str, hour_ms: int) -> int:
        """Return what an hour is billed on a meter."""
        hours = (hour for share in self.shares if share.meter == meter for hour in share.hours)
        return sum(hour.increments for hour in hours if hour.hour_ms == hour_ms)


class Known(NamedTuple):
    """All that the rules judge a session by: its key, its facts, its room's and its servers', and the kept events.

    `reports` are its largest bytes by hour in ms.
    """

    project: str
    room_name: str
    name: str
    session: Session
    room: Room
    restarts_ms: dict[str, int]
    sources: Sequence[Source]
    reports: Mapping[int, Transferred] = {}


def explain(known: Known, meters: Meters, as_of_ms: int, orphan_after_ms: int) -> Explanation:
    """Explain one session as of a moment."""
    restarted_at_ms = newest_restart_ms(known.session, known.restarts_ms)
    line = timeline(known.session, known.room, restarted_at_ms, as_of_ms, orphan_after_ms)
    events = tuple(source for source in known.sources if _concerns(source.event, known))
    steps = [*_start(known, line), *_amended(known)]
    shares: tuple[MeterShare, ...] = ()
    flags: tuple[str, ...] = ()
    if line is not None:
        steps += _end(known, line, as_of_ms, orphan_after_ms)
        if line.started_at_ms < as_of_ms:
            shares = tuple(_shares(known.session, line, meters, as_of_ms))
            steps += _metered(known.session, line, shares, as_of_ms)
            for meter in meters.values() if known.reports else ():
                if meter.measures == "counter":
                    share, arithmetic = reported(known.reports, meter, as_of_ms, "bytes")
                    shares, steps = (*shares, share), [*steps, *arithmetic]
        names = ("start_inferred", "end_presumed", "clock_skew", "amended")
        flags = tuple(name for name in names if getattr(line, name)) + (("is_open",) if line.is_open() else ())
    elif known.session.disconnected_at_ms != NEVER_MS and not _is_void(known.session):
        flags = ("end_without_start",)
    return Explanation(
        known.project,
        known.room_name,
        known.name,
        known.session.kind,
        NEVER_MS if line is None else line.started_at_ms,
        NEVER_MS if line is None else line.ended_at_ms,
        flags,
        tuple(steps),
        shares,
        events,
    )


def as_emitted(rollups: Iterable[Rollup], as_of_ms: int) -> list[Rollup]:
    """Return the newest revision of each cell that was computed for a moment not after `as_of_ms`, in key order.

    A revision's content never changes (R19): encoded again, these are the bytes that were emitted (R20).
    """
    newest: dict[CellKey, Rollup] = {}
    for rollup in rollups:
        if rollup.as_of_ms <= as_of_ms and rollup.revision > getattr(newest.get(rollup.key), "revision", 0):
            newest[rollup.key] = rollup
    return [newest[key] for key in sorted(newest)]


def _concerns(event: Event, known: Known) -> bool:
    if event.type is EventType.SERVER_RESTARTED:
        return event.source in known.session.sources
    own = (event.project, event.room) == (known.project, known.room_name)
    return own and event.type is not EventType.USAGE_RECORDED and event.session in ("", known.name)


def _is_void(session: Session) -> bool:
    return session.amendment is not None and session.amendment.is_void


def _by(known: Known, time_ms: int, is_it: Callable[[Event], bool], says_ms: Callable[[Event], int | None]) -> str:
    """Return the words for the event that a fact comes from; its earliest copy, where it came more than once."""
    for source in known.sources:
        event = source.event
        if _concerns(event, known) and is_it(event) and says_ms(event) == time_ms:
            return source.name
    return "its event is not kept in the log any more"


def _time_of(event: Event) -> int:
    return event.time_ms


def _own(known: Known, *types: EventType) -> Callable[[Event], bool]:
    return lambda event: event.session == known.name and event.type in types


def _start(known: Known, line: Timeline | None) -> list[Step]:
    """R3, R4: where the start comes from."""
    session = known.session
    if session.connected_at_ms != NEVER_MS:
        by = _by(known, session.connected_at_ms, _own(known, EventType.SESSION_CONNECTED), _time_of)
        return [Step("R3", f"started at {format_time(session.connected_at_ms)}: earliest session.connected, {by}")]
    if session.begun_at_ms != NEVER_MS:
        by = _by(known, session.begun_at_ms, _own(known, *_REPORTS_BEGIN), lambda event: event.connected_at_ms)
        text = f"no session.connected is known; started at {format_time(session.begun_at_ms)}: earliest begin reported"
        return [Step("R3", f"{text}, {by}; start_inferred")]
    if session.disconnected_at_ms != NEVER_MS and line is None:
        return [
            Step("R3", "an end is known that reports no begin, and no start: pending, not billed; end_without_start")
        ]
    return [Step("R4", "nothing shows that it connected: no usage")] if line is None else []


def _amended(known: Known) -> list[Step]:
    """R12: what an operator said in place of what was observed."""
    amendment = known.session.amendment
    if amendment is None:
        return []
    said = "it is void" if amendment.is_void else ""
    for name, at_ms in (("start", amendment.started_at_ms), ("end", amendment.ended_at_ms)):
        if at_ms != NEVER_MS:
            said += f"{' and ' if said else ''}its {name} is {format_time(at_ms)}"
    said = said or "everything is as observed"
    return [Step("R12", f"amended by {amendment.actor}: {amendment.reason}, epoch {amendment.epoch}: {said}")]


def _end(known: Known, line: Timeline, as_of_ms: int, orphan_after_ms: int) -> list[Step]:
    """R5, R6, R8, R9: where the end comes from."""
    session, steps = known.session, []
    if session.amendment is not None and session.amendment.ended_at_ms != NEVER_MS:
        pass  # said already
    elif line.is_open():
        steps.append(
            Step("R8", f"open: no end is known; it accrues until the moment asked for, {format_time(as_of_ms)}")
        )
    elif line.end_presumed:
        why = _why_presumed(known, line, as_of_ms, orphan_after_ms)
        text = (
            f"no end is known; presumed ended when it was last seen, {format_time(session.last_seen_ms)}, because {why}"
        )
        steps.append(Step("R9", text))
    else:
        steps += _observed_end(known, line)
    if line.clock_skew:
        steps.append(Step("R6", "the end is before the start: it counts as of no length; clock_skew"))
    return steps


def _observed_end(known: Known, line: Timeline) -> list[Step]:
    """R5: the earlier of the session's own end and its room's."""
    session = known.session
    room_end_ms = min((end for end in known.room.ends_ms if end >= line.started_at_ms), default=NEVER_MS)
    steps = []
    if session.disconnected_at_ms <= room_end_ms:
        by = _by(known, session.disconnected_at_ms, _own(known, *_ENDS), _time_of)
        steps.append(Step("R5", f"ended at {format_time(session.disconnected_at_ms)}: earliest end of its own, {by}"))
    else:
        by = _by(known, room_end_ms, lambda event: event.type is EventType.ROOM_ENDED, _time_of)
        steps.append(Step("R5", f"ended at {format_time(room_end_ms)}: its room ended, {by}"))
    if earlier := sorted(end for end in known.room.ends_ms if end < line.started_at_ms):
        times = ", ".join(map(format_time, earlier))
        steps.append(Step("R5", f"ends of the room before its start are of an earlier life of the room: {times}"))
    return steps


def _why_presumed(known: Known, line: Timeline, as_of_ms: int, orphan_after_ms: int) -> str:
    """R9: what made it an orphan; the first that holds of four."""
    session, last_ms = known.session, known.session.last_seen_ms
    restarted_at_ms = newest_restart_ms(session, known.restarts_ms)
    for at_ms, what in (
        (known.room.started_at_ms, "its room was started again"),
        (restarted_at_ms, "its media server restarted"),
        (session.absent_at_ms, "its media server, when asked, did not know it any more"),
    ):
        if at_ms != NOT_SEEN_MS and at_ms > line.started_at_ms and at_ms >= last_ms:
            return f"{what} at {format_time(at_ms)} and nothing was seen of it from then on"
    return f"nothing was seen of it for {(as_of_ms - last_ms) // 1000} s, more than {orphan_after_ms // 1000} s"


def _shares(session: Session, line: Timeline, meters: Meters, as_of_ms: int) -> Iterable[MeterShare]:
    """R1, R7: increments hour by hour, on every meter that the session feeds (R16)."""
    for meter in meters.values():
        if feeds(session, meter):
            yield _share(line, meter, metered_until_ms(line, as_of_ms))


def _share(line: Timeline, meter: Meter, until_ms: int) -> MeterShare:
    hours, done = [], 0
    for hour_ms, increments in increments_by_hour(line.started_at_ms, until_ms, meter.increment):
        hours.append(HourShare(hour_ms, done, done + increments))
        done += increments
    return MeterShare(meter.name, until_ms - line.started_at_ms, meter.increment, done, tuple(hours))


def _metered(session: Session, line: Timeline, shares: Iterable[MeterShare], as_of_ms: int) -> list[Step]:
    """Write the arithmetic out."""
    steps = []
    until_ms = metered_until_ms(line, as_of_ms)
    for share in shares:
        begun = billed(share.amount, share.increment)
        least = "" if begun == share.total else ", at least 1 (R7)"
        steps.append(Step("R16", f"kind {session.kind}{_with_number(session)} feeds {share.meter}"))
        steps.append(
            Step(
                "R1",
                f"{format_time(until_ms)} - {format_time(line.started_at_ms)} = {share.amount} ms; "
                f"ceil({share.amount} / {share.increment}) = {begun}{least}: {share.total} increments",
            )
        )
        for hour in share.hours:
            upto_ms = min(hour.hour_ms + MS_PER_HOUR, max(until_ms, line.started_at_ms))
            steps.append(
                Step(
                    "R1",
                    f"hour {format_time(hour.hour_ms)}: {hour.begun_after} begun by {format_time(upto_ms)} - "
                    f"{hour.begun_before} begun by {format_time(max(hour.hour_ms, line.started_at_ms))} = "
                    f"{hour.increments}",
                )
            )
    if not steps:
        steps.append(Step("R16", f"kind {session.kind or 'unknown'} feeds no meter"))
    return steps


def _with_number(session: Session) -> str:
    return " with a rented number" if session.number else ""
