"""The examples of infra/examples, run as they stand against a real broker, and metered to minutes."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from typing import Final

import orjson
import pytest

from pipeline.embedded import now_ms
from pipeline.kafka import partition_of
from pipeline.metering.units import MS_PER_DAY, format_time
from pipeline.tracker import Tracker
from tests.brokers import TestBroker
from tests.e2e.metered import PARTITIONS, POLICY, Line, declare, meter, metered
from tests.metering.builders import METERS, ROOT, Document, connected, of_room

_EXAMPLES: Final = ROOT / "infra" / "examples"
_COMMANDS: Final = {
    "plain_client.py": (sys.executable, str(_EXAMPLES / "plain_client.py")),
    "library.py": (sys.executable, str(_EXAMPLES / "library.py")),
    "kcat.sh": ("sh", str(_EXAMPLES / "kcat.sh")),
}
_each_example = pytest.mark.parametrize("example", _COMMANDS)
#: Rooms of which librdkafka's own choice of partition cannot agree with murmur2 by chance.
_ROOMS: Final = [f"acme/room-{number}".encode() for number in range(32)]


def _need_kcat() -> None:
    """Skip where kcat is absent; fail there when ROOMMETER_TEST_KCAT=required."""
    if shutil.which("kcat") is None:
        if os.environ.get("ROOMMETER_TEST_KCAT") == "required":
            pytest.fail("kcat is required here and not installed")
        pytest.skip("kcat is not installed")


async def _run(example: str, broker: TestBroker, topic: str, start_ms: int, end_ms: int) -> None:
    """Run an example to its end, as a user would."""
    if example == "kcat.sh":
        _need_kcat()
    command = (*_COMMANDS[example], broker.bootstrap, format_time(start_ms), format_time(end_ms))
    await asyncio.to_thread(subprocess.run, command, env=os.environ | {"TOPIC": topic}, check=True, timeout=180)


async def _kcat(broker: TestBroker, topic: str, *options: str) -> dict[bytes, int]:
    """Send one record for each room with kcat; return the partition of each."""
    _need_kcat()
    command = ("kcat", "-P", "-b", broker.bootstrap, "-t", topic, "-K", "\t", *options)
    lines = b"".join(key + b"\t{}\n" for key in _ROOMS)
    await asyncio.to_thread(subprocess.run, command, input=lines, check=True, timeout=180)
    records = (await metered(broker, topic, now_ms())).records
    return {record.key: record.partition for record in records if record.key is not None}


@_each_example
async def test_an_example_is_metered_to_the_minute(example: str, broker: TestBroker, topic_prefix: str) -> None:
    """R1, R10: 70 s are 2 minutes, however often the example is run."""
    topic, start_ms = await declare(broker, topic_prefix), now_ms() - 600_000
    for _ in range(2):
        await _run(example, broker, topic, start_ms, start_ms + 70_000)
    found = await metered(broker, topic, now_ms())
    assert found.minutes == {"webrtc_minutes": 2}
    assert found.dispositions == {"accepted": 4}


@_each_example
async def test_an_example_puts_its_room_where_all_others_do(
    example: str, broker: TestBroker, topic_prefix: str
) -> None:
    """One room, one key, one partition, whoever writes: that of Kafka's own client."""
    topic, start_ms = await declare(broker, topic_prefix), now_ms() - 600_000
    await _run(example, broker, topic, start_ms, start_ms + 70_000)
    placed = {(record.key, record.partition) for record in (await metered(broker, topic, now_ms())).records}
    assert placed == {(b"acme/standup", partition_of(b"acme/standup", PARTITIONS))}


@pytest.mark.parametrize("example", ["plain_client.py", "kcat.sh"])
def test_an_example_fails_where_no_broker_answers(example: str) -> None:
    """What is not acknowledged is not passed over in silence; the library's own tests show the same of it."""
    if example == "kcat.sh":
        _need_kcat()
    command = (*_COMMANDS[example], "127.0.0.1:1", "2026-09-21T14:00:00Z", "2026-09-21T14:01:10Z")
    assert subprocess.run(command, check=False, capture_output=True, timeout=180).returncode != 0


def test_the_readme_shows_every_example() -> None:
    """And nothing that is not there. The notebook reads, and has a test of its own."""
    shown = set(re.findall(r"`(?:python|sh) ([\w.]+)", (_EXAMPLES / "README.md").read_text()))
    assert shown == _COMMANDS.keys() == {path.name for path in _EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}


async def test_kcat_told_murmur2_agrees_with_kafkas_own_client(broker: TestBroker, topic_prefix: str) -> None:
    """Any room, with the option that the example gives."""
    placed = await _kcat(broker, await declare(broker, topic_prefix), "-X", "partitioner=murmur2_random")
    assert placed == {key: partition_of(key, PARTITIONS) for key in _ROOMS}


async def test_kcat_as_it_comes_puts_rooms_elsewhere(broker: TestBroker, topic_prefix: str) -> None:
    """Why the example gives that option: librdkafka hashes keys by crc32."""
    placed = await _kcat(broker, await declare(broker, topic_prefix))
    assert placed.keys() == set(_ROOMS)
    assert placed != {key: partition_of(key, PARTITIONS) for key in _ROOMS}


_START_MS: Final = 1_790_000_000_000
_CALL: Final = [connected(_START_MS), of_room("room.ended", _START_MS + 70_000)]


def _records(call: list[Document], partitions: list[int]) -> list[Line]:
    """Return the records of a call, each in a partition."""
    return [
        Line("lifecycle", partition, offset, _START_MS + 90_000, b"acme/RM_1", orjson.dumps(document))
        for offset, (document, partition) in enumerate(zip(call, partitions, strict=True))
    ]


def test_a_room_scattered_over_partitions_is_billed_the_same() -> None:
    """R10: facts of one session from any number of partitions join into the same bill."""
    as_of_ms = _START_MS + MS_PER_DAY
    together, scattered = (meter(_records(_CALL, partitions), as_of_ms) for partitions in ([3, 3], [3, 5]))
    assert together.minutes == scattered.minutes == {"agent_session_minutes": 2}


@pytest.mark.parametrize(("partitions", "rooms_kept"), [([3, 3], 0), ([3, 5], 1)], ids=["together", "scattered"])
def test_a_room_scattered_over_partitions_stays_in_memory(partitions: list[int], rooms_kept: int) -> None:
    """What murmur2 is needed for: the worker that has the session sees its room end, and can forget it."""
    tracker = Tracker(METERS, POLICY)
    tracker.apply(_records(_CALL, partitions))
    tracker.evict(_START_MS + 2 * MS_PER_DAY)
    assert tracker.count() == (rooms_kept, rooms_kept)
