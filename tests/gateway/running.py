"""A gateway that really listens, on loopback, with an outbox that keeps what it is given: for tests over HTTP.

Run as a program it serves until its input ends, and prints its port first: for tests of its memory.
"""

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiohttp
import orjson

from pipeline.embedded import load_meters
from pipeline.gateway.intake import Border
from pipeline.gateway.projects import JanusSource, LivekitKey, Project, Projects
from pipeline.gateway.server import Gateway, make_border, serving
from pipeline.janus.memory import JanusMemory
from pipeline.messages import Message
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from tests.gateway.signing import sign_livekit

KEY: Final = "APIacme"
SECRET: Final = "acme-secret-0123456789abcdefghijklmnopqrstuv"  # noqa: S105 - signs nothing but these tests
TOKEN: Final = "acme-token-0123456789abcdefghijklmnopqrstuvw"  # noqa: S105 - opens nothing but these tests
JANUS: Final = aiohttp.encode_basic_auth("janus", "janus-password-0123456789")
NOW_MS: Final = 1_790_000_000_000
ACME: Final = Project("acme", requests_per_s=1_000_000, livekit=(LivekitKey(KEY, SECRET.encode()),))
PROJECTS: Final = Projects(
    [ACME, Project("other")],
    {sha256(TOKEN.encode()).digest(): "acme"},
    [JanusSource("eu-1", "janus", b"janus-password-0123456789", project="acme")],
)
STRUCTURED: Final = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/cloudevents+json"}
BATCH: Final = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/cloudevents-batch+json"}


class Collected:
    """An outbox that keeps messages in a list.

    `arrived` tells of each call, `hold` makes it wait, `refusal` is raised in place of accepting.
    """

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.arrived: asyncio.Queue[int] = asyncio.Queue()
        self.messages: list[Message] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.refusal: Exception | None = None

    async def accept(self, messages: Sequence[Message]) -> None:
        """Keep the messages."""
        self.arrived.put_nowait(len(messages))
        await self.hold.wait()
        if self.refusal is not None:
            raise self.refusal
        self.messages.extend(messages)

    def documents(self) -> list[dict[str, Any]]:
        """Return the events kept, decoded."""
        return [orjson.loads(message.value) for message in self.messages if message.topic == "lifecycle"]

    def letters(self) -> list[Message]:
        """Return the dead letters kept."""
        return [message for message in self.messages if message.topic == "dead-letters"]


class Clocks:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        """Start at a time in which recorded calls are not in the future."""
        self.now_ms = NOW_MS
        self.monotonic_s = 100.0


@dataclass
class Running:
    """A gateway that runs: its client, what it sends, its metrics and its clocks."""

    port: int
    client: aiohttp.ClientSession
    outbox: Collected
    metrics: Metrics
    clocks: Clocks = field(default_factory=Clocks)

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Post a body; return status and decoded answer."""
        async with self.client.post(path, data=body, headers=headers) as response:
            return response.status, orjson.loads(await response.read())

    async def webhook(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Post a LiveKit webhook as acme's server signs it."""
        signature = sign_livekit(KEY, SECRET, body, self.clocks.now_ms // 1000)
        return await self.post("/webhooks/livekit", body, {"Authorization": signature})

    async def janus(self, events: object) -> tuple[int, dict[str, Any]]:
        """Post events of acme's Janus server."""
        return await self.post("/webhooks/janus", orjson.dumps(events), {"Authorization": JANUS})

    async def event(self, document: object) -> tuple[int, dict[str, Any]]:
        """Post one CloudEvent with acme's token, in structured mode."""
        return await self.post("/v1/events", orjson.dumps(document), STRUCTURED)

    async def batch(self, documents: object) -> tuple[int, dict[str, Any]]:
        """Post CloudEvents with acme's token, in batch mode."""
        return await self.post("/v1/events", orjson.dumps(documents), BATCH)

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value; raises KeyError where there is none."""
        value = self.metrics.registry.get_sample_value(name, labels)
        if value is None:
            raise KeyError(name)
        return value


def border(**changes: Any) -> Border:
    """Return a border with the settings' defaults, but for changes."""
    settings = Settings(**changes)
    return make_border(settings, load_meters(settings))


@asynccontextmanager
async def running(outbox: Any = None, projects: Projects = PROJECTS, **changes: Any) -> AsyncIterator[Running]:
    """Run a gateway on a free port, with settings as changed; its clocks stand still."""
    settings = Settings(gateway_port=0, **changes)
    outbox, metrics, clocks = outbox or Collected(), Metrics(), Clocks()
    with TemporaryDirectory() as directory, JanusMemory(Path(directory) / "janus.sqlite3") as memory:
        gateway = Gateway(
            settings,
            projects,
            make_border(settings, load_meters(settings)),
            outbox,
            memory,
            metrics,
            lambda: clocks.now_ms,
            lambda: clocks.monotonic_s,
        )
        async with (
            serving(gateway.make_app(), settings) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
        ):
            yield Running(port, client, outbox, metrics, clocks)


class _Nowhere:
    async def accept(self, messages: Sequence[Message]) -> None:
        """Let go of everything."""
        del messages


async def _serve() -> None:
    """Print the port, then for each line of input the most memory ever used, in KiB, until the input ends."""
    async with running(_Nowhere(), gateway_body_timeout_ms=4_000) as gateway:
        sys.stdout.write(f"{gateway.port}\n")
        sys.stdout.flush()
        while await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve())
