"""Usage as it grows: hours from a moment on kept up to date, event by event and minute by minute.

The same numbers as `metering.usage.usage`, and how many sessions are open; but a step costs what has changed, not
what is known. A room's share is taken out and put in anew when an event touches the room, or when time alone
changes it: its next increment begins, or it becomes an orphan. Of the hours before, only sums are kept.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from heapq import heappop, heappush

from pipeline.metering.counted import reported_by_hour
from pipeline.metering.events import Event, EventType
from pipeline.metering.meters import Meter
from pipeline.metering.quantities import Transferred
from pipeline.metering.session import Facts, Room, RoomKey, Session
from pipeline.metering.tally_hours import TallyHours
from pipeline.metering.tally_reported import TallyReported
from pipeline.metering.timeline import newest_restart_ms, start_ms, timeline
from pipeline.metering.units import NEVER_MS
from pipeline.metering.usage import CellKey, billed, feeds, increments_by_hour

#: What a room that was not seen before begins with; anything else may belong to one that is no longer in memory.
_BEGINNINGS = frozenset({EventType.ROOM_STARTED, EventType.SESSION_CONNECTED})
#: What is no event of a room.
_REPORTED = frozenset({EventType.USAGE_RECORDED, EventType.NUMBER_ACQUIRED, EventType.NUMBER_RELEASED})
#: In place of every hour before `from_ms`: of the bytes reported in those, only the largest matter.
_BEFORE_MS = 0


@dataclass(slots=True)
class _Share:
    """What a room adds: increments by meter and hour in ms, and open sessions by kind; `due_ms`: looked at next."""

    increments: dict[tuple[str, int], int] = field(default_factory=dict)
    opened: dict[str, int] = field(default_factory=dict)
    due_ms: int = NEVER_MS
    queued_ms: int = NEVER_MS


class Tally:
    """Increments of the hours from `from_ms` on, and open sessions, of the projects and meters asked for."""

    def __init__(
        self,
        meters: Collection[Meter],
        projects: Container[str] | None,
        orphan_after_ms: int,
        kinds: AbstractSet[str] = frozenset(),
    ) -> None:
        """Begin with nothing known; `projects` None means every one, `kinds` are those counted beside the meters'."""
        self._meters = [meter for meter in meters if meter.measures == "session"]
        self._counters = {meter.name: meter.increment for meter in meters if meter.measures == "counter"}
        self._kinds = kinds | {meter.kind for meter in self._meters}
        self._projects = projects
        self._orphan_after_ms = orphan_after_ms
        self._hours = TallyHours()
        self._reported = TallyReported(meters, projects, self._hours)
        self.facts = Facts()
        #: Rooms of which memory may not know all that was ever said: whoever has their facts joins them.
        self.doubtful: set[RoomKey] = set()
        self._bytes: dict[RoomKey, dict[str, dict[int, Transferred]]] = {}
        self._shares: dict[RoomKey, _Share] = {}
        self._touched: set[RoomKey] = set()
        self._queue: list[tuple[int, RoomKey]] = []
        self._open: dict[str, dict[str, int]] = {}
        self._fading: list[RoomKey] = []

    @property
    def changed(self) -> set[str]:
        """Projects of which a number has changed; whoever looks at them empties it."""
        return self._hours.changed

    @property
    def from_ms(self) -> int:
        """Where the hours begin that are exact."""
        return self._hours.from_ms

    def observe(self, event: Event) -> None:
        """Join one event; the numbers follow when time is told."""
        if event.type is EventType.SERVER_RESTARTED:
            self.facts.observe(event)
            self._touched |= {key for key, _, session in self.facts.sessions() if event.source in session.sources}
            return
        if not self._is_wanted(event.project):
            return
        if event.type in _REPORTED:
            self._reported.observe(event)
            return
        if not (self._kinds or self._counters):
            return
        key = (event.project, event.room)
        room = self.facts.rooms.get(key)
        is_new = room is None or (event.session != "" and event.session not in room.sessions)
        if self.facts.observe(event):
            self._touched.add(key)
            if is_new and (event.time_ms < self.from_ms or (room is None and event.type not in _BEGINNINGS)):
                self.doubtful.add(key)
        if event.bytes_in is not None or event.bytes_out is not None:
            for (*_, name, hour_ms), transferred in self.facts.take_quantities().counters.items():
                self._count(key, name, hour_ms, transferred)

    def join(self, facts: Facts) -> None:
        """Join what is known elsewhere; joined twice it changes nothing (R10)."""
        wanted = {key: room for key, room in facts.rooms.items() if self._is_wanted(key[0])}
        self.facts.join(Facts(wanted, facts.restarts_ms))
        self._reported.join(facts.quantities)
        for (project, room, name, hour_ms), transferred in facts.quantities.counters.items():
            if (project, room) in wanted:
                self._count((project, room), name, hour_ms, transferred)
        self._touched |= wanted.keys()
        self.doubtful -= wanted.keys()

    def trust(self, keys: Iterable[RoomKey]) -> None:
        """Take what memory knows of rooms as all there is: whoever was asked had nothing to join, or it is joined."""
        self.doubtful.difference_update(keys)
        self._touched.update(key for key in keys if key in self.facts.rooms)

    def settle(self, as_of_ms: int, most: int) -> bool:
        """Bring the numbers of at most so many rooms up to a moment; tell whether that was all of them."""
        self._reported.settle(as_of_ms)
        while most and self._queue and self._queue[0][0] <= as_of_ms:
            queued_ms, key = heappop(self._queue)
            share = self._shares.get(key)
            if share is not None and share.queued_ms == queued_ms:
                share.queued_ms = NEVER_MS
                self._renew(key, as_of_ms)
                most -= 1
        while most and self._touched:
            self._renew(self._touched.pop(), as_of_ms)
            most -= 1
        while most and self._fading:
            self.forget([self._fading.pop()])
            most -= 1
        return most > 0

    def rebase(self, from_ms: int, before: Mapping[CellKey, int]) -> None:
        """Take the increments of the hours before `from_ms` from elsewhere, and forget, by and by, what is past.

        `from_ms` never goes back.
        """
        moves = from_ms > self.from_ms
        self._hours.rebase(from_ms, before)
        self.changed.update(self._open)
        if moves:
            self._fading = list(self._shares)
            self._reported.forget()

    def forget(self, keys: Iterable[RoomKey]) -> None:
        """Forget those of some rooms that can have no usage from `from_ms` on, as far as is known."""
        for key in keys:
            if key in self._shares and self._is_past(key, self._shares[key]):
                del self._shares[key], self.facts.rooms[key]
                self._bytes.pop(key, None)

    def projects(self) -> set[str]:
        """Return the projects of which anything is known."""
        return self._hours.projects() | self._open.keys()

    def increments(self, project: str, meter: str, period_ms: int, period_end_ms: int) -> int:
        """Return the increments of the hours that start in [period_ms, period_end_ms)."""
        return self._hours.increments(project, meter, period_ms, period_end_ms)

    def open_sessions(self, project: str, kind: str) -> int:
        """Return how many sessions of a kind are open."""
        return self._open.get(project, {}).get(kind, 0)

    def _is_wanted(self, project: str) -> bool:
        return self._projects is None or project in self._projects

    def _is_past(self, key: RoomKey, share: _Share) -> bool:
        room = self.facts.rooms[key]
        seen_ms = max(
            room.started_at_ms,
            max(room.ends_ms, default=0),
            max((session.last_seen_ms for session in room.sessions.values()), default=0),
            max((hour_ms for _, hour_ms in share.increments), default=0),
        )
        return share.due_ms == NEVER_MS and seen_ms < self.from_ms and key not in self._touched

    def _renew(self, key: RoomKey, as_of_ms: int) -> None:
        """Take a room's share out of the numbers and put it in as it is now."""
        room = self.facts.rooms[key]
        old = self._shares.get(key) or _Share()
        new = _Share(queued_ms=old.queued_ms)
        for session in room.sessions.values():
            if session.kind in self._kinds:
                self._add_session(new, session, room, as_of_ms)
        if key in self.doubtful:  # what it has sent before may be unknown here, and would all seem to be new
            new.increments |= {cell: count for cell, count in old.increments.items() if cell[0] in self._counters}
        elif key in self._bytes:
            self._add_bytes(new, self._bytes[key], room, as_of_ms)
        if new.increments != old.increments or new.opened != old.opened:
            self._apply(key[0], old, -1)
            self._apply(key[0], new, 1)
            self.changed.add(key[0])
        self._shares[key] = new
        if new.due_ms < new.queued_ms:
            new.queued_ms = new.due_ms
            heappush(self._queue, (new.due_ms, key))

    def _count(self, key: RoomKey, name: str, hour_ms: int, transferred: Transferred) -> None:
        """Join the bytes that a session has reported in an hour, if any meter counts them."""
        if not self._counters:
            return
        reports = self._bytes.setdefault(key, {}).setdefault(name, {})
        hour_ms = hour_ms if hour_ms >= self.from_ms else _BEFORE_MS
        known = reports.get(hour_ms, transferred)
        reports[hour_ms] = Transferred(*map(max, known, transferred))

    def _apply(self, project: str, share: _Share, sign: int) -> None:
        for (meter, hour_ms), increments in share.increments.items():
            self._hours.add(project, meter, hour_ms, sign * increments)
        opened = self._open.setdefault(project, defaultdict(int))
        for kind, count in share.opened.items():
            opened[kind] += sign * count

    def _add_session(self, share: _Share, session: Session, room: Room, as_of_ms: int) -> None:
        restarted_at_ms = newest_restart_ms(session, self.facts.restarts_ms)
        line = timeline(session, room, restarted_at_ms, as_of_ms, self._orphan_after_ms)
        if line is None:
            return
        started_at_ms, ended_at_ms = line.started_at_ms, line.ended_at_ms
        if started_at_ms >= as_of_ms:
            share.due_ms = min(share.due_ms, started_at_ms + 1)
            return
        if as_of_ms < ended_at_ms:
            share.opened[session.kind] = share.opened.get(session.kind, 0) + 1
            orphan_at_ms = session.last_seen_ms + self._orphan_after_ms if line.is_open() else NEVER_MS
            share.due_ms = min(share.due_ms, ended_at_ms, orphan_at_ms)
        until_ms = min(ended_at_ms, as_of_ms)
        for meter in self._meters:
            if feeds(session, meter):
                for hour_ms, increments in increments_by_hour(started_at_ms, until_ms, meter.increment):
                    if hour_ms >= self.from_ms:
                        cell = (meter.name, hour_ms)
                        share.increments[cell] = share.increments.get(cell, 0) + increments
                if as_of_ms < ended_at_ms:
                    total = max(1, billed(until_ms - started_at_ms, meter.increment))
                    share.due_ms = min(share.due_ms, started_at_ms + total * meter.increment + 1)

    def _add_bytes(self, share: _Share, reported: dict[str, dict[int, Transferred]], room: Room, as_of_ms: int) -> None:
        """R13: of every session that connected, whatever its kind; what its room does not know has not connected."""
        for name, reports in reported.items():
            started_at_ms = start_ms(room.sessions.get(name, Session()))
            if started_at_ms >= as_of_ms:
                share.due_ms = min(share.due_ms, started_at_ms + 1)
                continue
            for meter, increment in self._counters.items():
                for hour_ms, increments in reported_by_hour(reports, increment, NEVER_MS):
                    cell = (meter, hour_ms)
                    share.increments[cell] = share.increments.get(cell, 0) + increments
