"""A fake of LiveKit's server API (ListRooms, ListParticipants) that behaves like the real one.

Requests and answers are LiveKit's own protobuf messages, in either encoding of Twirp; tokens are checked by LiveKit's
own verifier. What it copies from the real server: JSON answers have the names of the .proto files and all defaults;
a bad token is refused in plain text by the middleware before Twirp, missing grants by Twirp, both with 401; a server
that keeps its lists in a database (the default) answers for a room it does not know with an empty list, and goes on
listing whom a crashed node had; one that asks the room's node (`lists_live`) answers 404.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import orjson
from aiohttp import web
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from google.protobuf.message import DecodeError, Message
from livekit.api import TokenVerifier, VideoGrants
from livekit.protocol.models import ParticipantInfo, Room
from livekit.protocol.room import (
    ListParticipantsRequest,
    ListParticipantsResponse,
    ListRoomsRequest,
    ListRoomsResponse,
)

from pipeline.gateway.projects import LivekitKey, Project

KEY: Final = LivekitKey("APIfake", b"the fake server's secret, long enough")
#: What of a server's answers must never be kept.
PRIVATE: Final = ("turn-password", "Ada Lovelace", "room-metadata", "+15105550100", "user-18f2")

_STATUS: Final = {
    "bad_route": 404,
    "malformed": 400,
    "not_found": 404,
    "resource_exhausted": 429,
    "unauthenticated": 401,
    "unavailable": 503,
    "internal": 500,
}


class _Refusal(Exception):
    """A Twirp error, by its code."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens in place of an answer, so many `times`: an error, a body, half an answer, or nothing at all."""

    code: str = ""
    body: bytes | None = None
    cut: bool = False
    hang: bool = False
    redirect: str = ""
    times: int = 1_000_000


class FakeLivekit:
    """The server, on a free port of loopback while its context is open."""

    def __init__(self, key: LivekitKey = KEY) -> None:
        """Have no rooms and no faults."""
        self.url = ""
        self.lists_live = False
        #: Faults by method, or by the name of the room asked about.
        self.faults: dict[str, Fault] = {}
        #: Method and room of every request whose token was good.
        self.asked: list[tuple[str, str]] = []
        #: Where set, requests wait at it for each other.
        self.barrier: asyncio.Barrier | None = None
        self.most_at_once = 0
        self._at_once = 0
        self._rooms: list[Room] = []
        self._participants: dict[str, dict[str, ParticipantInfo]] = {}
        self._verifier = TokenVerifier(key.key, key.secret.decode())
        self._key = key
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start."""
        app = web.Application()
        app.router.add_post("/twirp/{service}/{method}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop, whoever still waits for an answer."""
        self._ended.set()
        await self._runner.cleanup()

    def project(self, **changes: Any) -> Project:
        """Return a project whose server this is."""
        return Project(**{"name": "acme", "livekit_url": self.url, "livekit": (self._key,)} | changes)

    def open_room(self, name: str, sid: str = "") -> None:
        """Add a room; a second id of a name is listed too, as after a split of the cluster."""
        self._rooms.append(Room(sid=sid or f"RM_{name}", name=name, turn_password=PRIVATE[0], metadata=PRIVATE[2]))
        self._participants.setdefault(name, {})

    def close_room(self, name: str) -> None:
        """Remove a room and all in it."""
        self._rooms = [room for room in self._rooms if room.name != name]
        self._participants.pop(name, None)

    def join(self, name: str, sid: str, joined_at_ms: int = 1_789_999_203_905, **changes: Any) -> None:
        """Let a participant be in a room, ACTIVE unless told otherwise."""
        if name not in self._participants:
            self.open_room(name)
        fields: dict[str, Any] = {
            "sid": sid,
            "identity": f"user-18f2-{sid}",
            "name": PRIVATE[1],
            "state": ParticipantInfo.State.ACTIVE,
            "joined_at": joined_at_ms // 1_000,
            "joined_at_ms": joined_at_ms,
            "attributes": {"sip.phoneNumber": PRIVATE[3]},
        }
        self._participants[name][sid] = ParticipantInfo(**fields | changes)

    def leave(self, sid: str) -> None:
        """Remove a participant."""
        for participants in self._participants.values():
            participants.pop(sid, None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(request)
        except _Refusal as refusal:
            code = str(refusal)
            return web.json_response({"code": code, "msg": f"said of {PRIVATE[4]}"}, status=_STATUS[code])
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        header = request.headers.get("Authorization", "")
        if not header.startswith("Bearer "):
            raise _Refusal("unauthenticated")
        try:
            video = self._verifier.verify(header.removeprefix("Bearer ")).video or VideoGrants()
        except Exception as error:  # noqa: BLE001 - the official verifier lets those of its JWT library through
            return web.Response(status=401, text=f"invalid authorization token: {error}")
        is_json = request.content_type == "application/json"
        if request.path == "/twirp/livekit.RoomService/ListRooms":
            rooms = _read(ListRoomsRequest(), await request.read(), is_json=is_json)
            fault = await self._admit("ListRooms", "", is_granted=bool(video.room_list))
            answer: Message = self._list_rooms(rooms)
        elif request.path == "/twirp/livekit.RoomService/ListParticipants":
            name = _read(ListParticipantsRequest(), await request.read(), is_json=is_json).room
            fault = await self._admit(
                "ListParticipants", name, is_granted=bool(video.room_admin) and video.room == name
            )
            answer = self._list_participants(name)
        else:
            raise _Refusal("bad_route")
        return await _send(request, _written(answer, is_json=is_json), fault)

    async def _admit(self, method: str, room: str, *, is_granted: bool) -> Fault:
        """Let a request pass that may ask, unless a fault says otherwise; return the fault of its answer."""
        if not is_granted:
            raise _Refusal("unauthenticated")
        self.asked.append((method, room))
        if self.barrier is not None and room:
            await self.barrier.wait()
        fault = self._fault(room or method)
        if fault.hang:
            await self._ended.wait()
        if fault.redirect:
            raise web.HTTPTemporaryRedirect(fault.redirect)
        if fault.code:
            raise _Refusal(fault.code)
        return fault

    def _fault(self, where: str) -> Fault:
        fault = self.faults.get(where, Fault())
        if fault.times <= 0:
            return Fault()
        self.faults[where] = replace(fault, times=fault.times - 1)
        return fault

    def _list_rooms(self, asked: ListRoomsRequest) -> ListRoomsResponse:
        return ListRoomsResponse(rooms=[room for room in self._rooms if not asked.names or room.name in asked.names])

    def _list_participants(self, name: str) -> ListParticipantsResponse:
        if self.lists_live and name not in self._participants:
            raise _Refusal("not_found")
        return ListParticipantsResponse(participants=self._participants.get(name, {}).values())


async def _send(request: web.Request, body: bytes, fault: Fault) -> web.StreamResponse:
    body = body if fault.body is None else fault.body
    response = web.StreamResponse(headers={"Content-Length": str(len(body)), "Content-Type": request.content_type})
    await response.prepare(request)
    await response.write(body[: len(body) // 2] if fault.cut else body)
    if fault.cut:
        assert request.transport is not None
        request.transport.close()
    return response


def _read(message: Any, body: bytes, *, is_json: bool) -> Any:
    try:
        if is_json:
            return Parse(body, message, ignore_unknown_fields=True)
        message.ParseFromString(body)
    except (ParseError, DecodeError, orjson.JSONDecodeError) as error:
        raise _Refusal("malformed") from error
    return message


def _written(message: Message, *, is_json: bool) -> bytes:
    if not is_json:
        return message.SerializeToString()
    return MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
    ).encode()
