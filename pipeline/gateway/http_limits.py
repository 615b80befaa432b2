"""Bounds on what strangers may send: time, bytes unpacked and requests per second. No request is judged here."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil
from typing import Any, Final

import orjson
from aiohttp import web

#: How many seconds' worth of requests may come at once after a silence: a large room ends with hundreds.
_BURST_S: Final = 5
#: Answers after which the rest of the body is not waited for.
_UNREAD: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})
#: zlib or gzip, told apart by their header.
_ANY_HEADER: Final = 32 + zlib.MAX_WBITS
#: What Content-Encoding may say, as Accept-Encoding tells it to whoever says something else.
CODINGS: Final = ("gzip", "deflate")


@dataclass(slots=True)
class Problem(Exception):
    """A request that is refused: its status, what a person should know, and headers that the status asks for."""

    status: int
    detail: str
    headers: dict[str, str] = field(default_factory=dict)


def problem_response(problem: Problem) -> web.Response:
    """Return the answer of a problem, in the form of RFC 9457."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    response = web.Response(
        body=orjson.dumps(document),
        status=problem.status,
        headers=problem.headers,
        content_type="application/problem+json",
    )
    if problem.status in _UNREAD:
        response.force_close()
    return response


async def read_body(request: web.Request, max_bytes: int, timeout_s: float) -> bytes:
    """Return a body, unpacked. Raises Problem: 408 too slow, 413 too long, 415 unknown coding, 400 damaged.

    No more than `max_bytes` are ever held, of what was sent and of what it unpacks to.
    """
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding not in ("identity", *CODINGS):
        raise Problem(415, f"bodies are sent as they are, or as {' or '.join(CODINGS)}", _accepted_codings())
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large(max_bytes)
    except TimeoutError:
        raise Problem(408, f"the body took more than {timeout_s:g} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise Problem(400, "the body ended too early, or its chunks are malformed") from None
    return bytes(body) if coding == "identity" else _unpacked(body, max_bytes)


def too_large(max_bytes: int) -> Problem:
    """Return the refusal of what is too long."""
    return Problem(413, f"more than {max_bytes} bytes, unpacked")


def _accepted_codings() -> dict[str, str]:
    return {"Accept-Encoding": ", ".join(CODINGS)}


def _unpacked(body: bytearray, max_bytes: int) -> bytes:
    unpacking = zlib.decompressobj(_ANY_HEADER)
    try:
        unpacked = unpacking.decompress(body, max_bytes + 1)
    except zlib.error:
        raise Problem(400, "the body is not packed as Content-Encoding says") from None
    if len(unpacked) > max_bytes:
        raise too_large(max_bytes)
    if not unpacking.eof or unpacking.unused_data:
        raise Problem(400, "the packed body ends too early, or goes on after its end")
    return unpacked


class Rates:
    """How many requests each project may make: a bucket of tokens for each, filled by time."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Start with full buckets; `monotonic` tells seconds that never go back."""
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, requests_per_s: int) -> None:
        """Take a token of a project. Raises Problem 429, saying after how many seconds there is one."""
        now_s = self._monotonic()
        filled_s, tokens = self._buckets.get(name, (now_s, float(requests_per_s * _BURST_S)))
        tokens = min(tokens + (now_s - filled_s) * requests_per_s, requests_per_s * _BURST_S)
        if tokens < 1:
            wait_s = ceil((1 - tokens) / requests_per_s)
            raise Problem(429, f"more than {requests_per_s} requests a second", {"Retry-After": str(wait_s)})
        self._buckets[name] = (now_s, tokens - 1)


class Connection(web.RequestHandler):
    """A client's connection that is cut when a request's header takes too long.

    aiohttp bounds how long a connection may be silent, not how slowly a header may drip in. So bytes that come while
    no request is being answered start a timer, and `begin`, called with a whole header, stops it.
    """

    __slots__ = ("_header_timeout_s", "_is_answering", "_timer")

    def __init__(self, *args: Any, header_timeout_s: float, **options: Any) -> None:
        """Take what aiohttp's own takes."""
        super().__init__(*args, **options)
        self._header_timeout_s = header_timeout_s
        self._is_answering = False
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Start the timer with the first bytes of a header."""
        if self._timer is None and not self._is_answering:
            self._timer = asyncio.get_running_loop().call_later(self._header_timeout_s, self.force_close)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the timer."""
        self._stop()
        super().connection_lost(exc)

    def begin(self) -> None:
        """Say that a whole header is there."""
        self._is_answering = True
        self._stop()

    def end(self) -> None:
        """Say that its request was answered: the next bytes are the next header's."""
        self._is_answering = False

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is not HTTP. Neither the answer nor the log repeats it: credentials may stand in it."""
        del exc, message
        if request.writer.output_size:
            raise ConnectionError("the answer has begun")
        response = problem_response(Problem(status, "this is not a request in HTTP/1.1"))
        response.force_close()
        return response

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
