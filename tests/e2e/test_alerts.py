"""A storm in a running system: one alert on the topic, in ClickHouse and at the webhook, resolved, and never again.

So that nobody has to wait for a quarter of an hour of calm, the alerter is told that it has looked up to before the
storm, which is over by then, and finds it when it goes on from there.
"""

import asyncio
import json
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hmac import compare_digest, digest
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.alerts.codec import encode_decision
from pipeline.broker import free_port
from pipeline.embedded import now_ms
from pipeline.kafka import read_topic
from pipeline.messages import lifecycle_message
from pipeline.metering.anomaly.alert import Looked
from pipeline.metering.units import MS_PER_MINUTE
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.e2e.processes import Process, wait_until
from tests.metering.builders import connected, disconnected

_RULES: Final = "connection_storm.cold_least = 20\nusage_rise.enabled = false\n"
_SECRET: Final = b"\x07" * 32
_STORY: Final = [("open", 1), ("resolved", 2)]


class _Receiver(HTTPServer):
    """A webhook's receiver, which checks every signature by Standard Webhooks."""

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.documents: list[dict[str, Any]] = []
        self.forged = 0


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        signed = b"%s.%s.%s" % (self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), body)
        signature = b64decode(self.headers["webhook-signature"].removeprefix("v1,"))
        assert isinstance(self.server, _Receiver)
        if compare_digest(signature, digest(_SECRET, signed, "sha256")):
            self.server.documents.append(json.loads(body))
        else:
            self.server.forged += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[_Receiver]:
    """Somebody on call."""
    server = _Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    assert server.forged == 0


@pytest.fixture
def up(tmp_path: Path, receiver: _Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """Everything, with a webhook; it does not look for anomalies yet."""
    (tmp_path / "alerts.toml").write_text(_RULES)
    (tmp_path / "targets.toml").write_text(
        f'[webhook]\nurl = "http://127.0.0.1:{receiver.server_port}"\nsecret_env = "ALERTS_SECRET"\n'
    )
    monkeypatch.setitem(os.environ, "ALERTS_SECRET", f"whsec_{b64encode(_SECRET).decode()}")
    settings = Settings(
        data_dir=tmp_path / "data",
        broker_port=free_port(),
        alerts_file=tmp_path / "alerts.toml",
        alert_targets_file=tmp_path / "targets.toml",
        alert_interval_ms=3_600_000,
    )
    settings = settings.model_copy(update={"kafka": f"127.0.0.1:{settings.broker_port}"})
    process = Process("up", settings, tmp_path / "log")
    process.start()
    try:
        wait_until(process.is_ready)
        yield process
    finally:
        process.close()


async def _send(settings: Settings, storm_ms: int, looked_ms: int | None = None) -> None:
    """Send thirty short sessions, and that everything was looked at up to a moment."""
    names = topics(settings)
    async with Producer(settings.kafka) as producer:
        for number in range(30):
            session = {"session": f"PA_{number}", "room": "RM_1"}
            for document in (connected(storm_ms, **session), disconnected(storm_ms + 9_000, **session)):
                message = lifecycle_message(names.lifecycle.name, document | {"id": f"EV_{number}"})
                await producer.send(message.topic, message.key, message.value)
        if looked_ms is not None:
            await producer.send(names.alert_decisions.name, None, encode_decision("test", Looked(looked_ms)))


async def _published(settings: Settings) -> list[tuple[str, int]]:
    documents = [
        json.loads(record.value or b"") async for record in read_topic(settings.kafka, topics(settings).alerts.name)
    ]
    return [(one["status"], one["revision"]) for one in documents if one["detector"] == "connection_storm"]


def _stored(process: Process, query: str) -> str:
    return process.get("/?query=" + query.replace(" ", "%20").replace("'", "%27")) or ""


def _restart(process: Process, interval_ms: int) -> None:
    process.stop()
    process.settings = process.settings.model_copy(update={"alert_interval_ms": interval_ms})
    process.start()
    wait_until(process.is_ready)


def test_a_storm_is_told_once_everywhere_resolved_and_never_told_again(up: Process, receiver: _Receiver) -> None:
    """Through a replay of every event and two restarts."""
    began_ms = now_ms() - 20 * MS_PER_MINUTE
    asyncio.run(_send(up.settings, began_ms, began_ms - MS_PER_MINUTE))
    wait_until(lambda: up.metric('roommeter_events_total{disposition="accepted"}') >= 60)
    _restart(up, 200)
    wait_until(lambda: len(receiver.documents) >= 2)
    assert [(one["status"], one["revision"]) for one in receiver.documents] == _STORY
    [raised, resolved] = receiver.documents
    assert (raised["observed"], raised["project"], raised["id"]) == ("30", "acme", resolved["id"])
    asyncio.run(_send(up.settings, began_ms))
    wait_until(lambda: up.metric('roommeter_events_total{disposition="accepted"}') >= 60)
    _restart(up, 200)
    looked = "roommeter_alert_lag_seconds"
    wait_until(lambda: 0 < up.metric(looked) < 90)
    assert asyncio.run(_published(up.settings)) == _STORY
    query = "SELECT status, revision FROM roommeter.current_alerts WHERE detector = 'connection_storm' FORMAT TSV"
    assert _stored(up, query).split() == ["resolved", "2"]
    assert len(receiver.documents) == 2
