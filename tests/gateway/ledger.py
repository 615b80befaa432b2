"""For tests of reconciliation: what a server lists, and what is known here by the core alone, without a store."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pipeline.livekit.reconcile import KnownSession, ListedRoom, OpenSession, Participant
from pipeline.metering.session import Facts, RoomKey
from pipeline.metering.timeline import ORPHAN_AFTER_MS, Timeline, newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_DAY, NEVER_MS
from tests.metering.builders import Document, clock, connected, parsed

KEY: Final = ("acme", "RM_1")
WINDOW_MS: Final = 60 * MS_PER_DAY
JOINED: Final = clock("14:00:00")
_ASKABLE: Final = re.compile("(livekit|reconcile)(/.*)?")


class Ledger:
    """Facts from events; answers what reconciliation asks of a store, by the core's rules alone."""

    def __init__(self, *documents: Document) -> None:
        """Know what these events say."""
        self.facts = Facts()
        self.take(documents)

    def take(self, documents: Iterable[Document]) -> None:
        """Join what further events say; each has to be valid."""
        for document in documents:
            self.facts.observe(parsed(document))

    def timeline(self, key: RoomKey, session: str, as_of_ms: int, orphan_after_ms: int = ORPHAN_AFTER_MS) -> Timeline:
        """Return when a session started and ended, as of a moment; it has to have started."""
        room = self.facts.rooms[key]
        facts = room.sessions[session]
        restarted_at_ms = newest_restart_ms(facts, self.facts.restarts_ms)
        found = timeline(facts, room, restarted_at_ms, as_of_ms, orphan_after_ms)
        assert found is not None
        return found

    def open_sessions(self, project: str, as_of_ms: int, orphan_after_ms: int) -> list[OpenSession]:
        """Return the sessions of LiveKit servers that are open."""
        found = []
        for key, name, session in self.facts.sessions():
            has_started = min(session.connected_at_ms, session.begun_at_ms) != NEVER_MS
            if key[0] != project or not has_started or not any(map(_ASKABLE.fullmatch, session.sources)):
                continue
            times = self.timeline(key, name, as_of_ms, orphan_after_ms)
            if times.is_open():
                found.append(OpenSession(key[1], name, session.kind, times.started_at_ms, session.last_seen_ms))
        return sorted(found)

    def known_sessions(self, project: str, sessions: Sequence[str]) -> list[KnownSession]:
        """Return what is known of the sessions with these ids."""
        return [
            KnownSession(
                key[1], name, session, self.facts.rooms[key], newest_restart_ms(session, self.facts.restarts_ms)
            )
            for key, name, session in self.facts.sessions()
            if key[0] == project and name in sessions
        ]


def live(session: str = "PA_1", **data: object) -> Document:
    """Return the connect, at 14:00, of a session that a LiveKit server reported."""
    return connected("14:00:00", session, "livekit", **data)


def there(*sessions: str, room: str = "RM_1", name: str = "support", **fields: Any) -> ListedRoom:
    """Return a room in which agents have been since 14:00."""
    defaults: dict[str, Any] = {"kind": "agent", "is_active": True, "joined_at_ms": JOINED}
    return ListedRoom(room, name, tuple(Participant(session, **defaults | fields) for session in sessions))


def silent(room: str = "RM_1", name: str = "support") -> ListedRoom:
    """Return a room about which the server did not answer."""
    return ListedRoom(room, name, None)
