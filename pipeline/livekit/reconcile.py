"""What a media server says it has now, against what is open here: signs of life, absences, lost starts (R9). Pure.

A pass is one question to the server. It never ends a session: it reports who was there and who was not, and the
rules draw the conclusion, which any later sign of life or real end replaces. Whatever was not answered says nothing.

When is a session absent? When two passes in a row asked for it, the server answered both times about its room, and it
was in neither answer. The absence is dated to the first of the two, so that it counts only where nothing at all was
seen of the session since then (R9): a call that gave a sign of life between the passes was there, and stays open until
two further passes miss it. Either way the session is billed up to its last sign of life and no further.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from itertools import chain
from typing import Any, Final, NamedTuple

from pipeline.metering.events import EventType
from pipeline.metering.meters import KINDS
from pipeline.metering.session import Room, Session
from pipeline.metering.timeline import is_live, observed_start_ms
from pipeline.metering.units import MS_PER_MINUTE, NEVER_MS, format_time

#: How long a start may be known to the server alone: its webhook is retried for 15 s, after up to 30 s in a queue.
WEBHOOK_PATIENCE_MS: Final = MS_PER_MINUTE
#: With so many sessions open here, an answer that knows none of ours is more likely another server's than true.
STRANGER_FROM_SESSIONS: Final = 10
#: What of LiveKit's is no participant: these are in no list of participants.
NOT_PARTICIPANTS: Final = frozenset({"egress", "ingress"})

SessionKey = tuple[str, str]
"""Room and session id, of one project."""
Document = dict[str, Any]


class Outcome(StrEnum):
    """What came of a pass: a closed list, fit for a metric's label. Only the first two change anything.

    `partial`: some rooms did not answer. `unconfirmed`: the answer knows none of our many sessions, as another
    server's would. `away`: no answer. `refused`: an answer that stays wrong until somebody mends something.
    """

    COMPLETE = "complete"
    PARTIAL = "partial"
    UNCONFIRMED = "unconfirmed"
    AWAY = "away"
    REFUSED = "refused"


class Participant(NamedTuple):
    """A participant as its server lists it; kind '' where it is not metered, or of a kind that we do not know.

    `joined_at_ms` is when signalling began, None where the server does not say. Nothing else is kept of it.
    """

    session: str
    kind: str
    is_active: bool
    joined_at_ms: int | None


class ListedRoom(NamedTuple):
    """A room as its server lists it; `participants` is None where the server did not answer about it."""

    room: str
    name: str
    participants: tuple[Participant, ...] | None


class OpenSession(NamedTuple):
    """A session that is open here (R8), as of when the pass began."""

    room: str
    session: str
    kind: str
    started_at_ms: int
    last_seen_ms: int


class KnownSession(NamedTuple):
    """What is known here of a session that the server listed, and the newest restart of its server, in ms.

    Of the facts only those count of which its start and end follow; of the room's, not its sessions.
    """

    room: str
    session: str
    facts: Session
    room_facts: Room
    restarted_at_ms: int

    def is_over(self) -> bool:
        """Tell whether it cannot be what the server lists: it really ended, or its room or server began anew.

        A server that keeps its list in a database goes on listing whoever was in a room when its node crashed.
        """
        begun_anew_at_ms = max(self.room_facts.started_at_ms, self.restarted_at_ms)
        return not is_live(self.facts, self.room_facts) or begun_anew_at_ms > observed_start_ms(self.facts)

    def has_started(self) -> bool:
        """Tell whether a start is known (R3)."""
        return observed_start_ms(self.facts) != NEVER_MS


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass leaves to the next: when it asked, whom it missed, and the names of rooms seen so far, by id."""

    asked_at_ms: int
    missing: frozenset[SessionKey] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a pass found: events to send, the state for the next pass (None: nothing to build on), and what to record.

    `missing` counts sessions missed for the first time; the next pass decides about them.
    """

    outcome: Outcome
    events: tuple[Document, ...] = ()
    state: Pass | None = None
    present: int = 0
    missing: int = 0
    absent: int = 0
    opened: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """One pass: who asks for which project, when (ms), and how old a start may be to still count (R11)."""

    project: str
    source: str
    asked_at_ms: int
    correction_window_ms: int
    accept_empty: bool = False


class Run(NamedTuple):
    """One pass as it is recorded. Times in ms; sessions as in Findings; `detail` says why there was no answer."""

    project: str
    source: str
    asked_at_ms: int
    answered_at_ms: int
    outcome: str
    rooms: int
    rooms_silent: int
    sessions_open: int
    present: int
    missing: int
    absent: int
    opened: int
    detail: str


def judge(
    question: Question,
    open_sessions: Iterable[OpenSession],
    rooms: Iterable[ListedRoom],
    known: Iterable[KnownSession],
    previous: Pass | None,
) -> Findings:
    """Compare what is open here with what the server listed.

    `open_sessions` are from before the server was asked, so that whoever came meanwhile is not missed; `known` is
    what is known here of the sessions listed, ended or not; `previous` is the last pass, if it had an answer.
    """
    rooms = list(rooms)
    listed = {participant.session: (room, participant) for room in rooms for participant in (room.participants or ())}
    here: dict[str, list[KnownSession]] = {}
    for session in known:
        here.setdefault(session.session, []).append(session)
    expected = [
        session
        for session in open_sessions
        # R9 looks at nothing else: who began or was seen after the question is no business of the answer.
        if session.kind not in NOT_PARTICIPANTS
        and session.started_at_ms < question.asked_at_ms
        and session.last_seen_ms <= question.asked_at_ms
    ]
    silent = {room.name for room in rooms if room.participants is None}
    if len(expected) >= STRANGER_FROM_SESSIONS and not here and not question.accept_empty:
        return Findings(Outcome.PARTIAL if silent else Outcome.UNCONFIRMED)
    names = dict(previous.names if previous else {}) | {room.room: room.name for room in rooms}
    missing = {
        (session.room, session.session): session
        for session in expected
        if session.session not in listed and _was_answered(session.room, names, silent)
    }
    twice = [
        key
        for key, session in missing.items()
        if previous and key in previous.missing and session.last_seen_ms <= previous.asked_at_ms
    ]
    absences = [
        _event(question, EventType.SESSION_ABSENT, previous.asked_at_ms, *key) for key in twice if previous is not None
    ]
    samples = list(_samples(question, listed.values(), here))
    starts = list(_starts(question, listed.values(), here))
    of_interest = {session.room for session in expected}
    return Findings(
        outcome=Outcome.PARTIAL if silent else Outcome.COMPLETE,
        events=tuple(chain(absences, samples, starts)),
        state=Pass(
            question.asked_at_ms,
            frozenset(missing),
            {room: name for room, name in names.items() if room in of_interest},
        ),
        present=len(samples),
        missing=len(missing) - len(absences),
        absent=len(absences),
        opened=len(starts),
    )


def _was_answered(room: str, names: Mapping[str, str], silent: set[str]) -> bool:
    """Tell whether the server said all about a room: it is asked by name, and one name can have several ids.

    A room that is not listed has nobody in it, unless it may be another id of a name that did not answer.
    """
    return not silent or (room in names and names[room] not in silent)


def _samples(
    question: Question,
    listed: Iterable[tuple[ListedRoom, Participant]],
    here: Mapping[str, list[KnownSession]],
) -> Iterator[Document]:
    """Yield a sign of life for every session that is there and has a start here.

    Its time is the question's: whoever is in the answer and was connected before was connected then.
    """
    for _, participant in listed:
        if (participant.joined_at_ms or 0) > question.asked_at_ms:
            continue
        for session in here.get(participant.session, ()):
            if session.has_started() and not session.is_over():
                yield _event(
                    question, EventType.SESSION_SAMPLED, question.asked_at_ms, session.room, participant.session
                )


def _starts(
    question: Question,
    listed: Iterable[tuple[ListedRoom, Participant]],
    here: Mapping[str, list[KnownSession]],
) -> Iterator[Document]:
    """Yield a sign of life with a start for every session that is there and of which no start is known here (R3).

    Only what is ACTIVE is metered (R4). A start older than the correction window would be a dead letter (R11).
    """
    earliest_ms = question.asked_at_ms - question.correction_window_ms
    latest_ms = question.asked_at_ms - WEBHOOK_PATIENCE_MS
    for room, participant in listed:
        joined_at_ms = participant.joined_at_ms
        if not participant.is_active or participant.kind not in KINDS or participant.kind in NOT_PARTICIPANTS:
            continue
        if joined_at_ms is None or not earliest_ms < joined_at_ms <= latest_ms:
            continue
        sessions = here.get(participant.session, [])
        if any(session.has_started() or session.is_over() for session in sessions):
            continue
        for room_id in [session.room for session in sessions] or [room.room]:
            yield _event(
                question,
                EventType.SESSION_SAMPLED,
                question.asked_at_ms,
                room_id,
                participant.session,
                kind=participant.kind,
                connected_at=format_time(joined_at_ms),
            )


def _event(question: Question, event_type: EventType, time_ms: int, room: str, session: str, **data: str) -> Document:
    """Return the canonical event; what is found twice has one id, and a long name does not make it too long."""
    return {
        "specversion": "1.0",
        "id": sha256(f"{event_type}/{room}/{session}/{time_ms}".encode()).hexdigest()[:32],
        "source": question.source,
        "type": str(event_type),
        "time": format_time(time_ms),
        "subject": session,
        "data": {"project": question.project, "room": room, "session": session, **data},
    }
