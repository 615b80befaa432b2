"""Limits of a running system: told once and answered over HTTP, also after it was killed."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.broker import free_port
from pipeline.embedded import now_ms
from pipeline.kafka import read_topic
from pipeline.messages import lifecycle_message
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.e2e.processes import Process, wait_until
from tests.metering.builders import connected

_LIMITS = '[[limit]]\nproject = "*"\nconcurrent = "agent"\nsoft = "2"\nhard = "3"\n'


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Process]:
    """Everything running, with a limit of two agents at once, three at most."""
    (tmp_path / "limits.toml").write_text(_LIMITS)
    settings = Settings(
        data_dir=tmp_path / "data", broker_port=free_port(), limits_file=tmp_path / "limits.toml", limit_interval_ms=100
    )
    process = Process(
        "up", settings.model_copy(update={"kafka": f"127.0.0.1:{settings.broker_port}"}), tmp_path / "log"
    )
    process.start()
    try:
        wait_until(process.is_ready)
        yield process
    finally:
        process.close()


async def _connect(settings: Settings, *sessions: str) -> None:
    async with Producer(settings.kafka) as producer:
        for session in sessions:
            message = lifecycle_message(topics(settings).lifecycle.name, connected(now_ms(), session=session))
            await producer.send(message.topic, message.key, message.value)


async def _told(settings: Settings) -> list[str]:
    documents = [
        json.loads(record.value or b"") async for record in read_topic(settings.kafka, topics(settings).limits.name)
    ]
    return [f"{document['event']} {document['threshold']}" for document in documents]


def _stands(process: Process) -> dict[str, Any]:
    """Return acme's one limit, as the API answers."""
    answer = process.get("/v1/limits/acme")
    [limit] = json.loads(answer)["limits"] if answer else [{}]
    return dict(limit)


def test_a_limit_is_told_once_and_answered_before_and_after_a_kill(up: Process) -> None:
    """Two agents reach it; killed and started again it remembers both, and the fourth exceeds it."""
    asyncio.run(_connect(up.settings, "PA_1", "PA_2"))
    wait_until(lambda: _stands(up)["state"] == "reached")
    up.kill()
    up.start()
    wait_until(up.is_ready)
    assert (_stands(up)["quantity"], _stands(up)["state"]) == ("2", "reached")
    asyncio.run(_connect(up.settings, "PA_3", "PA_4"))
    wait_until(lambda: _stands(up)["state"] == "exceeded")
    told = ["exceeded hard", "reached 100", "reached 50", "reached 80"]
    wait_until(lambda: sorted(asyncio.run(_told(up.settings))) == told)
