"""The demo behind `make run`: everything started, fed and shown, for somebody who sees it for the first time."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from pipeline.embedded import System, now_ms, up
from pipeline.emitter import Emitter
from pipeline.kafka import end_offsets, read_topic
from pipeline.metering.meters import Meters
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE, hour_of
from pipeline.publish import publish
from pipeline.resources import schemas
from pipeline.settings import Settings
from pipeline.simulator import Scenario, simulate
from pipeline.sources import read_events, shifted
from pipeline.topics import topics

_RECORDED: Final = "recorded"
_PROJECTS: Final = ("acme", "globex", "initech")
#: Columns of a terminal in which the tables are still a pleasure to read.
_WIDTH: Final = 110
#: Characters of the longest bar.
_BAR: Final = 16


async def run_demo(settings: Settings, sessions: int, seed: int, finished: "asyncio.Future[None] | None") -> None:
    """Start everything, feed it, show the rollups; then stay up until `finished`, or stop at once without it."""
    console = Console(width=None if Console().is_terminal else _WIDTH, highlight=False)
    console.print("[bold]roommeter[/]: lifecycle events in, billed minutes and hourly rollups out\n")
    async with up(settings) as system:
        address = f"http://{settings.http_host}:{system.port}"
        console.print(
            f"1. Running: Kafka-protocol broker at {system.settings.kafka}, Faust worker, ClickHouse at {address}"
        )
        payloads = list(_payloads(settings, sessions, seed))
        console.print(f"2. Sending {len(payloads):,} events: a recorded LiveKit call, a Janus session, a simulated day")
        await _feed(system, payloads, console)
        emitter = Emitter(system.settings, system.meters, system.store, system.producer, system.metrics, now_ms)
        await emitter.run_once()
        name = topics(system.settings).rollups.name
        documents = [orjson.loads(record.value or b"") async for record in read_topic(system.settings.kafka, name)]
        newest = {(doc["project"], doc["meter"], doc["hour"]): doc for doc in documents}
        console.print(f"3. {len(documents):,} rollups read back from the Kafka topic {name!r}\n")
        _show_recorded(console, newest.values(), system.meters)
        _show_day(console, newest.values(), system.meters)
        _show_reported(console, newest.values(), system.meters)
        _show_next(console, address)
        if finished is not None:
            console.print("\nEverything stays up. [bold]Ctrl-C[/] stops it, and loses nothing.")
            await finished
    console.print("stopped")


def _payloads(settings: Settings, sessions: int, seed: int) -> Iterable[bytes]:
    """Yield the recorded calls and a simulated day.

    The recorded calls come twice: ending now, as usage that still grows, and in the last complete hour,
    because only complete hours are emitted (R18) and nobody wants to wait for one.
    """
    now = now_ms()
    complete_ms = hour_of(now - settings.grace_period_ms)
    recordings = schemas() / "recordings"
    for path in (recordings / "livekit-call.jsonl", recordings / "janus-capture.json"):
        for to_ms in (complete_ms - MS_PER_MINUTE, now):
            yield from shifted(read_events(path, "auto", _RECORDED), to_ms)
    day = Scenario(
        start_ms=now - MS_PER_DAY,
        end_ms=now,
        sessions=sessions,
        seed=seed,
        projects=_PROJECTS,
        reconnect=0.05,
        crash=0.01,
        duplicate=0.02,
        disorder_ms=2_000,
        abort=0.02,
        lost_connect=0.01,
        usage_every_ms=MS_PER_MINUTE,
        numbers=2 * len(_PROJECTS),
    )
    for sent_at_ms, document in simulate(day).events:
        if sent_at_ms <= now:
            yield orjson.dumps(document)


async def _feed(system: System, payloads: list[bytes], console: Console) -> None:
    """Send, and wait until the worker has put everything into the store; a bar shows both."""
    topic = topics(system.settings).lifecycle
    columns = (TextColumn("   {task.description:<10}"), BarColumn(), MofNCompleteColumn())
    before = sum((await end_offsets(system.settings.kafka, topic.name)).values())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        sending = bar.add_task("sent", total=len(payloads))
        for payload in payloads:
            await publish(system.producer, topic.name, payload)
            bar.advance(sending)
        await system.producer.flush()
        end = sum((await end_offsets(system.settings.kafka, topic.name)).values())
        metering = bar.add_task("metered", total=end - before)
        while True:
            progress = await asyncio.to_thread(system.store.progress, topic.name)
            done = sum(next_offset for next_offset, _ in progress.values())
            bar.update(metering, completed=done - before)
            if done >= end:
                return
            await asyncio.sleep(0.1)


def _show_recorded(console: Console, rollups: Iterable[dict[str, Any]], meters: Meters) -> None:
    table = Table(title="The recorded calls, hour by hour", title_justify="left")
    table.add_column("hour (UTC)", no_wrap=True)
    table.add_column("meter", no_wrap=True)
    for column in ("revision", "sessions", "quantity"):
        table.add_column(column, justify="right")
    table.add_column("what it means")
    for rollup in sorted(rollups, key=lambda doc: (doc["hour"], doc["meter"])):
        if rollup["project"] == _RECORDED:
            numbers = (str(rollup[name]) for name in ("revision", "sessions", "quantity"))
            table.add_row(_short(rollup["hour"]), rollup["meter"], *numbers, meters[rollup["meter"]].meaning)
    console.print(table)


def _short(hour: str) -> str:
    return f"{hour[5:10]} {hour[11:16]}"


def _show_reported(console: Console, rollups: Iterable[dict[str, Any]], meters: Meters) -> None:
    """Show what is reported rather than timed, of the whole day and all its projects together."""
    totals: defaultdict[str, Decimal] = defaultdict(Decimal)
    for rollup in rollups:
        if rollup["project"] in _PROJECTS and meters[rollup["meter"]].measures != "session":
            totals[rollup["meter"]] += Decimal(rollup["quantity"])
    table = Table(title="And what servers and agents reported", title_justify="left")
    table.add_column("meter", no_wrap=True)
    table.add_column("quantity", justify="right")
    table.add_column("what it means")
    for name, total in sorted(totals.items()):
        table.add_row(name, f"{total:,}", meters[name].meaning)
    console.print(table)


def _show_day(console: Console, rollups: Iterable[dict[str, Any]], meters: Meters) -> None:
    """Show the simulated day: one line per hour, one column per meter of time, all its projects together."""
    hours: defaultdict[str, defaultdict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for rollup in rollups:
        if rollup["project"] in _PROJECTS and meters[rollup["meter"]].measures == "session":
            hours[rollup["hour"]][rollup["meter"]] += Decimal(rollup["quantity"])
    names = sorted({name for hour in hours.values() for name in hour})
    busiest = max((sum(hour.values()) for hour in hours.values()), default=Decimal(1))
    table = Table(title=f"The simulated day: billed minutes of {', '.join(_PROJECTS)}", title_justify="left")
    table.add_column("hour (UTC)", no_wrap=True)
    for name in names:
        table.add_column(name.removesuffix("_minutes").replace("_", " "), justify="right")
    table.add_column("together", justify="right")
    table.add_column("", no_wrap=True)
    for hour in sorted(hours)[-24:]:
        total = sum(hours[hour].values())
        bar = "█" * max(1, int(_BAR * total / busiest))
        numbers = (f"{hours[hour][name]:,}" for name in names)
        table.add_row(_short(hour), *numbers, f"{total:,}", f"[cyan]{bar}[/]")
    console.print(table)
    console.print(
        "Each line is one hour. A minute is billed in the hour in which it begins; every session rounds up\n"
        "once, so the hours of a session add up to its rounded total. Hours not complete yet follow by themselves.",
    )


def _show_next(console: Console, address: str) -> None:
    console.print(
        "\n[bold]Try next[/] (in another terminal, `. .venv/bin/activate` first):\n"
        f"  roommeter usage --store {address} --project recorded     minutes, those of open sessions too\n"
        f"  roommeter sessions --store {address} --limit 10          sessions, and what had to be presumed\n"
        f"  curl '{address}/?query=SELECT+count()+FROM+roommeter.events'   ClickHouse's own HTTP interface\n"
        f"  curl {address}/readyz                                    is everything well?\n"
        "  make test                                                 the proof",
    )
