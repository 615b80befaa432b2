"""What the tests of the limiter share: one installation, and limiters that stop before any step."""

from collections import defaultdict
from typing import Any, cast

import orjson

from pipeline.clickhouse import Store, StoreUnavailable
from pipeline.decisions import PATIENCE_MS
from pipeline.kafka import read_topic
from pipeline.limits import codec as limit_codec
from pipeline.limits.file import parse_limits
from pipeline.limits.limiter import Limiter
from pipeline.limits.store import LimitStore
from pipeline.messages import lifecycle_message
from pipeline.metering.limits import Crossing, StoryKey, follows
from pipeline.metering.session import Session
from pipeline.metering.timeline import ORPHAN_AFTER_MS
from pipeline.metering.units import NEVER_MS
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.rows import Batch
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.contracts.emitter_stage import Stepped, Steps
from tests.metering.builders import METERS, Document, connected, disconnected, event

#: Ten minutes an hour, twelve at most; two agents at once.
LIMITS = """
[[limit]]
project = "acme"
meter = "agent_session_minutes"
per = "hour"
soft = "10"
hard = "12"
"""
CONCURRENT = '[[limit]]\nproject = "*"\nconcurrent = "agent"\nhard = "2"\n'


class LimitStage:
    """One installation: topics, a store, a clock, any number of limiters. The broker's clock is the wall's."""

    def __init__(self, settings: Settings, store: Store, producer: Producer, now_ms: int) -> None:
        """Begin with nothing on the topics."""
        self.settings = settings
        self.store = store
        self.producer = producer
        self.topics = topics(settings)
        self.now_ms = now_ms
        self.metrics = Metrics()
        self.limits = LIMITS
        self.is_away = False
        self._limiters: list[Limiter] = []

    def limiter(self, steps: Steps | None = None) -> Limiter:
        """Return a new limiter, as after a start."""
        limits = parse_limits(self.limits, METERS, "limits.toml")
        stored = LimitStore(self.store, METERS, limits, ORPHAN_AFTER_MS)
        store, producer = cast("LimitStore", Stepped(stored, self._reach_store)), self.producer
        if steps is not None:
            store = cast("LimitStore", Stepped(stored, steps.reach))
            producer = cast("Producer", Stepped(producer, steps.reach))
        limiter = Limiter(self.settings, METERS, limits, store, producer, self.metrics, lambda: self.now_ms)
        self._limiters.append(limiter)
        return limiter

    async def close(self) -> None:
        """Let all limiters go."""
        for limiter in self._limiters:
            await limiter.close()

    async def _reach_store(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away for a moment")

    async def send(self, *documents: Document) -> None:
        """Put events on the lifecycle topic."""
        for document in documents:
            message = lifecycle_message(self.topics.lifecycle.name, document)
            await self.producer.send_soon(message.topic, message.key, message.value, partition=message.partition)
        await self.producer.flush()

    async def call(self, session: str, minutes: int, **data: Any) -> None:
        """Send an agent's session that has just ended, after so many minutes."""
        began_ms = self.now_ms - minutes * 60_000
        room = f"RM_{session}"
        await self.send(
            connected(began_ms, session=session, room=room, **data),
            disconnected(self.now_ms, session=session, room=room, **data),
        )

    async def use(self, name: str, meter: str, quantity: int) -> None:
        """Send a usage event of acme's."""
        document = event("usage.recorded", self.now_ms, project="acme", meter=meter, quantity=quantity)
        await self.send(document | {"id": name})

    def stored(self, session: str, began_ms: int, ended_ms: int = NEVER_MS, **facts: Any) -> None:
        """Store what is known of an agent's session, as the worker does."""
        times = {"connected_at_ms": began_ms, "disconnected_at_ms": ended_ms, "last_seen_ms": began_ms} | facts
        self.store.write(Batch([("acme", f"RM_{session}", session, Session("agent", **times))]))

    async def told(self) -> list[str]:
        """Return what was published, in order: event and threshold."""
        documents = [orjson.loads(payload) for payload in await self.published()]
        return [f"{document['event']} {document['threshold']}" for document in documents]

    async def published(self) -> list[bytes]:
        """Return every crossing of the topic, in order."""
        return [record.value or b"" async for record in read_topic(self.settings.kafka, self.topics.limits.name)]

    async def decided(self) -> dict[str, Crossing]:
        """Return by id what came first of each crossing in the log of decisions."""
        newest: dict[StoryKey, Crossing] = {}
        found = {}
        async for record in read_topic(self.settings.kafka, self.topics.limit_decisions.name):
            _, crossing = limit_codec.decode_decision(record.value or b"")
            if follows(crossing, newest.get(crossing.story)):
                newest[crossing.story] = found[crossing.id] = crossing
        return found

    async def check(self, most: int = 1) -> None:
        """Assert that every decided crossing is published, in one content, at most so many times."""
        copies = defaultdict(list)
        for payload in await self.published():
            copies[orjson.loads(payload)["id"]].append(payload)
        decided = await self.decided()
        assert {key: set(found) for key, found in copies.items()} == {
            key: {limit_codec.encode_crossing(crossing)} for key, crossing in decided.items()
        }
        assert max(map(len, copies.values())) <= most

    def wait_out(self) -> None:
        """Let the time pass in which whoever proposed a crossing may publish it."""
        self.now_ms += PATIENCE_MS
