"""What the embedded broker promises, and what is asked of every broker that we start."""

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.broker import BrokerUnavailable, EmbeddedBroker
from pipeline.kafka import create_topics, read_topic
from pipeline.producer import Producer
from pipeline.topics import Topic
from tests.brokers import EmbeddedTestBroker, ProcessBroker, listening, until

#: Loopback as the kernel prints it: IPv4, IPv4 in IPv6, IPv6.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


async def write(bootstrap: str, topic: str, values: list[bytes]) -> None:
    """Write values to a topic, creating it."""
    await create_topics(bootstrap, [Topic(topic, 1, 1, {"message.timestamp.type": "LogAppendTime"})])
    async with Producer(bootstrap) as producer:
        for value in values:
            await producer.send(topic, None, value)


def is_open(port: int) -> bool:
    """Tell whether something accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_only_loopback_is_open(process_broker: ProcessBroker) -> None:
    """No broker that we start can be reached from another machine."""
    open_ports = listening(process_broker.pids())
    assert {address for address, _ in open_ports} <= LOOPBACK
    assert process_broker.port in {port for _, port in open_ports}


def test_the_control_port_wants_a_token_that_only_the_owner_can_read(embedded_broker: EmbeddedTestBroker) -> None:
    """The second port of the embedded broker, which has no switch, gives nothing away."""
    control_file = embedded_broker.directory / "noida.control.json"
    control = json.loads(control_file.read_text())
    assert {port for _, port in listening(embedded_broker.pids())} == {embedded_broker.port, control["port"]}
    for path in ("/", "/status", "/stop"):
        connection = http.client.HTTPConnection("127.0.0.1", control["port"], timeout=5)
        connection.request("POST", path)
        assert b"wrong token" in connection.getresponse().read()
        connection.close()
    assert control_file.parent.stat().st_mode & 0o077 == 0


async def test_data_survive_a_restart(tmp_path: Path) -> None:
    """Stopping writes everything; the port stays the same."""
    broker = EmbeddedBroker(tmp_path / "broker", 0)
    await broker.start()
    try:
        bootstrap = broker.bootstrap
        await write(bootstrap, "log", [b"1", b"2"])
        await broker.stop()
        assert not is_open(broker.port)
        await broker.start()
        assert [record.value async for record in read_topic(bootstrap, "log")] == [b"1", b"2"]
    finally:
        await broker.stop()


async def test_its_size_tells_when_its_limit_comes_near(tmp_path: Path) -> None:
    """`up` compares it with LIMIT_BYTES."""
    broker = EmbeddedBroker(tmp_path / "broker", 0)
    assert broker.size_bytes() == 0
    await broker.start()
    try:
        await write(broker.bootstrap, "log", [b"x" * 10_000])
    finally:
        await broker.stop()
    assert 10_000 < broker.size_bytes() < EmbeddedBroker.LIMIT_BYTES


async def test_a_port_in_use_is_the_reason_not_to_start(tmp_path: Path) -> None:
    """Whoever has the port must not answer in the broker's place."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=f"port {port} is in use"):
            await EmbeddedBroker(tmp_path / "broker", port).start()


async def test_a_directory_that_cannot_be_had_is_the_reason_not_to_start(tmp_path: Path) -> None:
    """Said before anything is started."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerUnavailable, match="cannot be its directory"):
        await EmbeddedBroker(tmp_path / "file", 0).start()


async def test_a_second_broker_on_the_same_data_is_refused(tmp_path: Path) -> None:
    """With the broker's own words."""
    first, second = EmbeddedBroker(tmp_path / "broker", 0), EmbeddedBroker(tmp_path / "broker", 0)
    await first.start()
    try:
        with pytest.raises(BrokerUnavailable, match="already running"):
            await second.start()
        assert is_open(first.port)
    finally:
        await first.stop()


async def test_a_missing_topic_stays_missing_when_somebody_asks_for_it(embedded_broker: EmbeddedTestBroker) -> None:
    """Else it would appear with one partition and the producers' clock (R11), also after a restart."""
    for _ in range(2):
        with pytest.raises(ValueError, match="does not exist"):
            _ = [record async for record in read_topic(embedded_broker.bootstrap, "nobody-made-this")]
        embedded_broker.kill()
        await embedded_broker.restart()


async def test_whoever_waits_for_its_first_start_does_not_create_a_topic_either(tmp_path: Path) -> None:
    """A producer that was there first asks for its topic the moment that somebody listens."""
    broker = EmbeddedBroker(tmp_path / "broker", 0)
    asking = await asyncio.create_subprocess_exec(sys.executable, "-c", IMPATIENT, str(broker.port))
    try:
        await broker.start()
        with pytest.raises(ValueError, match="does not exist"):
            _ = [record async for record in read_topic(broker.bootstrap, "too-soon")]
    finally:
        asking.kill()
        await asking.wait()
        await broker.stop()


IMPATIENT = """
import socket, struct, sys

metadata = struct.pack(">hhih", 3, 0, 1, -1) + struct.pack(">ih8s", 1, 8, b"too-soon")
while True:
    with socket.socket() as client:
        if client.connect_ex(("127.0.0.1", int(sys.argv[1]))) == 0:
            client.sendall(struct.pack(">i", len(metadata)) + metadata)
            client.recv(4096)
"""


OWNER = """
import asyncio, signal, sys
from pathlib import Path
from pipeline.broker import EmbeddedBroker

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it, and we inherit that

async def main():
    broker = EmbeddedBroker(Path(sys.argv[1]), 0)
    await broker.start()
    print(broker.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_it_dies_with_its_owner(tmp_path: Path, how: signal.Signals) -> None:
    """However the owner dies: no broker is left behind, and its data are written."""
    owner = subprocess.Popen((sys.executable, "-c", OWNER, tmp_path / "broker"), stdout=subprocess.PIPE, stderr=-1)
    with owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        assert is_open(port)
        owner.send_signal(how)
    until(lambda: not is_open(port))
    until((tmp_path / "broker" / "kafka.json").exists)
