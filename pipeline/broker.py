"""The embedded broker: noida-db's Kafka as a child process on loopback, for trying out and developing.

Its limits: it keeps everything in memory and writes it whole into one file, about once a second and when it is
stopped. So it drowns beyond some 200 000 events, and when it is killed it forgets what it acknowledged in the last
second. Group members that died stay until it is restarted: `up` restarts it with the worker.
Beside Kafka it opens a control port, on loopback too, that wants a token from the (private) data directory.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipeline.settings import Settings

_log: Final = logging.getLogger(__name__)

_HOST: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 30.0
#: Long enough to write some 300 MB.
_STOP_TIMEOUT_S: Final = 20.0
_POLL_INTERVAL_S: Final = 0.02
#: Kafka's ApiVersions request, which every broker answers first.
_API_VERSIONS: Final = (18, b"")
#: Kafka's AlterConfigs request for broker 1: a topic that is missing must not appear with settings not ours.
#: The broker keeps it with its data.
_NO_AUTO_CREATE: Final = (
    33,
    struct.pack(">ibh1sih25sh5sb", 1, 4, 1, b"1", 1, 25, b"auto.create.topics.enable", 5, b"false", 0),
)
#: Runs a command until it ends or standard input is closed: the kernel does that when we die, however we die.
#: SIGTERM to the shell kills the command; the shell ends after it, so that its port is free then.
_GUARD: Final = """
trap 'kill -9 "$child"' TERM
exec 3<&0
"$@" 3<&- & child=$!
( cat <&3 >/dev/null; kill "$child" ) & watcher=$!
wait "$child"; wait "$child"
kill "$watcher" 2>/dev/null
"""


class BrokerUnavailable(RuntimeError):
    """The embedded broker cannot run; the message says why."""


class EmbeddedBroker:
    """A broker whose data lives in one directory and survives it."""

    #: From this size of its data on (about 200 000 events) it is no longer fit: take Apache Kafka.
    LIMIT_BYTES: Final = 300_000_000

    def __init__(self, data_dir: Path, port: int) -> None:
        """Prepare; a `port` of 0 takes a free one, once, so that clients find it again after a restart."""
        self._data_dir = data_dir
        self._log_file = data_dir / "broker.log"
        self._data_file = data_dir / "kafka.json"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or free_port()

    @property
    def bootstrap(self) -> str:
        """The address for Kafka clients."""
        return f"{_HOST}:{self.port}"

    async def start(self) -> None:
        """Start and return when it answers. Raises BrokerUnavailable."""
        spec = find_spec("noida_db")
        if spec is None or spec.origin is None:
            raise BrokerUnavailable("the package noida-db is not installed")
        binary = Path(spec.origin).parent / "noida-db"
        if not os.access(binary, os.X_OK):
            raise BrokerUnavailable(f"there is no program {binary}")
        if not _is_free(self.port):
            # Else whoever has it could answer in the broker's place.
            raise BrokerUnavailable(f"port {self.port} is in use")
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            # Only we may read the token of its control port.
            self._data_dir.chmod(0o700)
        except OSError as error:
            raise BrokerUnavailable(f"{self._data_dir} cannot be its directory: {error}") from error
        if not self._data_file.exists():
            # The first time where nobody waits for it: a client that comes back at once would create topics.
            await self._run(binary, free_port())
            await self.stop()
        await self._run(binary, self.port)

    async def _run(self, binary: Path, port: int) -> None:
        """Start on a port and return when it answers, and creates no topics by itself. Raises BrokerUnavailable."""
        arguments = ("start", "--host", _HOST, "--only", "kafka", "--kafka-port", str(port))
        self._process = start_guarded((str(binary), *arguments, "--data-dir", str(self._data_dir)), self._log_file)
        try:
            await wait_for_broker(port, self._process.poll, _START_TIMEOUT_S)
            await _exchange(port, *_NO_AUTO_CREATE)
        except OSError as error:
            await self.stop()
            raise BrokerUnavailable(f"the embedded broker did not start: {self._reason()}") from error

    async def stop(self) -> None:
        """Stop it, letting it write its data; kill it when that takes too long."""
        process, self._process = self._process, None
        if process is not None:
            await stop_guarded(process, _STOP_TIMEOUT_S)

    async def ended(self) -> None:
        """Return when it has ended by itself. Its clients do not find back to it then: end with it."""
        while self._process is not None and self._process.poll() is None:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(1)

    async def raise_end(self) -> None:
        """Raise BrokerUnavailable when it has ended by itself."""
        await self.ended()
        raise BrokerUnavailable("the embedded broker has ended by itself; start again, and it goes on where it stopped")

    def size_bytes(self) -> int:
        """Return the size of its data, to be compared with LIMIT_BYTES."""
        with contextlib.suppress(FileNotFoundError):
            return self._data_file.stat().st_size
        return 0

    def _reason(self) -> str:
        lines = self._log_file.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error:")]
        return " ".join(errors or lines[-1:]) or "it says nothing"


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


def start_guarded(command: Sequence[str], log_file: Path) -> subprocess.Popen[bytes]:
    """Start a program that ends with us, even when we are killed.

    It is the child of a shell in a process group of its own (so that Ctrl-C is ours to handle), which ends it
    when our end of the pipe to the shell's standard input is closed.
    """
    with log_file.open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - the commands are ours
            ("/bin/sh", "-c", _GUARD, "guard", *command),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def stop_guarded(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Ask a guarded program to end (SIGTERM), and kill it with its group when it has not in time."""
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, timeout_s)
    kill_guarded(process)


def kill_guarded(process: subprocess.Popen[bytes]) -> None:
    """Kill a guarded program at once (SIGKILL) and return when it is gone."""
    assert process.stdin is not None
    process.terminate()
    process.wait()
    process.stdin.close()


async def wait_for_broker(port: int, exit_code: Callable[[], int | None], timeout_s: float) -> None:
    """Return when a broker of this machine answers; raises TimeoutError when it ends or takes too long."""
    async with asyncio.timeout(timeout_s):
        while not await _answers(port):
            if exit_code() is not None:
                raise TimeoutError
            await asyncio.sleep(_POLL_INTERVAL_S)


async def _answers(port: int) -> bool:
    try:
        await _exchange(port, *_API_VERSIONS)
    except OSError:
        return False
    return True


async def _exchange(port: int, api_key: int, body: bytes) -> bytes:
    """Send one request of Kafka's protocol (version 0, no client id) and return the answer. Raises OSError."""
    reader, writer = await asyncio.open_connection(_HOST, port)
    try:
        request = struct.pack(">hhih", api_key, 0, 1, -1) + body
        writer.write(struct.pack(">i", len(request)) + request)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError(str(error)) from error
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def embedded_broker(settings: Settings) -> AsyncIterator[tuple[Settings, EmbeddedBroker]]:
    """Run the embedded broker; yields it, and the settings that lead to it and to the embedded store."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    embedded = EmbeddedBroker(settings.data_dir / "broker", settings.broker_port)
    await embedded.start()
    try:
        if embedded.size_bytes() > embedded.LIMIT_BYTES:
            _log.warning(
                "The embedded broker holds %d MB and gets slow. It is for trying out: see README, 'At scale'.",
                embedded.size_bytes() // 1_000_000,
            )
        store = f"chdb://{(settings.data_dir / 'clickhouse').resolve()}"
        yield settings.model_copy(update={"kafka": embedded.bootstrap, "store": store}), embedded
    finally:
        await embedded.stop()
