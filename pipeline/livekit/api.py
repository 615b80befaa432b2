"""A client of LiveKit's server API, as far as reconciling needs it: who is connected now.

Twirp over HTTP with JSON bodies. The token is a JWT of three lines of standard library, so that neither a JWT package
nor protobuf is needed to run; the tests hold it against LiveKit's own verifier, and our requests against its messages.
A server writes field names in snake_case with all defaults, where its webhooks have neither: both are read. Of an
answer only what is named here is kept: ids and names of rooms, and of participants id, kind, state and start.
"""

import asyncio
import hmac
import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Self

import aiohttp
import orjson

from pipeline.gateway.projects import LivekitKey, Project
from pipeline.livekit import wire
from pipeline.livekit.reconcile import ListedRoom, Participant
from pipeline.livekit.webhooks import canonical
from pipeline.metering.events import InvalidEvent
from pipeline.metering.meters import KINDS
from pipeline.metering.units import EARLIEST_MS, MS_PER_SECOND

_log: Final = logging.getLogger(__name__)

#: How long a token is good for: one request, and clocks that differ; the server grants a minute more.
TOKEN_LIFETIME_S: Final = 60
_STATE: Final = {0: "JOINING", 1: "JOINED", 2: "ACTIVE", 3: "DISCONNECTED"}
_PASSING: Final = frozenset({408, 429})
_UNIMPLEMENTED: Final = 501
_OK: Final = 200
_SERVER_ERRORS: Final = 500


class ApiAway(Exception):
    """The API does not answer now, or not in time: asking again later may help."""


class ApiRefused(Exception):
    """The API answers, and not with what was asked for: somebody has to mend key, URL or server."""


class _Failed(ApiAway):
    """One attempt failed in a way that asking again at once may mend."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of asking: seconds of one request and of a whole pass, bytes of one answer, requests at a time."""

    request_s: float = 10.0
    pass_s: float = 45.0
    answer_bytes: int = 33_554_432
    concurrent: int = 8
    attempts: int = 3
    pause_s: float = 0.5


def access_token(key: LivekitKey, video: Mapping[str, object], now_s: int) -> str:
    """Return a token that grants `video` for a minute from `now_s`, in seconds since the epoch."""
    claims = {"iss": key.key, "nbf": now_s, "exp": now_s + TOKEN_LIFETIME_S, "video": video}
    signed = f"{_base64({'alg': 'HS256', 'typ': 'JWT'})}.{_base64(claims)}"
    return f"{signed}.{_unpadded(hmac.digest(key.secret, signed.encode(), 'sha256'))}"


class LivekitApi:
    """Asks the LiveKit server of a project, with the first of its keys; use it as a context manager."""

    def __init__(self, project: Project, clock: Callable[[], int], limits: Limits | None = None) -> None:
        """Prepare; `clock` returns ms since the epoch. Raises ApiRefused where the project names no URL or key."""
        if not project.livekit_url or not project.livekit:
            raise ApiRefused(f"project {project.name} needs livekit_url and a livekit key in the projects file")
        self._project = project
        self._clock = clock
        self._limits = limits or Limits()
        self._places = asyncio.Semaphore(self._limits.concurrent)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the client; nothing is asked yet."""
        # Bodies stay as they came: what is decompressed on the way could grow without bound.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._limits.request_s), auto_decompress=False
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close connections."""
        assert self._session is not None
        await self._session.close()

    async def rooms(self) -> list[ListedRoom]:
        """Return every room with its participants, as far as the server answers in time.

        Raises ApiAway or ApiRefused where it does not even list its rooms. A room about which it does not answer
        has None in place of participants, and so has one that ended between the two questions: it is judged next time.
        """
        listed = _rooms(await self._call("ListRooms", {"roomList": True}, {}))
        asked = {name: asyncio.create_task(self._participants(name)) for _, name in listed}
        if asked:
            _, late = await asyncio.wait(asked.values(), timeout=self._limits.pass_s)
            for task in late:
                task.cancel()
            await asyncio.wait(asked.values())
        answers = {name: None if task.cancelled() else task.result() for name, task in asked.items()}
        if silent := sum(answer is None for answer in answers.values()):
            _log.warning("%s: %d of %d rooms did not answer", self._project.name, silent, len(answers))
        return [ListedRoom(room, name, answers[name]) for room, name in listed]

    async def _participants(self, name: str) -> tuple[Participant, ...] | None:
        async with self._places:
            try:
                answer = await self._call("ListParticipants", {"roomAdmin": True, "room": name}, {"room": name})
                return _participants(answer, self._project)
            except (ApiAway, ApiRefused) as error:
                _log.debug("%s: a room did not answer: %s", self._project.name, error)
                return None

    async def _call(self, method: str, video: Mapping[str, object], request: Mapping[str, str]) -> Mapping[str, Any]:
        """Ask, and ask again where the connection or the server failed."""
        attempt = 1
        while True:
            try:
                return _object(await self._post(method, video, request))
            except _Failed as error:
                if attempt == self._limits.attempts:
                    raise ApiAway(f"{error}, {attempt} times") from error
                await asyncio.sleep(self._limits.pause_s * 2 ** (attempt - 1))
                attempt += 1

    async def _post(self, method: str, video: Mapping[str, object], request: Mapping[str, str]) -> bytes:
        assert self._session is not None
        token = access_token(self._project.livekit[0], video, self._clock() // MS_PER_SECOND)
        url = f"{self._project.livekit_url.rstrip('/')}/twirp/livekit.RoomService/{method}"
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        }
        try:
            # No redirects: the token is for this server alone.
            async with self._session.post(
                url, data=orjson.dumps(request), headers=headers, allow_redirects=False
            ) as response:
                if response.status != _OK:
                    raise _problem(method, response.status)
                return await self._read(response.content)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Failed(f"{method}: {type(error).__name__}") from error

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        body = bytearray()
        async for chunk in content.iter_any():
            body += chunk
            if len(body) > self._limits.answer_bytes:
                raise ApiRefused(f"an answer is larger than {self._limits.answer_bytes} bytes")
        return bytes(body)


def _problem(method: str, status: int) -> ApiAway | ApiRefused:
    """Return what a status means; the server's own words are not repeated, they can name rooms and people."""
    if status in _PASSING:
        return ApiAway(f"{method}: HTTP {status}")
    if status >= _SERVER_ERRORS and status != _UNIMPLEMENTED:
        return _Failed(f"{method}: HTTP {status}")
    advice = {
        401: ": mend the project's livekit key and secret, and this machine's clock",
        403: ": the project's livekit key may not do this",
        404: ": mend the project's livekit_url",
    }
    return ApiRefused(f"{method}: HTTP {status}{advice.get(status, '')}")


def _rooms(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return id and name of each room; a room without an id is known by its name, as in webhooks."""
    rooms = []
    for entry in _entries(answer, "rooms"):
        name = wire.value(entry, "name")
        if not isinstance(name, str) or not name:
            raise ApiRefused("an answer has a room without a name: is livekit_url a LiveKit server's?")
        rooms.append((wire.label(entry, "sid") or name, name))
    return rooms


def _participants(answer: Mapping[str, Any], project: Project) -> tuple[Participant, ...]:
    """Return who is in a room. Whoever is listed as disconnected is not."""
    try:
        return tuple(
            Participant(
                session=wire.identifier(entry, "sid"),
                kind=_kind(project, entry.get("kind"), tuple(wire.value(entry, "kindDetails") or ())),
                is_active=wire.enum(entry, "state", _STATE) == "ACTIVE",
                joined_at_ms=wire.time_ms(entry, "joinedAtMs", wire.MILLISECOND)
                or wire.time_ms(entry, "joinedAt", wire.SECOND),
            )
            for entry in _entries(answer, "participants")
            if wire.enum(entry, "state", _STATE) != "DISCONNECTED"
        )
    except (InvalidEvent, TypeError) as error:  # TypeError: details that are no list of enum values
        raise ApiRefused(f"an answer has a participant that is none: {error}") from error


@lru_cache(maxsize=256)
def _kind(project: Project, kind: str | int | None, details: tuple[str | int, ...]) -> str:
    """Return what a webhook about such a participant would say it is, '' where it is not metered."""
    webhook = {
        "event": "participant_joined",
        "id": "listed",
        "createdAt": str(EARLIEST_MS // MS_PER_SECOND),
        "room": {"sid": "listed"},
        "participant": {"sid": "listed", "kind": kind, "kindDetails": list(details)},
    }
    kinds = {document["data"].get("kind", "") for document in canonical(webhook, project.name, policy=project)}
    return "".join(kinds & KINDS)


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ApiRefused("an answer is not JSON: is livekit_url a LiveKit server's?") from None
    if not isinstance(answer, dict):
        raise ApiRefused("an answer is no JSON object: is livekit_url a LiveKit server's?")
    return answer


def _entries(answer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the entries of a list; only an empty object may leave an empty list out, as in proto3."""
    entries = answer.get(name, None if answer else [])
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ApiRefused(f"an answer has no list of {name}: is livekit_url a LiveKit server's?")
    return entries


def _base64(document: Mapping[str, object]) -> str:
    return _unpadded(orjson.dumps(document))


def _unpadded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
