"""A worker that does nothing though something waits says so, and takes it back when it goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pipeline.settings import Settings
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.faults.proxy import Fault, Proxy
from tests.faults.storeserver import StoreServer

_EVENTS: Final = 400
_READY: Final = 'roommeter_ready{condition="worker_progress"}'


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """What stands between the worker and its store."""
    server = StoreServer(tmp_path)
    server.start()
    with Proxy(server.port) as started:
        yield started
    server.kill()


def test_a_worker_whose_store_never_answers_is_not_ready_and_says_what_waits(
    broker: TestBroker, proxy: Proxy, topic_prefix: str, tmp_path: Path
) -> None:
    """The store takes everything and answers nothing: there is no error for minutes, and still it shows."""
    store = f"http://127.0.0.1:{proxy.port}"
    settings = Settings(
        kafka=broker.bootstrap, topic_prefix=topic_prefix, store=store, stall_after_ms=300, partitions=2
    )
    worker = Process("worker", settings, tmp_path / "worker.log")
    try:
        worker.start()
        wait_until(worker.is_ready)
        with proxy.fault(Fault(delay_s=3600.0)):
            feed.send(settings, feed.simulated_events(_EVENTS, seed=3))
            wait_until(lambda: "worker_progress: partition" in worker.unready_reasons())
            assert worker.metric(_READY) == 0
            assert worker.metric("roommeter_consumer_lag_records{") > 0
            assert worker.metric("roommeter_batches_total") == 0
        with proxy.fault(Fault(refuse=True)):
            wait_until(lambda: worker.metric("roommeter_store_retries_total") > 0)
        wait_until(worker.is_ready)
        wait_until(lambda: worker.metric('roommeter_consumer_lag_records{partition="0"}') == 0)
        assert worker.metric(_READY) == 1
    finally:
        worker.close()
