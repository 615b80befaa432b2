"""What the audit of a large store costs, and that it finds one changed value: `python -m tests.bench.audit`.

Simulated worlds are replayed into an embedded store and their hours are emitted; then the start of one session is
moved by a minute, and the quantity of one rollup is changed. The audit has to name both, and nothing else.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from typing import Final

import orjson
from rich.console import Console

from pipeline.audit.auditor import Auditor, Report
from pipeline.audit.laws import NUMBERS
from pipeline.clickhouse import Store
from pipeline.embedded import load_meters, now_ms
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import revise
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, hour_of
from pipeline.replay import replay
from pipeline.rows import Batch, UsageQuery
from pipeline.settings import Settings
from pipeline.simulator import Scenario, simulate

_SAY: Final = Console(stderr=True)
#: Sessions of one world; a large store is many of them, one after the other.
_WORLD: Final = 50_000
_PROJECTS: Final = tuple(f"project-{number}" for number in range(40))
_CHANGED: Final = """
ALTER TABLE rollups UPDATE quantity = quantity + 1
WHERE project = {project:String} AND meter = {meter:String} AND hour = {hour:DateTime64(3, 'UTC')}
SETTINGS mutations_sync = 2
"""


def main() -> None:
    """Fill, audit, change, audit; print seconds and memory."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.audit", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    sessions = parser.parse_args().sessions
    settings = Settings()
    meters = load_meters(settings)
    with tempfile.TemporaryDirectory() as directory, closing(Store.open(f"chdb://{directory}")) as store:
        store.migrate(meters)
        filled = _timed(lambda: _fill(store, meters, settings, sessions))
        filled_mb = _memory_mb()
        auditor = Auditor(settings, meters, store, lambda _ms: None)
        found: list[Report] = []
        clean = _timed(lambda: found.append(auditor.run(now_ms())))
        _change(store)
        dirty = _timed(lambda: found.append(auditor.run(now_ms())))
        for what, (wall, cpu) in {"filled": filled, "audited": clean, "audited, changed": dirty}.items():
            _SAY.print(f"{what} in {wall:.0f} s, {cpu:.0f} s of CPU, the engine's with it")
        _SAY.print(f"memory at its highest: {filled_mb} MB when filled, {_memory_mb()} MB after the audits")
        for report in found:
            _show(report)


def _fill(store: Store, meters: Meters, settings: Settings, sessions: int) -> None:
    limits = (settings.max_event_bytes, settings.batch_events)
    for counted in replay(_payloads(sessions), "file:bench", store, meters, now_ms(), *limits):
        del counted
    as_of_ms = hour_of(now_ms()) - MS_PER_HOUR
    to_ms = hour_of(as_of_ms - settings.grace_period_ms)
    current = dict(store.usage(UsageQuery(as_of_ms=as_of_ms, to_ms=to_ms)))
    store.insert_rollups(list(revise({}, current, as_of_ms, as_of_ms)), meters)


def _payloads(sessions: int) -> Iterator[bytes]:
    """Yield the events of worlds of six hours, one after the other, until about now."""
    worlds = max(1, sessions // _WORLD)
    first_ms = hour_of(now_ms()) - 2 * MS_PER_DAY - worlds * 6 * MS_PER_HOUR
    for world in range(worlds):
        start_ms = first_ms + world * 6 * MS_PER_HOUR
        played = simulate(
            Scenario(
                start_ms=start_ms,
                end_ms=start_ms + 6 * MS_PER_HOUR,
                sessions=sessions // worlds,
                seed=world,
                projects=_PROJECTS,
                reconnect=0.05,
                duplicate=0.02,
                late=0.01,
                crash=0.01,
                lost_connect=0.01,
            )
        )
        yield from (orjson.dumps(document) for _, document in played.events)


def _change(store: Store) -> None:
    found = store.query(
        "SELECT project, room, session, toUnixTimestamp64Milli(connected_at) FROM session_facts "
        "WHERE kind = 'agent' AND connected_at < '2200-01-01 00:00:00' ORDER BY session LIMIT 1"
    )
    for *key, connected_at_ms in found:
        store.write(Batch([(*key, Session(connected_at_ms=connected_at_ms - MS_PER_MINUTE))]))
        _SAY.print("changed: connected_at of", *key)
    for cell in store.query("SELECT project, meter, toString(hour) FROM rollups ORDER BY increments DESC LIMIT 1"):
        store._client.command(_CHANGED, dict(zip(("project", "meter", "hour"), cell, strict=True)))
        _SAY.print("changed: quantity of", *cell)


def _show(report: Report) -> None:
    for law in report.laws:
        sys.stdout.write(
            f"{NUMBERS[law.law]:4} {law.law:18} checked {law.checked:>9,}, {len(law.differences)} differ\n"
        )
    for difference in chain.from_iterable(law.differences[:3] for law in report.laws):
        sys.stdout.write(f"     {difference}\n")


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds and the CPU seconds that a call takes."""
    started, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started, time.process_time() - used


def _memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
