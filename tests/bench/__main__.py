"""What metering costs, as ratios to a bare loop on the same machine: `python -m tests.bench [--json]`.

Each measurement is a process of its own. Nothing is asserted: a table says what was measured and, beside
it, the goal.
"""

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from pipeline.cli.run import run_async
from pipeline.clickhouse import Store
from pipeline.embedded import load_meters
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.bench import bare, gateway, workers
from tests.bench.load import Entry, day, declare, fill, lines, settings_of
from tests.brokers import candidates, start_broker

#: Where it says how far it is, apart from the results.
_SAY: Final = Console(stderr=True)
_STOCK_EVENTS: Final = 20_000
_JOB_EVENTS: Final = 200_000
_REBALANCE_EVENTS: Final = 200_000
_MEMORY_SESSIONS: Final = 100_000
_RECOVERY_SESSIONS: Final = 200_000
_WEBHOOKS: Final = 20_000


class Result(NamedTuple):
    """One line of the table."""

    measured: str
    value: float
    unit: str
    goal: str = ""


def main() -> None:
    """Measure everything, or, as a child, one thing."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--events", type=int, default=200_000, help="events of the simulated day")
    parser.add_argument("--runs", type=int, default=3, help="runs of each CPU measurement; the median counts")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "KAFKA"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, kafka = arguments.measure
        logging.disable()  # of what is measured only the results are of interest
        run_async(_measure(name, kafka, arguments.events))
        return
    with tempfile.TemporaryDirectory() as directory:
        broker = start_broker(candidates(), Path(directory), _SAY.print)
        try:
            results = _all(broker.bootstrap, arguments.events, arguments.runs)
        finally:
            asyncio.run(broker.stop())
    _show(results, as_json=arguments.json)


def _all(kafka: str, events: int, runs: int) -> list[Result]:
    """Run every measurement in a process of its own, the shared ones on topics of their own."""
    sent = day(events)

    def measured(name: str, count: int, times: int = 1) -> dict[str, float]:
        found = [_child(kafka, f"{name}-{time}.", sent[:count], count) for time in range(times)]
        return {part: statistics.median(values[part] for values in found) for part in found[0]}

    job = measured("job", 0, runs)["us"]
    loop = measured("bare", events, runs)["us"]
    null = measured("null", events, runs)["us"]
    chdb = measured("chdb", events, runs)["us"]
    stock = measured("stock", min(events, _STOCK_EVENTS))["us"]
    memory = measured("memory", 0)
    recovery = measured("recovery", 0)
    replayed = measured("rebalance", 0)["records"]
    webhooks = gateway.measure(kafka, _WEBHOOKS, runs)
    return [
        Result("the job: decode, state, changelog entries, rows", job, "us CPU/event", "<= 10"),
        Result("bare loop: poll, decode, join, commit", loop, "us CPU/event"),
        Result("worker without inserts", null, "us CPU/event"),
        Result("  its events per CPU second, of the bare loop's", loop / null, "", ">= 0.45"),
        Result("worker with the embedded store", chdb, "us CPU/event", "<= 20"),
        Result("stock Faust agent, no job", stock, "us CPU/event"),
        Result("  its cost, of the worker's without inserts", stock / null, ""),
        Result("memory of an open session", memory["bytes"], "bytes", "<= 1000"),
        Result(f"recovery of {_RECOVERY_SESSIONS:,} open sessions", recovery["seconds"], "s", "<= 3"),
        Result("  for each record of the changelog", recovery["us"], "us CPU"),
        Result("records replayed by a clean rebalance", replayed, "", "0"),
        *(Result(*row) for row in gateway.rows(webhooks)),
    ]


def _child(kafka: str, prefix: str, sent: list[Entry], count: int) -> dict[str, float]:
    """Put events on a topic of its own and run one measurement on them."""
    settings = settings_of(kafka, prefix)
    asyncio.run(declare(settings))
    asyncio.run(fill(kafka, topics(settings).lifecycle.name, sent))
    command = [sys.executable, "-m", "tests.bench", "--measure", prefix, kafka, "--events", str(count)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    values: dict[str, float] = json.loads(finished.stdout)
    _SAY.print(prefix, values)
    return values


async def _measure(prefix: str, kafka: str, events: int) -> None:
    """Be the child: measure one thing and print it."""
    settings = settings_of(kafka, prefix)
    match prefix.partition("-")[0]:
        case "job":
            values = {"us": bare.job_cpu_us(settings, [*lines(_JOB_EVENTS)])}
        case "bare":
            values = {"us": await bare.bare_cpu_us(settings, events)}
        case "null":
            values = {"us": await workers.cpu_us(settings, events, workers.NullStore())}
        case "chdb":
            values = {"us": await _with_chdb(settings, events)}
        case "stock":
            values = {"us": await bare.stock_faust_cpu_us(settings, events)}
        case "memory":
            values = {"bytes": bare.bytes_per_session(settings, _MEMORY_SESSIONS)}
        case "recovery":
            values = dict(zip(("seconds", "us"), await workers.recovery(settings, _RECOVERY_SESSIONS), strict=True))
        case "rebalance":
            values = {"records": await workers.replayed(settings, _REBALANCE_EVENTS)}
    sys.stdout.write(json.dumps(values))


async def _with_chdb(settings: Settings, events: int) -> float:
    with tempfile.TemporaryDirectory() as directory, closing(Store.open(f"chdb://{directory}")) as store:
        store.migrate(load_meters(settings))
        return await workers.cpu_us(settings, events, store)


def _show(results: list[Result], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.writelines(json.dumps(result._asdict()) + "\n" for result in results)
        return
    table = Table("measured", "value", "unit", "goal", title="roommeter: cost", title_justify="left")
    table.columns[1].justify = "right"
    for result in results:
        table.add_row(result.measured, f"{result.value:,.2f}", result.unit, result.goal)
    Console().print(table)


if __name__ == "__main__":
    main()
