"""A ClickHouse server of our own for tests of faults: the embedded engine behind HTTP, that can be killed.

It lets several processes share one store, which the embedded engine alone does not, and goes away and
comes back as a server does.
"""

import asyncio
import contextlib
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.broker import free_port, kill_guarded, start_guarded
from pipeline.endpoint import Endpoint, Limits
from pipeline.http import Readiness, make_app, serve
from pipeline.metrics import Metrics
from tests.brokers import until

if TYPE_CHECKING:
    from subprocess import Popen

#: A server's limits, not those of a process that answers curl beside its own work.
_LIMITS: Final = Limits(max_body_bytes=512 * 1_048_576, max_concurrent=16)
_START_TIMEOUT_S: Final = 30.0


class StoreServer:
    """One directory of the embedded store, writable at a fixed port of loopback, in a process of its own."""

    def __init__(self, directory: Path) -> None:
        """Prepare; data and log go into a directory, the port stays the same whatever happens."""
        self.port = free_port()
        self._directory = directory
        self._process: Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The address for `Store.open`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, the first time or again, and return when it answers."""
        command = (sys.executable, "-m", "tests.faults.storeserver", str(self._directory / "data"), str(self.port))
        self._process = start_guarded(command, self._directory / "server.log")
        until(self._answers, _START_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None:
            kill_guarded(process)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.dsn}/ping", timeout=5):  # noqa: S310 - our own address
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


async def main(directory: Path, port: int) -> None:
    """Serve a directory until the process ends."""
    metrics = Metrics()
    endpoint = Endpoint(directory, limits=_LIMITS, writable=True)
    async with serve(make_app(Readiness(metrics), metrics, endpoint), port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
