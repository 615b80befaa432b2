"""Health, readiness and metrics over HTTP."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from pipeline.http import Readiness, make_app, serve
from pipeline.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of this test alone."""
    return Metrics()


@pytest.fixture
def readiness(metrics: Metrics) -> Readiness:
    """Return two conditions, both unmet."""
    return Readiness(metrics, "broker", "clickhouse")


@pytest.fixture
async def session(readiness: Readiness, metrics: Metrics) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve the application on a free port; yield a session whose URLs are relative to it."""
    async with (
        serve(make_app(readiness, metrics)) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def page(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    """Return status and text of a page."""
    async with session.get(path) as response:
        return response.status, await response.text()


async def test_a_process_is_alive_before_it_is_ready(session: aiohttp.ClientSession) -> None:
    """Liveness asks nothing of dependencies: restarting does not bring a broker back."""
    assert await page(session, "/healthz") == (200, "alive\n")
    assert (await page(session, "/readyz"))[0] == 503


async def test_unmet_conditions_are_told_one_a_line(session: aiohttp.ClientSession, readiness: Readiness) -> None:
    """R22: what waits says what it waits for."""
    readiness.unset("clickhouse", "refuses connections")
    assert await page(session, "/readyz") == (503, "broker: not yet\nclickhouse: refuses connections\n")


async def test_ready_when_every_condition_is_met(session: aiohttp.ClientSession, readiness: Readiness) -> None:
    """All conditions together make ready."""
    readiness.set("broker")
    assert (await page(session, "/readyz"))[0] == 503
    readiness.set("clickhouse")
    assert await page(session, "/readyz") == (200, "ready\n")


async def test_readiness_is_lost_again(session: aiohttp.ClientSession, readiness: Readiness) -> None:
    """R22: a dependency that goes down takes readiness with it."""
    readiness.set("broker")
    readiness.set("clickhouse")
    readiness.unset("broker", "connection lost")
    assert await page(session, "/readyz") == (503, "broker: connection lost\n")


async def test_metrics_follow_readiness(session: aiohttp.ClientSession, readiness: Readiness) -> None:
    """R22: the same is a metric."""
    readiness.set("broker")
    _, text = await page(session, "/metrics")
    assert 'roommeter_ready{condition="broker"} 1.0\n' in text
    assert 'roommeter_ready{condition="clickhouse"} 0.0\n' in text


def test_each_change_of_readiness_is_logged_once(readiness: Readiness, caplog: pytest.LogCaptureFixture) -> None:
    """R22: the same is in the log, but not once a second."""
    with caplog.at_level("INFO", "pipeline.http"):
        for _ in range(3):
            readiness.unset("broker", "connection lost")
        readiness.set("broker")
    assert [record.message for record in caplog.records] == ["broker is not ready: connection lost", "broker is ready"]


def test_a_condition_nobody_named_is_an_error(readiness: Readiness) -> None:
    """The conditions are a closed list, so that the metric's label is bounded."""
    with pytest.raises(KeyError):
        readiness.set("brocker")
    with pytest.raises(KeyError):
        readiness.unset("brocker", "")


async def test_metrics_are_prometheus_text(session: aiohttp.ClientSession) -> None:
    """Prometheus reads the page."""
    async with session.get("/metrics") as response:
        assert response.content_type == "text/plain"
        assert "# HELP roommeter_events_total " in await response.text()


async def test_without_a_store_there_are_no_queries(session: aiohttp.ClientSession) -> None:
    """`/` belongs to the endpoint alone."""
    assert (await page(session, "/?query=SELECT+1"))[0] == 404


async def test_a_taken_port_is_an_error(readiness: Readiness, metrics: Metrics) -> None:
    """Two processes never share a port silently."""
    async with serve(make_app(readiness, metrics)) as port:
        with pytest.raises(OSError, match=str(port)):
            async with serve(make_app(readiness, metrics), port=port):
                pytest.fail("the port was taken")


async def test_the_port_is_free_after_serving(readiness: Readiness, metrics: Metrics) -> None:
    """Leaving the context closes the server."""
    async with serve(make_app(readiness, metrics)) as port:
        pass
    async with serve(make_app(readiness, metrics), port=port) as again:
        assert again == port


async def test_only_this_machine_is_served_by_default(readiness: Readiness, metrics: Metrics) -> None:
    """The default address is loopback."""
    async with serve(make_app(readiness, metrics)) as port, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"http://127.0.0.2:{port}/healthz")
