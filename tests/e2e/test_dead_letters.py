"""Bad input of every kind reaches the dead-letter topic whole, and stops nothing behind it (R11, R21)."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import pytest
from aiokafka import AIOKafkaProducer

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.kafka import Record, create_topics, read_topic
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, format_time
from pipeline.rows import SessionQuery
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.e2e.processes import Process, wait_until
from tests.faults import feed

_NOW_MS: Final = now_ms()
_DATA: Final = {"project": "acme", "room": "RM_1", "session": "PA_1", "kind": "agent"}
_USAGE: Final = {"project": "acme", "meter": "llm_input_tokens", "quantity": 1}


def _event(data: object = _DATA, **envelope: object) -> bytes:
    """Return an event that is good but for what is given; None leaves a field out."""
    good = {"specversion": "1.0", "id": "EV_1", "source": "sfu-1", "type": "session.connected"}
    fields = good | {"time": format_time(_NOW_MS), "data": data} | envelope
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def _without(name: str) -> dict[str, str]:
    return {other: value for other, value in _DATA.items() if other != name}


def _usage(**data: object) -> bytes:
    return _event(_USAGE | data, type="usage.recorded")


#: Name, value of the record, and the reason that has to be given.
_BAD: Final[dict[str, tuple[bytes | None, str]]] = {
    "tombstone": (None, "not_json"),
    "empty": (b"", "not_json"),
    "not JSON": (b"PA_1 joined RM_1", "not_json"),
    "truncated": (_event()[:-9], "not_json"),
    "two documents": (_event() + _event(), "not_json"),
    "invalid UTF-8": (_event().replace(b"RM_1", b"RM_\xff"), "not_json"),
    "byte order mark": (b"\xef\xbb\xbf" + _event(), "not_json"),
    "raw control character": (_event().replace(b"RM_1", b"RM_\x00"), "not_json"),
    "lone surrogate": (_event(_DATA | {"room": "\ud800"}), "not_json"),
    "NaN": (_usage(quantity=float("nan")), "not_json"),
    "nested too deeply": (b"[" * 50_000 + b"]" * 50_000, "not_json"),
    "null": (b"null", "not_an_object"),
    "a number": (b"42", "not_an_object"),
    "a text": (b'"session.connected"', "not_an_object"),
    "an array of events": (b"[" + _event() + b"]", "not_an_object"),
    "no specversion": (_event(specversion=None), "unknown_version"),
    "another specversion": (_event(specversion="0.3"), "unknown_version"),
    "another version of a type": (_event(type="session.connected.v2"), "unknown_version"),
    "no type": (_event(type=None), "missing_field"),
    "no id": (_event(id=None), "missing_field"),
    "empty id": (_event(id=""), "missing_field"),
    "no source": (_event(source=None), "missing_field"),
    "no time": (_event(time=None), "missing_field"),
    "no data": (_event(data=None), "missing_field"),
    "no project": (_event(_without("project")), "missing_field"),
    "no room": (_event(_without("room")), "missing_field"),
    "no session": (_event(_without("session")), "missing_field"),
    "no kind": (_event(_without("kind")), "missing_field"),
    "usage without quantity": (_usage(quantity=None), "missing_field"),
    "data is an array": (_event([_DATA]), "wrong_field"),
    "type is a number": (_event(type=7), "wrong_field"),
    "project is a number": (_event(_DATA | {"project": 7}), "wrong_field"),
    "session is an object": (_event(_DATA | {"session": {"id": "PA_1"}}), "wrong_field"),
    "escaped control character": (_event(_DATA | {"room": "RM_\n1"}), "wrong_field"),
    "name too long": (_event(_DATA | {"room": "R" * 257}), "wrong_field"),
    "quantity is a text": (_usage(quantity="1"), "wrong_field"),
    "quantity is a fraction": (_usage(quantity=1.5), "wrong_field"),
    "quantity is true": (_usage(quantity=True), "wrong_field"),
    "quantity beyond 63 bits": (_usage(quantity=2**63), "wrong_field"),
    "quantity beyond 64 bits": (_usage(quantity=10**30), "wrong_field"),
    "time is a number": (_event(time=_NOW_MS), "wrong_field"),
    "unknown kind": (_event(_DATA | {"kind": "robot"}), "unknown_kind"),
    "unknown meter": (_usage(meter="smiles"), "unknown_meter"),
    "13th month": (_event(time="2026-13-01T00:00:00Z"), "impossible_time"),
    "30th of February": (_event(time="2026-02-30T00:00:00Z"), "impossible_time"),
    "no offset": (_event(time="2026-09-21T14:00:00"), "impossible_time"),
    "year 1970": (_event(time="1970-01-01T00:00:00Z"), "impossible_time"),
    "year 2300": (_event(time="2300-01-01T00:00:00Z"), "impossible_time"),
    "negative quantity": (_usage(quantity=-1), "negative_quantity"),
    "too large": (_event(_DATA | {"note": "x" * 262_144}), "too_large"),
    "too old": (_event(time=format_time(_NOW_MS - 61 * MS_PER_DAY)), "too_old"),
    "in the future": (_event(time=format_time(_NOW_MS + MS_PER_HOUR)), "in_the_future"),
}
#: What looks odd and is good: of a repeated key the last counts, an unknown field is passed over (R21).
_ODD: Final = {
    "repeated key": _event(_DATA | {"session": "repeated key"}).replace(b'"RM_1"', b'"RM_0", "room": "RM_1"'),
    "unknown fields": _event(_DATA | {"session": "unknown fields", "note": [1, {"a": None}]}, traceparent="00-1"),
}
_IGNORED: Final = _event(type="participant.waved")


@dataclass(frozen=True, slots=True)
class Observed:
    """What went in, and what a worker made of it."""

    records: dict[bytes, Record]
    letters: dict[bytes, Record]
    sessions: set[str]
    deaths: int
    events: dict[str, float]
    by_reason: dict[str, float]


@pytest.fixture(scope="module")
def observed(broker: TestBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A worker that was given all bad input, each in front of a good event on the same partition."""
    home = tmp_path_factory.mktemp("letters")
    settings = Settings(
        kafka=broker.bootstrap, topic_prefix="letters.", partitions=2, store=f"chdb://{home / 'clickhouse'}"
    )
    names = topics(settings)
    asyncio.run(create_topics(settings.kafka, names.all()))
    asyncio.run(_send(settings))
    worker = Process("worker", settings, home / "worker.log")
    try:
        worker.start()
        wait_until(worker.is_ready)
        wait_until(lambda: feed.is_done(settings, worker.address))
        wait_until(lambda: worker.metric("roommeter_batches_total") > 0)
        with closing(Store.open(worker.address)) as store:
            sessions = {row.session for row in store.sessions(SessionQuery(as_of_ms=now_ms()))}
        counted = {name: f'roommeter_events_total{{disposition="{name}"}}' for name in ("accepted", "ignored")}
        reasons = {reason for _, reason in _BAD.values()}
        yield Observed(
            records=asyncio.run(_read(settings, names.lifecycle.name)),
            letters=asyncio.run(_read(settings, names.dead_letters.name)),
            sessions=sessions,
            events={name: worker.metric(series) for name, series in counted.items()},
            by_reason={name: worker.metric(f'roommeter_dead_letters_total{{reason="{name}"}}') for name in reasons},
            deaths=worker.stop(),
        )
    finally:
        worker.close()


async def _send(settings: Settings) -> None:
    """Send every bad input under its name as key, with a good event behind it; and what is odd, and ignored."""
    topic = topics(settings).lifecycle.name
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka, max_batch_size=1_000_000)
    await producer.start()
    inputs: dict[bytes | None, bytes | None] = {name.encode(): value for name, (value, _) in _BAD.items()}
    # A record without key and value: the client refuses to send one alone, but not in a batch.
    inputs |= {None: None} | {name.encode(): value for name, value in _ODD.items()} | {b"ignored": _IGNORED}
    for number, (key, value) in enumerate(inputs.items()):
        batch = producer.create_batch()
        assert batch.append(key=key, value=value, timestamp=None) is not None
        behind = _event(_DATA | {"session": f"behind {(key or b'nothing').decode()}"})
        assert batch.append(key=b"behind", value=behind, timestamp=None) is not None
        await (await producer.send_batch(batch, topic, partition=number % settings.partitions))
    await producer.stop()


async def _read(settings: Settings, topic: str) -> dict[bytes, Record]:
    """Return the records of a topic by their keys, the one without a key under an empty one."""
    return {record.key or b"": record async for record in read_topic(settings.kafka, topic)}


@pytest.mark.parametrize("name", _BAD)
def test_bad_input_becomes_a_dead_letter_with_its_reason(observed: Observed, name: str) -> None:
    """R21: the original bytes and key, the reason, topic, partition, offset and time of the broker."""
    record, letter = observed.records[name.encode()], observed.letters[name.encode()]
    said = dict(letter.headers)
    assert said.pop("detail") != b""
    assert (letter.value, said) == (
        _BAD[name][0],
        {
            "reason": _BAD[name][1].encode(),
            "topic": b"letters.lifecycle",
            "partition": str(record.partition).encode(),
            "offset": str(record.offset).encode(),
            "time": format_time(record.timestamp_ms).encode(),
        },
    )


def test_a_record_of_nothing_becomes_a_dead_letter_under_an_empty_key(observed: Observed) -> None:
    """R21: a record without key and value cannot be sent on as it is."""
    letter = observed.letters[b""]
    assert (letter.key, letter.value) == (b"", None)
    assert dict(letter.headers)["reason"] == b"not_json"


def test_nothing_else_becomes_a_dead_letter(observed: Observed) -> None:
    """R21: neither good events, nor odd ones, nor an unknown type; and each bad input once."""
    assert observed.letters.keys() == {b"", *(name.encode() for name in _BAD)}


@pytest.mark.parametrize("name", [*_BAD, *_ODD, "nothing", "ignored"])
def test_the_event_behind_is_metered(observed: Observed, name: str) -> None:
    """R21: bad input stops nothing behind it on its partition."""
    assert f"behind {name}" in observed.sessions


@pytest.mark.parametrize("name", _ODD)
def test_odd_input_is_metered(observed: Observed, name: str) -> None:
    """R21: the last of repeated keys counts, unknown extra fields are ignored whatever they hold."""
    assert name in observed.sessions


def test_an_unknown_type_is_counted_and_ignored(observed: Observed) -> None:
    """R21: it is no dead letter, and no session."""
    assert observed.events == {"accepted": len(_BAD) + 2 * len(_ODD) + 2, "ignored": 1}
    assert "PA_1" not in observed.sessions


def test_dead_letters_are_counted_by_reason(observed: Observed) -> None:
    """R21: each reason of the closed list was met, and its metric tells how often."""
    told = [reason for _, reason in _BAD.values()]
    expected = {reason: told.count(reason) for reason in told}
    assert observed.by_reason == expected | {"not_json": expected["not_json"] + 1}


def test_no_worker_died(observed: Observed) -> None:
    """R21: the process that met it all ends when it is asked to, with exit code 0."""
    assert observed.deaths == 0
