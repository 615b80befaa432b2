"""The console put together and served: in `up` beside everything else, or as a process of its own."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from prometheus_client import Metric

from pipeline.clickhouse import Store
from pipeline.console.access import Access, is_loopback
from pipeline.console.app import Console
from pipeline.console.asking import BOUNDS, Asking
from pipeline.console.desk import Desk
from pipeline.gateway.projects import InvalidProjects, Projects
from pipeline.http import serve
from pipeline.limits.file import read_limits
from pipeline.limits.page import Answer, LimitsPage
from pipeline.metering.meters import Meters
from pipeline.metrics import Metrics
from pipeline.settings import Settings


def own_health(metrics: Metrics) -> Callable[[], Awaitable[Sequence[Metric]]]:
    """Return what reads the metrics of this process."""

    async def read() -> list[Metric]:
        return list(metrics.registry.collect())

    return read


@asynccontextmanager
async def console(
    settings: Settings,
    meters: Meters,
    projects: Projects,
    clock: Callable[[], int],
    read_health: Callable[[], Awaitable[Sequence[Metric]]],
    page: LimitsPage | None = None,
) -> AsyncIterator[int]:
    """Serve the console over the configured store; yield its port. `clock` returns ms since the epoch.

    `page` knows how limits stand, where somebody in this process watches them; else they are computed.

    Raises InvalidProjects where tokens are asked for and nobody has one, InvalidLimits, and OSError where the port is
    taken.
    """
    is_open = is_loopback(settings.console_host) and not settings.console_require_token
    if not is_open and not projects.has_viewers():
        why = "ROOMMETER_CONSOLE_REQUIRE_TOKEN is set" if settings.console_require_token else "it is not loopback"
        raise InvalidProjects(
            f"the console at {settings.console_host} asks for tokens, because {why}, and nobody has one: "
            'give the projects file (ROOMMETER_PROJECTS_FILE) a token with use = "console", or [[operators]]; '
            "infra/console.md has it step by step"
        )

    def open_store() -> Store:
        return Store.open(settings.store, settings.database, settings.cluster, BOUNDS)

    def standings(project: str) -> Answer | None:
        return None if page is None else page.ask(project)

    asking = Asking(open_store)
    limits = read_limits(settings.limits_file, meters)
    desk = Desk(asking, settings, meters, limits, read_health, standings, clock)
    app = Console(desk, Access(projects, time.monotonic, is_open=is_open)).make_app()
    try:
        async with serve(app, settings.console_host, settings.console_port) as port:
            yield port
    finally:
        await asking.close()
