"""What the outbox promises, with real brokers that are away, come back, or refuse."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline.broker import free_port
from pipeline.gateway.outbox import Outbox, OutboxFull
from pipeline.gateway.spool import SpoolInUse
from pipeline.kafka import create_topics, read_topic
from pipeline.messages import Message
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from pipeline.topics import Topic
from tests.brokers import EmbeddedTestBroker, TestBroker
from tests.lane import PATIENCE_SECONDS

NOW_MS = 1_800_000_000_000
#: Accepts without a broker and says so; then waits to be killed.
ACCEPTER = """
import asyncio, sys
from pathlib import Path
from pipeline.messages import Message
from pipeline.metrics import Metrics
from pipeline.gateway.outbox import Outbox
from pipeline.settings import Settings
async def main():
    settings = Settings(kafka=sys.argv[1], data_dir=Path(sys.argv[2]))
    async with Outbox(settings, Metrics(), lambda: 0) as outbox:
        for number in range(20):
            await outbox.accept([Message(sys.argv[3], b"k", b"%d" % number)])
            print(number, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


class Gateway:
    """An outbox with its own metrics, and what it said about being able to accept."""

    def __init__(self, kafka: str, directory: Path, **settings: Any) -> None:
        """Prepare one."""
        self.metrics = Metrics()
        self.said: list[str] = []
        self.now_ms = NOW_MS
        self.outbox = Outbox(
            Settings(kafka=kafka, data_dir=directory, **settings),
            self.metrics,
            lambda: self.now_ms,
            on_wait=self.said.append,
            on_ok=lambda: self.said.append("ok"),
        )

    def __getitem__(self, name: str) -> float:
        """Return a metric of the spool."""
        value = self.metrics.registry.get_sample_value(f"roommeter_{name}")
        assert value is not None
        return value

    async def accept(self, *messages: Message) -> None:
        """Accept; a call that hangs is a failure."""
        await asyncio.wait_for(self.outbox.accept(messages), PATIENCE_SECONDS)


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_SECONDS) -> None:
    """Return when a condition holds; the callbacks of what we watch run meanwhile."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.01)


async def create(broker: TestBroker, prefix: str, partitions: int = 1, max_message_bytes: int = 1_000_000) -> str:
    """Create the topic of a test and return its name."""
    config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(max_message_bytes)}
    topic = Topic(f"{prefix}log", partitions, 1, config)
    await create_topics(broker.bootstrap, [topic])
    return topic.name


async def log(broker: TestBroker, topic: str) -> dict[bytes | None, list[bytes]]:
    """Return the values of each key, in the order in which each came first: repetition is allowed (R10)."""
    found: dict[bytes | None, list[bytes]] = {}
    async for record in read_topic(broker.bootstrap, topic):
        values = found.setdefault(record.key, [])
        if record.value not in values:
            values.append(record.value or b"")
    return found


def numbered(topic: str, numbers: range, key: bytes = b"k") -> list[Message]:
    """Return messages of one key."""
    return [Message(topic, key, b"%d" % number) for number in numbers]


async def test_while_the_brokers_answer_nothing_touches_the_spool(
    each_broker: TestBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """The road leads straight to them, and accepted means acknowledged."""
    topic = await create(each_broker, topic_prefix)
    gateway = Gateway(each_broker.bootstrap, tmp_path)
    async with gateway.outbox:
        await until(gateway.outbox._is_direct)
        await gateway.accept(*numbered(topic, range(3)))
        assert (await log(each_broker, topic))[b"k"] == [b"0", b"1", b"2"]
    assert gateway["spooled_total"] == 0


async def test_a_message_arrives_from_the_spool_as_it_was_accepted(
    each_broker: TestBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """Topic, key, value, headers and partition; no key, and a copy for every partition, too."""
    topic = await create(each_broker, topic_prefix, partitions=2)
    async with Gateway(f"127.0.0.1:{free_port()}", tmp_path).outbox as outbox:
        await outbox.accept([Message(topic, b"k", b"\x00\xff", (("reason", b"\xfe"), ("n", b"")), 1)])
        await outbox.accept([Message(topic, None, b"all", partition=-1)])
    gateway = Gateway(each_broker.bootstrap, tmp_path)
    async with gateway.outbox:
        await until(lambda: gateway["spool_messages"] == 0)
    records = [record async for record in read_topic(each_broker.bootstrap, topic)]
    assert sorted((r.partition, r.key or b"", r.value, r.headers) for r in records) == [
        (0, b"", b"all", ()),
        (1, b"", b"all", ()),
        (1, b"k", b"\x00\xff", (("reason", b"\xfe"), ("n", b""))),
    ]


@pytest.fixture
def durable_broker(mortal_broker: TestBroker, request: pytest.FixtureRequest) -> TestBroker:
    """A broker that keeps what it acknowledged when it is killed."""
    if isinstance(mortal_broker, EmbeddedTestBroker):
        reason = (
            "the embedded broker, killed with -9, forgets the last second of what it acknowledged: README, At scale"
        )
        request.applymarker(pytest.mark.xfail(run=False, reason=reason))
    return mortal_broker


async def test_order_per_room_outlasts_an_outage(durable_broker: TestBroker, topic_prefix: str, tmp_path: Path) -> None:
    """R22: the broker goes and comes back under load; every room's events are all there, in order."""
    topic = await create(durable_broker, topic_prefix, partitions=2)
    gateway = Gateway(durable_broker.bootstrap, tmp_path, ack_timeout_ms=300)
    stop = asyncio.Event()

    async def room(key: bytes) -> int:
        for number in count():
            await gateway.accept(*numbered(topic, range(number, number + 1), key))
            if stop.is_set():
                return number + 1
        raise AssertionError

    async with gateway.outbox:
        await until(gateway.outbox._is_direct)
        rooms = {key: asyncio.create_task(room(key)) for key in (b"a", b"b", b"c", b"d", b"e")}
        await until(lambda: gateway.outbox._disk.spool.last_seq == 0 and gateway.outbox._calls > 0)
        await durable_broker.crash()
        await until(lambda: gateway["spooled_total"] > 200)
        await durable_broker.restart()
        # Under load all the while: the road has to change back without a pause of the callers.
        await until(lambda: gateway["spool_messages"] == 0 and gateway.outbox._is_direct())
        stop.set()
        accepted = {key: await task for key, task in rooms.items()}
    assert await log(durable_broker, topic) == {
        key: [b"%d" % number for number in range(total)] for key, total in accepted.items()
    }


def test_what_was_accepted_is_there_after_a_kill(tmp_path: Path) -> None:
    """2xx only when durable: kill -9 right after `accept` returned, and the next process has it."""
    command = [sys.executable, "-c", ACCEPTER, f"127.0.0.1:{free_port()}", str(tmp_path), "t"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as accepter:
        assert accepter.stdout is not None
        accepted = [int(accepter.stdout.readline()) for _ in range(20)]
        accepter.kill()

    async def reopen() -> float:
        gateway = Gateway(f"127.0.0.1:{free_port()}", tmp_path)
        async with gateway.outbox:
            return gateway["spool_messages"]

    assert accepted == list(range(20))
    assert asyncio.run(reopen()) == 20


async def test_after_a_restart_the_spool_is_drained_in_order_before_anything_new(
    each_broker: TestBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """Several batches, and a message accepted while they are under way."""
    topic = await create(each_broker, topic_prefix)
    async with Gateway(f"127.0.0.1:{free_port()}", tmp_path).outbox as outbox:
        for first in range(0, 1200, 300):
            await outbox.accept(numbered(topic, range(first, first + 300)))
    gateway = Gateway(each_broker.bootstrap, tmp_path)
    async with gateway.outbox:
        await gateway.accept(*numbered(topic, range(1200, 1201)))
        await until(lambda: gateway["spool_messages"] == 0)
        assert gateway["spool_drained_total"] >= 1200
        assert gateway["spool_bytes"] == 0
    assert (await log(each_broker, topic))[b"k"] == [b"%d" % number for number in range(1201)]


async def test_an_acknowledgement_that_takes_too_long_is_not_waited_for(
    each_broker: TestBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """A source waits a few seconds at most; here the topic is missing, which brokers do not answer with an error."""
    gateway = Gateway(each_broker.bootstrap, tmp_path, ack_timeout_ms=200)
    async with gateway.outbox:
        await until(gateway.outbox._is_direct)
        await gateway.accept(*numbered(f"{topic_prefix}log", range(2)))
        await gateway.accept(*numbered(f"{topic_prefix}log", range(2, 4)))
        assert gateway["spool_messages"] == 4
        topic = await create(each_broker, topic_prefix)
        await until(lambda: gateway["spool_messages"] == 0)
    assert (await log(each_broker, topic))[b"k"] == [b"0", b"1", b"2", b"3"]


async def test_a_full_spool_refuses_says_so_and_recovers(
    mortal_broker: TestBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """503 with Retry-After rather than an endless file; ready again when the brokers are back."""
    topic = await create(mortal_broker, topic_prefix)
    await mortal_broker.crash()
    gateway = Gateway(mortal_broker.bootstrap, tmp_path, spool_bytes=5_000)

    async def fill() -> None:
        for number in count():
            await gateway.accept(*numbered(topic, range(number, number + 1)))

    async with gateway.outbox:
        with pytest.raises(OutboxFull, match="spool is full") as full:
            await fill()
        accepted = int(gateway["spool_messages"])
        assert full.value.retry_after_s > 0
        assert accepted > 10
        assert gateway["spool_bytes"] <= 5_000
        assert [line[:17] for line in gateway.said] == ["ok", "the spool is full"]
        await mortal_broker.restart()
        await until(lambda: gateway["spool_messages"] == 0)
        assert gateway.said[2:] == ["ok"]
    assert (await log(mortal_broker, topic))[b"k"] == [b"%d" % number for number in range(accepted)]


async def test_a_disk_that_takes_no_more_is_a_refusal_and_passes(tmp_path: Path) -> None:
    """ENOSPC leads to 503, and to being not ready for a while; here SQLite's own limit stands for the disk's."""
    gateway = Gateway(f"127.0.0.1:{free_port()}", tmp_path)
    async with gateway.outbox:
        gateway.outbox._disk.spool._db.execute("PRAGMA max_page_count = 10")
        with pytest.raises(OutboxFull, match="disk is full"):
            await gateway.accept(Message("t", b"k", b"x" * 100_000))
        gateway.outbox._disk.spool._db.execute("PRAGMA max_page_count = 1000000")
        await gateway.accept(Message("t", b"k", b"x" * 100_000))
        assert gateway["spool_messages"] == 1
    assert [line[:9] for line in gateway.said] == ["ok", "the spool", "ok"]


async def test_calls_that_come_together_share_a_write(tmp_path: Path) -> None:
    """An fsync takes milliseconds: a burst of 500 takes a few of them, not 500."""
    gateway = Gateway(f"127.0.0.1:{free_port()}", tmp_path)
    commits: list[str] = []
    async with gateway.outbox:
        gateway.outbox._disk.spool._db.set_trace_callback(commits.append)
        await asyncio.gather(*(gateway.accept(*numbered("t", range(n, n + 1))) for n in range(500)))
        assert gateway["spool_messages"] == 500
    assert 0 < commits.count("COMMIT") < 10


async def test_nothing_piles_up_in_memory_while_the_brokers_are_away(tmp_path: Path) -> None:
    """R22, for days if need be: the producer holds one batch of the spool, however much is accepted."""
    gateway = Gateway(f"127.0.0.1:{free_port()}", tmp_path)
    async with gateway.outbox:
        for first in range(0, 5_000, 500):
            await gateway.accept(*numbered("t", range(first, first + 500)))
        assert gateway["spool_messages"] == 5_000
        assert len(gateway.outbox._producer._pending) <= 500
        assert not gateway.outbox._flights


async def test_what_brokers_never_take_is_kept_apart_and_blocks_nothing(
    each_broker: TestBroker, topic_prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither lost nor in the way, on both roads: a metric, a line in the log, and the next start tries again."""
    topic = await create(each_broker, topic_prefix, max_message_bytes=20_000)
    large = [Message(topic, b"k", letter * 30_000) for letter in (b"x", b"y")]
    async with Gateway(f"127.0.0.1:{free_port()}", tmp_path).outbox as outbox:
        await outbox.accept([large[0], *numbered(topic, range(2))])
    gateway = Gateway(each_broker.bootstrap, tmp_path)
    async with gateway.outbox:
        await until(lambda: gateway.outbox._is_direct() and gateway["spool_messages"] == 0)
        assert gateway["spool_refused"] == 1
        await gateway.accept(large[1], *numbered(topic, range(2, 4)))
        assert gateway["spool_refused"] == 2
        await until(gateway.outbox._is_direct)
        assert caplog.text.count("was refused") == 2
    assert (await log(each_broker, topic))[b"k"] == [b"0", b"1", b"2", b"3"]


async def test_what_was_refused_is_delivered_at_the_next_start_once_the_reason_is_gone(
    broker: TestBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """The operator raises the topic's limit and restarts: nothing accepted is ever lost."""
    topic = await create(broker, topic_prefix, max_message_bytes=20_000)
    first = Gateway(broker.bootstrap, tmp_path)
    async with first.outbox:
        await first.accept(Message(topic, b"k", b"x" * 30_000))
        await until(lambda: first["spool_refused"] == 1)
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "100000"})])
    await admin.close()
    second = Gateway(broker.bootstrap, tmp_path)
    async with second.outbox:
        await until(lambda: second["spool_drained_total"] == 1)
        assert second["spool_refused"] == 0
    assert (await log(broker, topic))[b"k"] == [b"x" * 30_000]


async def test_the_age_of_the_oldest_message_is_a_metric(tmp_path: Path) -> None:
    """An operator sees how long an outage lasts, and has lasted when we were started."""
    gateway = Gateway(f"127.0.0.1:{free_port()}", tmp_path)
    async with gateway.outbox:
        assert gateway["spool_age_seconds"] == 0
        await gateway.accept(*numbered("t", range(1)))
        gateway.now_ms += 90_500
        await gateway.accept(*numbered("t", range(1)))
        assert gateway["spool_age_seconds"] == 90.5
    again = Gateway(f"127.0.0.1:{free_port()}", tmp_path)
    async with again.outbox:
        again.now_ms += 100_000
        assert again["spool_age_seconds"] == 100


async def test_a_second_gateway_on_the_same_directory_is_told_so(tmp_path: Path) -> None:
    """It ends with a clear error, and the first goes on."""
    first = Gateway(f"127.0.0.1:{free_port()}", tmp_path)
    async with first.outbox:
        with pytest.raises(SpoolInUse, match="in use"):
            await Gateway(f"127.0.0.1:{free_port()}", tmp_path).outbox.__aenter__()
        await first.accept(*numbered("t", range(1)))


async def test_a_damaged_spool_is_counted(tmp_path: Path) -> None:
    """An alert can stand on it: what is in that file needs a hand."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "spool.sqlite3").write_bytes(b"x" * 9000)
    gateway = Gateway(f"127.0.0.1:{free_port()}", tmp_path)
    async with gateway.outbox:
        await gateway.accept(*numbered("t", range(1)))
    assert gateway["spool_damaged_total"] == 1


async def test_stopping_is_quick_and_keeps_what_is_under_way(
    mortal_broker: TestBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """Calls that wait for brokers that are away end well, from the spool; later ones are refused."""
    topic = await create(mortal_broker, topic_prefix)
    gateway = Gateway(mortal_broker.bootstrap, tmp_path, ack_timeout_ms=60_000)
    async with asyncio.timeout(40):
        async with gateway.outbox:
            await gateway.accept(*numbered(topic, range(1)))
            await until(gateway.outbox._is_direct)
            await mortal_broker.crash()
            accepting = asyncio.create_task(gateway.accept(*numbered(topic, range(1, 2))))
            await until(lambda: bool(gateway.outbox._calls))
        await accepting
        with pytest.raises(OutboxFull, match="stopping"):
            await gateway.accept(*numbered(topic, range(2, 3)))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await mortal_broker.restart()
    again = Gateway(mortal_broker.bootstrap, tmp_path)
    async with again.outbox:
        await until(lambda: again["spool_messages"] == 0)
    assert (await log(mortal_broker, topic))[b"k"] == [b"0", b"1"]
