"""The audit of a running system, when the system stops."""

import asyncio
import gc
import threading
from typing import Any

from pipeline.audit.loop import AuditStopped, audit_forever
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from tests.metering.builders import METERS


async def test_an_audit_that_is_stopped_half_way_leaves_nothing_for_asyncio_to_complain_of(store: Store) -> None:
    """Ctrl-C comes while it asks: whoever stops `up` sees no traceback."""
    is_asking, may_answer = threading.Event(), threading.Event()
    complaints: list[dict[str, Any]] = []

    def ends() -> dict[int, int]:
        is_asking.set()
        may_answer.wait()
        raise AuditStopped

    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    audit = asyncio.create_task(audit_forever(Settings(), METERS, store, Metrics(), now_ms, 60_000, ends))
    await asyncio.to_thread(is_asking.wait)
    audit.cancel()
    await asyncio.to_thread(may_answer.set)
    await asyncio.wait({audit})
    assert audit.cancelled()
    del audit
    gc.collect()
    assert not complaints
