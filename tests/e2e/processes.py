"""Real processes for end-to-end tests: `roommeter worker` and others, as an operator starts them."""

import math
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.broker import free_port
from pipeline.settings import Settings
from tests.brokers import until

#: Longer than anything here takes, so that a hang is a failure and not a wait.
PATIENCE_SECONDS = 150.0


class Process:
    """One `roommeter` command with an HTTP surface, that can be killed and started again on the same port."""

    def __init__(self, command: str, settings: Settings, log: Path, program: Sequence[str] = ("pipeline",)) -> None:
        """Prepare; `settings` become its environment, its ports are fixed here.

        `program` is the module to run and its first arguments: another one may wrap the product to break it.
        """
        ports = {name: free_port() for name in ("http_port", "gateway_port", "console_port")}
        self.settings = settings.model_copy(update=ports)
        self._command = command
        self._program = program
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it answers health, metrics and queries."""
        return f"http://{self.settings.http_host}:{self.settings.http_port}"

    def start(self) -> None:
        """Start it, without waiting for anything."""
        changed = self.settings.model_dump(mode="json", exclude_defaults=True)
        environment = {f"ROOMMETER_{name.upper()}": str(value) for name, value in changed.items()}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._program, self._command],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_SECONDS)

    def interrupt(self) -> int:
        """SIGINT, as Ctrl-C sends it; return the exit code."""
        assert self._process is not None
        self.signal(signal.SIGINT)
        return self._process.wait(PATIENCE_SECONDS)

    def wait(self) -> int:
        """Wait until it has ended by itself; return the exit code, negative for a signal."""
        assert self._process is not None
        return self._process.wait(PATIENCE_SECONDS)

    def outlives(self, time_s: float) -> bool:
        """Wait so long, or until it ends by itself; tell whether it still runs."""
        assert self._process is not None
        try:
            self._process.wait(time_s)
        except subprocess.TimeoutExpired:
            return True
        return False

    def memory_mb(self) -> int:
        """Return its resident memory in MB; 0 when it has ended."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
        return int(found[1]) // 1_024 if found else 0

    def said(self) -> str:
        """Return its log."""
        return self._log.read_text()

    def close(self) -> None:
        """Make sure that it is gone, whatever a test did."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def is_ready(self) -> bool:
        """Ask /readyz; raises RuntimeError with the log when the process has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(
                f"{self._command} ended with {self._process.returncode}:\n{self._log.read_text()[-4000:]}"
            )
        return self.get("/readyz") is not None

    def get(self, path: str) -> str | None:
        """Return the body of an answer 200, None for anything else."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:  # noqa: S310 - our own address
                body: bytes = answer.read()
                return body.decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def unready_reasons(self) -> str:
        """Return what /readyz says is missing; nothing while it is ready or does not answer."""
        try:
            with urllib.request.urlopen(f"{self.address}/readyz", timeout=10):  # noqa: S310 - our own address
                return ""
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return ""

    def metric(self, name: str) -> float:
        """Return the value of a metric, as Prometheus would read it; 0 where it has none, NaN where nobody answers."""
        page = self.get("/metrics")
        if page is None:
            return math.nan
        return next((float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name)), 0.0)


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_SECONDS) -> None:
    """Ask again and again until a condition holds; a process outside gives no other sign. Raises TimeoutError."""
    until(condition, patience_s)
