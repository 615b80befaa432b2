"""What takes a Janus server's events in the rig: the real gateway, or a collector that shows what Janus itself does."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

from pipeline.broker import EmbeddedBroker
from pipeline.kafka import Record, read_topic
from pipeline.metering.events import EventType
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.e2e.processes import Process, wait_until
from tests.janus.client import within

_HOST: Final = "127.0.0.1"
#: Where the files of infra/janus send events, and as whom.
_PORT: Final = 8131
_PATH: Final = "/webhooks/janus"
_CREDENTIALS: Final = "Basic " + b64encode(b"janus:a-long-random-password").decode()
_PROJECTS: Final = """
[projects.acme]
[projects.beta]
[[janus]]
name = "eu-1"
user = "janus"
password = "a-long-random-password"
project_from = "room"
pattern = "^(?P<project>acme|beta)-"
"""
_PATIENCE_S: Final = 60
#: The type of Janus's events of its own life.
_CORE: Final = 256
#: Which delivery the collector takes and never answers, and which it answers with 503.
_UNANSWERED: Final = 3
_REFUSED: Final = 6

Json = dict[str, Any]


async def pause(seconds: float) -> None:
    """Let time go by, as it does between what a scenario does."""
    await asyncio.wait({waiting := asyncio.create_task(asyncio.Event().wait())}, timeout=seconds)
    waiting.cancel()


class Collector:
    """Takes batches of events, and keeps them in the order they came."""

    def __init__(self) -> None:
        """Start empty."""
        self.batches: list[list[Json]] = []
        self._changed = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        """Answer one delivery."""
        if request.headers.get("Authorization") != _CREDENTIALS:
            return web.Response(status=401)
        body = await request.json()
        async with self._changed:
            self.batches.append(body if isinstance(body, list) else [body])
            self._changed.notify_all()
        if len(self.batches) == _UNANSWERED and request.transport is not None:
            request.transport.abort()
        return web.Response(status=503 if len(self.batches) == _REFUSED else 200)

    async def until_started(self, times: int) -> None:
        """Wait until Janus has said so often that it started."""
        await self._until(
            f"the start number {times} of Janus",
            lambda: sum(event["type"] == _CORE for batch in self.batches for event in batch) >= times,
        )

    async def until_delivered(self, batches: int) -> None:
        """Wait for so many deliveries."""
        await self._until(f"delivery number {batches} of Janus", lambda: len(self.batches) >= batches)

    async def _until(self, what: str, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await within(_PATIENCE_S, what, self._changed.wait_for(condition))

    async def misbehave(self) -> None:
        """Be no worse than it is."""

    async def said(self) -> Json:
        """Return what came."""
        return {"batches": self.batches}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector."""
    collector = Collector()
    app = web.Application(client_max_size=8 * 1_048_576)
    app.router.add_post(_PATH, collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, _HOST, _PORT).start()
    try:
        yield collector
    finally:
        await runner.cleanup()


class Gateway:
    """`roommeter gateway` in a process of its own, which takes one request at a time, before the embedded broker."""

    def __init__(self, settings: Settings, log: Path) -> None:
        """Prepare; `settings` lead to the broker."""
        self._settings = settings
        self._process = Process("gateway", settings, log)
        self._process.settings = self._process.settings.model_copy(update={"gateway_port": _PORT})
        self._kills = 0

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._process.start()
        await asyncio.to_thread(wait_until, self._process.is_ready)

    async def stop(self) -> None:
        """Make sure that it is gone."""
        await asyncio.to_thread(self._process.close)

    async def misbehave(self) -> None:
        """Be killed while people connect, and again while they leave; then be too busy to take anything."""
        await pause(0.5)
        await self._be_away(2)
        await pause(2)
        await self._be_away(4)
        await within(_PATIENCE_S, "Janus to be refused by a busy gateway", self._be_busy())

    async def until_started(self, times: int) -> None:
        """Wait until the broker has it that Janus started so often."""
        await within(_PATIENCE_S, f"the start number {times} of Janus in the lifecycle topic", self._see_starts(times))

    async def _see_starts(self, times: int) -> None:
        while sum(event["type"] == EventType.SERVER_RESTARTED for event in await self._events()) < times:
            await pause(0.2)

    async def said(self) -> Json:
        """Return what is in the topics, each once, and what the gateway went through."""
        records = await self._records(topics(self._settings).dead_letters.name)
        letters = {dict(record.headers)["sha256"]: record for record in records}
        return {
            "events": await self._events(),
            "dead_letters": [
                (dict(record.headers)["reason"].decode(), json.loads(record.value or b"null"))
                for record in letters.values()
            ],
            "kills": self._kills,
            "refusals": await self._refusals(),
        }

    async def _events(self) -> list[Json]:
        records = await self._records(topics(self._settings).lifecycle.name)
        return [orjson.loads(value) for value in dict.fromkeys(record.value or b"" for record in records)]

    async def _records(self, topic: str) -> list[Record]:
        return [record async for record in read_topic(self._settings.kafka, topic)]

    async def _be_away(self, seconds: float) -> None:
        await asyncio.to_thread(self._process.kill)
        self._kills += 1
        await pause(seconds)
        await self.start()

    async def _be_busy(self) -> None:
        """Take a request that does not end before Janus's next delivery was refused because of it."""
        while not await self._is_taken():
            pass

    async def _is_taken(self) -> bool:
        """Send a request with no events, slowly; tell whether it was taken until another was refused.

        It may be refused itself, or given up as too slow when Janus comes again only later: then it is to be sent anew.
        """
        refusals = await self._refusals()
        reader, writer = await asyncio.open_connection(_HOST, _PORT)
        head = f"POST {_PATH} HTTP/1.1\r\nHost: rig\r\nAuthorization: {_CREDENTIALS}\r\nContent-Length: 2\r\n\r\n"
        writer.write(head.encode() + b"[")
        answer = asyncio.create_task(reader.readline())
        try:
            while not (answer.done() or await self._refusals() > refusals):
                await asyncio.wait({answer}, timeout=0.2)
            writer.write(b"]")
            return (await answer).split()[1:2] == [b"200"]
        except ConnectionError:
            return False
        finally:
            writer.close()

    async def _refusals(self) -> float:
        name = 'roommeter_gateway_requests_total{route="janus",status="503"}'
        return await asyncio.to_thread(self._process.metric, name)


@asynccontextmanager
async def metering(folder: Path) -> AsyncIterator[Gateway]:
    """Run a gateway and its broker, with data and logs in a folder."""
    projects = folder / "projects.toml"
    projects.touch(mode=0o600)
    projects.write_text(_PROJECTS)
    broker = EmbeddedBroker(folder / "broker", 0)
    await broker.start()
    settings = Settings(kafka=broker.bootstrap, data_dir=folder / "gateway", projects_file=projects, gateway_requests=1)
    gateway = Gateway(settings, folder / "gateway.log")
    try:
        await gateway.start()
        yield gateway
    finally:
        await gateway.stop()
        await broker.stop()
