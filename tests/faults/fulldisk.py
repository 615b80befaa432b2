"""F25: the store's disk is full, on a small tmpfs that is filled up and emptied again.

The store is the embedded one, in the worker: the engine's streaming insert, by which the tests' store server writes,
reports rows as written that a full disk has refused.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.compare import compare
from tests.faults.engine import Lab, Row
from tests.faults.rig import rig

_SIZE_MB: int = 192
_NAME: str = "F25 store's disk full"


def full_disk(lab: Lab) -> Iterator[Row]:
    """Fill the disk up under load; nothing may be acknowledged that is not stored; then make room again."""
    disk = lab.directory("disk")
    try:
        with _mounted(disk):
            yield _filled(lab, disk, lab.size(2, 10))
    except PermissionError as error:
        yield Row(_NAME, unavailable=f"not run here: {error}")


@contextmanager
def _mounted(disk: Path) -> Iterator[None]:
    mount = ("mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m", "tmpfs", str(disk))
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"a tmpfs cannot be mounted ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(("umount", "-l", str(disk)), check=False)


def _filled(lab: Lab, disk: Path, times: int) -> Row:
    share = 3_000
    events = feed.simulated_events((2 * times + 1) * share, lab.seed)
    ballast, failed, problems = disk / "ballast", 0, []
    with rig(lab, "disk", store=f"chdb://{disk}/clickhouse") as made:
        worker = made.worker()

        def is_done() -> bool:
            return feed.is_done(made.settings, worker.address)

        for number in range(times):
            made.send(events[2 * number * share :][:share])
            wait_until(is_done)
            retries = worker.metric("roommeter_store_retries_total")
            _fill(ballast)
            made.send(events[(2 * number + 1) * share :][:share])
            wait_until(lambda: _has_failed(worker, retries + 3, ballast))  # noqa: B023 - called at once
            failed += 1
            committed = feed.committed(made.settings)
            worker.kill()
            ballast.unlink()
            worker.start()
            # At once: the worker is not ready, and has written nothing more, before the killed one is declared dead.
            wait_until(lambda: worker.get("/ping") is not None)
            stored = feed.stored(made.settings, worker.address)
            problems += [f"{committed} committed, {stored} stored"] if committed > stored else []
            wait_until(is_done)
        made.send(events[2 * times * share :])
        wait_until(is_done)
        wait_until(worker.is_ready)
        found = compare(made.settings, worker.address, made.events, made.records)
    return Row(
        _NAME, failed, times, note="three failed inserts or more each time, then killed", problems=problems
    ).compared(found)


def _has_failed(worker: Process, retries: float, ballast: Path) -> bool:
    """Tell whether so many attempts have failed; what the store has freed meanwhile is taken again."""
    _fill(ballast)
    return worker.metric("roommeter_store_retries_total") >= retries


def _fill(ballast: Path) -> None:
    """Leave no free block."""
    with ballast.open("ab", buffering=0) as file:
        block = b"\0" * 65_536
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]
        os.fsync(file.fileno())
