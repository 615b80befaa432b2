"""A LiveKit server that follows a script: it sends what the real one would, without media, clock or chance.

Bodies are made of LiveKit's own messages, written as proto3 JSON, with everything in them that must not pass
(passwords, names, metadata, phone numbers). Times are times of day as in `tests.metering.builders.clock`.
"""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.json_format import MessageToJson
from livekit.protocol.agent import Job, JobState
from livekit.protocol.egress import EgressInfo, FileInfo
from livekit.protocol.ingress import IngressInfo, IngressState
from livekit.protocol.models import ParticipantInfo, Room, TrackInfo
from livekit.protocol.webhook import WebhookEvent

from tests.metering.builders import clock

_NS_PER_MS: Final = 1_000_000

Files = Sequence[tuple[str, str]]
"""Start and end of each file that a recording has written, as times of day."""

#: Planted wherever a server writes what is nobody's business; it must never be seen again.
PLANTED: Final = "planted-secret"


def _ns(time: str) -> int:
    return clock(time) * _NS_PER_MS


class LivekitServer:
    """A server with one room at a time; `bodies` holds every webhook sent so far, as bytes, in order.

    `skew_ms` is how far its clock is ahead of everybody's. One without `knows_ms` is older than 1.8.4: it tells
    creation and joining in whole seconds only. Several servers get different `name`s, for different event ids.
    """

    def __init__(self, name: str = "1", *, skew_ms: int = 0, knows_ms: bool = True) -> None:
        """Start with no room; nothing is sent before it is asked for."""
        self.bodies: list[bytes] = []
        self._name = name
        self._skew_ms = skew_ms
        self._knows_ms = knows_ms
        self._room = Room()
        self._people: dict[str, ParticipantInfo] = {}

    def send(self, event: str, at: str, **parts: Any) -> bytes:
        """Send a webhook of the event's name with the parts that it has, and return its body."""
        webhook = WebhookEvent(
            event=event,
            id=f"EV_{self._name}_{len(self.bodies)}",
            created_at=(clock(at) + self._skew_ms) // 1_000,
            **parts,
        )
        self.bodies.append(MessageToJson(webhook, indent=None).encode())
        return self.bodies[-1]

    def room_started(self, at: str, room: str = "RM_1") -> bytes:
        """Start a room, or the one that is there once more: after a crash it keeps its id and creation time."""
        if self._room.sid != room:
            created_ms = clock(at) + self._skew_ms
            self._room = Room(
                sid=room,
                name=PLANTED,
                metadata=PLANTED,
                turn_password=PLANTED,
                empty_timeout=300,
                departure_timeout=20,
                creation_time=created_ms // 1_000,
                creation_time_ms=created_ms if self._knows_ms else 0,
            )
        return self.send("room_started", at, room=self._room)

    def room_finished(self, at: str, reason: str = "ROOM_END_IDLE_TIMEOUT") -> bytes:
        """End the room; its id may be used again."""
        return self.send("room_finished", at, room=self._room, room_end_reason=reason)

    def signalled(self, at: str, sid: str, **about: Any) -> None:
        """Let a participant come as far as signalling, of which no webhook tells; `about` are fields of the message."""
        joined_ms = clock(at) + self._skew_ms
        self._people[sid] = ParticipantInfo(
            **{"identity": f"user-{sid}", **about},
            sid=sid,
            name=PLANTED,
            metadata=PLANTED,
            joined_at=joined_ms // 1_000,
            joined_at_ms=joined_ms if self._knows_ms else 0,
        )

    def joined(self, at: str, sid: str, **about: Any) -> bytes:
        """Let a participant become active; signalling began at the same time unless `signalled` said otherwise."""
        if sid not in self._people:
            self.signalled(at, sid, **about)
        person = self._people[sid]
        person.state = ParticipantInfo.ACTIVE
        return self.send("participant_joined", at, room=self._room, participant=person)

    def left(self, at: str, sid: str, reason: str = "CLIENT_INITIATED") -> bytes:
        """Let a participant go who has been active."""
        return self._gone("participant_left", at, sid, reason)

    def aborted(self, at: str, sid: str, reason: str = "SIGNAL_CLOSE") -> bytes:
        """Let a participant go of whom the server believes that it never became active."""
        return self._gone("participant_connection_aborted", at, sid, reason)

    def published(self, at: str, sid: str, event: str = "track_published") -> bytes:
        """Let a participant publish a track; such a webhook tells no more than ids of room and participant."""
        return self.send(
            event,
            at,
            room=Room(sid=self._room.sid, name=PLANTED),
            participant=ParticipantInfo(sid=sid, identity=self._people[sid].identity),
            track=TrackInfo(sid="TR_1", name=PLANTED),
        )

    def egress(self, event: str, at: str, status: str, *, files: Files = (), **info: Any) -> bytes:
        """Tell of the recording EG_1 of the room; its times in `info` are times of day, as those of its files are."""
        room = Room(sid=self._room.sid, name=PLANTED)
        fields: dict[str, Any] = {"egress_id": "EG_1", "room_id": room.sid, "room_name": PLANTED, "status": status}
        for name, value in info.items():
            fields[name] = _ns(value) if name in ("started_at", "ended_at", "updated_at") else value
        fields["file_results"] = [
            FileInfo(filename=PLANTED, started_at=_ns(start), ended_at=_ns(end)) for start, end in files
        ]
        message = EgressInfo(**fields)
        return self.send(event, at, room=room, egress_info=message)

    def ingress(
        self, event: str, at: str, status: str, *, started_at: str, ended_at: str | None = None, **state: Any
    ) -> bytes:
        """Tell of the reusable import IN_1; `state` has the stream's resource_id, and its room_id where known."""
        message = IngressState(
            **{"room_id": self._room.sid, **state},
            status=status,
            started_at=_ns(started_at),
            ended_at=_ns(ended_at) if ended_at else 0,
        )
        info = IngressInfo(
            ingress_id="IN_1",
            name=PLANTED,
            stream_key=PLANTED,
            url=f"rtmp://{PLANTED}/live",
            room_name=PLANTED,
            participant_identity="studio-cam",
            reusable=True,
            state=message,
        )
        return self.send(event, at, room=Room(name=PLANTED), ingress_info=info)

    def job(self, event: str, at: str, job: str, status: str = "JS_RUNNING") -> bytes:
        """Tell of an agent's job; no such webhook has a room but in the job itself."""
        state = JobState(status=status, started_at=_ns(at), participant_identity=f"agent-{job}")
        return self.send(
            event, at, job=Job(id=job, room=self._room, agent_name="support", metadata=PLANTED, state=state)
        )

    def _gone(self, event: str, at: str, sid: str, reason: str) -> bytes:
        person = self._people[sid]
        person.MergeFrom(ParticipantInfo(state="DISCONNECTED", disconnect_reason=reason))
        return self.send(event, at, room=self._room, participant=person)
