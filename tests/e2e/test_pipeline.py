"""Bytes in, rows and rollups out: the whole embedded system from the command line, against a plain replay."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest

from pipeline.broker import free_port
from pipeline.embedded import now_ms
from pipeline.kafka import read_topic
from pipeline.metering.units import MS_PER_HOUR, format_time
from pipeline.resources import schemas
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.e2e.processes import Process, wait_until
from tests.faults import feed
from tests.metering.builders import connected, disconnected, event

_RECORDINGS: Final = sorted((schemas() / "recordings").iterdir())
#: What is reported rather than timed: sent again with more, a number, and bytes of a session (R13 to R15).
_REPORTED: Final = [
    event("usage.recorded", "14:00:00", project="acme", meter="stt_seconds", quantity=1_000),
    event("usage.recorded", "14:00:30", project="acme", meter="stt_seconds", quantity=2_001),
    event("number.acquired", "14:00:40", project="acme", number="+15550100") | {"subject": "+15550100"},
    connected("14:00:00", "PA_reported", room="RM_reported"),
    disconnected("14:00:50", "PA_reported", room="RM_reported", bytes_in=9_000_000, bytes_out=1_000_001),
]


@dataclass(frozen=True, slots=True)
class Observed:
    """What `up` said of recorded calls, and what a replay of the same events into another store said."""

    summaries: list[dict[str, Any]]
    events: list[bytes]
    usage: list[dict[str, Any]]
    rollups: list[dict[str, Any]]
    rollups_said: list[dict[str, Any]]
    replayed: dict[str, Any]
    replayed_usage: list[dict[str, Any]]
    exit_code: int


def _run(*arguments: str, **environment: str) -> list[dict[str, Any]]:
    """Run `roommeter` to its end and return the JSON lines that it prints."""
    command = (sys.executable, "-m", "pipeline", *arguments)
    finished = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Recorded calls of three hours ago through everything, and through nothing but a store."""
    home = tmp_path_factory.mktemp("pipeline")
    settings = Settings(data_dir=home / "data", broker_port=free_port(), grace_period_ms=0, emit_interval_ms=500)
    fed = settings.model_copy(update={"kafka": f"127.0.0.1:{settings.broker_port}"})
    up = Process("up", settings, home / "up.log")
    shift_to = format_time(now_ms() - 3 * MS_PER_HOUR)
    try:
        up.start()
        wait_until(up.is_ready)
        produce = ("produce", "--shift-to", shift_to, "--json")
        (home / "reported.jsonl").write_bytes(b"\n".join(map(orjson.dumps, _REPORTED)))
        paths = (*_RECORDINGS, home / "reported.jsonl")
        summaries = [_run(*produce, str(path), ROOMMETER_KAFKA=fed.kafka)[0] for path in paths]
        wait_until(lambda: feed.is_done(fed, up.address))
        as_of_ms = now_ms()
        wait_until(lambda: up.metric("roommeter_watermark_seconds") > as_of_ms / 1000)
        as_of = ("--as-of", format_time(as_of_ms), "--json")
        log = home / "events.jsonl"
        events = asyncio.run(_values(fed, topics(fed).lifecycle.name))
        log.write_bytes(b"\n".join(events))
        other = f"chdb://{home / 'other'}"
        yield Observed(
            summaries=summaries,
            events=events,
            usage=_run("usage", "--store", up.address, *as_of),
            rollups=[json.loads(value) for value in asyncio.run(_values(fed, topics(fed).rollups.name))],
            rollups_said=_run("rollups", "--store", up.address, "--all-revisions", "--json"),
            replayed=_run("replay", str(log), "--store", other, "--json")[0],
            replayed_usage=_run("usage", "--store", other, *as_of),
            exit_code=up.interrupt(),
        )
    finally:
        up.close()


async def _values(settings: Settings, topic: str) -> list[bytes]:
    return [record.value or b"" async for record in read_topic(settings.kafka, topic)]


def test_every_event_of_the_recordings_is_sent(observed: Observed) -> None:
    """What `produce` says that it sent is on the topic; a server's restart is there once for each partition (R9)."""
    assert sum(summary["sent"] for summary in observed.summaries) == len(set(observed.events))


def test_every_event_of_the_recordings_is_joined(observed: Observed) -> None:
    """Nothing recorded of real servers is refused."""
    assert observed.replayed == {"accepted": len(observed.events), "ignored": 0, "refused": {}}


def test_usage_through_kafka_is_usage_by_replay(observed: Observed) -> None:
    """R10, R20: broker, worker and all give what a plain join of the same events gives, line by line."""
    assert observed.usage == observed.replayed_usage
    assert {line["meter"] for line in observed.usage} >= {"agent_session_minutes", "webrtc_minutes"}


def test_what_is_reported_is_metered_through_kafka(observed: Observed) -> None:
    """R13 to R15: the larger of two quantities, one number, and bytes in and out together."""
    totals: dict[str, int] = {}
    for line in observed.usage:
        totals[line["meter"]] = totals.get(line["meter"], 0) + line["increments"]
    assert (totals["stt_seconds"], totals["number_rental"]) == (3, 1)
    assert totals["data_transfer_gb"] >= 2


def test_the_rollups_on_the_topic_are_the_usage(observed: Observed) -> None:
    """R17: the hours are complete, so their newest rollups are the usage, with the same decimals."""
    newest = {(rollup["project"], rollup["meter"], rollup["hour"]): rollup["quantity"] for rollup in observed.rollups}
    assert newest == {(line["project"], line["meter"], line["hour"]): line["quantity"] for line in observed.usage}


def test_the_rollups_on_the_topic_are_those_in_the_store(observed: Observed) -> None:
    """R19: Kafka and the store tell of the same revisions, with the same content."""
    in_store = {rollup["id"]: rollup for rollup in observed.rollups_said}
    assert {rollup["id"]: rollup for rollup in observed.rollups} == in_store != {}


def test_ctrl_c_ends_everything_in_order(observed: Observed) -> None:
    """Embedded: an interrupted `up` ends by itself, with exit code 0."""
    assert observed.exit_code == 0
