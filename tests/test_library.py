"""`import roommeter`: a producer that loses no event in silence."""

import asyncio
import json
import re
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

import roommeter
from pipeline.broker import EmbeddedBroker
from pipeline.embedded import now_ms
from pipeline.kafka import create_topics
from pipeline.metering.events import InvalidEvent
from pipeline.settings import Settings
from pipeline.topics import Topic, topics
from tests.brokers import TestBroker
from tests.e2e.metered import declare, metered
from tests.lane import PATIENCE_SECONDS, eventually
from tests.library_events import connected
from tests.metering.builders import ROOT

#: A port that only root could open, so that nobody answers there.
_NOWHERE: Final = "127.0.0.1:1"


@asynccontextmanager
async def _producing(broker: TestBroker, prefix: str, **options: Any) -> AsyncIterator[tuple[roommeter.Producer, str]]:
    """Yield a producer for a topic of this test, and the topic's name."""
    topic = await declare(broker, prefix)
    async with roommeter.Producer(broker.bootstrap, project="acme", source="sfu", topic=topic, **options) as producer:
        yield producer, topic


async def test_a_call_is_metered_to_the_minute(broker: TestBroker, topic_prefix: str) -> None:
    """R1: 70 s of an agent are 2 minutes, 61 s of a caller are 2; a job that never connects is none (R4)."""
    start_ms = now_ms() - 600_000
    async with _producing(broker, topic_prefix) as (producer, topic):
        await producer.room_started(room="r", at=start_ms)
        await producer.job_dispatched(room="r", job="j", agent="support", at=start_ms)
        await producer.connected(room="r", session="a", kind="agent", at=start_ms)
        await producer.connected(room="r", session="b", kind="sip", at=start_ms + 9_000)
        await producer.sampled(room="r", session="a", bytes_in=7, at=start_ms + 30_000)
        await producer.disconnected(room="r", session="a", at=start_ms + 70_000)
        await producer.room_ended(room="r", at=start_ms + 70_000)
    found = await metered(broker, topic, now_ms())
    assert found.minutes == {"agent_session_minutes": 2, "telephony_minutes": 2, "data_transfer_gb": 1}
    assert found.dispositions == {"accepted": 7}


async def test_every_type_has_its_method_and_is_accepted(broker: TestBroker, topic_prefix: str) -> None:
    """R21: nothing that a method sends becomes a dead letter; a restart goes to every partition (R9)."""
    async with _producing(broker, topic_prefix) as (producer, topic):
        session = {"room": "r", "session": "s"}
        for method in (producer.disconnected, producer.aborted, producer.sampled, producer.absent):
            await method(**session)  # type: ignore[arg-type]
        await producer.job_ended(room="r", job="j")
        await producer.used(id="u-1", meter="llm_input_tokens", quantity=12)
        await producer.number_acquired(number="+15550100")
        await producer.number_released(number="+15550100")
        await producer.server_restarted()
    found = await metered(broker, topic, now_ms())
    assert found.dispositions == {"accepted": 8 + 8}


async def test_flush_returns_when_the_brokers_have_everything(broker: TestBroker, topic_prefix: str) -> None:
    """Acknowledged, in the order of the calls."""
    async with _producing(broker, topic_prefix) as (producer, topic):
        for number in range(300):
            await producer.sampled(room="r", session="s", bytes_in=number)
        await producer.flush()
        records = (await metered(broker, topic, now_ms())).records
    counts = [json.loads(record.value or b"")["data"]["bytes_in"] for record in records]
    assert counts == list(range(300))


async def test_a_wrong_call_sends_nothing(broker: TestBroker, topic_prefix: str) -> None:
    """It raises, and the producer goes on."""
    async with _producing(broker, topic_prefix) as (producer, topic):
        with pytest.raises(InvalidEvent):
            await producer.connected(room="r", session="", kind="agent")
        with pytest.raises(InvalidEvent, match="at most 262144"):
            await producer.send(connected(attributes={"x": "x" * 262_144}))
        await producer.send(connected())
    assert len((await metered(broker, topic, now_ms())).records) == 1


async def test_what_the_brokers_refuse_is_handed_back(broker: TestBroker, topic_prefix: str) -> None:
    """`flush` tells which events, once; the others are in the log."""
    config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "20000"}
    await create_topics(broker.bootstrap, [Topic(f"{topic_prefix}small", 1, 1, config)])
    refused, fine = connected(attributes={"x": "x" * 30_000}), connected()
    async with roommeter.Producer(
        broker.bootstrap, project="acme", source="sfu", topic=f"{topic_prefix}small"
    ) as producer:
        for event in (fine, refused, fine):
            await producer.send(event)
        with pytest.raises(roommeter.NotAcknowledged, match=r"1 of 3 events .* was refused") as lost:
            await producer.flush()
        await producer.flush()
    assert lost.value.events == (refused,)
    assert len((await metered(broker, f"{topic_prefix}small", now_ms())).records) == 2


@asynccontextmanager
async def _stopping(embedded: EmbeddedBroker) -> AsyncIterator[None]:
    """Stop a broker in the end, if it was started."""
    try:
        yield
    finally:
        await embedded.stop()


async def test_calls_wait_while_too_many_events_are_under_way(tmp_path: Path) -> None:
    """Back-pressure: with the broker away two are accepted and the third waits; when it is there, all arrive."""
    embedded, topic = EmbeddedBroker(tmp_path, 0), topics(Settings()).lifecycle
    async with (
        _stopping(embedded),
        roommeter.Producer(embedded.bootstrap, project="acme", source="sfu", max_under_way=2) as producer,
    ):
        await producer.send(connected())
        await producer.send(connected(session="c-18"))
        third = asyncio.create_task(producer.send(connected(session="c-19")))
        assert await asyncio.wait({third}, timeout=0.3) == (set(), {third})
        await embedded.start()
        await create_topics(embedded.bootstrap, [topic])
        await asyncio.wait_for(third, PATIENCE_SECONDS)
        await asyncio.wait_for(producer.flush(), PATIENCE_SECONDS)
        await eventually(lambda: producer.trouble is None)


async def _send_nowhere(*events: roommeter.Event, error: Exception | None = None) -> None:
    """Send events to a broker that is away, and leave; with an error, where one is given."""
    async with roommeter.Producer(_NOWHERE, project="acme", source="sfu", close_timeout_s=0.2) as producer:
        for event in events:
            await producer.send(event)
        if error is not None:
            raise error


async def test_leaving_without_a_broker_raises_and_hands_the_events_back() -> None:
    """Never dropped in silence: how many of how many, why, and which, in order."""
    sent = [connected(session=f"c-{number}") for number in range(3)]
    with pytest.raises(roommeter.NotAcknowledged, match=r"3 of 3 events are not acknowledged: \w+") as lost:
        await _send_nowhere(*sent)
    assert list(lost.value.events) == sent


async def test_an_error_inside_is_not_hidden_by_lost_events(caplog: pytest.LogCaptureFixture) -> None:
    """It goes its way, with a note, and the log says it too."""
    with pytest.raises(KeyError, match="mine") as raised:
        await _send_nowhere(connected(), error=KeyError("mine"))
    [note] = raised.value.__notes__
    assert "1 of 1 events are not acknowledged" in note
    assert note in caplog.text


async def test_cancelled_while_it_waits_to_leave_it_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C ends the waiting, not the honesty."""
    producer = roommeter.Producer(_NOWHERE, project="acme", source="sfu")
    await producer.__aenter__()
    await producer.send(connected())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(producer.__aexit__(None, None, None), 0.2)
    assert "1 of 1 events are not acknowledged" in caplog.text


async def test_calls_that_wait_when_the_producer_closes_are_told() -> None:
    """None of them hangs, however many there are."""
    producer = roommeter.Producer(_NOWHERE, project="acme", source="sfu", max_under_way=1, close_timeout_s=0.2)
    await producer.__aenter__()
    await producer.send(connected())
    waiting = [asyncio.create_task(producer.send(connected())) for _ in range(5)]
    with pytest.raises(roommeter.NotAcknowledged, match="1 of 1"):
        await producer.__aexit__(None, None, None)
    told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE_SECONDS)
    assert [type(error) for error in told] == [roommeter.ProducerClosed] * 5


async def test_a_producer_that_is_not_entered_sends_nothing() -> None:
    """It says so, rather than wait."""
    with pytest.raises(roommeter.ProducerClosed):
        await roommeter.Producer(_NOWHERE, project="acme", source="sfu").send(connected())


def test_threads_without_asyncio_share_a_producer(broker: TestBroker, topic_prefix: str) -> None:
    """The synchronous face: the same events, the same acknowledgements."""
    topic, start_ms = asyncio.run(declare(broker, topic_prefix)), now_ms() - 600_000

    def report(number: int) -> None:
        producer.send(connected(session=f"c-{number}", at=start_ms))
        producer.send(roommeter.SessionDisconnected(room="standup", session=f"c-{number}", at=start_ms + 70_000))

    with roommeter.Producer(broker.bootstrap, project="acme", source="sfu", topic=topic).sync() as producer:
        threads = [threading.Thread(target=report, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        producer.flush()
        found = asyncio.run(metered(broker, topic, now_ms()))
    assert found.minutes == {"agent_session_minutes": 10}


def test_without_asyncio_lost_events_are_handed_back_too() -> None:
    """And its thread ends with it."""
    before = threading.active_count()
    nowhere = roommeter.Producer(_NOWHERE, project="acme", source="sfu", close_timeout_s=0.2)
    with pytest.raises(roommeter.NotAcknowledged, match="1 of 1"), nowhere.sync() as producer:
        producer.send(connected())
    assert threading.active_count() == before


#: What help(roommeter) shows of sending; reading comes after it.
_SENDING: Final = str(roommeter.__doc__).partition("What was metered")[0].splitlines()
_SHOWN: Final = {"help(roommeter)": "\n".join(line for line in _SENDING if line.startswith("    "))} | {
    f"{path} {number}": block
    for path in ("README.md", "infra/examples/README.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL), start=1)
}


@pytest.mark.parametrize("where", _SHOWN)
def test_the_example_in_the_documentation_runs(where: str, broker: TestBroker, topic_prefix: str) -> None:
    """Word for word, but for the address and the topic."""
    topic = asyncio.run(declare(broker, topic_prefix))
    code = textwrap.dedent(_SHOWN[where]).replace("127.0.0.1:9092", broker.bootstrap)
    code = code.replace('eu-1"', f'eu-1", topic="{topic}"')
    scope: dict[str, Any] = {}
    exec("async def example():\n" + textwrap.indent(code, "    "), scope)  # noqa: S102 - our own words
    asyncio.run(scope["example"]())
    found = asyncio.run(metered(broker, topic, now_ms() + 1_000))
    assert (found.minutes, found.dispositions) == ({"webrtc_minutes": 1}, {"accepted": 2})
