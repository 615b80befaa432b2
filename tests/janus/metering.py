"""A run of a Janus server, metered as the worker does it from the gateway's events, or from recorded deliveries."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.janus.events import JanusAdapter
from pipeline.janus.memory import JanusMemory
from pipeline.metering.events import InvalidEvent, parse_event
from pipeline.metering.meters import parse_meters
from pipeline.metering.session import Facts
from pipeline.metering.timeline import Timeline, newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_DAY, parse_time
from pipeline.metering.usage import usage

Json = dict[str, Any]

METERS = parse_meters((Path(__file__).parents[2] / "schemas" / "meters.toml").read_text())

#: The name that the projects file gives the server.
_SERVER = "eu-1"


def project_of(room: str, _opaque_id: str) -> str | None:
    """Return the project that a room's name begins with; a lobby is nobody's."""
    found = re.match("(acme|beta)-", room)
    return found[1] if found else None


def facts_of(documents: Iterable[Json]) -> Facts:
    """Join canonical events as the worker does."""
    facts = Facts()
    for document in documents:
        event = parse_event(document, METERS)
        assert event is not None
        facts.observe(event)
    return facts


class Run:
    """What the driver knows (`participants`, by name), how Janus delivered (`deliveries`), and what was made of it.

    `refused` are reason and event of every dead letter.
    """

    def __init__(self, played: Json, folder: Path) -> None:
        """Take what a gateway made of it, where one was there; read recorded deliveries otherwise."""
        self.participants: dict[str, Json] = played["participants"]
        self.documents: list[Json] = played.get("events", [])
        self.refused: list[tuple[str, Json]] = [(reason, event) for reason, event in played.get("dead_letters", [])]
        self.deliveries: list[list[Json]] = played.get("deliveries") or played["batches"]
        if "batches" in played:
            self._replay(folder)
        self.facts = facts_of(self.documents)
        self.as_of_ms = max(parse_time(document["time"]) for document in self.documents) + 1

    def session(self, name: str) -> str:
        """Return the id of a participant's session, from what Janus told the participant itself."""
        return f"{_SERVER}/janus-a/{self.participants[name]['session']}/{self.participants[name]['handle']}"

    def metered(self, name: str) -> Timeline:
        """Return the start and end that a participant is billed by."""
        ((key, session),) = [(key, one) for key, known, one in self.facts.sessions() if known == self.session(name)]
        restarted_at_ms = newest_restart_ms(session, self.facts.restarts_ms)
        line = timeline(session, self.facts.rooms[key], restarted_at_ms, self.as_of_ms)
        assert line is not None
        return line

    def bytes_of(self, name: str) -> tuple[int, int]:
        """Return the bytes that came from and went to a participant."""
        ((one),) = [one for _, known, one in self.facts.sessions() if known == self.session(name)]
        return one.bytes_in, one.bytes_out

    def minutes(self) -> dict[str, int]:
        """Return the WebRTC minutes of each project."""
        minutes: dict[str, int] = {}
        for (project, meter, _), cell in usage(self.facts, METERS, self.as_of_ms + 2 * MS_PER_DAY).items():
            if meter == "webrtc_minutes":
                minutes[project] = minutes.get(project, 0) + cell.increments
        return minutes

    def _replay(self, folder: Path) -> None:
        """Read every delivery by a new adapter, which has nothing but what the one before left on disk."""
        for batch in self.deliveries:
            adapter = JanusAdapter(project_of, name=_SERVER)
            with JanusMemory(folder / "memory.sqlite3") as memory:
                adapter.restore(memory.entries())
                for event in batch:
                    self._read(adapter, event)
                memory.note(adapter.changed())
                memory.flush()

    def _read(self, adapter: JanusAdapter, event: Json) -> None:
        try:
            self.documents += adapter.read(event)
        except InvalidEvent as error:
            self.refused.append((error.reason, event))
