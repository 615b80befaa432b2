"""What most scenarios need: topics of their own, a store behind a proxy, worker processes, and the events sent."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from pipeline.kafka import create_topics
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.e2e.processes import PATIENCE_SECONDS, Process, wait_until
from tests.faults import feed
from tests.faults.compare import Compared, compare
from tests.faults.engine import Lab
from tests.faults.proxy import Proxy
from tests.faults.storeserver import StoreServer


@dataclass(slots=True)
class Rig:
    """One pipeline of real processes on a broker, with a store of its own that they reach through `proxy` alone."""

    settings: Settings
    broker: TestBroker
    server: StoreServer
    proxy: Proxy
    home: Path
    #: What was sent so far.
    events: list[feed.Document] = field(default_factory=list)
    #: How many records that makes: what concerns every room is sent to every partition.
    records: int = 0
    #: How many partitions the lifecycle topic has.
    partitions: int = 0
    processes: list[Process] = field(default_factory=list)

    def process(self, command: str = "worker", program: tuple[str, ...] = ("pipeline",)) -> Process:
        """Prepare a process and see to its end."""
        made = Process(command, self.settings, self.home / f"{command}-{len(self.processes)}.log", program)
        self.processes.append(made)
        return made

    def worker(self) -> Process:
        """Start a worker and return when it is ready."""
        started = self.process()
        started.start()
        wait_until(started.is_ready)
        return started

    def send(self, events: list[feed.Document]) -> None:
        """Send events and return when the broker has them."""
        feed.send(self.settings, events)
        self.events += events
        self.records += sum(self.partitions if event["type"] == "server.restarted" else 1 for event in events)

    @contextmanager
    def sending(self, events: list[feed.Document], per_second: int) -> Iterator[None]:
        """Send events at a rate while the block runs, and the rest at its end."""
        is_over = threading.Event()
        failures: list[BaseException] = []

        def pump() -> None:
            started_s, sent = time.monotonic(), 0
            try:
                while sent < len(events):
                    is_over.wait(0.25)
                    due = len(events) if is_over.is_set() else int((time.monotonic() - started_s) * per_second)
                    if due > sent:
                        self.send(events[sent:due])
                        sent = min(due, len(events))
            except Exception as error:  # noqa: BLE001 - raised by whoever started the thread
                failures.append(error)

        thread = threading.Thread(target=pump, name="feed", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        if failures:
            raise failures[0]

    def is_done(self) -> bool:
        """Tell whether the store has all that was sent; a worker that ended is an error."""
        return feed.is_done(self.settings, self.server.dsn)

    def until_done(self, patience_s: float = PATIENCE_SECONDS) -> None:
        """Return when the store has all that was sent."""
        wait_until(self.is_done, patience_s)

    def compare(self) -> Compared:
        """Compare the store with the oracle."""
        return compare(self.settings, self.server.dsn, self.events, self.records)


@contextmanager
def rig(lab: Lab, name: str, *, broker: TestBroker | None = None, **changes: Any) -> Iterator[Rig]:
    """Start a store and make topics; `changes` are settings."""
    chosen = broker or lab.broker
    home = lab.directory(name)
    server = StoreServer(home)
    server.start()
    with Proxy(server.port) as proxy:
        given: dict[str, Any] = {
            "kafka": chosen.bootstrap,
            "topic_prefix": f"{name}-{uuid4().hex[:6]}.",
            "store": f"http://127.0.0.1:{proxy.port}",
            "session_timeout_ms": chosen.session_timeout_ms,
            "batch_events": 500,
        }
        settings = Settings(**given | changes)
        asyncio.run(create_topics(settings.kafka, topics(settings).all()))
        made = Rig(settings, chosen, server, proxy, home, partitions=settings.partitions)
        try:
            yield made
        finally:
            for process in made.processes:
                process.close()
            server.kill()


class Watch:
    """Watches the memory of a process in a thread: growth in MB from entering to the highest point."""

    def __init__(self, process: Process) -> None:
        """Prepare."""
        self.growth_mb = 0
        self._process = process
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> Self:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop watching."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        first_mb = self._process.memory_mb()
        while not self._is_over.wait(0.2):
            self.growth_mb = max(self.growth_mb, self._process.memory_mb() - first_mb)
