"""Real brokers for tests: which one to take, how to start it, kill it and start it again.

In this order: the address in ROOMMETER_TEST_KAFKA; Docker, where a daemon answers; Apache Kafka itself from
its Maven artifacts, where Java and Maven are; the embedded broker. ROOMMETER_TEST_BROKER=address|docker|kafka|
embedded forces one, and then it is an error when that cannot be had.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pipeline.broker import EmbeddedBroker, free_port, kill_guarded, start_guarded, stop_guarded, wait_for_broker
from tests.locks import Locks

_POM: Final = Path(__file__).parent.parent / "infra" / "kafka" / "pom.xml"
_VERSION: Final = re.findall(r"<artifactId>kafka_2.13</artifactId>\s*<version>(.*?)<", _POM.read_text())[0]
_IMAGE: Final = f"apache/kafka:{_VERSION}"
_START_TIMEOUT_S: Final = 120.0
_STOP_TIMEOUT_S: Final = 20.0
_JVM: Final = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class NoBroker(RuntimeError):
    """This kind of broker cannot be had here; the message says why."""


class TestBroker(ABC):
    """A broker that tests share."""

    __test__ = False
    name: str
    port: int = 0
    #: The shortest silence of a member that its group may be told to tolerate: 6 s on a broker as it comes.
    session_timeout_ms: int = 2_000

    @property
    def bootstrap(self) -> str:
        """The address for Kafka clients."""
        return f"127.0.0.1:{self.port}"

    @abstractmethod
    async def start(self) -> None:
        """Start it and return when it answers. Raises NoBroker."""

    @abstractmethod
    def kill(self) -> None:
        """Kill it as kill -9 does."""

    async def restart(self) -> None:
        """Start it again after `kill` or `stop`, on the same port and data."""
        await self.start()

    async def settle(self, topic: str, records: int) -> None:
        """Return when so many records of a topic would survive `kill`."""
        # At once: what Kafka acknowledged is safe.
        del topic, records

    async def crash(self) -> None:
        """End it as suddenly as it may end without losing what it has acknowledged."""
        self.kill()

    async def expire_members(self) -> None:
        """See to it that members that were killed leave their groups in the end."""
        # By itself: their silence outlasts the session timeout.
        del self

    @abstractmethod
    async def stop(self) -> None:
        """Stop it in an orderly way."""


class AddressBroker(TestBroker):
    """Somebody else's broker."""

    session_timeout_ms = 6_000

    def __init__(self, bootstrap: str) -> None:
        """Take its address."""
        self.name = "broker of ROOMMETER_TEST_KAFKA"
        self._bootstrap = bootstrap

    @property
    def bootstrap(self) -> str:
        """The address for Kafka clients."""
        return self._bootstrap

    async def start(self) -> None:
        """Do nothing: it runs."""

    def kill(self) -> None:
        """Refuse: it is not ours."""
        raise AssertionError(f"the {self.name} is not ours to kill")

    async def stop(self) -> None:
        """Do nothing: others use it."""


class ProcessBroker(TestBroker):
    """A broker that is a guarded child process."""

    process: subprocess.Popen[bytes] | None

    def kill(self) -> None:
        """Kill it as kill -9 does."""
        assert self.process is not None
        kill_guarded(self.process)

    def pids(self) -> set[int]:
        """Return the processes of its group."""
        assert self.process is not None
        group = str(self.process.pid)
        stats = {int(stat.parent.name): stat.read_text() for stat in Path("/proc").glob("[0-9]*/stat")}
        return {pid for pid, stat in stats.items() if stat.rpartition(")")[2].split()[2] == group}


class EmbeddedTestBroker(ProcessBroker):
    """The embedded broker of the product (noida-db)."""

    name = "embedded broker (noida-db)"
    session_timeout_ms = 6_000

    def __init__(self, directory: Path) -> None:
        """Keep its data in a directory."""
        self.directory = directory
        self.embedded = EmbeddedBroker(directory, 0)
        self.port = self.embedded.port

    @property
    def process(self) -> subprocess.Popen[bytes] | None:  # type: ignore[override]
        """Its guarding shell."""
        return self.embedded._process

    async def start(self) -> None:
        """Start it and return when it answers."""
        await self.embedded.start()

    async def settle(self, topic: str, records: int) -> None:
        """Return when its file has the records: it writes about once a second."""
        await asyncio.to_thread(until, lambda: self._written(topic) == records)

    async def crash(self) -> None:
        """Stop it in order: killed, it would lose the last second, and offsets would be given twice."""
        await self.stop()

    async def expire_members(self) -> None:
        """Restart it: it keeps dead members until then."""
        await self.stop()
        await self.start()

    def _written(self, topic: str) -> int | None:
        file = self.directory / "kafka.json"
        topics = dict(json.loads(file.read_bytes())["topics"]) if file.exists() else {}
        if topic not in topics:
            return None
        return sum(int(partition["high_watermark"]) for _, partition in topics[topic]["partitions"])

    async def stop(self) -> None:
        """Stop it, with its data written."""
        await self.embedded.stop()


class ApacheKafka(ProcessBroker):
    """Apache Kafka, one node, from its Maven artifacts."""

    name = f"Apache Kafka {_VERSION} (Maven artifacts)"

    def __init__(self, directory: Path) -> None:
        """Keep its data in a directory."""
        self.process = None
        self.port = free_port()
        self.locks = Locks(directory / "tls", free_port(), free_port())
        self._directory = directory
        self._controller_port = free_port()

    async def start(self) -> None:
        """Start it and return when it answers. Raises NoBroker."""
        classpath = f"{kafka_jars()}/*"
        properties = self._directory / "server.properties"
        log = self._directory / "kafka.log"
        if not properties.exists():
            config = kafka_config(f"127.0.0.1:{self.port}", "127.0.0.1", self.port, self._controller_port)
            config["log.dirs"] = str(self._directory / "data")
            config = self.locks.fit(config)
            properties.write_text("".join(f"{name}={value}\n" for name, value in config.items()))
            format_log_dir = (
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "MkU3OEVBNTctOEUyRi00Mg",
                "-c",
                str(properties),
                "--add-scram",
                f"SCRAM-SHA-512=[name={self.locks.user},password={self.locks.password}]",
            )
            run("java", *_JVM, "-cp", classpath, *format_log_dir)
        self.process = start_guarded(("java", *_JVM, "-cp", classpath, "kafka.Kafka", str(properties)), log)
        try:
            await wait_for_broker(self.port, self.process.poll, _START_TIMEOUT_S)
        except TimeoutError as error:
            await self.stop()
            raise NoBroker(f"Apache Kafka did not start: {log.read_text()[-500:]}") from error

    async def stop(self) -> None:
        """Stop it in an orderly way."""
        if self.process is not None:
            await stop_guarded(self.process, _STOP_TIMEOUT_S)


class DockerKafka(TestBroker):
    """Apache Kafka's own image, by testcontainers."""

    name = f"Apache Kafka {_VERSION} (Docker)"

    def __init__(self, directory: Path) -> None:
        """Describe the container; its data stays in it, so the directory is not needed."""
        del directory
        from testcontainers.core.container import DockerContainer

        self.port = free_port()
        self._container: Any = DockerContainer(_IMAGE).with_bind_ports(9092, ("127.0.0.1", self.port))
        for name, value in kafka_config(self.bootstrap, "0.0.0.0", 9092, 9093).items():  # noqa: S104 - inside
            self._container.with_env("KAFKA_" + name.replace(".", "_").upper(), value)

    async def start(self) -> None:
        """Start it, the first time or again, and return when it answers."""
        try:
            if self._container.get_wrapped_container() is None:
                self._container.start()
            else:
                self._container.get_wrapped_container().start()
            await wait_for_broker(self.port, lambda: None, _START_TIMEOUT_S)
        except Exception as error:
            raise NoBroker(f"{_IMAGE} did not start: {error}") from error

    def kill(self) -> None:
        """Kill it as kill -9 does."""
        self._container.get_wrapped_container().kill()

    async def stop(self) -> None:
        """Remove the container and its data."""
        self._container.stop()


def kafka_config(advertised: str, host: str, port: int, controller_port: int) -> dict[str, str]:
    """Return the settings of a single node that is quick to start and creates no topic by itself."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{advertised}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # After a kill the broker may not come back before its old session is over.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
        "auto.create.topics.enable": "false",
    }


def kafka_jars() -> Path:
    """Return the directory with Kafka's jars, asking Maven for them the first time. Raises NoBroker."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roommeter"
    jars = cache / f"kafka-{_VERSION}-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
    if not jars.exists():
        # Complete or absent: another run may look for it meanwhile.
        partial = cache / f"partial-{uuid.uuid4().hex}"
        try:
            run("mvn", "-B", "-q", "-f", str(_POM), "dependency:copy-dependencies", f"-DoutputDirectory={partial}")
            with contextlib.suppress(OSError):
                partial.rename(jars)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return jars


def run(*command: str) -> None:
    """Run a command to its end. Raises NoBroker with the end of what it printed."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except subprocess.CalledProcessError as error:
        raise NoBroker(f"{command[0]} failed: {(error.stdout + error.stderr)[-500:].strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBroker(f"{command[0]} failed: {error}") from error


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(("docker", "info"), check=False, capture_output=True, timeout=20).returncode == 0


_KINDS: Final[dict[str, tuple[Callable[[], bool], Callable[[Path], TestBroker]]]] = {
    "address": (
        lambda: "ROOMMETER_TEST_KAFKA" in os.environ,
        lambda _directory: AddressBroker(os.environ["ROOMMETER_TEST_KAFKA"]),
    ),
    "docker": (_docker_answers, DockerKafka),
    "kafka": (lambda: bool(shutil.which("java") and shutil.which("mvn")), ApacheKafka),
    "embedded": (lambda: True, EmbeddedTestBroker),
}


@functools.cache
def candidates() -> list[str]:
    """Return the kinds of broker to try, best first. Raises NoBroker when one is forced that cannot be had."""
    forced = os.environ.get("ROOMMETER_TEST_BROKER")
    if forced is None:
        return [kind for kind, (is_there, _) in _KINDS.items() if is_there()]
    if forced not in _KINDS or not _KINDS[forced][0]():
        raise NoBroker(f"ROOMMETER_TEST_BROKER={forced} cannot be had here; it is one of {', '.join(_KINDS)}")
    return [forced]


def own_candidates() -> list[str]:
    """Return those of the kinds to try that we start ourselves, so that a test may do with it what it wants."""
    return [kind for kind in candidates() if kind != "address"] or ["embedded"]


def start_broker(kinds: list[str], directory: Path, say: Callable[[str], None]) -> TestBroker:
    """Start the first kind of broker that can be had, saying which one, how fast, and why not another."""
    for kind in kinds:
        home = directory / kind
        home.mkdir()
        started_s = time.monotonic()
        try:
            broker = _KINDS[kind][1](home)
            asyncio.run(broker.start())
        except NoBroker as error:
            if kind == kinds[-1]:
                raise
            say(f"no {kind}: {error}")
        else:
            say(f"{broker.name} at {broker.bootstrap}, started in {time.monotonic() - started_s:.1f} s")
            return broker
    raise AssertionError(kinds)


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Return the addresses (hex, as the kernel prints them) and ports on which some processes accept TCP."""
    links = {link.readlink().name for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in links:
                address, port = columns[1].split(":")
                found.add((address, int(port, 16)))
    return found


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return when a condition holds; raises TimeoutError when it does not in time. For synchronous tests.

    Asking takes a quarter of the time at most, as far as a pause is short: the rest is theirs who are waited for.
    """
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    asked_s = time.monotonic()
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(condition)
        pause.wait(min(1.0, max(0.02, 3 * (time.monotonic() - asked_s))))
        asked_s = time.monotonic()
