"""`import roommeter`: events that are right when they are made, and a producer that loses none in silence."""

import asyncio
import json
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final, get_args

import orjson
import pytest
from jsonschema import Draft202012Validator

import roommeter
from pipeline.broker import EmbeddedBroker
from pipeline.embedded import now_ms
from pipeline.kafka import create_topics
from pipeline.metering.events import EventType, InvalidEvent, Reason, parse_event
from pipeline.metering.meters import Kind
from pipeline.metering.units import parse_time
from pipeline.settings import Settings
from pipeline.topics import Topic, topics
from roommeter import producer as library
from tests.brokers import TestBroker
from tests.e2e.metered import declare, metered
from tests.lane import eventually
from tests.metering.builders import METERS, ROOT, Document

_SCHEMAS: Final = {
    document["title"]: document
    for document in (json.loads(path.read_text()) for path in (ROOT / "schemas" / "events").iterdir())
}
_CLASSES: Final = {
    str(found.type): found
    for found in vars(roommeter).values()
    if isinstance(found, type) and issubclass(found, roommeter.Event) and found is not roommeter.Event
}
_EXAMPLES: Final = [
    pytest.param(example, id=f"{title}-{number}")
    for title, schema in sorted(_SCHEMAS.items())
    if title in _CLASSES
    for number, example in enumerate(schema["examples"], start=1)
]
_ODD: Final[list[object]] = [
    "x" * 257, "a\nb", "\ud800", "robot", 0, 1, -1, 2**63, 1.5, True, [], ["x"], {}, {"x": 1}, {"x": object()}, {1: 2},
    b"x", datetime(2026, 9, 21, 14), datetime(1999, 1, 1, tzinfo=UTC), object(),  # noqa: DTZ001 - that is the fault
]  # fmt: skip
_NOON: Final = datetime(2026, 9, 21, 12, tzinfo=UTC)
#: A port that only root could open, so that nobody answers there.
_NOWHERE: Final = "127.0.0.1:1"


def _made(example: Document) -> roommeter.Event:
    """Make the event of an example by the class of its type."""
    data: dict[str, Any] = {
        name: parse_time(value) if name.endswith("_at") else value
        for name, value in (example.get("data") or {}).items()
    }
    return _CLASSES[example["type"]](id=example["id"], at=parse_time(example["time"]), **data)


def _connected(**changed: Any) -> roommeter.SessionConnected:
    given: dict[str, Any] = {"room": "standup", "session": "c-17", "kind": "agent", "at": _NOON}
    return roommeter.SessionConnected(**given | changed)


def _document(event: roommeter.Event) -> Document:
    return event.document(project="acme", source="sfu/eu-1")


def test_there_is_a_class_for_every_type() -> None:
    """What can be reported at all can be reported from Python."""
    amended = {str(EventType.SESSION_AMENDED)}  # an operator says that, with `roommeter amend`, and no producer
    assert _CLASSES.keys() == _SCHEMAS.keys() - amended == set(map(str, EventType)) - amended


@pytest.mark.parametrize("event_type", _CLASSES)
def test_a_class_has_the_fields_of_its_schema(event_type: str) -> None:
    """No field more and none less, in data; those that are required have no default."""
    data = _SCHEMAS[event_type]["properties"]["data"]
    names = {field.name for field in fields(_CLASSES[event_type])} - {"at", "id", "source"}
    assert names == set(data.get("properties", ()))


@pytest.mark.parametrize("example", _EXAMPLES)
def test_an_event_is_the_document_of_its_schemas_example(example: Document) -> None:
    """What a class makes is valid by its schema, an event for the core, and says what the example says."""
    document = _made(example).document(project="-", source=example["source"])
    assert Draft202012Validator(_SCHEMAS[example["type"]]).is_valid(document)
    assert parse_event(document, METERS) == parse_event(example, METERS) is not None
    assert document.get("data") == (example.get("data") or None)


@pytest.mark.parametrize("value", _ODD, ids=lambda value: repr(value).partition(" at 0x")[0][:30])
@pytest.mark.parametrize("event_type", _CLASSES)
def test_an_odd_value_in_any_field_is_refused_or_right(event_type: str, value: object) -> None:
    """R21, at the desk of who makes the mistake: nothing is made that would become a dead letter."""
    for field in fields(_CLASSES[event_type]):
        given = dict(_SCHEMAS[event_type]["examples"][-1].get("data") or {}, id="1", at=_NOON)
        given |= {name: _NOON for name in given if name.endswith("_at")} | {field.name: value}
        with suppress(InvalidEvent):
            document = orjson.loads(orjson.dumps(_document(_CLASSES[event_type](**given))))
            assert Draft202012Validator(_SCHEMAS[event_type]).is_valid(document), field.name


@pytest.mark.parametrize(
    ("changed", "reason", "words"),
    [
        ({"at": datetime(2026, 9, 21, 12)}, Reason.IMPOSSIBLE_TIME, "at has no time zone"),  # noqa: DTZ001
        ({"at": 1_790_000_000}, Reason.IMPOSSIBLE_TIME, "is it in ms"),
        ({"at": 1_790_000_000.5}, Reason.WRONG_FIELD, "at has to be a datetime or whole ms"),
        ({"kind": "robot"}, Reason.UNKNOWN_KIND, "data.kind is one of"),
        ({"room": ""}, Reason.MISSING_FIELD, "data.room is required"),
        ({"session": "x" * 257}, Reason.WRONG_FIELD, "session has to be printable"),
        ({"attributes": {"x": object()}}, Reason.WRONG_FIELD, "no JSON"),
    ],
)
def test_a_wrong_event_says_what_is_wrong(changed: Document, reason: Reason, words: str) -> None:
    """When it is made, with the reason that a dead letter would have."""
    with pytest.raises(InvalidEvent, match=words) as refused:
        _connected(**changed)
    assert refused.value.reason is reason


def test_a_moment_is_the_same_in_any_zone_and_in_milliseconds() -> None:
    """Below a millisecond it is rounded down, as the core does."""
    berlin = _NOON.astimezone(timezone(timedelta(hours=2)))
    whole_ms = int(_NOON.timestamp()) * 1_000
    assert _connected() == _connected(at=berlin) == _connected(at=whole_ms)
    assert _connected() == _connected(at=_NOON + timedelta(microseconds=999))


def test_left_out_the_time_is_now() -> None:
    """Of making the event, not of sending it: sent again, it is the same event."""
    before_ms = now_ms()
    event = _connected(at=None)
    assert before_ms <= parse_time(_document(event)["time"]) <= now_ms()
    assert _document(event) == _document(event)


def test_the_same_call_twice_is_the_same_event() -> None:
    """What is retried has the id that it had, in whatever order attributes come."""
    first, again = (_connected(attributes=attributes) for attributes in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert _document(first)["id"] == _document(again)["id"]


@pytest.mark.parametrize(
    "changed",
    [
        {"at": _NOON + timedelta(milliseconds=1)},
        {"session": "c-18"},
        {"room": "r"},
        {"project": "globex"},
        {"region": "eu"},
    ],
    ids=str,
)
def test_another_event_has_another_id(changed: Document) -> None:
    """An id is made of all that the event says."""
    assert _document(_connected(**changed))["id"] != _document(_connected())["id"]


def test_usage_needs_an_id_of_the_callers() -> None:
    """R14: one subject per id; only the caller can tell a repetition from the same usage once more."""
    with pytest.raises(InvalidEvent, match="id is required"):
        roommeter.UsageRecorded(id="", meter="llm_input_tokens", quantity=1)


def test_project_and_source_are_the_producers_unless_the_event_names_its_own() -> None:
    """One program may report for many projects and servers."""
    mine, theirs = _document(_connected()), _document(_connected(project="globex", source="sfu/us-1"))
    assert (mine["data"]["project"], mine["source"]) == ("acme", "sfu/eu-1")
    assert (theirs["data"]["project"], theirs["source"]) == ("globex", "sfu/us-1")


def test_without_any_project_an_event_is_not_sent() -> None:
    """Nobody could be billed for it."""
    with pytest.raises(InvalidEvent, match=r"data\.project is required"):
        _connected().document(project="", source="sfu/eu-1")


def test_kinds_are_those_of_the_meters() -> None:
    """R16: what the type hints allow, the core takes, and nothing else."""
    assert {_connected(kind=kind).kind for kind in get_args(Kind)} == set(get_args(Kind))


def test_the_largest_event_is_that_of_the_settings() -> None:
    """R21: as a pipeline is when nobody configures anything."""
    assert Settings.model_fields["max_event_bytes"].default == library.MAX_EVENT_BYTES


def test_importing_the_library_imports_none_of_the_pipelines_engines() -> None:
    """A program that only reports starts no Faust, no ClickHouse, no command line: in a second of CPU at most."""
    heavy = {"faust", "mode", "chdb", "pyarrow", "clickhouse_connect", "noida_db", "click", "rich", "aiohttp", "uvloop"}
    code = f"import sys, time, roommeter; print(sorted({heavy!r} & sys.modules.keys()), time.process_time() < 1)"
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'pipeline' / 'lib'}"}
    ran = subprocess.run((sys.executable, "-c", code), env=path, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[0] == "[] True"


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
    assert found.minutes == {"agent_session_minutes": 2, "telephony_minutes": 2}
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
            await producer.send(_connected(attributes={"x": "x" * 262_144}))
        await producer.send(_connected())
    assert len((await metered(broker, topic, now_ms())).records) == 1


async def test_what_the_brokers_refuse_is_handed_back(broker: TestBroker, topic_prefix: str) -> None:
    """`flush` tells which events, once; the others are in the log."""
    config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "20000"}
    await create_topics(broker.bootstrap, [Topic(f"{topic_prefix}small", 1, 1, config)])
    refused, fine = _connected(attributes={"x": "x" * 30_000}), _connected()
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
        await producer.send(_connected())
        await producer.send(_connected(session="c-18"))
        third = asyncio.create_task(producer.send(_connected(session="c-19")))
        assert await asyncio.wait({third}, timeout=0.3) == (set(), {third})
        await embedded.start()
        await create_topics(embedded.bootstrap, [topic])
        await asyncio.wait_for(third, 30)
        await asyncio.wait_for(producer.flush(), 30)
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
    sent = [_connected(session=f"c-{number}") for number in range(3)]
    with pytest.raises(roommeter.NotAcknowledged, match=r"3 of 3 events are not acknowledged: \w+") as lost:
        await _send_nowhere(*sent)
    assert list(lost.value.events) == sent


async def test_an_error_inside_is_not_hidden_by_lost_events(caplog: pytest.LogCaptureFixture) -> None:
    """It goes its way, with a note, and the log says it too."""
    with pytest.raises(KeyError, match="mine") as raised:
        await _send_nowhere(_connected(), error=KeyError("mine"))
    [note] = raised.value.__notes__
    assert "1 of 1 events are not acknowledged" in note
    assert note in caplog.text


async def test_cancelled_while_it_waits_to_leave_it_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C ends the waiting, not the honesty."""
    producer = roommeter.Producer(_NOWHERE, project="acme", source="sfu")
    await producer.__aenter__()
    await producer.send(_connected())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(producer.__aexit__(None, None, None), 0.2)
    assert "1 of 1 events are not acknowledged" in caplog.text


async def test_calls_that_wait_when_the_producer_closes_are_told() -> None:
    """None of them hangs, however many there are."""
    producer = roommeter.Producer(_NOWHERE, project="acme", source="sfu", max_under_way=1, close_timeout_s=0.2)
    await producer.__aenter__()
    await producer.send(_connected())
    waiting = [asyncio.create_task(producer.send(_connected())) for _ in range(5)]
    with pytest.raises(roommeter.NotAcknowledged, match="1 of 1"):
        await producer.__aexit__(None, None, None)
    told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert [type(error) for error in told] == [roommeter.ProducerClosed] * 5


async def test_a_producer_that_is_not_entered_sends_nothing() -> None:
    """It says so, rather than wait."""
    with pytest.raises(roommeter.ProducerClosed):
        await roommeter.Producer(_NOWHERE, project="acme", source="sfu").send(_connected())


def test_threads_without_asyncio_share_a_producer(broker: TestBroker, topic_prefix: str) -> None:
    """The synchronous face: the same events, the same acknowledgements."""
    topic, start_ms = asyncio.run(declare(broker, topic_prefix)), now_ms() - 600_000

    def report(number: int) -> None:
        producer.send(_connected(session=f"c-{number}", at=start_ms))
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
        producer.send(_connected())
    assert threading.active_count() == before


_SHOWN: Final = {
    "help(roommeter)": "\n".join(line for line in str(roommeter.__doc__).splitlines() if line.startswith("    "))
} | {
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
