"""F25: the store's disk is full, on a small tmpfs that is filled up and emptied again."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.processes import wait_until
from tests.faults import feed
from tests.faults.engine import Lab, Row
from tests.faults.rig import Rig, rig

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
    with rig(lab, "disk", data=disk) as made:
        worker = made.worker()
        for number in range(times):
            made.send(events[2 * number * share :][:share])
            made.until_done()
            retries = worker.metric("roommeter_store_retries_total")
            _fill(ballast)
            made.send(events[(2 * number + 1) * share :][:share])
            wait_until(lambda: worker.metric("roommeter_store_retries_total") >= retries + 3)  # noqa: B023
            failed += 1
            committed = feed.committed(made.settings)
            ballast.unlink()
            problems += _check_durable(made, committed)
            made.until_done()
        made.send(events[2 * times * share :])
        made.until_done()
        wait_until(worker.is_ready)
        found = made.compare()
    return Row(_NAME, failed, times, note="three failed inserts or more each time", problems=problems).compared(found)


def _fill(ballast: Path) -> None:
    """Leave no free block."""
    with ballast.open("wb", buffering=0) as file:
        block = b"\0" * 65_536
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]
        os.fsync(file.fileno())


def _check_durable(made: Rig, committed: int) -> list[str]:
    """What was committed on a full disk has to be there for a store that is killed and started again."""
    made.server.kill()
    made.server.start()
    stored = feed.stored(made.settings, made.server.dsn)
    return [f"{committed} committed, {stored} stored"] if committed > stored else []
