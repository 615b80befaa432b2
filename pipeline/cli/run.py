"""Commands that run: up, worker, emitter, migrate, demo."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pipeline.cli.options import examples, expected_errors, settings_with, store_option

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from pipeline.embedded import System


_Part = TypeVar("_Part")


#: Most objects of a worker are facts that stay, and a batch in hand is some hundred thousand that will soon be freed
#: by themselves: looking for cycles among them would cost a seventh of the CPU.
_BATCHES: Final = (400_000, 50, 100)
#: Whoever answers within milliseconds looks at few objects at once, a millisecond's worth, and at old ones hardly ever.
ANSWERS: Final = (10_000, 2_000, 10)


def run_async(main: Coroutine[Any, Any, None], collections: tuple[int, int, int] = _BATCHES) -> None:
    """Run a coroutine on the quick event loop, with collections of garbage as rare as the thresholds say."""
    import gc

    import uvloop

    gc.collect()
    gc.freeze()
    gc.set_threshold(*collections)
    uvloop.run(main)


def configure_logging(*, verbose: bool) -> None:
    """Log one line an event to stderr; the libraries only when something is wrong."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for name in ("faust", "mode", "pipeline.fastlane", "clickhouse_connect", "asyncio"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    # While brokers are away it logs fifteen errors a second; readiness says so once.
    logging.getLogger("aiokafka").setLevel(logging.INFO if verbose else logging.CRITICAL)


async def stopped() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()


async def until_stopped(running: "AbstractAsyncContextManager[_Part]", tell: Callable[[_Part], None]) -> None:
    """Run a part until somebody stops it, telling first what runs; an error in it ends the process, and says why."""
    try:
        async with running as part:
            tell(part)
            click.echo("  Ctrl-C stops, and loses nothing", err=True)
            await stopped()
            click.echo("stopping: finishing what is in hand ...", err=True)
    except* Exception as errors:
        first = errors.exceptions[0]
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from errors


def run_system(
    running: "AbstractAsyncContextManager[System]", name: str, collections: tuple[int, int, int] = _BATCHES
) -> None:
    """Run parts until somebody stops them, telling first where they are."""

    def tell(system: "System") -> None:
        address = f"http://{system.settings.http_host}:{system.port}"
        click.echo(f"{name} is running: health, metrics and queries at {address}", err=True)
        if system.gateway_port is not None:
            gateway = f"http://{system.settings.gateway_host}:{system.gateway_port}"
            click.echo(f"  media servers post to {gateway}/webhooks/livekit, /webhooks/janus, /v1/events", err=True)
        if system.console_port is not None:
            click.echo(f"  console at http://{system.settings.console_host}:{system.console_port}", err=True)
        click.echo(f"  Kafka at {system.settings.kafka}", err=True)

    run_async(until_stopped(running, tell), collections)


verbose_option = click.option("--verbose", "-v", is_flag=True, help="Log more, the libraries too.")


@click.command(
    epilog=examples(
        "roommeter up",
        "ROOMMETER_DATA_DIR=/var/lib/roommeter roommeter up",
        "roommeter usage --store http://127.0.0.1:8130     (from another terminal)",
    ),
)
@verbose_option
@expected_errors
def up(*, verbose: bool) -> None:
    """Run everything on this machine: broker, ClickHouse engine, worker, emitter, HTTP.

    All on loopback, all data in ROOMMETER_DATA_DIR. Started again, it goes on where it stopped.
    """
    from pipeline import embedded

    configure_logging(verbose=verbose)
    run_system(embedded.up(settings_with()), "roommeter")


@click.command(epilog=examples("ROOMMETER_KAFKA=kafka:9092 ROOMMETER_STORE=http://clickhouse:8123 roommeter worker"))
@store_option
@verbose_option
@expected_errors
def worker(store: str | None, *, verbose: bool) -> None:
    """Run one worker: events from Kafka into ClickHouse. Start as many as there are partitions."""
    from pipeline import embedded

    configure_logging(verbose=verbose)
    run_system(embedded.worker(settings_with(store=store)), "worker")


@click.command(epilog=examples("ROOMMETER_KAFKA=kafka:9092 ROOMMETER_STORE=http://clickhouse:8123 roommeter emitter"))
@store_option
@verbose_option
@expected_errors
def emitter(store: str | None, *, verbose: bool) -> None:
    """Run the rollup emitter: complete hours from ClickHouse to Kafka. Two at once do no harm."""
    from pipeline import embedded

    configure_logging(verbose=verbose)
    run_system(embedded.emitter(settings_with(store=store)), "emitter")


@click.command(
    epilog=examples(
        "roommeter migrate --store http://default:secret@clickhouse:8123",
        "roommeter migrate --access --store http://admin:secret@clickhouse:8123",
    )
)
@store_option
@click.option(
    "--access", is_flag=True, help="Also roles, row policies, quotas and profiles, on a server: infra/analysts.md."
)
@expected_errors
def migrate(store: str | None, *, access: bool) -> None:
    """Create or update the tables and views in ClickHouse, and the table of meters."""
    from contextlib import closing

    from pipeline.access import apply_access
    from pipeline.clickhouse import Store, StoreError, chdb_directory
    from pipeline.embedded import load_meters

    settings = settings_with(store=store)
    if access and chdb_directory(settings.store):
        raise StoreError(
            "--access is for a ClickHouse server: the engine in process has no users, who reaches it reads all"
        )
    with closing(Store.open(settings.store, settings.database, settings.cluster)) as opened:
        applied = opened.migrate(load_meters(settings), settings.orphan_after_ms)
        click.echo("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
        if access:
            click.echo(f"roles and policies are up to date ({apply_access(opened)} statements)")


@click.command(epilog=examples("roommeter demo", "roommeter demo --sessions 20000 --seed 7"))
@click.option(
    "--sessions", type=click.IntRange(1), default=4000, show_default=True, help="Sessions of the simulated day."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same day.")
@verbose_option
@expected_errors
def demo(sessions: int, seed: int, *, verbose: bool) -> None:
    """Run everything and feed it recorded calls and a simulated day; show the hourly rollups."""
    from pipeline.cli.demo import run_demo

    async def run() -> None:
        finished = asyncio.ensure_future(stopped()) if sys.stdout.isatty() else None
        await run_demo(settings_with(), sessions, seed, finished)

    configure_logging(verbose=verbose)
    if not verbose:
        logging.getLogger("pipeline").setLevel(logging.ERROR)
    run_async(run())
