"""How soon a crossing is told, and how soon the API answers, under load: `python -m tests.bench.limits`.

A process of `roommeter limiter` (or, with --up, of everything) reads so many events a second. Among them, ten times a
second, is one that takes a project of its own over its limit: measured is the time from before it is sent until the
brokers have its crossing. Meanwhile a process of its own asks the API. Nothing is asserted.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import orjson
from aiokafka import AIOKafkaProducer
from rich.console import Console

from pipeline.embedded import now_ms
from pipeline.kafka import create_topics, partition_of, read_topic
from pipeline.metering.units import format_time, parse_time
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.bench.load import PARTITIONS, Entry, fill
from tests.brokers import candidates, start_broker
from tests.e2e.processes import wait_until

_SAY: Final = Console(stderr=True)
_LIMITS: Final = """
[[limit]]
project = "*"
meter = "agent_session_minutes"
per = "hour"
soft = "10000000"

[[limit]]
project = "*"
concurrent = "agent"
hard = "1"
"""
#: Slices of the load in a second; each has one event that crosses.
_SLICES: Final = 10
#: How long a room of the load lives, and its events: start, two connects, two disconnects, end.
_ROOM_MS: Final = 30_000
_EVENTS_PER_ROOM: Final = 6
_PROJECTS: Final = 50
_PATIENCE_S: Final = 60
_ASK: Final = """
import http.client, sys, time
port, seconds = int(sys.argv[1]), float(sys.argv[2])
until, spent = time.monotonic() + seconds, []
client = http.client.HTTPConnection("127.0.0.1", port)
while time.monotonic() < until:
    began = time.perf_counter()
    client.request("GET", "/v1/limits/load-1")
    assert client.getresponse().read().startswith(b'{"project"')
    spent.append((time.perf_counter() - began) * 1000)
    time.sleep(0.01)
print(*spent)
"""


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.limits", description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000, help="events a second")
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("--up", action="store_true", help="everything in one process, on the embedded broker")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if arguments.up:
            _measure(Path(directory), None, arguments.rate, arguments.seconds)
            return
        broker = start_broker(candidates(), Path(directory), _SAY.print)
        try:
            _measure(Path(directory), broker.bootstrap, arguments.rate, arguments.seconds)
        finally:
            asyncio.run(broker.stop())


def _measure(directory: Path, kafka: str | None, rate: int, seconds: int) -> None:
    (directory / "limits.toml").write_text(_LIMITS)
    environ = {
        "ROOMMETER_LIMITS_FILE": str(directory / "limits.toml"),
        "ROOMMETER_DATA_DIR": str(directory / "data"),
        "ROOMMETER_STORE": f"chdb://{directory / 'clickhouse'}",
        "ROOMMETER_HTTP_PORT": "0",
        "ROOMMETER_GATEWAY_PORT": "0",
        "ROOMMETER_CONSOLE_PORT": "0",
    }
    if kafka is not None:
        environ["ROOMMETER_KAFKA"] = kafka
        asyncio.run(create_topics(kafka, topics(Settings(partitions=PARTITIONS)).all()))
    with _running("up" if kafka is None else "limiter", environ) as (pid, port, found):
        settings = Settings(kafka=kafka or found, partitions=PARTITIONS)
        before, slices = _load(rate, seconds)
        asyncio.run(fill(settings.kafka, topics(settings).lifecycle.name, before))
        _wait_for(port, now_ms())
        command = [sys.executable, "-c", _ASK, str(port), str(seconds)]
        cpu_s, waited_s = _cpu_s(pid), _waited_s(pid)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
            sent = asyncio.run(_send(settings, slices))
            answered = [float(word) for word in asking.communicate()[0].split()]
        cpu_s, waited_s = _cpu_s(pid) - cpu_s, _waited_s(pid) - waited_s
        told = asyncio.run(_told(settings, len(sent)))
    events = max(1, sum(map(len, slices)))
    delays = [(told[project] - sent_ms) / 1000 for project, sent_ms in sent.items() if project in told]
    _SAY.print(
        f"{events:,} events in {seconds} s; the process took {cpu_s:.1f} s CPU, {cpu_s * 1e6 / events:.1f} us each"
    )
    _SAY.print(f"its event loop waited {waited_s:.1f} s for a CPU that others had")
    _SAY.print(f"crossings told: {len(delays)} of {len(sent)}")
    _SAY.print("event to crossing, s:", _percentiles(delays))
    _SAY.print("API, ms:             ", _percentiles(answered), f"of {len(answered)}")


def _percentiles(values: list[float]) -> str:
    ordered = sorted(values)
    return "  ".join(
        f"{name} {ordered[min(len(ordered) - 1, int(len(ordered) * part))]:.2f}"
        for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1))
    )


@contextmanager
def _running(command: str, environ: dict[str, str]) -> Iterator[tuple[int, int, str]]:
    """Run a command; yield its process, its port and its brokers, once it has evaluated limits."""
    program = [sys.executable, "-m", "pipeline", command]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}) as process:
        assert process.stderr is not None
        port = int(_until(process.stderr, r"queries at http://[^:]+:(\d+)"))
        kafka = _until(process.stderr, r"Kafka at (\S+)")
        _until(process.stderr, r"(limiter) is ready")
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield process.pid, port, kafka
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)
            drain.wait(_PATIENCE_S)


def _until(lines: IO[str], pattern: str) -> str:
    for line in lines:
        if found := re.search(pattern, line):
            return found[1]
    raise RuntimeError(f"the process ended before it said {pattern}")


def _wait_for(port: int, until_ms: int) -> None:
    """Wait until limits are evaluated up to a moment: with what was there before, the load would wait behind it."""

    def is_there() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/limits/load-1") as answer:
            return parse_time(orjson.loads(answer.read())["as_of"]) > until_ms

    wait_until(is_there, _PATIENCE_S)


def _cpu_s(pid: int) -> float:
    """Return the CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _load(rate: int, seconds: int) -> tuple[list[Entry], list[list[Entry]]]:
    """Return the events of rooms that began before, and those of each slice from now on, where rooms also end."""
    begin_ms = now_ms() + rate * seconds // 100
    rooms_per_s = max(1, rate // _EVENTS_PER_ROOM)
    before: list[Entry] = []
    slices: list[list[Entry]] = [[] for _ in range(seconds * _SLICES)]
    for number in range(-rooms_per_s * _ROOM_MS // 1000, rooms_per_s * seconds):
        start_ms = begin_ms + number * 1000 // rooms_per_s
        for after_ms, kind, data in _room(number):
            entry = _entry(f"load-{number % _PROJECTS}", number, kind, start_ms + after_ms, data)
            index = (start_ms + after_ms - begin_ms) * _SLICES // 1000
            if index < len(slices):
                (slices[index] if index >= 0 else before).append(entry)
    return before, slices


def _room(number: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    agent, caller = {"session": f"PA_a{number:x}"}, {"session": f"PA_c{number:x}"}
    yield 0, "room.started", {}
    yield 1, "session.connected", agent | {"kind": "agent", "agent": "support"}
    yield 2, "session.connected", caller | {"kind": "participant", "identity": f"user-{number:x}"}
    yield _ROOM_MS, "session.disconnected", caller
    yield _ROOM_MS + 1, "session.disconnected", agent
    yield _ROOM_MS + 2, "room.ended", {}


def _entry(project: str, number: int, kind: str, time_ms: int, data: dict[str, Any]) -> Entry:
    room = f"RM_{number & 0xFFFFFFFFFFFF:012x}"
    event: dict[str, Any] = {"specversion": "1.0", "id": f"EV_{kind}_{number}", "source": "livekit/eu-1", "type": kind}
    event |= {"time": format_time(time_ms), "data": {"project": project, "room": room} | data}
    key = f"{project}/{room}".encode()
    return partition_of(key, PARTITIONS), key, orjson.dumps(event)


def _waited_s(pid: int) -> float:
    """Return how long a process's first thread has waited for a CPU: what other load on the machine costs it."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


async def _send(settings: Settings, slices: list[list[Entry]]) -> dict[str, int]:
    """Send each slice in its time, and in each the connect that crosses; return when each of those was sent, in ms."""
    topic = topics(settings).lifecycle.name
    sent = {}
    late_s = 0.0
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka, max_batch_size=500_000, linger_ms=5)
    await producer.start()
    begin_s = time.monotonic()
    for number, entries in enumerate(slices):
        wait_s = begin_s + number / _SLICES - time.monotonic()
        late_s = max(late_s, -wait_s)
        await asyncio.sleep(max(0.0, wait_s))
        project = f"probe-{number}"
        sent[project] = now_ms()
        data = {"session": f"PA_p{number}", "kind": "agent"}
        crossing = _entry(project, number, "session.connected", sent[project], data)
        batches: dict[int, Any] = {}
        for partition, key, value in [crossing, *entries]:
            batch = batches.get(partition) or batches.setdefault(partition, producer.create_batch())
            batch.append(key=key, value=value, timestamp=None)
        for partition, batch in batches.items():
            await producer.send_batch(batch, topic, partition=partition)
    await producer.stop()
    _SAY.print(f"the load was at most {late_s:.1f} s late")
    return sent


async def _told(settings: Settings, count: int) -> dict[str, int]:
    """Return when the brokers had the crossing of each project, in ms, once there are so many."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        told: dict[str, int] = {}
        async for record in read_topic(settings.kafka, topics(settings).limits.name):
            project = (record.key or b"").decode()
            if project.startswith("probe-"):
                told.setdefault(project, record.timestamp_ms)
        if len(told) >= count or time.monotonic() > deadline_s:
            return told
        await asyncio.sleep(1)


if __name__ == "__main__":
    main()
