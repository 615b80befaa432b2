"""Media servers with a known truth: what they send, with every fault a bill has to survive, and what really was.

Pure: the same scenario gives the same simulation. Shares are of 1; times and lengths are ms.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import orjson

from pipeline.metering.events import EventType
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND, format_time

#: How busy each hour of a UTC day is, in percent of the busiest.
_BUSY: Final = (8, 5, 4, 4, 6, 10, 20, 38, 62, 85, 97, 100, 88, 92, 100, 96, 84, 66, 48, 38, 30, 24, 18, 12)
#: How often each kind occurs, of 100.
_KINDS: Final = {"participant": 48, "agent": 32, "sip": 12, "egress": 6, "ingress": 2}
#: Bytes per second in and out, about: voice and video through an SFU.
_BYTES_PER_SECOND: Final = {"participant": (90_000, 240_000), "agent": (6_000, 12_000), "sip": (8_000, 8_000)}
#: What an agent uses in a second of speech, about, by meter: in ms, tokens, characters, events.
_USED_PER_SECOND: Final = {
    "stt_seconds": 1_000,
    "recorded_audio_minutes": 1_000,
    "llm_input_tokens": 60,
    "llm_output_tokens": 8,
    "tts_characters": 14,
    "observability_events": 2,
}
_NUMBER: Final = "+1555010{:04d}"
#: One rented number in this many is given back.
_GIVEN_BACK: Final = 3
_MAX_SESSIONS_OF_A_ROOM: Final = 6
_SERVERS: Final = 8
_MEDIAN_LENGTH_MS: Final = 4 * MS_PER_MINUTE
_MAX_LENGTH_MS: Final = 6 * MS_PER_HOUR
#: One length in this many is a whole number of minutes, where rounding is decided.
_WHOLE_MINUTES: Final = 16
#: One room in this many is closed while sessions are open.
_CLOSED_EARLY: Final = 5


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to simulate. `sessions` is a target: rooms are added until it is reached.

    Of sessions: `reconnect` is the share that breaks off and comes back under a new id, `abort` the share
    that never connects, `lost_connect` the share whose connect is lost but told by the disconnect.
    Of rooms: `crash` is the share whose server dies, `reused_rooms` the share that takes the id of an earlier
    room. Of events: `duplicate` is the share sent twice, `late` sent hours later, `lost` never sent.
    `disorder_ms` is the longest delay of any event, `skew_ms` the furthest a server's clock is off,
    `sample_every_ms` how often a session reports its bytes, `usage_every_ms` how often an agent reports the models
    that it used (0: never). `numbers` phone numbers are rented.
    """

    start_ms: int
    end_ms: int
    sessions: int
    seed: int = 1
    projects: tuple[str, ...] = ("acme", "globex", "initech")
    reconnect: float = 0.0
    crash: float = 0.0
    duplicate: float = 0.0
    disorder_ms: int = 0
    late: float = 0.0
    lost: float = 0.0
    abort: float = 0.0
    lost_connect: float = 0.0
    reused_rooms: float = 0.0
    skew_ms: int = 0
    sample_every_ms: int = 0
    usage_every_ms: int = 0
    numbers: int = 0


class TrueSession(NamedTuple):
    """What really was: a session that connected, by a clock that is right, and its bytes.

    `is_exact` tells that what was sent shows its start and end, so that the bill has to be exact.
    """

    project: str
    room: str
    session: str
    kind: str
    number: str
    started_at_ms: int
    ended_at_ms: int
    bytes_in: int
    bytes_out: int
    is_exact: bool


class TrueUsage(NamedTuple):
    """What an agent used (R14): a quantity in the meter's base units, at a time in ms."""

    project: str
    meter: str
    at_ms: int
    quantity: int


class TrueRental(NamedTuple):
    """A number that is rented (R15), from a time in ms to another; None where it stays."""

    project: str
    number: str
    acquired_at_ms: int
    released_at_ms: int | None


class Simulation(NamedTuple):
    """Events with the time each is sent at in ms, in order of sending; and the truth behind them.

    Every use of a model is in `usage`, also where its event is lost on the way.
    """

    events: list[tuple[int, dict[str, Any]]]
    truth: list[TrueSession]
    usage: list[TrueUsage]
    rentals: list[TrueRental]


def simulate(scenario: Scenario) -> Simulation:
    """Return what the servers of a scenario send, and what really was. Rooms start between `start_ms` and `end_ms`."""
    world = _World(scenario)
    for index in range(scenario.numbers):
        world.rent(index)
    while world.planned < scenario.sessions:
        world.add_room()
    world.sent.sort(key=lambda sent: sent[0])
    return Simulation(world.sent, world.truth, world.usage, world.rentals)


def events_jsonl(simulation: Simulation) -> Iterator[bytes]:
    r"""Yield the events in order of sending as JSON Lines, each ending in \n."""
    for _, document in simulation.events:
        yield orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(slots=True)
class _Plan:
    """One session as it really is, before anything is sent of it; `is_cut` when its server dies under it."""

    session: str
    kind: str
    number: str
    start_ms: int
    end_ms: int
    is_cut: bool = False

    def data(self) -> dict[str, Any]:
        """Return what every event of the session says of it."""
        return {"session": self.session, "kind": self.kind} | ({"number": self.number} if self.number else {})

    def counters(self, time_ms: int) -> dict[str, int]:
        """Return its bytes up to a moment; recordings and imports have none."""
        if self.kind not in _BYTES_PER_SECOND:
            return {}
        elapsed_ms = time_ms - self.start_ms
        bytes_in, bytes_out = (rate * elapsed_ms // MS_PER_SECOND for rate in _BYTES_PER_SECOND[self.kind])
        return {"bytes_in": bytes_in, "bytes_out": bytes_out}


class _Room(NamedTuple):
    """What all events of a room share; `skew_ms` is how far its server's clock is ahead."""

    project: str
    room: str
    source: str
    skew_ms: int


class _World:
    """Everything sent so far, and the truth of it."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = random.Random(scenario.seed)  # noqa: S311 - a repeatable world, not a secret
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.truth: list[TrueSession] = []
        self.usage: list[TrueUsage] = []
        self.rentals: list[TrueRental] = []
        self.planned = 0
        self._named = 0
        self._closed: list[tuple[_Room, int]] = []
        self._skews_ms = [self.random.randint(-scenario.skew_ms, scenario.skew_ms) for _ in range(_SERVERS)]

    def rent(self, index: int) -> None:
        """Let a project acquire a number in the first hour, and give some back later."""
        project, start_ms = self.scenario.projects[index % len(self.scenario.projects)], self.scenario.start_ms
        office = _Room(project, "", "sim/numbers", 0)
        number = _NUMBER.format(index)
        acquired_ms = self.random.randint(start_ms, min(start_ms + MS_PER_HOUR, self.scenario.end_ms))
        is_given_back = index % _GIVEN_BACK == _GIVEN_BACK - 1
        released_ms = self.random.randint(acquired_ms, self.scenario.end_ms) if is_given_back else None
        self.rentals.append(TrueRental(project, number, acquired_ms, released_ms))
        self._send(office, EventType.NUMBER_ACQUIRED, acquired_ms, {"number": number})
        if released_ms is not None:
            self._send(office, EventType.NUMBER_RELEASED, released_ms, {"number": number})

    def add_room(self) -> None:
        """Plan one life of a room with its sessions, and send what its server has to say of it."""
        room, start_ms = self._reopened() if self._closed and self._chance(self.scenario.reused_rooms) else self._new()
        plans = [self._plan(start_ms) for _ in range(self.random.randint(1, _MAX_SESSIONS_OF_A_ROOM))]
        self.planned += len(plans)
        plans += [self._again(plan) for plan in plans if self._chance(self.scenario.reconnect)]
        end_ms = self._close(plans)
        is_shown = self._send(room, EventType.ROOM_STARTED, start_ms, {"started_at": start_ms})
        if self._chance(self.scenario.crash):
            room, plans = self._crash(room, plans, end_ms)
        else:
            if end_ms + MS_PER_HOUR < self.scenario.end_ms:
                self._closed.append((room, end_ms))
            is_shown &= self._send(room, EventType.ROOM_ENDED, end_ms, {})
        for plan in plans:
            if self._chance(self.scenario.abort):
                self._send(room, EventType.SESSION_ABORTED, plan.end_ms, plan.data() | {"reason": "JOIN_FAILURE"})
            else:
                self._run(room, plan, end_ms, is_room_shown=is_shown)

    def _chance(self, share: float) -> bool:
        """Tell whether what happens to this share happens now; what has share 0 never does."""
        return self.random.random() < share

    def _name(self, prefix: str) -> str:
        """Return a new id; worlds of another seed or start have others."""
        self._named += 1
        return f"{prefix}_{self.scenario.seed:x}_{self.scenario.start_ms // MS_PER_SECOND:x}_{self._named:x}"

    def _new(self) -> tuple[_Room, int]:
        """Return a new room and when it starts: more often in busy hours."""
        last_ms = max(self.scenario.start_ms, self.scenario.end_ms - MS_PER_MINUTE)
        start_ms = self.random.randint(self.scenario.start_ms, last_ms)
        while self.random.randrange(100) >= _BUSY[start_ms % MS_PER_DAY // MS_PER_HOUR]:
            start_ms = self.random.randint(self.scenario.start_ms, last_ms)
        server = self.random.randrange(_SERVERS)
        project = self.random.choice(self.scenario.projects)
        return _Room(project, self._name("RM"), f"sim/node-{server}", self._skews_ms[server]), start_ms

    def _reopened(self) -> tuple[_Room, int]:
        """Return a room id that had a life before, and when the next one starts."""
        room, ended_at_ms = self._closed.pop(self.random.randrange(len(self._closed)))
        return room, ended_at_ms + self.random.randint(2 * MS_PER_SECOND, MS_PER_HOUR)

    def _plan(self, room_start_ms: int) -> _Plan:
        (kind,) = self.random.choices(tuple(_KINDS), tuple(_KINDS.values()))
        number = _NUMBER.format(self.random.randrange(20)) if kind == "sip" and self._chance(0.4) else ""
        start_ms = room_start_ms + self.random.randint(0, MS_PER_MINUTE)
        length_ms = min(int(self.random.lognormvariate(0, 1.3) * _MEDIAN_LENGTH_MS), _MAX_LENGTH_MS)
        if self.random.randrange(_WHOLE_MINUTES) == 0:
            length_ms += -length_ms % MS_PER_MINUTE
        return _Plan(self._name(kind[:2].upper()), kind, number, start_ms, start_ms + length_ms)

    def _again(self, plan: _Plan) -> _Plan:
        """Break a session off, and return the one in which its participant comes back."""
        broken_ms = self.random.randint(plan.start_ms, plan.end_ms)
        back_ms = broken_ms + self.random.randint(100, 20 * MS_PER_SECOND)
        again = replace(
            plan, session=self._name(plan.kind[:2].upper()), start_ms=back_ms, end_ms=back_ms + plan.end_ms - broken_ms
        )
        plan.end_ms = broken_ms
        return again

    def _close(self, plans: list[_Plan]) -> int:
        """Return when the room ends: after its sessions, or in their midst, which ends them too (R5)."""
        last_ms = max(plan.end_ms for plan in plans)
        end_ms = last_ms + self.random.randint(0, 20 * MS_PER_SECOND)
        if self.random.randrange(_CLOSED_EARLY) == 0:
            end_ms = self.random.randint(max(plan.start_ms for plan in plans), last_ms)
        for plan in plans:
            plan.end_ms = min(plan.end_ms, end_ms)
        return end_ms

    def _crash(self, room: _Room, plans: list[_Plan], end_ms: int) -> tuple[_Room, list[_Plan]]:
        """Let the room's server die: open sessions are cut, later ones never come, their ends are never sent.

        It is noticed by the room's next start in one half of the cases, by the server's restart in the other.
        """
        # A server of its own, so that its restart says nothing of other rooms.
        room = room._replace(source=f"{room.source}-{room.room}")
        crashed_at_ms = self.random.randint(min(plan.start_ms for plan in plans), end_ms)
        for plan in plans:
            plan.is_cut = plan.end_ms > crashed_at_ms
            plan.end_ms = min(plan.end_ms, crashed_at_ms)
        again_ms = crashed_at_ms + self.random.randint(5 * MS_PER_SECOND, MS_PER_MINUTE)
        if self._chance(0.5):
            self._send(room, EventType.ROOM_STARTED, again_ms, {"started_at": again_ms})
        else:
            self._send(room, EventType.SERVER_RESTARTED, again_ms, {})
        return room, [plan for plan in plans if plan.start_ms <= crashed_at_ms]

    def _run(self, room: _Room, plan: _Plan, room_end_ms: int, *, is_room_shown: bool) -> None:
        """Send what the server says of one session that connected, and note the truth."""
        data = plan.data()
        if plan.kind == "agent":
            job = {"job": f"AJ_{plan.session}", "agent": "support"}
            self._send(room, EventType.JOB_DISPATCHED, plan.start_ms - self.random.randint(1, 900), job)
        # A lost connect does no harm where the disconnect tells when it was (R3).
        is_shown = self._chance(self.scenario.lost_connect) or self._send(
            room, EventType.SESSION_CONNECTED, plan.start_ms, data
        )
        if self.scenario.sample_every_ms:
            for time_ms in range(plan.start_ms, plan.end_ms, self.scenario.sample_every_ms):
                self._send(room, EventType.SESSION_SAMPLED, time_ms, data | plan.counters(time_ms))
        if plan.kind == "agent" and self.scenario.usage_every_ms:
            self._use(room, plan)
        if not plan.is_cut:
            # A room that closes ends its sessions at once, but reports them one after the other.
            lag_ms = self.random.randint(0, 1_500) if plan.end_ms == room_end_ms else 0
            end = data | plan.counters(plan.end_ms) | {"connected_at": plan.start_ms}
            is_shown &= self._send(room, EventType.SESSION_DISCONNECTED, plan.end_ms + lag_ms, end)
        counters = plan.counters(plan.end_ms)
        self.truth.append(
            TrueSession(
                project=room.project,
                room=room.room,
                session=plan.session,
                kind=plan.kind,
                number=plan.number,
                started_at_ms=plan.start_ms,
                ended_at_ms=plan.end_ms,
                bytes_in=counters.get("bytes_in", 0),
                bytes_out=counters.get("bytes_out", 0),
                is_exact=is_shown and is_room_shown and not plan.is_cut,
            )
        )

    def _use(self, room: _Room, plan: _Plan) -> None:
        """Send what an agent used since it last said so, and note the truth."""
        for time_ms in range(plan.start_ms, plan.end_ms, self.scenario.usage_every_ms):
            said_ms = min(time_ms + self.scenario.usage_every_ms, plan.end_ms)
            for meter, rate in _USED_PER_SECOND.items():
                quantity = rate * (said_ms - time_ms) // MS_PER_SECOND
                self.usage.append(TrueUsage(room.project, meter, said_ms, quantity))
                data = {"session": plan.session, "meter": meter, "quantity": quantity, "model": "sim-1"}
                self._send(room, EventType.USAGE_RECORDED, said_ms, data)

    def _send(self, room: _Room, event_type: EventType, time_ms: int, data: dict[str, Any]) -> bool:
        """Send an event, with the delays and repetitions of the scenario; tell whether it was sent at all."""
        scenario = self.scenario
        of_server = event_type is EventType.SERVER_RESTARTED
        about = {"project": room.project} | ({"room": room.room} if room.room else {})
        about = {"source": room.source} if of_server else about | data
        times = {
            name: format_time(data[name] + room.skew_ms) for name in ("started_at", "connected_at") if name in data
        }
        document = {
            "specversion": "1.0",
            "id": self._name("EV"),
            "source": room.source,
            "type": str(event_type),
            "time": format_time(time_ms + room.skew_ms),
            "subject": next(about[name] for name in ("session", "job", "room", "number", "source") if name in about),
            "data": {} if of_server else about | times,
        }
        if self._chance(scenario.lost):
            return False
        sent_at_ms = time_ms + self.random.randint(0, scenario.disorder_ms)
        if self._chance(scenario.late):
            sent_at_ms += self.random.randint(MS_PER_HOUR, MS_PER_DAY)
        self.sent.append((sent_at_ms, document))
        if self._chance(scenario.duplicate):
            self.sent.append((sent_at_ms + self.random.randint(0, MS_PER_MINUTE), document))
        return True
