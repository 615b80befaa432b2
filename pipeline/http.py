"""The HTTP surface of a process: health, readiness, metrics, and queries where a store is embedded."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.metrics import Metrics

if TYPE_CHECKING:
    from pipeline.endpoint import Endpoint
    from pipeline.limits.page import LimitsPage

#: Set where request bodies have to arrive as they were sent, because the endpoint decompresses them itself.
_RAW_BODIES: Final = web.AppKey("raw_bodies", bool)
#: How long answers under way may take once the server stops.
_STOP_SECONDS: Final = 10
#: The longest URL; ClickHouse's clients put parameters of queries there.
_MAX_URL_BYTES: Final = 1_048_576

_log = logging.getLogger(__name__)


class Readiness:
    """The named conditions of being ready; each begins unmet. Every change is logged and a metric (R22)."""

    def __init__(self, metrics: Metrics, *conditions: str) -> None:
        """Name every condition once, so that the metric's label stays bounded."""
        self._ready = metrics.ready
        self._unmet = dict.fromkeys(conditions, "not yet")
        self._conditions = frozenset(conditions)
        for condition in conditions:
            self._ready.labels(condition).set(0)

    def set(self, condition: str) -> None:
        """Say that a condition is met. Raises KeyError for one that was not named."""
        self._check(condition)
        if self._unmet.pop(condition, None) is not None:
            self._ready.labels(condition).set(1)
            _log.info("%s is ready", condition)

    def unset(self, condition: str, reason: str) -> None:
        """Say that a condition is not met, and why. Raises KeyError for one that was not named."""
        self._check(condition)
        if self._unmet.get(condition) != reason:
            self._unmet[condition] = reason
            self._ready.labels(condition).set(0)
            _log.warning("%s is not ready: %s", condition, reason)

    def reasons(self) -> list[str]:
        """Return one line for each unmet condition; none means ready."""
        return [f"{condition}: {reason}" for condition, reason in sorted(self._unmet.items())]

    def unmet(self) -> frozenset[str]:
        """Return the names of the conditions that are not met."""
        return frozenset(self._unmet)

    def _check(self, condition: str) -> None:
        if condition not in self._conditions:
            raise KeyError(condition)


def make_app(
    readiness: Readiness, metrics: Metrics, endpoint: "Endpoint | None" = None, limits: "LimitsPage | None" = None
) -> web.Application:
    """Return the application: /healthz, /readyz, /metrics, with an endpoint / and /ping, with limits their page."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        reasons = readiness.reasons()
        return web.Response(text="".join(f"{line}\n" for line in reasons) or "ready\n", status=503 if reasons else 200)

    async def metrics_page(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app[_RAW_BODIES] = endpoint is not None
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics_page)
    if limits is not None:
        limits.add_to(app)
    if endpoint is not None:
        endpoint.add_to(app)
    return app


@asynccontextmanager
async def serve(app: web.Application, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve an application, on loopback unless told otherwise; yield its port (0 takes a free one).

    On leaving, no new connection is taken, and answers under way may finish. Raises OSError where the
    port is taken.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=not app.get(_RAW_BODIES, False),
        max_line_size=_MAX_URL_BYTES,
        shutdown_timeout=_STOP_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
