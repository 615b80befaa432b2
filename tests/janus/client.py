"""A participant of a Janus server: its HTTP API, and real WebRTC by aiortc. Notes what its own clock says.

Run as a program it is a participant in a process of its own, to be killed without a goodbye.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar
from uuid import uuid4

from aiohttp import ClientError, ClientSession, ClientTimeout
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack

JANUS_URL: Final = "http://127.0.0.1:8088/janus"
#: Silence after which our Janus gives a session up, and how often a participant shows that it is there.
SESSION_TIMEOUT_S: Final = 8
_KEEPALIVE_S: Final = 2
#: Longer than anything here takes on a machine with much else to do.
PATIENCE_S: Final = 40.0

_T = TypeVar("_T")


def now_ms() -> int:
    """Return the time of this machine's clock, in ms since the epoch."""
    return time.time_ns() // 1_000_000


async def within(patience_s: float, what: str, awaited: Awaitable[_T]) -> _T:
    """Wait for something. Raises TimeoutError, which says for what and how long."""
    try:
        return await asyncio.wait_for(awaited, patience_s)
    except TimeoutError:
        raise TimeoutError(f"waited {patience_s:g} s for {what}") from None


class Participant:
    """One session with one publishing handle in one room; `record` is what the driver knows of it."""

    def __init__(self, http: ClientSession, name: str, room: str) -> None:
        """Prepare; nothing is sent yet."""
        self.record: dict[str, Any] = {"name": name, "room": room}
        self._http = http
        self._room = room
        self._url = JANUS_URL
        self._handles: list[str] = []
        self._answers: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._peers: list[RTCPeerConnection] = []
        self._lost = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def attach(self) -> None:
        """Create the session and a handle of the video room."""
        if not self._handles:
            session = await self._ask(JANUS_URL, "create")
            self._url = f"{JANUS_URL}/{session['data']['id']}"
            self.record["session"] = str(session["data"]["id"])
            self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_alive())]
        fields = {"plugin": "janus.plugin.videoroom", "opaque_id": self.record["name"]}
        handle = await self._ask(self._url, "attach", **fields)
        self._handles.append(f"{self._url}/{handle['data']['id']}")
        self.record.setdefault("handle", str(handle["data"]["id"]))

    async def create_room(self) -> None:
        """Create the room."""
        await self._tell("create", room=self._room)

    async def destroy_room(self) -> None:
        """Destroy the room, whoever is inside."""
        await self._tell("destroy", room=self._room)

    async def join(self) -> None:
        """Join the room: signalling only."""
        answer = await self._tell_and_wait({"request": "join", "ptype": "publisher", "room": self._room})
        self.record["feed"] = answer["plugindata"]["data"]["id"]
        self.record["private"] = answer["plugindata"]["data"]["private_id"]

    async def publish(self) -> None:
        """Send sound; returns once connected, and notes when."""
        peer = self._peer()
        peer.addTrack(AudioStreamTrack())
        await peer.setLocalDescription(await peer.createOffer())
        answer = await self._tell_and_wait({"request": "publish"}, jsep=_description(peer))
        await peer.setRemoteDescription(RTCSessionDescription(**answer["jsep"]))
        await _connected(peer)
        self.record["connected_at_ms"] = now_ms()

    async def receive(self, feed: str) -> None:
        """Receive what another participant sends, by a second handle and connection."""
        await self.attach()
        request = {"request": "join", "ptype": "subscriber", "room": self._room, "private_id": self.record["private"]}
        offer = await self._tell_and_wait(request | {"streams": [{"feed": feed}]})
        peer = self._peer()
        await peer.setRemoteDescription(RTCSessionDescription(**offer["jsep"]))
        await peer.setLocalDescription(await peer.createAnswer())
        await self._tell_and_wait({"request": "start"}, jsep=_description(peer))
        await _connected(peer)

    async def stay(self, seconds: float) -> None:
        """Stay connected for a time; fails where the connection is lost before."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._lost.wait(), seconds)
            raise ConnectionError(f"{self.record['name']} was disconnected too early")

    async def leave(self) -> None:
        """Leave the room, and note when."""
        self._ended("leave")
        await self._tell_and_wait({"request": "leave"})

    async def hang_up(self) -> None:
        """Ask the server to hang the publishing connection up, and note when."""
        self._ended("hangup")
        await self._ask(self._handles[0], "hangup")

    async def lost(self, how: str) -> None:
        """Wait until the connection is lost, which somebody else brings about; he notes when."""
        self.record["how"] = how
        await within(PATIENCE_S, f"{self.record['name']} to be disconnected", self._lost.wait())

    async def close(self) -> None:
        """Give everything back, politely where the server still answers."""
        for task in self._tasks:
            task.cancel()
        for peer in self._peers:
            await peer.close()
        with suppress(ClientError, OSError):
            await self._ask(self._url, "destroy")

    def _ended(self, how: str) -> None:
        self.record |= {"how": how, "ended_at_ms": now_ms()}

    def _peer(self) -> RTCPeerConnection:
        peer = RTCPeerConnection()
        self._peers.append(peer)

        @peer.on("connectionstatechange")
        def _changed() -> None:
            if peer.connectionState in ("closed", "failed"):
                self._lost.set()

        return peer

    async def _tell(self, request: str, **fields: Any) -> None:
        """Send a request that the plugin answers at once."""
        answer = await self._ask(self._handles[0], "message", body={"request": request, **fields})
        if "error" in answer["plugindata"]["data"]:
            raise RuntimeError(answer["plugindata"]["data"]["error"])

    async def _tell_and_wait(self, body: Mapping[str, Any], **fields: Any) -> Mapping[str, Any]:
        """Send a request that the plugin answers by an event; the newest handle is asked."""
        transaction = uuid4().hex
        self._answers[transaction] = asyncio.get_running_loop().create_future()
        await self._ask(self._handles[-1], "message", transaction, body=body, **fields)
        what = f"Janus's answer to {body['request']!r} of {self.record['name']}"
        answer = await within(PATIENCE_S, what, self._answers[transaction])
        if "error" in answer["plugindata"]["data"]:
            raise RuntimeError(answer["plugindata"]["data"]["error"])
        return answer

    async def _ask(self, url: str, request: str, transaction: str = "", **fields: Any) -> Any:
        body = {"janus": request, "transaction": transaction or uuid4().hex, **fields}
        async with self._http.post(url, json=body) as response:
            answer = await response.json()
        if answer["janus"] == "error":
            raise RuntimeError(f"{request}: {answer['error']}")
        return answer

    async def _listen(self) -> None:
        """Take the session's events and give them to whoever asked."""
        with suppress(ClientError, OSError):
            while True:
                async with self._http.get(self._url, params={"maxev": "10"}) as response:
                    answer = await response.json()
                for event in answer if isinstance(answer, list) else [answer]:
                    future = self._answers.get(event.get("transaction", ""))
                    if event.get("janus") == "event" and future is not None and not future.done():
                        future.set_result(event)
                    elif event.get("janus") == "hangup":
                        self._lost.set()

    async def _keep_alive(self) -> None:
        """Show until cancelled that this participant is there."""
        never = asyncio.Event()
        with suppress(ClientError, OSError):
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(never.wait(), _KEEPALIVE_S)
                await self._ask(self._url, "keepalive")


def _description(peer: RTCPeerConnection) -> dict[str, str]:
    return {"type": peer.localDescription.type, "sdp": peer.localDescription.sdp}


async def _connected(peer: RTCPeerConnection) -> None:
    """Wait until a connection is up."""
    up = asyncio.Event()

    @peer.on("connectionstatechange")
    def _changed() -> None:
        if peer.connectionState == "connected":
            up.set()

    if peer.connectionState != "connected":
        await within(PATIENCE_S, f"a connection that is {peer.connectionState}", up.wait())


def client() -> ClientSession:
    """Return a client for Janus, which answers a request for events after 30 s at the latest."""
    return ClientSession(timeout=ClientTimeout(total=PATIENCE_S))


@asynccontextmanager
async def participant(http: ClientSession, name: str, room: str) -> AsyncIterator[Participant]:
    """Attach a participant, and give everything back at the end."""
    one = Participant(http, name, room)
    try:
        await one.attach()
        yield one
    finally:
        await one.close()


async def _until_killed(name: str, room: str) -> None:
    """Publish, say what is known on the standard output, and stay."""
    async with client() as http, participant(http, name, room) as one:
        await one.join()
        await one.publish()
        print(one.record["session"], one.record["handle"], one.record["connected_at_ms"], flush=True)  # noqa: T201 - the protocol
        await one.stay(600)


if __name__ == "__main__":
    asyncio.run(_until_killed(*sys.argv[1:]))
