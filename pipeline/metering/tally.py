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

from pipeline.metering.events import Event, EventType
from pipeline.metering.meters import Meter
from pipeline.metering.session import Facts, Room, RoomKey, Session
from pipeline.metering.timeline import newest_restart_ms, timeline
from pipeline.metering.units import NEVER_MS
from pipeline.metering.usage import CellKey, billed, feeds, increments_by_hour

#: What a room that was not seen before begins with; anything else may belong to one that is no longer in memory.
_BEGINNINGS = frozenset({EventType.ROOM_STARTED, EventType.SESSION_CONNECTED})


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
        self._meters = meters
        self._kinds = kinds | {meter.kind for meter in meters}
        self._projects = projects
        self._orphan_after_ms = orphan_after_ms
        self.from_ms = 0
        self.facts = Facts()
        #: Projects of which a number has changed; whoever looks at them empties it.
        self.changed: set[str] = set()
        #: Rooms of which memory may not know all that was ever said: whoever has their facts joins them.
        self.doubtful: set[RoomKey] = set()
        self._shares: dict[RoomKey, _Share] = {}
        self._touched: set[RoomKey] = set()
        self._queue: list[tuple[int, RoomKey]] = []
        self._recent: dict[str, dict[tuple[str, int], int]] = {}
        self._open: dict[str, dict[str, int]] = {}
        self._before: dict[tuple[str, str], dict[int, int]] = {}
        self._sums: dict[tuple[str, str, int], int] = {}

    def observe(self, event: Event) -> None:
        """Join one event; the numbers follow when time is told."""
        if event.type is EventType.SERVER_RESTARTED:
            self.facts.observe(event)
            self._touched |= {key for key, _, session in self.facts.sessions() if event.source in session.sources}
            return
        if self._projects is not None and event.project not in self._projects:
            return
        key = (event.project, event.room)
        is_new = key not in self.facts.rooms
        if self.facts.observe(event):
            self._touched.add(key)
            if is_new and (event.time_ms < self.from_ms or event.type not in _BEGINNINGS):
                self.doubtful.add(key)

    def join(self, facts: Facts) -> None:
        """Join what is known elsewhere; joined twice it changes nothing (R10)."""
        wanted = {key: room for key, room in facts.rooms.items() if self._projects is None or key[0] in self._projects}
        self.facts.join(Facts(wanted, facts.restarts_ms))
        self._touched |= wanted.keys()
        self.doubtful -= wanted.keys()

    def settle(self, as_of_ms: int, most: int) -> bool:
        """Bring the numbers of at most so many rooms up to a moment; tell whether that was all of them."""
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
        return most > 0

    def rebase(self, from_ms: int, before: Mapping[CellKey, int]) -> None:
        """Take the increments of the hours before `from_ms` from elsewhere, and forget rooms that are past with them.

        `from_ms` never goes back.
        """
        assert from_ms >= self.from_ms, "what was forgotten is not known any more"
        moves, self.from_ms = from_ms > self.from_ms, from_ms
        self._before = {}
        for (project, meter, hour_ms), increments in before.items():
            if hour_ms < from_ms:
                self._before.setdefault((project, meter), {})[hour_ms] = increments
        self._sums.clear()
        self.changed |= self.projects()
        if moves:
            for cells in self._recent.values():
                for cell in [cell for cell in cells if cell[1] < from_ms]:
                    del cells[cell]
            self.forget(self._shares)

    def forget(self, keys: Iterable[RoomKey]) -> None:
        """Forget those of some rooms that can have no usage from `from_ms` on, as far as is known."""
        for key in [key for key in keys if key in self._shares and self._is_past(key, self._shares[key])]:
            del self._shares[key], self.facts.rooms[key]

    def projects(self) -> set[str]:
        """Return the projects of which anything is known."""
        return {project for project, _ in self._before} | self._recent.keys() | self._open.keys()

    def increments(self, project: str, meter: str, period_ms: int, period_end_ms: int) -> int:
        """Return the increments of the hours that start in [period_ms, period_end_ms)."""
        key = (project, meter, period_ms)
        before = self._sums.get(key)
        if before is None:
            hours = self._before.get((project, meter), {})
            before = self._sums[key] = sum(n for hour_ms, n in hours.items() if period_ms <= hour_ms < period_end_ms)
        recent = self._recent.get(project, {})
        return before + sum(
            n for (name, hour_ms), n in recent.items() if name == meter and period_ms <= hour_ms < period_end_ms
        )

    def open_sessions(self, project: str, kind: str) -> int:
        """Return how many sessions of a kind are open."""
        return self._open.get(project, {}).get(kind, 0)

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
        if new.increments != old.increments or new.opened != old.opened:
            self._apply(key[0], old, -1)
            self._apply(key[0], new, 1)
            self.changed.add(key[0])
        self._shares[key] = new
        if new.due_ms < new.queued_ms:
            new.queued_ms = new.due_ms
            heappush(self._queue, (new.due_ms, key))

    def _apply(self, project: str, share: _Share, sign: int) -> None:
        recent = self._recent.setdefault(project, defaultdict(int))
        for cell, increments in share.increments.items():
            if cell[1] >= self.from_ms:
                recent[cell] += sign * increments
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
