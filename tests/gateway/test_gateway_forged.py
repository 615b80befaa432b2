"""Who is not believed, over real HTTP: forged and mutated webhooks, guessed tokens, and what they are told."""

import asyncio
import logging
from random import Random
from typing import Final

import pytest

from tests.gateway.bodies import SECRETS, planted_events, planted_janus, planted_webhooks
from tests.gateway.running import JANUS, KEY, NOW_MS, SECRET, STRUCTURED, TOKEN, Running
from tests.gateway.signing import CALL, forgeries, mutations, sign_livekit

_NOW_S: Final = NOW_MS // 1000


class Wire:
    """A connection that sends headers as they are, broken ones too, and opens again where it was closed."""

    def __init__(self, port: int) -> None:
        """Connect with the first request."""
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def status(self, authorization: str | None, body: bytes) -> int:
        """Post a webhook and return the status of the answer."""
        reader, writer = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
        self._streams = None
        header = (
            b"" if authorization is None else b"Authorization: %s\r\n" % authorization.encode("utf-8", "surrogatepass")
        )
        writer.write(b"POST /webhooks/livekit HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body))
        writer.write(header + b"\r\n" + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        if head.startswith(b"http/1.1 401 ") and not set(authorization or "") & set("\r\n"):
            self._streams = reader, writer
        else:
            writer.close()
        return int(head.split(b" ", 2)[1])


async def test_no_forged_webhook_is_accepted(gateway: Running) -> None:
    """Every known way to forge a webhook: 401, or 400 where it is not even HTTP."""
    for forgery in forgeries(KEY, SECRET, CALL[2], _NOW_S):
        if (forgery.authorization or "").strip(" \t") == sign_livekit(KEY, SECRET, forgery.body, _NOW_S):
            continue  # a space around a header's value is no part of it (RFC 9110)
        assert await Wire(gateway.port).status(forgery.authorization, forgery.body) in {400, 401}, forgery.name
    assert gateway.outbox.messages == []


async def test_none_of_10_000_mutated_webhooks_is_accepted(gateway: Running) -> None:
    """Signatures, headers and bodies changed by chance: none is believed, and nothing is kept of any."""
    requests = [(sign_livekit(KEY, SECRET, body, _NOW_S), body) for body in CALL]
    known = set(requests)
    wire = Wire(gateway.port)
    statuses = []
    for authorization, body in mutations(Random(7), requests, 10_200):  # noqa: S311 - chance, not secrecy
        if (authorization.strip(" \t"), body) not in known:
            statuses.append(await wire.status(authorization, body))
    assert len(statuses) >= 10_000
    assert set(statuses) == {400, 401}
    assert statuses.count(401) > 9_000
    assert gateway.outbox.messages == []
    assert await wire.status(*requests[0]) == 200


async def test_a_refused_webhook_is_not_told_why(gateway: Running) -> None:
    """The same words for every reason; the reason is the operator's to know."""
    answers = set()
    for authorization in ("x", sign_livekit("APIx", SECRET, b"{}", _NOW_S), sign_livekit(KEY, SECRET, b"{}", 0)):
        answers.add(str(await gateway.post("/webhooks/livekit", b"{}", {"Authorization": authorization})))
    assert len(answers) == 1
    for cause in ("malformed", "unknown_key", "expired"):
        assert gateway.metric("roommeter_gateway_refused_total", cause=cause) == 1


async def test_a_refused_webhook_is_told_how_to_sign(gateway: Running) -> None:
    """RFC 9110: 401 comes with a challenge."""
    async with gateway.client.post("/webhooks/livekit", data=b"{}") as response:
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'LiveKit realm="roommeter"')
    assert gateway.metric("roommeter_gateway_refused_total", cause="missing") == 1


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer x", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
async def test_a_wrong_token_posts_nothing(gateway: Running, authorization: str | None) -> None:
    """401 with a challenge, before anything of the body is read."""
    headers = {} if authorization is None else {"Authorization": authorization}
    async with gateway.client.post("/v1/events", data=b"{}", headers=headers) as response:
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'Bearer realm="roommeter"')
    assert gateway.outbox.messages == []


async def test_a_packed_webhook_is_not_unpacked_for_strangers(gateway: Running) -> None:
    """LiveKit sends its webhooks as they are; nothing is unpacked before its sender is known."""
    headers = {"Authorization": "x", "Content-Encoding": "gzip"}
    assert (await gateway.post("/webhooks/livekit", b"", headers))[0] == 415


async def test_no_secret_is_sent_on_or_logged(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Privacy: bodies full of secrets, whole and cut, through every route, and a look at every message and log line."""
    caplog.set_level(logging.DEBUG)
    for body in planted_webhooks():
        await gateway.webhook(body)
        await gateway.webhook(body[: len(body) // 2])
    for body in planted_janus():
        await gateway.post("/webhooks/janus", body, {"Authorization": JANUS})
        await gateway.post("/webhooks/janus", body[:-9], {"Authorization": JANUS})
    for body in planted_events():
        await gateway.post("/v1/events", body, STRUCTURED)
        await gateway.post("/v1/events", b"[" + body, STRUCTURED)
    assert len(gateway.outbox.letters()) > 60
    for message in gateway.outbox.messages:
        assert not any(secret in repr(message).encode() for secret in (*SECRETS, SECRET.encode(), TOKEN.encode()))
    assert not any(secret.decode() in caplog.text for secret in (*SECRETS, SECRET.encode(), TOKEN.encode()))
