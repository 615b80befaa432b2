"""Everything on one machine: the parts that `up`, `worker`, `emitter` and the demo put together.

Started in the order in which they need each other and stopped in reverse, so that stopping loses
nothing: the worker finishes its batch, then the store closes, then the broker.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from pipeline.alerts.loop import Watch, alert_forever, read_watch
from pipeline.audit.loop import audit_forever
from pipeline.audit.store import AuditStore
from pipeline.broker import embedded_broker
from pipeline.clickhouse import Store, StoreUnavailable, chdb_directory
from pipeline.console.serving import console, own_health
from pipeline.emitter import Emitter
from pipeline.endpoint import Endpoint
from pipeline.gateway.outbox import Outbox
from pipeline.gateway.projects import Project, read_projects
from pipeline.gateway.server import Gateway, make_border, serving
from pipeline.http import Readiness, make_app, serve
from pipeline.invoices.desk import invoicing_of, open_desk
from pipeline.janus.memory import JanusMemory
from pipeline.kafka import KafkaAway, create_topics, end_offsets, extend_topic
from pipeline.limits.file import InvalidLimits, read_limits
from pipeline.limits.limiter import Limiter
from pipeline.limits.page import LimitsPage
from pipeline.limits.store import LimitStore
from pipeline.livekit.reconcile_store import ReconcileStore
from pipeline.livekit.reconciler import reconciling, to_kafka
from pipeline.metering.limits import Limits, Standing
from pipeline.metering.meters import InvalidMeters, Meters, parse_meters
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.resources import schemas
from pipeline.settings import Settings
from pipeline.topics import topics
from pipeline.watch import Probe, emitter_probe, limiter_probe, watch_part, worker_probe
from pipeline.worker import Worker

logger = logging.getLogger(__name__)

#: How long stopping waits for brokers or a store that are away.
STOP_SECONDS: Final = 20.0
#: Between attempts to reach what is not there yet.
RETRY_SECONDS: Final = 1.0


def now_ms() -> int:
    """Return the time of the wall clock in ms since the epoch: the one place that reads it."""
    return time.time_ns() // 1_000_000


def load_meters(settings: Settings) -> Meters:
    """Read the table of meters, the operator's own where one is named; raises InvalidMeters."""
    path = settings.meters_file or schemas() / "meters.toml"
    try:
        return parse_meters(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidMeters(f"{path} is not text in UTF-8: {error}") from error


@dataclass(frozen=True, slots=True)
class System:
    """The running parts, for those who look at them or feed them."""

    settings: Settings
    meters: Meters
    store: Store
    writer: Store
    producer: Producer
    metrics: Metrics
    readiness: Readiness
    port: int
    gateway_port: int | None = None
    console_port: int | None = None


@asynccontextmanager
async def connected(settings: Settings, *conditions: str, page: LimitsPage | None = None) -> AsyncIterator[System]:
    """Connect to Kafka and ClickHouse, declare topics and tables, and serve health, metrics and queries.

    Waits for brokers and a store that are not there yet (R22). `conditions` are further things to be
    ready for, by name.
    """
    metrics = Metrics()
    readiness = Readiness(metrics, "broker", "clickhouse", *conditions)
    meters = load_meters(settings)
    async with AsyncExitStack() as stack:
        directory = chdb_directory(settings.store)
        app = make_app(readiness, metrics, None if directory is None else Endpoint(directory), page)
        port = await stack.enter_async_context(serve(app, settings.http_host, settings.http_port))
        # Two, because a store answers one call after the other: a long query must not hold up the worker.
        store, writer = [
            await _patiently(lambda: asyncio.to_thread(_open, settings), readiness, "clickhouse") for _ in range(2)
        ]
        stack.callback(store.close)
        stack.callback(writer.close)
        await _patiently(
            lambda: asyncio.to_thread(store.migrate, meters, settings.orphan_after_ms), readiness, "clickhouse"
        )
        settings = await _patiently(lambda: _declare(settings), readiness, "broker")
        producer = await stack.enter_async_context(
            Producer(
                settings.kafka,
                on_wait=lambda reason: readiness.unset("broker", reason),
                on_ok=lambda: readiness.set("broker"),
            ),
        )
        yield System(settings, meters, store, writer, producer, metrics, readiness, port)


def _open(settings: Settings) -> Store:
    return Store.open(settings.store, settings.database, settings.cluster)


async def _declare(settings: Settings) -> Settings:
    """Create the topics that are missing; return the settings with the partitions that lifecycle really has.

    The changelog of the worker's table gets as many: Faust assigns them together, also when partitions were added.
    """
    lifecycle = topics(settings).lifecycle
    await create_topics(settings.kafka, [lifecycle])
    partitions = len(await end_offsets(settings.kafka, lifecycle.name))
    actual = settings.model_copy(update={"partitions": partitions})
    await create_topics(settings.kafka, topics(actual).all())
    await extend_topic(settings.kafka, topics(actual).rooms_changelog)
    return actual


_T = TypeVar("_T")


async def _patiently(call: Callable[[], Awaitable[_T]], readiness: Readiness, condition: str) -> _T:
    """Call until it answers, saying meanwhile what is missing (R22)."""
    while True:
        try:
            result = await call()
        except (StoreUnavailable, KafkaAway) as error:
            readiness.unset(condition, str(error))
            await asyncio.sleep(RETRY_SECONDS)
        else:
            readiness.set(condition)
            return result


@asynccontextmanager
async def working(system: System) -> AsyncIterator[Worker]:
    """Run a worker; on leaving it finishes and commits the batch in hand."""
    worker = Worker(system.settings, system.meters, system.writer, system.producer, system.metrics, system.readiness)
    await worker.start()
    probe = worker_probe(system.settings, system.metrics, worker.owned, worker.has_in_hand)
    try:
        async with _watched(system, "worker", probe):
            yield worker
    finally:
        try:
            await asyncio.wait_for(worker.stop(), STOP_SECONDS)
        except TimeoutError:
            logger.warning("Stopped without the broker: what was not committed will be read again, and changes nothing")


async def emit_forever(system: System, clock: Callable[[], int] = now_ms) -> None:
    """Emit complete hours again and again; while broker or store are away, wait and say so (R22).

    At most a tenth of the time goes into it, however large the store has become.
    """
    held = AuditStore(system.store).held
    settings, pause_s = system.settings, 0.0
    emitter = Emitter(settings, system.meters, system.store, system.producer, system.metrics, clock, held)
    probe = emitter_probe(settings, lambda: emitter.reached_ms, lambda: round(pause_s * 1000), clock)
    async with _watched(system, "emitter", probe):
        while True:
            started = time.monotonic()
            try:
                await emitter.run_once()
            except (StoreUnavailable, KafkaAway) as error:
                system.readiness.unset("emitter", str(error))
            else:
                system.readiness.set("emitter")
            pause_s = max(settings.emit_interval_ms / 1000, 9 * (time.monotonic() - started))
            await asyncio.sleep(pause_s)


@asynccontextmanager
async def _watched(system: System, part: str, probe: Probe) -> AsyncIterator[None]:
    """Watch a part while the block runs: its condition `<part>_progress` is unmet while it stands still."""
    watch = watch_part(system.readiness, part, probe, system.settings.stall_after_ms)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch)
        yield
        watching.cancel()


@asynccontextmanager
async def worker(settings: Settings) -> AsyncIterator[System]:
    """Run one worker. Raises what ends it."""
    async with (
        connected(settings, *Worker.CONDITIONS) as system,
        working(system) as part,
        asyncio.TaskGroup() as tasks,
    ):
        watch = tasks.create_task(_raise_crash(part))
        yield system
        watch.cancel()


@asynccontextmanager
async def emitter(settings: Settings) -> AsyncIterator[System]:
    """Run one emitter. Raises what ends it."""
    async with connected(settings, "emitter", "emitter_progress") as system, asyncio.TaskGroup() as tasks:
        emitting = tasks.create_task(emit_forever(system))
        yield system
        emitting.cancel()


async def limit_forever(system: System, limits: Limits, page: LimitsPage, clock: Callable[[], int] = now_ms) -> None:
    """Watch limits again and again; while broker or store are away, say so and go on with what is there (R22)."""
    settings = system.settings
    with closing(await asyncio.to_thread(_open, settings)) as store:  # its own: past hours are asked for long
        watched = LimitStore(store, system.meters, limits, settings.orphan_after_ms)
        limiter = Limiter(settings, system.meters, limits, watched, system.producer, system.metrics, clock)

        def ask(project: str) -> tuple[int, list[Standing]] | None:
            as_of_ms = limiter.as_of_ms
            return None if as_of_ms is None else (as_of_ms, limiter.standings(project))

        page.ask = ask
        try:
            async with _watched(system, "limiter", limiter_probe(settings, lambda: limiter.as_of_ms, clock)):
                while True:
                    try:
                        await limiter.run_once()
                    except (StoreUnavailable, KafkaAway) as error:
                        system.readiness.unset("limiter", str(error))
                    else:
                        system.readiness.set("limiter")
                    await asyncio.sleep(settings.limit_interval_ms / 1000)
        finally:
            await limiter.close()


@asynccontextmanager
async def limiter(settings: Settings) -> AsyncIterator[System]:
    """Run one limiter. Raises InvalidLimits, and what ends it."""
    limits = read_limits(settings.limits_file, load_meters(settings))
    if limits is None:
        raise InvalidLimits("no limits to watch: ROOMMETER_LIMITS_FILE names the file that has them")
    page = LimitsPage()
    async with connected(settings, "limiter", "limiter_progress", page=page) as system, asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(limit_forever(system, limits, page))
        yield system
        watching.cancel()


async def watch_anomalies(system: System, watch: Watch) -> None:
    """Look for anomalies again and again, and tell of them."""
    with closing(await asyncio.to_thread(_open, system.settings)) as store:  # its own: weeks are asked for long
        await alert_forever(system.settings, watch, store, system.producer, system.metrics, system.readiness, now_ms)


@asynccontextmanager
async def alerter(settings: Settings) -> AsyncIterator[System]:
    """Run one alerter. Raises what is wrong with its files, and what ends it."""
    watch = read_watch(settings, load_meters(settings), settings.secrets(os.environ))
    async with connected(settings, "alerter", "alerter_progress") as system, asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch_anomalies(system, watch))
        yield system
        watching.cancel()


@dataclass(frozen=True, slots=True)
class Entrance:
    """A running gateway: its ports are of health and metrics, and of what media servers post to."""

    readiness: Readiness
    metrics: Metrics
    port: int
    gateway_port: int


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[Entrance]:
    """Run one gateway, with brokers or without them. Raises what ends it."""
    metrics = Metrics()
    readiness = Readiness(metrics, "gateway")
    async with (
        serve(make_app(readiness, metrics), settings.http_host, settings.http_port) as port,
        accepting(settings, load_meters(settings), metrics, readiness) as gateway_port,
        asyncio.TaskGroup() as tasks,
    ):
        # Shown as a metric and in the log, but no condition: while the brokers are away, the spool takes what comes.
        brokers = Readiness(metrics, "broker")
        declaring = tasks.create_task(_patiently(lambda: _declare(settings), brokers, "broker"))
        yield Entrance(readiness, metrics, port, gateway_port)
        declaring.cancel()


@asynccontextmanager
async def accepting(settings: Settings, meters: Meters, metrics: Metrics, readiness: Readiness) -> AsyncIterator[int]:
    """Serve the gateway's routes; yield their port. Ready, by the condition `gateway`, while it can keep events."""
    projects = read_projects(settings.projects_file, settings.secrets(os.environ))
    if not projects.names():
        logger.warning("The gateway knows no project and refuses everything: ROOMMETER_PROJECTS_FILE names them")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    outbox = Outbox(
        settings,
        metrics,
        now_ms,
        on_wait=lambda reason: readiness.unset("gateway", reason),
        on_ok=lambda: readiness.set("gateway"),
    )
    with JanusMemory(settings.data_dir / "janus.sqlite3") as memory:
        async with outbox, asyncio.TaskGroup() as tasks:
            border = make_border(settings, meters)
            door = Gateway(settings, projects, border, outbox, memory, metrics, now_ms, time.monotonic)
            watch = tasks.create_task(outbox.ended())
            async with serving(door.make_app(), settings) as port:
                yield port
            watch.cancel()


@asynccontextmanager
async def up(settings: Settings) -> AsyncIterator[System]:
    """Run everything: broker, engine, gateway, worker, emitter and the HTTP surface. Raises what ends a part."""
    secrets = settings.secrets(os.environ)
    projects = read_projects(settings.projects_file, secrets)  # first: a mistake in it is told at once
    watch = read_watch(settings, load_meters(settings), secrets)
    limits = watch.limits
    page = None if limits is None else LimitsPage()
    parts = ("emitter", "alerter") if limits is None else ("emitter", "alerter", "limiter")
    conditions = ("gateway", *Worker.CONDITIONS, *parts, *(f"{part}_progress" for part in parts))
    async with (
        embedded_broker(settings) as (effective, embedded),
        connected(effective, *conditions, page=page) as system,
        accepting(effective, system.meters, system.metrics, system.readiness) as gateway_port,
        console(effective, system.meters, projects, now_ms, own_health(system.metrics), page) as console_port,
        working(system) as part,
        issuing(system),
        asyncio.TaskGroup() as tasks,
    ):
        asked = filter(None, map(projects.by_name, projects.names()))
        watched = (
            *(emit_forever(system), audit_own(system), _raise_crash(part), embedded.raise_end()),
            watch_anomalies(system, watch),
            *(reconcile_forever(system, project) for project in asked if project.livekit_url),
            *(() if limits is None or page is None else (limit_forever(system, limits, page),)),
        )
        running = [tasks.create_task(task) for task in watched]
        yield replace(system, gateway_port=gateway_port, console_port=console_port)
        for task in running:
            task.cancel()


@asynccontextmanager
async def issuing(system: System) -> AsyncIterator[None]:
    """Issue invoices for commands, which cannot open the store that this process has open."""
    settings = system.settings
    directory = chdb_directory(settings.store)
    assert directory is not None, "`up` has an embedded store"
    queries = f"http://{settings.http_host}:{system.port}"
    with closing(await asyncio.to_thread(_open, settings)) as store:
        async with open_desk(directory, queries, invoicing_of(store, system.meters, settings, now_ms)):
            yield


async def audit_own(system: System) -> None:
    """Audit the books again and again, and hold the emission of hours in which something differs."""
    settings = system.settings
    topic = topics(settings).lifecycle.name
    loop = asyncio.get_running_loop()

    def ends() -> dict[int, int]:
        return dict(asyncio.run_coroutine_threadsafe(end_offsets(settings.kafka, topic), loop).result(STOP_SECONDS))

    with closing(await asyncio.to_thread(_open, settings)) as store:  # its own: the audit asks for long
        await audit_forever(settings, system.meters, store, system.metrics, now_ms, settings.audit_interval_ms, ends)


async def reconcile_forever(system: System, project: Project) -> None:
    """Ask a project's LiveKit server again and again who is connected, and report what it says (R9)."""
    store = ReconcileStore(system.store)
    outlets = to_kafka(system.settings, system.producer, store)
    async with reconciling(project, system.settings, store, outlets, system.metrics, now_ms) as reconciler:
        await reconciler.run_forever(system.settings.reconcile_interval_ms, (StoreUnavailable,))


async def _raise_crash(part: Worker) -> None:
    raise await part.crashed()
