"""Facts recomputed from the event log, in bounded memory (C4b): read once in order, spread over ranges of rooms.

Each stretch of the log is joined by itself, and its facts are written to a temporary file for each range of rooms.
Then one range after the other is joined whole, since facts may be joined in any pieces (R10), and compared with what
is stored. The work grows with the log, not with its square.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pipeline.audit import facts as audit_facts
from pipeline.audit.facts import Scope
from pipeline.audit.laws import LOG_KEPT_MS, Checked, Difference, Law, Stage
from pipeline.audit.store import MOST_ROOMS, AuditStore, Range
from pipeline.metering.session import Facts, Room, RoomKey

#: Sessions of one range: about 100 MB of memory.
RANGE_SESSIONS: Final = 50_000
#: Most ranges, and so open files: of a larger store the ranges are larger.
_MOST_RANGES: Final = 256
#: Most differences that are listed: whoever has more has one reason for them.
MOST_DIFFERENCES: Final = 1_000
#: Looks at a room that differs, and the wait between them: as long as a batch is under way.
_LOOKS: Final = 3
_BETWEEN_LOOKS_MS: Final = 2_000


def floor_ms(stages: Iterable[Stage], from_ms: int, now_ms: int, future_skew_ms: int) -> int:
    """Return from which time of events on the log is whole, if it is read from a broker's time; 0 from its begin."""
    is_cut = from_ms > 0 or any(stage.first_offset > 0 or not stage.kept for stage in stages)
    # An event may be dated ahead of the broker that took it.
    return max(from_ms, now_ms - LOG_KEPT_MS) + future_skew_ms if is_cut else 0


class Recomputation:
    """One comparison of all facts with the accepted events kept since `from_ms`.

    Of one project or, with '', of all. `pause` waits as many ms as it is told, and may raise to end it.
    """

    def __init__(
        self, store: AuditStore, scope: Scope, from_ms: int, project: str, pause: Callable[[int], None]
    ) -> None:
        """Keep the parts; nothing is read yet."""
        self._store = store
        self._scope = scope
        self._from_ms = from_ms
        self._project = project
        self._pause = pause
        self._restarts_ms: dict[str, int] = {}
        self._result = Checked(Law.FACTS)

    def run(self, stages: Iterable[Stage]) -> Checked:
        """C4b: return what differs. Raises StoreUnavailable or StoreError."""
        result, ranges = self._result, self._store.ranges(RANGE_SESSIONS, _MOST_RANGES)
        suspects: list[RoomKey] = []
        with TemporaryDirectory(prefix="roommeter-audit-") as directory:
            paths = [Path(directory) / str(number) for number in range(len(ranges))]
            self._spread(stages, paths, [part.first for part in ranges])
            for path, part in zip(paths, ranges, strict=True):
                suspects += self._differing(path, part)
        for rooms in _parts(suspects):
            result.differences += islice(self._looked_at(rooms), MOST_DIFFERENCES - len(result.differences))
            if len(result.differences) >= MOST_DIFFERENCES:
                result.notes.append(f"{MOST_DIFFERENCES} differences of {len(suspects)} rooms are listed, not all")
                break
        if not self._project:
            result.differences += self._differing_restarts()
        if self._scope.floor_ms:
            result.notes.append("what began before the log is compared one way only: the log has nothing more of it")
        return result

    def _spread(self, stages: Iterable[Stage], paths: Sequence[Path], firsts: Sequence[RoomKey]) -> None:
        """Join the log stretch by stretch and append the facts of each to the file of their range."""
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for stage in stages:
                for events in self._store.log(stage, self._from_ms, self._project) if stage.kept else ():
                    self._pause(0)
                    facts = audit_facts.facts_of(events, self._scope.meters, self._result.differences)
                    for key, line in audit_facts.spilled(facts):
                        files[bisect_right(firsts, key) - 1].write(line)
                    for source, restarted_at_ms in facts.restarts_ms.items():
                        self._restarts_ms[source] = max(self._restarts_ms.get(source, 0), restarted_at_ms)

    def _differing(self, path: Path, part: Range) -> list[RoomKey]:
        """Join the facts of one range whole, and return the rooms that are stored otherwise."""
        self._pause(0)
        with path.open("rb") as lines:
            log = audit_facts.gathered(lines)
        path.unlink()
        stored = self._store.facts_in(part, self._scope.floor_ms, self._project)
        self._result.checked += sum(len(room.sessions) for room in stored.rooms.values())
        return audit_facts.differing_rooms(stored, log, self._scope)

    def _looked_at(self, rooms: list[RoomKey]) -> Iterator[Difference]:
        """Look at rooms again, alone; yield what still differs at the last look."""
        stored = log = Facts()
        for look in range(_LOOKS):
            if look:
                self._pause(_BETWEEN_LOOKS_MS)
            stored = self._store.facts_of(rooms)
            events = self._store.events_of(rooms, self._from_ms)
            log = audit_facts.facts_of(events, self._scope.meters, [])
            rooms = audit_facts.differing_rooms(stored, log, self._scope)
            if not rooms:
                return
        for key in rooms:
            ours, theirs = stored.rooms.get(key, Room()), log.rooms.get(key, Room())
            yield from audit_facts.compare_room(key, ours, theirs, self._scope)

    def _differing_restarts(self) -> list[Difference]:
        stored, log, floor = self._store.restarts(), self._restarts_ms, self._scope.floor_ms
        if any(audit_facts.compare_restarts(stored, log, floor)):
            events = self._store.restart_events()
            log = audit_facts.facts_of(events, self._scope.meters, []).restarts_ms
        self._result.checked += len(stored)
        return list(audit_facts.compare_restarts(stored, log, floor))


def _parts(rooms: Sequence[RoomKey]) -> Iterator[list[RoomKey]]:
    for first in range(0, len(rooms), MOST_ROOMS):
        yield list(rooms[first : first + MOST_ROOMS])
