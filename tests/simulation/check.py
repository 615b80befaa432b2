"""What has to hold: at every step (Watch), and once everything has calmed down (verify).

While faults rage (R10, R11, R19, R21, R22): an input is judged once and for all; a fact in the store was told by an
event; nothing is committed or vouched for that is not stored; a dead letter is in its topic before its offset is
committed; an hour is published complete, never early, no revision looks further back than the one it replaces, and one
id never has two contents; a session is called absent only after two answers in a row without it.

Afterwards three bills, made independently, have to be one: the rules' (tests/oracle.py) on what the log accepted, the
same on the bytes that the store kept, and what was published; and the simulator's truth where what was sent shows it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from pipeline import codec
from pipeline.livekit.reconcile import Document
from pipeline.metering.quantities import Held, Quantities, Transferred
from pipeline.metering.rollup import Rollup, follows
from pipeline.metering.session import Room, Session
from pipeline.metering.timeline import newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, NEVER_MS, NOT_SEEN_MS, format_time
from pipeline.metering.usage import CellKey, increments_by_hour, metered_until_ms
from tests.metering.builders import METERS
from tests.oracle import MeterHour, SessionHour, oracle, oracle_sessions
from tests.oracle_counted import read_time
from tests.simulation.faults import Fault
from tests.simulation.world import LogRecord

if TYPE_CHECKING:
    from tests.simulation.run import Installation

_KINDS = {"agent", "participant", "sip", "ingress", "egress"}
_TYPES = {
    "room.started", "room.ended", "session.connected", "session.disconnected", "session.aborted", "session.sampled",
    "session.absent", "job.dispatched", "server.restarted", "usage.recorded", "number.acquired", "number.released",
}  # fmt: skip
_SessionKey = tuple[str, str, str]


def _judge(record: LogRecord, max_bytes: int, window_ms: int, skew_ms: int) -> tuple[str, Document | None]:
    """Return what has to become of a record: accepted, ignored or dead; and its event, where accepted (R11, R21)."""
    if record.value is None or len(record.value) > max_bytes:
        return "dead", None
    try:
        document: Any = orjson.loads(record.value)
        if document["specversion"] != "1.0":
            return "dead", None
        if document["type"] not in _TYPES:
            return "ignored", None
        data = document["data"]
        times_ms = [read_time(document["time"])]
        times_ms += [read_time(data[name]) for name in ("connected_at", "started_at") if name in data]
        is_complete = document["type"] == "server.restarted" or bool(
            data["project"] and (data["number"] if document["type"].startswith("number.") else data["room"])
        )
        is_known = data.get("kind", "agent") in _KINDS
    except (ValueError, KeyError, TypeError):
        return "dead", None
    begins_ms = [*times_ms[:1], *(read_time(data["connected_at"]) for _ in range("connected_at" in data))]
    is_in_time = min(begins_ms) >= record.timestamp - window_ms and max(times_ms) <= record.timestamp + skew_ms
    return ("accepted", document) if is_complete and is_known and is_in_time else ("dead", None)


def _is_reported(quantities: Quantities, document: Document, time_ms: int) -> bool:
    """Tell whether what a document reports is stored (R13 to R15)."""
    data, hour_ms = document["data"], time_ms // MS_PER_HOUR * MS_PER_HOUR
    if document["type"].startswith("number."):
        held = quantities.numbers.get((data["project"], data["number"]), Held())
        return time_ms in (held.acquired_ms if document["type"] == "number.acquired" else held.released_ms)
    if document["type"] == "usage.recorded":
        subject = (data["project"], document["source"], document["id"], data["meter"], hour_ms)
        return subject in quantities.discrete and quantities.discrete[subject].quantity >= data["quantity"]
    key = (data["project"], data["room"], data["session"], hour_ms)
    stored = quantities.counters.get(key, Transferred())
    return all(data.get(name, 0) <= largest for name, largest in stored._asdict().items())


class Watch:
    """Looks on, and stops the run at the first broken promise."""

    def __init__(self, installation: "Installation") -> None:
        """Know nothing yet."""
        self._installation = installation
        self._world = installation.world
        self.expected: dict[tuple[int, int], str] = {}
        self.documents: dict[tuple[int, int], Document] = {}
        self._told: dict[_SessionKey, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        self._ends_told: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._seen_ids: set[tuple[str, str]] = set()
        self._newest_ms: dict[bytes | None, int] = {}
        self._durable: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self.contents: dict[str, bytes] = {}
        self._proposed: dict[str, Rollup] = {}
        self._as_of_ms: dict[CellKey, list[int]] = defaultdict(list)

    def appended(self, record: LogRecord) -> None:
        """Note what the log has to make us do."""
        settings = self._world.settings
        place = (record.partition, record.offset)
        expected, document = _judge(
            record, settings.max_event_bytes, settings.correction_window_ms, settings.future_skew_ms
        )
        self.expected[place] = expected
        if document is None:
            self._count_refused(expected, record)
            return
        self.documents[place] = document
        self._count_accepted(record, document)
        time_ms, data = read_time(document["time"]), document["data"]
        if document["type"].startswith("session."):
            told = self._told[data["project"], data["room"], data["session"]]
            told[document["type"].removeprefix("session.")].add(time_ms)
            if "connected_at" in data:
                told["begun"].add(read_time(data["connected_at"]))
        elif document["type"] == "room.ended":
            self._ends_told[data["project"], data["room"]].add(time_ms)

    def _count_refused(self, expected: str, record: LogRecord) -> None:
        fault = Fault.UNKNOWN_TYPE if expected == "ignored" else Fault.POISON
        if expected == "dead" and record.value is not None:
            kinder = record._replace(timestamp=record.timestamp)
            for window_ms, skew_ms, name in ((2**50, 300_000, Fault.TOO_OLD), (2**50, 2**50, Fault.IN_THE_FUTURE)):
                if _judge(kinder, self._world.settings.max_event_bytes, window_ms, skew_ms)[1] is not None:
                    fault = name
                    break
        self._world.count(fault, "log")

    def _count_accepted(self, record: LogRecord, document: Document) -> None:
        time_ms, name = read_time(document["time"]), (document["source"], document["id"])
        if name in self._seen_ids and document["type"] != "server.restarted":
            self._world.count(Fault.DUPLICATE, "log")
        self._seen_ids.add(name)
        if time_ms < record.timestamp - MS_PER_HOUR:
            self._world.count(Fault.LATE, "log")
        if time_ms < self._newest_ms.get(record.key, 0):
            self._world.count(Fault.DISORDER, "log")
        self._newest_ms[record.key] = max(time_ms, self._newest_ms.get(record.key, 0))

    def session_stored(self, project: str, room: str, name: str, session: Session) -> None:
        """Check that every time in a row was told by an event: nothing is billed with no evidence."""
        told = self._told.get((project, room, name), {})
        ends = told.get("disconnected", set()) | told.get("aborted", set())
        seen = ends | told.get("connected", set()) | told.get("sampled", set())
        for what, time_ms, nothing, known in (
            ("connected", session.connected_at_ms, NEVER_MS, told.get("connected", set())),
            ("begun", session.begun_at_ms, NEVER_MS, told.get("begun", set())),
            ("disconnected", session.disconnected_at_ms, NEVER_MS, ends),
            ("last seen", session.last_seen_ms, NOT_SEEN_MS, seen),
            ("absent", session.absent_at_ms, NOT_SEEN_MS, told.get("absent", set())),
        ):
            self._world.expect(
                holds=time_ms == nothing or time_ms in known,
                what=f"{project}/{room}/{name} stored as {what} at {time_ms}, which no event told",
            )

    def room_stored(self, project: str, name: str, room: Room) -> None:
        """Check that every end of a room was told."""
        self._world.expect(
            holds=room.ends_ms <= self._ends_told[project, name], what=f"{project}/{name} ended, which no event told"
        )

    def is_durable_up_to(self, partition: int, offset: int, why: str) -> None:
        """Check that everything below an offset is in the store, with what follows from it."""
        database = self._installation.database
        for at in range(self._durable.get(partition, 0), offset):
            place = (partition, at)
            kept = database.events.get(place, ("missing", b""))[0]
            kept = kept if kept in ("accepted", "ignored", "missing") else "dead"
            expected = self.expected[place]
            self._world.expect(
                holds=kept == expected, what=f"{why} {partition}/{offset}: event {at} is {kept}, not {expected}"
            )
            if place in self.documents:
                self._world.expect(
                    holds=self._is_stored(self.documents[place]),
                    what=f"{why} {partition}/{offset}: what {place} says is not stored: {self.documents[place]}",
                )
        self._durable[partition] = max(offset, self._durable.get(partition, 0))

    def _is_stored(self, document: Document) -> bool:
        facts = self._installation.database.facts
        time_ms, data, event_type = read_time(document["time"]), document["data"], document["type"]
        if event_type == "server.restarted":
            return facts.restarts_ms.get(document["source"], NOT_SEEN_MS) >= time_ms
        if event_type.startswith(("job.", "usage.", "number.")):
            return event_type.startswith("job.") or _is_reported(facts.quantities, document, time_ms)
        room = facts.rooms.get((data["project"], data["room"]), Room())
        if event_type == "room.ended":
            return time_ms in room.ends_ms
        if event_type == "room.started":
            return room.started_at_ms >= (read_time(data["started_at"]) if "started_at" in data else time_ms)
        session = room.sessions.get(data["session"], Session())
        if event_type == "session.absent":
            return session.absent_at_ms >= time_ms
        return (
            session.last_seen_ms >= time_ms
            and _is_reported(facts.quantities, document, time_ms)
            and (event_type != "session.connected" or session.connected_at_ms <= time_ms)
            and (event_type not in ("session.disconnected", "session.aborted") or session.disconnected_at_ms <= time_ms)
            and ("connected_at" not in data or session.begun_at_ms <= read_time(data["connected_at"]))
            and session.kind >= data.get("kind", "")
        )

    def is_done_up_to(self, partition: int, offset: int, why: str) -> None:
        """Check that nobody has to read anything below an offset again: stored, and buried where it is no event."""
        self.is_durable_up_to(partition, offset, why)
        buried = self.buried()
        for at in range(self._done.get(partition, 0), offset):
            if self.expected[partition, at] == "dead":
                self._world.expect(
                    holds=(partition, at) in buried, what=f"{why} {partition}/{offset}: dead letter {at} is nowhere"
                )
        self._done[partition] = max(offset, self._done.get(partition, 0))

    def buried(self) -> dict[tuple[int, int], LogRecord]:
        """Return the dead letters by where they came from."""
        broker = self._world.broker
        found = {}
        for letter in broker.topics[broker.names.dead_letters.name][0]:
            said = dict(letter.headers)
            found[int(said["partition"]), int(said["offset"])] = letter
        return found

    def proposed(self, payload: bytes) -> None:
        """Note a proposal that came second, with another content."""
        rollup = codec.decode_decision(payload)
        if self._proposed.setdefault(rollup.id, rollup) != rollup:
            self._world.count(Fault.OUTRUN, "decisions")

    def was_published(self, payload: bytes) -> None:
        """Check a rollup: its hour was over and all of it processed (R18), and its id has one content (R19)."""
        document = orjson.loads(payload)
        known = self.contents.setdefault(document["id"], payload)
        self._world.expect(holds=known == payload, what=f"two contents under one id: {known!r} and {payload!r}")
        watermark_ms = read_time(document["watermark"])
        due_ms = read_time(document["hour"]) + MS_PER_HOUR + self._world.settings.grace_period_ms
        self._world.expect(
            holds=due_ms <= watermark_ms <= self._world.now_ms, what=f"published before it was complete: {payload!r}"
        )
        as_of_ms = self._as_of_ms[document["project"], document["meter"], read_time(document["hour"])]
        if document["revision"] > len(as_of_ms):
            as_of_ms.append(read_time(document["as_of"]))
        self._world.expect(
            holds=as_of_ms == sorted(as_of_ms), what=f"a revision as of a time before the one it replaces: {payload!r}"
        )

    def was_processed_up_to(self, as_of_ms: int) -> None:
        """Check the watermark as of which usage is asked for: nothing older is left to process (R18)."""
        for partition, log in enumerate(self._world.broker.lifecycle):
            next_offset, _ = self._installation.database.progress.get(partition, (0, 0))
            self._world.expect(
                holds=next_offset >= len(log) or log[next_offset].timestamp >= as_of_ms,
                what=f"usage is asked for as of {format_time(as_of_ms)}, {partition}/{next_offset} is not processed",
            )

    def reconciled(self, document: Document, answers: Sequence[tuple[set[str], set[str]] | None]) -> None:
        """Check that who is called absent was in neither of the last two answers, and that there were two."""
        if document["type"] != "session.absent":
            return
        room, name = document["data"]["room"], document["data"]["session"]
        last_two = answers[-2:]
        fine = len(last_two) == 2 and all(
            answer is not None and name not in answer[0] and room not in answer[1] for answer in last_two
        )
        self._world.expect(holds=fine, what=f"{name} was called absent after {last_two}")


def digest(bill: Mapping[Any, Any]) -> str:
    """Return a digest of a bill that does not depend on its order: the sum of its lines' hashes, and their count."""
    hashes = (blake2b(repr(line).encode(), digest_size=8).digest() for line in bill.items())
    return f"{sum(int.from_bytes(one, 'big') for one in hashes) % 2**64:016x}/{len(bill)}"


def verify(installation: "Installation", as_of_ms: int) -> str:
    """Compare everything with everything; return the digest of the bill. Raises Violation."""
    world, watch = installation.world, installation.world.watch
    for partition, log in enumerate(world.broker.lifecycle):
        watch.is_done_up_to(partition, len(log), "in the end")
    spurious = [place for place in watch.buried() if watch.expected[place] != "dead"]
    world.expect(holds=not spurious, what=f"dead letters of good events: {spurious}")
    for place, letter in watch.buried().items():
        original = world.broker.lifecycle[place[0]][place[1]]
        world.expect(holds=letter.value == original.value, what=f"dead letter {place} is not what came")
    orphan_ms = world.options.orphan_after_ms
    accepted = list(watch.documents.values())
    kept = [orjson.loads(payload) for disposition, payload in installation.database.events.values()
            if disposition == "accepted"]  # fmt: skip
    by_rules = oracle_sessions(accepted, as_of_ms, orphan_ms)
    _same(installation, "sessions by the rules and as stored", by_rules, _stored_sessions(installation, as_of_ms))
    _same(installation, "sessions of the log and of kept bytes", by_rules, oracle_sessions(kept, as_of_ms, orphan_ms))
    bill = oracle(accepted, as_of_ms, orphan_ms)
    _same(installation, "the bill of the log and of kept bytes", bill, oracle(kept, as_of_ms, orphan_ms))
    _check_rollups(installation, bill)
    _check_truth(installation, by_rules)
    return digest(bill)


def _same(installation: "Installation", what: str, one: Mapping[Any, Any], other: Mapping[Any, Any]) -> None:
    differences = {
        key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)
    }
    installation.world.expect(
        holds=not differences and digest(one) == digest(other), what=f"{what} differ: {differences}"
    )


def _stored_sessions(installation: "Installation", as_of_ms: int) -> dict[SessionHour, tuple[int, int]]:
    """Return minutes, and minutes while open, by session and hour, as our own core bills what is stored."""
    facts, found = installation.database.facts, {}
    for key, name, session in facts.sessions():
        restarted_ms = newest_restart_ms(session, facts.restarts_ms)
        orphan_ms = installation.world.options.orphan_after_ms
        line = timeline(session, facts.rooms[key], restarted_ms, as_of_ms, orphan_ms)
        if line is not None and line.started_at_ms < as_of_ms:
            until_ms = metered_until_ms(line, as_of_ms)
            for hour_ms, minutes in increments_by_hour(line.started_at_ms, until_ms, MS_PER_MINUTE):
                found[*key, name, hour_ms] = (minutes, minutes if line.is_open() else 0)
    return found


def _check_rollups(installation: "Installation", bill: Mapping[MeterHour, tuple[int, int, int]]) -> None:
    """Compare what was published, what was recorded as published, and what was decided, with the bill (R17, R19)."""
    world, broker = installation.world, installation.world.broker
    newest: dict[CellKey, Rollup] = {}
    decided: dict[str, Rollup] = {}
    for record in broker.topics[broker.names.decisions.name][0]:
        rollup = codec.decode_decision(record.value or b"")
        if follows(rollup, newest.get(rollup.key)):
            newest[rollup.key] = decided[rollup.id] = rollup
    recorded = {rollup.id: rollup for rollup in installation.database.rollups.values()}
    _same(installation, "what was decided and what was recorded", decided, recorded)
    sent = {rollup.id: codec.encode_rollup(rollup, METERS) for rollup in decided.values()}
    _same(installation, "what was decided and what was published", sent, world.watch.contents)
    deltas: dict[CellKey, int] = defaultdict(int)
    revisions: dict[CellKey, set[int]] = defaultdict(set)
    for rollup in decided.values():
        deltas[rollup.key] += rollup.delta
        revisions[rollup.key].add(rollup.revision)
    gaps = {key: found for key, found in revisions.items() if found != set(range(1, len(found) + 1))}
    world.expect(holds=not gaps, what=f"revisions with gaps: {gaps}")
    _same(installation, "deltas and bill", {key: cell[0] for key, cell in bill.items()},
          {key: delta for key, delta in deltas.items() if delta or key in bill})  # fmt: skip
    emitted = {
        key: (rollup.increments, rollup.increments_open, rollup.sessions)
        for key, rollup in newest.items()
        if rollup.sessions
    }
    _same(installation, "newest rollups and bill", bill, emitted)


def _check_truth(installation: "Installation", billed: Mapping[SessionHour, tuple[int, int]]) -> None:
    """Compare with what really was: exactly where all of it was told, never more where some of it was not."""
    world, producers = installation.world, installation.producers
    totals: dict[str, int] = defaultdict(int)
    for (_, _, name, _), (minutes, _) in billed.items():
        totals[name] += minutes
    untold = {place for place, expected in world.watch.expected.items() if expected != "accepted"}
    missing = list(producers.lost)
    for partition, offset in untold:
        missing += _events_in(world.broker.lifecycle[partition][offset])
    touched = {document["data"].get("room") for document in missing}
    is_any_restart_lost = any(document["type"] == "server.restarted" for document in missing)
    for session in producers.truth:
        minutes = max(1, -((session.started_at_ms - session.ended_at_ms) // MS_PER_MINUTE))
        if session.is_exact and session.room not in touched:
            world.expect(
                holds=totals[session.session] == minutes,
                what=f"{session} is billed {totals[session.session]} minutes, not {minutes}",
            )
        elif not is_any_restart_lost and session.room not in touched and world.options.scenario.skew_ms == 0:
            slack = 3 if world.faults[Fault.API_STALE] else 0
            world.expect(
                holds=totals[session.session] <= minutes + slack,
                what=f"{session} is billed {totals[session.session]} minutes, more than it had",
            )


def _events_in(record: LogRecord) -> list[Document]:
    """Return the event that a refused record would have been, if it is one at all."""
    try:
        document = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return []
    return [document] if isinstance(document, dict) and isinstance(document.get("data"), dict) else []
