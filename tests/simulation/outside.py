"""What is around roommeter: the servers and gateways that send events, and the media server that can be asked.

The events and the truth behind them are `pipeline.simulator`'s. Added here is what happens on the way to the log: an
event lost for good, sent again, held up by a broker that is away, and input that is no event at all.
"""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.clickhouse import StoreError, StoreUnavailable
from pipeline.gateway.projects import Project
from pipeline.kafka import partition_of
from pipeline.livekit.api import ApiAway, ApiRefused
from pipeline.livekit.reconcile import Document, KnownSession, ListedRoom, OpenSession, Participant, Run
from pipeline.livekit.reconciler import Outlets
from pipeline.messages import EVERY_PARTITION, lifecycle_message
from pipeline.metering.session import Room
from pipeline.metering.timeline import newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, format_time
from pipeline.simulator import TrueSession, simulate
from tests.oracle_counted import read_time
from tests.simulation.faults import Fault
from tests.simulation.world import METRICS, Process, World

if TYPE_CHECKING:
    from tests.simulation.run import Installation

_PASS_EVERY_S = 300.0


class Producers(Process):
    """All servers and gateways that send: what they acknowledged is in the log."""

    def __init__(self, world: World) -> None:
        """Simulate the servers."""
        super().__init__(world, "producers")
        simulation = simulate(world.options.scenario)
        events, self.truth = simulation.events, simulation.truth
        self.planned: list[tuple[int, Document | bytes | None]] = [(at_ms, document) for at_ms, document in events]
        for at_ms, document in events:
            if world.happens(world.options.poison):
                self.planned.append((at_ms + world.random.randint(0, MS_PER_MINUTE), self._spoilt(at_ms, document)))
        self.planned.sort(key=lambda planned: planned[0])
        #: Documents that were never sent.
        self.lost: list[Document] = []
        self.skews_ms = dict(_skews(self.truth, [document for _, document in events]))
        if any(self.skews_ms.values()):
            world.count(Fault.SKEW)
        self.is_done = False

    async def run(self) -> None:
        """Send everything at its time."""
        world, broker = self.world, self.world.broker
        for at_ms, content in self.planned:
            await asyncio.sleep(max(0, at_ms - world.now_ms) / 1000)
            await broker.up.wait()
            if isinstance(content, dict) and world.happens(world.options.lost):
                world.count(Fault.LOST, self.name)
                self.lost.append(content)
                continue
            self.send(content)
            if world.happens(world.options.sent_again):
                world.count(Fault.SENT_AGAIN, self.name)
                self.send(content)
        self.is_done = True

    def send(self, content: Document | bytes | None) -> None:
        """Put an event, or bytes that are none, where their key says."""
        broker = self.world.broker
        name, count = broker.names.lifecycle.name, len(broker.lifecycle)
        if not isinstance(content, dict):
            partitions, key, value = [self.world.random.randrange(count)], b"acme/RM_X", content
        else:
            message = lifecycle_message(name, content)
            key, value = message.key or b"", message.value
            is_for_all = message.partition == EVERY_PARTITION
            partitions = list(range(count)) if is_for_all else [partition_of(key, count)]
        for partition in partitions:
            self.world.watch.appended(broker.append(name, key, value, partition=partition))

    def _spoilt(self, at_ms: int, document: Document) -> Document | bytes | None:
        """Return what looks like an event and must change no bill."""
        window_ms = self.world.options.correction_window_ms
        bytes_that_are_none = (b"no JSON: \xff", b"[1, 2]", b"{}", None)
        robot = {"project": "acme", "room": "RM_X", "session": "PA_X", "kind": "robot"}
        changes: tuple[Document, ...] = (
            {"specversion": "2.0"},
            {"time": "yesterday"},
            {"time": format_time(at_ms - window_ms - 2 * MS_PER_HOUR)},
            {"time": format_time(at_ms + 2 * MS_PER_HOUR)},
            {"type": "session.teleported"},
            {"type": "session.connected", "data": robot},
            {"data": robot | {"project": "", "kind": "agent"}},
            {"padding": "x" * self.world.settings.max_event_bytes},
        )
        way = self.world.random.randrange(len(bytes_that_are_none) + len(changes))
        if way < len(bytes_that_are_none) or document["type"] == "server.restarted":
            return bytes_that_are_none[way % len(bytes_that_are_none)]
        return document | changes[way - len(bytes_that_are_none)]


def _skews(truth: Sequence[TrueSession], documents: Sequence[Document]) -> Iterator[tuple[str, int]]:
    """Yield how far ahead the clock of each session's server was."""
    starts = {session.session: session.started_at_ms for session in truth}
    for document in documents:
        name = document["data"].get("session")
        told = document["data"].get("connected_at")
        if document["type"] == "session.connected":
            told = document["time"]
        if name in starts and told:
            yield name, read_time(told) - starts[name]


class MediaServer:
    """The server that can be asked who is there: one for all rooms of a project. It lies as the seed says."""

    def __init__(self, process: Process, producers: Producers, project: str) -> None:
        """Know the truth."""
        self._process = process
        self._producers = producers
        self._project = project
        #: What was answered, newest last: the ids listed, and the rooms without an answer; None where there was none.
        self.answers: list[tuple[set[str], set[str]] | None] = []

    async def rooms(self) -> list[ListedRoom]:
        """Answer. Raises ApiAway, ApiRefused."""
        world = self._process.world
        await self._process.reach("ask the media server")
        await world.travel()
        listed = self._list(world.now_ms)
        if world.happens(world.options.api_wrong):
            listed = self._wrong(listed)
        names = {one.session for room in listed for one in room.participants or ()}
        self.answers.append((names, {room.room for room in listed if room.participants is None}))
        return listed

    def _wrong(self, listed: list[ListedRoom]) -> list[ListedRoom]:
        world = self._process.world
        fault = world.random.choice(
            [Fault.API_AWAY, Fault.API_REFUSED, Fault.API_EMPTY, Fault.API_PARTIAL, Fault.API_STALE]
        )
        if fault == Fault.API_PARTIAL and not listed:
            fault = Fault.API_AWAY
        world.count(fault, "media server")
        match fault:
            case Fault.API_EMPTY:
                return []
            case Fault.API_PARTIAL:
                silent = world.random.randrange(len(listed))
                return [
                    room._replace(participants=None) if turn == silent else room for turn, room in enumerate(listed)
                ]
            case Fault.API_STALE:
                return self._list(world.now_ms - 2 * MS_PER_MINUTE)
        self.answers.append(None)
        raise ApiAway("no answer") if fault == Fault.API_AWAY else ApiRefused("HTTP 401")

    def _list(self, at_ms: int) -> list[ListedRoom]:
        """Return who really was there."""
        rooms: dict[str, list[Participant]] = {}
        for one in self._producers.truth:
            if one.project == self._project and one.started_at_ms <= at_ms < one.ended_at_ms:
                joined_at_ms = one.started_at_ms + self._producers.skews_ms.get(one.session, 0)
                participant = Participant(one.session, one.kind, is_active=True, joined_at_ms=joined_at_ms)
                rooms.setdefault(one.room, []).append(participant)
        # As a server does: recordings and imports are no participants.
        return [
            ListedRoom(room, room, tuple(one for one in inside if one.kind not in ("egress", "ingress")))
            for room, inside in rooms.items()
        ]


class Knowledge:
    """What the store knows, as reconciliation asks (pipeline/livekit/reconcile_store.py), from the stored facts."""

    def __init__(self, process: "ReconcilerProcess") -> None:
        """Ask for a process."""
        self._process = process

    def open_sessions(self, project: str, as_of_ms: int, orphan_after_ms: int) -> list[OpenSession]:
        """Return the sessions that are open (R8)."""
        facts = self._facts()
        found = []
        for (owner, room), name, session in facts.sessions():
            restarted_ms = newest_restart_ms(session, facts.restarts_ms)
            line = timeline(session, facts.rooms[owner, room], restarted_ms, as_of_ms, orphan_after_ms)
            if owner == project and line is not None and line.is_open():
                found.append(OpenSession(room, name, session.kind, line.started_at_ms, session.last_seen_ms))
        return found

    def known_sessions(self, project: str, sessions: Sequence[str]) -> list[KnownSession]:
        """Return what is known of these sessions."""
        facts = self._facts()
        return [
            KnownSession(
                key[1],
                name,
                session,
                Room(facts.rooms[key].ends_ms, facts.rooms[key].started_at_ms),
                newest_restart_ms(session, facts.restarts_ms),
            )
            for key, name, session in facts.sessions()
            if key[0] == project and name in sessions
        ]

    def _facts(self) -> Any:
        database = self._process.installation.database
        if not database.is_up:
            raise StoreUnavailable("refused")
        return database.facts


class ReconcilerProcess(Process):
    """One reconciler process: pass after pass; killed, it forgets the pass before."""

    def __init__(self, installation: "Installation", name: str) -> None:
        """Start it."""
        super().__init__(installation.world, name)
        self.installation = installation
        self.server = MediaServer(self, installation.producers, "acme")
        self.reconciler = installation.parts.reconciler(
            Project("acme", livekit_url="wss://sfu.example"),
            self.server,
            Knowledge(self),
            Outlets(self._send, self._record),
            METRICS,
            lambda: self.world.now_ms,
            orphan_after_ms=self.world.options.orphan_after_ms,
            correction_window_ms=self.world.options.correction_window_ms,
        )
        self.passes = 0
        self.spawn(self._run_forever())

    def died(self) -> None:
        """Be started again."""
        self.installation.restart(self, partial(ReconcilerProcess, self.installation, self.name))

    async def _run_forever(self) -> None:
        while True:
            await asyncio.sleep(_PASS_EVERY_S * self.world.random.uniform(0.5, 1.5))
            try:
                await self.reconciler.run_once()
            except StoreError as error:
                self.world.say(self.name, f"no pass: {error}")
            else:
                self.passes += self.world.is_healed

    async def _send(self, documents: Sequence[Document]) -> None:
        for document in documents:
            await self.world.broker.up.wait()
            self.world.watch.reconciled(document, self.server.answers)
            await self.request(f"send {document['type']}", partial(self.installation.producers.send, document))

    def _record(self, _run: Run) -> None:
        """Passes are kept for people alone."""
