"""Runs passes of reconciliation: reads the store, asks the server, sends what was found, records the pass."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from pipeline.gateway.projects import Project
from pipeline.livekit.api import ApiAway, ApiRefused, LivekitApi
from pipeline.livekit.reconcile import (
    Document,
    Findings,
    KnownSession,
    ListedRoom,
    OpenSession,
    Outcome,
    Pass,
    Question,
    Run,
    judge,
)
from pipeline.livekit.reconcile_store import ReconcileStore
from pipeline.messages import lifecycle_message
from pipeline.metering.units import MS_PER_SECOND
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics

_log = logging.getLogger(__name__)

#: An event's source is this and the server's host; a session that has one was seen by asking.
SOURCE_PREFIX = "reconcile/"


class Server(Protocol):
    """Who can be asked; raises ApiAway or ApiRefused."""

    async def rooms(self) -> list[ListedRoom]:
        """Return every room with its participants."""


class Knowledge(Protocol):
    """What is known here; blocking. Raises StoreUnavailable or StoreError."""

    def open_sessions(self, project: str, as_of_ms: int, orphan_after_ms: int) -> list[OpenSession]:
        """Return the sessions of LiveKit servers that are open (R8)."""

    def known_sessions(self, project: str, sessions: Sequence[str]) -> list[KnownSession]:
        """Return what is known of the sessions with these ids, whatever became of them."""


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where a pass goes: events to be sent and waited for, then its record; neither is called for nothing."""

    send: Callable[[Sequence[Document]], Awaitable[None]]
    record: Callable[[Run], None]


class Reconciler:
    """Reconciles one project with its server; what a pass leaves to the next is in memory alone.

    After a restart there is no previous pass, so nothing is absent before the second one.
    """

    def __init__(
        self,
        project: Project,
        server: Server,
        knowledge: Knowledge,
        outlets: Outlets,
        metrics: Metrics,
        clock: Callable[[], int],
        *,
        orphan_after_ms: int,
        correction_window_ms: int,
    ) -> None:
        """Keep the parts; `clock` returns ms since the epoch."""
        self._project = project.name
        self._source = f"{SOURCE_PREFIX}{urlsplit(project.livekit_url).netloc}"
        self._server = server
        self._knowledge = knowledge
        self._outlets = outlets
        self._metrics = metrics
        self._clock = clock
        self._orphan_after_ms = orphan_after_ms
        self._correction_window_ms = correction_window_ms
        self._previous: Pass | None = None

    async def run_once(self, *, accept_empty: bool = False) -> Run:
        """Make one pass; raises what the store or the sending raises, and then the next pass starts afresh.

        `accept_empty` believes an answer that knows none of many open sessions.
        """
        previous, self._previous = self._previous, None
        question = Question(self._project, self._source, self._clock(), self._correction_window_ms, accept_empty)
        open_sessions = await asyncio.to_thread(
            self._knowledge.open_sessions, self._project, question.asked_at_ms, self._orphan_after_ms
        )
        rooms: list[ListedRoom] = []
        detail = ""
        try:
            rooms = await self._server.rooms()
        except (ApiAway, ApiRefused) as error:
            findings = Findings(Outcome.AWAY if isinstance(error, ApiAway) else Outcome.REFUSED)
            detail = str(error)
        else:
            listed = [participant.session for room in rooms for participant in room.participants or ()]
            known = await asyncio.to_thread(self._knowledge.known_sessions, self._project, listed)
            # In a thread: with 20 000 sessions it takes 0.2 s, and other parts share this loop.
            findings = await asyncio.to_thread(judge, question, open_sessions, rooms, known, previous)
        if findings.outcome is Outcome.UNCONFIRMED:
            detail = (
                f"{len(open_sessions)} sessions are open here and the answer knows none of them: is livekit_url the "
                "server that sends the webhooks? If it is and they are gone, run once with --accept-empty"
            )
        if findings.events:
            await self._outlets.send(findings.events)
        self._previous = findings.state
        run = self._run(question, findings, rooms, len(open_sessions), detail)
        self._count(run)
        await asyncio.to_thread(self._outlets.record, run)
        return run

    async def run_forever(self, interval_ms: int, trouble: tuple[type[Exception], ...]) -> None:
        """Make a pass each `interval_ms`; what is named as `trouble` is waited out (R22)."""
        while True:
            started_s = time.monotonic()
            try:
                await self.run_once()
            except trouble as error:
                _log.warning("%s: no pass: %s", self._project, error)
            await asyncio.sleep(max(0.0, interval_ms / MS_PER_SECOND - (time.monotonic() - started_s)))

    def _run(
        self, question: Question, findings: Findings, rooms: list[ListedRoom], sessions_open: int, detail: str
    ) -> Run:
        return Run(
            project=self._project,
            source=self._source,
            asked_at_ms=question.asked_at_ms,
            answered_at_ms=self._clock(),
            outcome=str(findings.outcome),
            rooms=len(rooms),
            rooms_silent=sum(room.participants is None for room in rooms),
            sessions_open=sessions_open,
            present=findings.present,
            missing=findings.missing,
            absent=findings.absent,
            opened=findings.opened,
            detail=detail,
        )

    def _count(self, run: Run) -> None:
        """Show a pass in the metrics, and in the log where it changed or could change something."""
        self._metrics.reconcile_passes.labels(run.outcome).inc()
        for finding in ("present", "missing", "absent", "opened"):
            self._metrics.reconcile_sessions.labels(finding).inc(getattr(run, finding))
        if run.outcome == Outcome.COMPLETE:
            self._metrics.reconcile_last_success_seconds.set(run.asked_at_ms / MS_PER_SECOND)
        if run.detail:
            _log.warning("%s: %s: %s", run.project, run.outcome, run.detail)
        elif run.absent or run.opened:
            _log.info("%s: %d sessions were absent twice, %d were opened", run.project, run.absent, run.opened)


@asynccontextmanager
async def reconciling(
    project: Project,
    settings: Settings,
    knowledge: ReconcileStore,
    outlets: Outlets,
    metrics: Metrics,
    clock: Callable[[], int],
) -> AsyncIterator[Reconciler]:
    """Yield the reconciler of a project with its LiveKit server. Raises ApiRefused where it names none."""
    async with LivekitApi(project, clock) as server:
        yield Reconciler(
            project,
            server,
            knowledge,
            outlets,
            metrics,
            clock,
            orphan_after_ms=settings.orphan_after_ms,
            correction_window_ms=settings.correction_window_ms,
        )


def to_kafka(settings: Settings, producer: Producer, store: ReconcileStore) -> Outlets:
    """Return the outlets that matter: events to the lifecycle topic, acknowledged, and the record to the store."""
    topic = topics(settings).lifecycle.name

    async def send(events: Sequence[Document]) -> None:
        for event in events:
            await producer.send_soon(*lifecycle_message(topic, event))
        await producer.flush()

    return Outlets(send, store.record)
