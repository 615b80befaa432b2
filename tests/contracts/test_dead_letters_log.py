"""The dead-letter topic and its commands, on every broker: read, selected, replayed once, purged (R21)."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.dead_letters import dead_letters
from pipeline.deadletters import letter as deadletter
from pipeline.deadletters.log import DeadLetterTopic, NoSuchLetter, Selection
from pipeline.embedded import now_ms
from pipeline.kafka import DeletionRefused, Record, create_topics, delete_records, read_topic
from pipeline.messages import Headers
from pipeline.metering.events import InvalidEvent, Reason
from pipeline.metering.units import format_time
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import Topics, topics
from tests.brokers import TestBroker

Sent = tuple[bytes | None, bytes | None, Headers]
Run = Callable[..., Result]

_NOW_MS: Final = now_ms()


def _event(project: str = "acme", kind: str = "agent", session: str = "PA_1") -> bytes:
    data = {"project": project, "room": "RM_1", "session": session, "kind": kind}
    document = {"specversion": "1.0", "id": "EV_1", "source": "sfu-1", "type": "session.connected", "data": data}
    return json.dumps(document | {"time": format_time(_NOW_MS)}).encode()


def _letter(value: bytes | None, reason: Reason = Reason.MISSING_FIELD, key: bytes | None = b"acme/RM_1") -> Sent:
    headers = deadletter.record_headers("lifecycle", 1, 7, _NOW_MS, InvalidEvent(reason, "data.kind is required"))
    return key, value, headers


#: Offsets 0 to 5: two that are good today, one of another project, two that stay bad, and one of somebody else.
_LETTERS: Final[list[Sent]] = [
    _letter(_event(session="PA_1")),
    _letter(_event(session="PA_2"), key=None),
    _letter(_event(project="north"), Reason.UNKNOWN_METER, b"north/RM_1"),
    _letter(_event(kind="robot"), Reason.UNKNOWN_KIND),
    _letter(None, Reason.NOT_JSON, b""),
    (b"k", b"of somebody else", [("traceparent", b"00-1")]),
]


@pytest.fixture
def settings(each_broker: TestBroker, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an installation with its topics, in the environment too."""
    monkeypatch.setenv("ROOMMETER_KAFKA", each_broker.bootstrap)
    monkeypatch.setenv("ROOMMETER_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("ROOMMETER_PARTITIONS", "2")
    found = Settings()
    asyncio.run(create_topics(found.kafka, topics(found).all()))
    return found


@pytest.fixture
def names(settings: Settings) -> Topics:
    """The topics, with the letters in the one for them."""
    names = topics(settings)
    _send(settings, names.dead_letters.name, _LETTERS)
    return names


@pytest.fixture
def log(settings: Settings, names: Topics) -> DeadLetterTopic:
    """The topic of dead letters."""
    return DeadLetterTopic(settings.kafka, names.dead_letters.name)


@pytest.fixture
def run(names: Topics) -> Run:
    """Run a command of `roommeter dead-letters`."""
    del names
    return lambda *arguments, **options: CliRunner().invoke(dead_letters, arguments, **options)


def _send(settings: Settings, topic: str, records: Sequence[Sent]) -> None:
    async def send() -> None:
        async with Producer(settings.kafka) as producer:
            for key, value, headers in records:
                await producer.send_soon(topic, key, value, headers)
            await producer.flush()

    asyncio.run(send())


def _read(settings: Settings, topic: str) -> list[Record]:
    async def read() -> list[Record]:
        return [record async for record in read_topic(settings.kafka, topic)]

    return asyncio.run(read())


def _offsets(log: DeadLetterTopic, selection: Selection, most: int | None = None) -> list[int]:
    async def offsets() -> list[int]:
        survey = await log.survey(selection, most)
        return [letter.offset async for letter in log.letters(survey, selection)]

    return asyncio.run(offsets())


def _lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def _outcomes(result: Result) -> dict[str, int]:
    rows = _lines(result)
    return {outcome: sum(row["letters"] for row in rows if row["outcome"] == outcome) for outcome in _names(rows)}


def _names(rows: list[dict[str, Any]]) -> set[str]:
    return {row["outcome"] for row in rows}


@pytest.mark.parametrize(
    ("selection", "offsets"),
    [
        (Selection(), [0, 1, 2, 3, 4]),
        (Selection(reasons=frozenset({"unknown_kind", "not_json"})), [3, 4]),
        (Selection(projects=frozenset({"north"})), [2]),
        (Selection(projects=frozenset({""})), [4]),
        (Selection(origins=frozenset({"worker"}), offsets=frozenset({1, 3})), [1, 3]),
        (Selection(origins=frozenset({"webhooks/livekit"})), []),
        (Selection(since_ms=_NOW_MS + 10**9), []),
        (Selection(until_ms=_NOW_MS - 10**9), []),
    ],
    ids=["all", "reason", "project", "no project", "id", "origin", "since", "until"],
)
def test_letters_are_selected(log: DeadLetterTopic, selection: Selection, offsets: list[int]) -> None:
    """By reason, project, origin, id and time of burial, oldest first; records of others are passed over."""
    assert _offsets(log, selection) == offsets


def test_the_newest_of_a_selection_are_read_alone(log: DeadLetterTopic) -> None:
    """A long topic is read once more from where they begin, not held in memory."""
    assert _offsets(log, Selection(reasons=frozenset({"missing_field", "unknown_meter"})), 2) == [1, 2]
    assert _offsets(log, Selection(projects=frozenset({"nobody"})), 2) == []


def test_times_of_burial_are_the_brokers(settings: Settings, log: DeadLetterTopic) -> None:
    """So a time is a place in the topic: since and until part it, and a purge by time finds the same place."""
    times_ms = [record.timestamp_ms for record in _read(settings, log.name)]
    middle_ms = times_ms[2]
    before = _offsets(log, Selection(until_ms=middle_ms))
    assert before + _offsets(log, Selection(since_ms=middle_ms)) == [0, 1, 2, 3, 4]
    assert asyncio.run(log.offset_at(middle_ms)) == len(before)


@pytest.mark.parametrize("offset", [5, 6, 99])
def test_what_is_no_letter_is_not_shown_as_one(log: DeadLetterTopic, offset: int) -> None:
    """Somebody else's record, the end of the topic, and what never was."""
    with pytest.raises(NoSuchLetter, match=f"0:{offset}"):
        asyncio.run(log.one(offset))


def test_a_replay_sends_what_todays_code_takes_as_it_came(settings: Settings, names: Topics, run: Run) -> None:
    """R21: the original bytes under their key, and without one to the partition of before."""
    assert _outcomes(run("replay", "--json")) == {
        "accepted": 3,
        "still dead: unknown_kind": 1,
        "still dead: not_json": 1,
    }
    sent = _read(settings, names.lifecycle.name)
    assert {(record.key, record.value) for record in sent} == {(key, value) for key, value, _ in _LETTERS[:3]}
    assert [record.partition for record in sent if record.key is None] == [1]


def test_a_second_replay_sends_only_what_the_first_did_not(settings: Settings, names: Topics, run: Run) -> None:
    """Everybody sees in the topic what was replayed, and sends it again only when told to."""
    run("replay", "--reason", "missing_field")
    assert _outcomes(run("replay", "--reason", "missing_field", "--json")) == {"replayed before": 2}
    assert _outcomes(run("replay", "0:0", "0:2", "--json")) == {"replayed before": 1, "accepted": 1}
    assert _outcomes(run("replay", "0:0", "--again", "--json")) == {"accepted": 1}
    assert len(_read(settings, names.lifecycle.name)) == 4
    assert [row["replayed"] for row in _lines(run("list", "--json"))] == [True, True, True, False, False]


def test_a_dry_run_sends_and_marks_nothing(settings: Settings, names: Topics, run: Run) -> None:
    """It tells the same as the replay that follows."""
    told = _lines(run("replay", "--dry-run", "--json"))
    assert _read(settings, names.lifecycle.name) == []
    assert _lines(run("replay", "--json")) == told


def test_a_letter_that_the_brokers_refuse_stops_no_other_and_stays(settings: Settings, names: Topics, run: Run) -> None:
    """Its partition is gone, say: it is told, not marked, and what is behind it is sent."""
    headers = deadletter.record_headers("lifecycle", 9, 7, _NOW_MS, InvalidEvent(Reason.UNKNOWN_KIND, "robot"))
    _send(settings, names.dead_letters.name, [(None, _event(), headers), _letter(_event(session="PA_9"))])
    for _ in range(2):
        assert _outcomes(run("replay", "0:6", "--json")) == {"refused by the brokers": 1}
    assert _outcomes(run("replay", "0:6", "0:7", "--json")) == {"refused by the brokers": 1, "accepted": 1}


def test_many_letters_are_replayed_in_the_order_of_their_burial(settings: Settings, names: Topics, run: Run) -> None:
    """More than are under way at once; all of them marked."""
    values = [_event(session=f"PA_{number}") for number in range(450)]
    _send(settings, names.dead_letters.name, [_letter(value) for value in values])
    assert _outcomes(run("replay", "--since", "2026-01-01", "--reason", "missing_field", "--json"))["accepted"] == 452
    sent = [record.value for record in _read(settings, names.lifecycle.name) if record.key == b"acme/RM_1"]
    assert sent == [_event(session="PA_1"), *values]
    assert _outcomes(run("replay", "--reason", "missing_field", "--json")) == {"replayed before": 452}


@pytest.mark.parametrize("named", [b"0:7", b"0:99", b"1:0", b"seven", b"0:\xff"])
def test_a_mark_that_is_not_ours_marks_nothing(settings: Settings, log: DeadLetterTopic, named: bytes) -> None:
    """Ours name a letter behind them: whoever writes others can hide no letter that is still to come."""
    _send(settings, log.name, [(b"k", b"", [("replayed-of", named)]), _letter(_event())])
    survey = asyncio.run(log.survey(Selection()))
    assert [offset for offset in range(9) if offset in survey.replayed] == []


def test_list_counts_by_reason(run: Run) -> None:
    """With how many of them were replayed, the most frequent first."""
    run("replay", "0:0")
    found = [(row["reason"], row["letters"], row["replayed"]) for row in _lines(run("list", "--summary", "--json"))]
    assert found[0] == ("missing_field", 2, 1)
    assert sorted(found[1:]) == [("not_json", 1, 0), ("unknown_kind", 1, 0), ("unknown_meter", 1, 0)]


def test_list_and_show_print_for_people(run: Run) -> None:
    """Place, reason, whose, what to do, and the payload."""
    assert "unknown_kind" in run("list").output
    shown = run("show", "0:3").output
    assert all(text in shown for text in ("0:3", "unknown_kind", "acme/RM_1", "what to do", '"kind": "robot"'))


def test_show_gives_the_payload_byte_for_byte(run: Run) -> None:
    """R21: nothing is added, not even a line's end."""
    assert run("show", "0:3", "--raw").stdout_bytes == _LETTERS[3][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "0:99"], "no dead letter 0:99"),
        (["show", "17"], "no id of a dead letter"),
        (["replay", "0:0", "0:99"], "no such dead letter: 0:99"),
        (["list", "--reason", "not_jason"], "none of not_json"),
        (["purge", "--reason", "not_json"], "cannot be purged by reason"),
        (["purge"], "either --before TIME or --before-id ID"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_says_what_is_wrong(run: Run, arguments: list[str], message: str) -> None:
    """One line, and an exit code."""
    result = run(*arguments)
    assert result.exit_code > 0
    assert message in " ".join(result.output.split())


def test_purge_deletes_the_oldest_after_asking(log: DeadLetterTopic, run: Run) -> None:
    """It shows what goes; what stays keeps its id and its mark."""
    run("replay", "0:2")
    asked = run("purge", "--before-id", "0:2", input="n\n")
    assert "missing_field" in asked.output
    assert _offsets(log, Selection()) == [0, 1, 2, 3, 4]
    assert run("purge", "--before-id", "0:2", input="y\n").exit_code == 0
    assert [(row["id"], row["replayed"]) for row in _lines(run("list", "--json"))] == [
        ("0:2", True),
        ("0:3", False),
        ("0:4", False),
    ]


def test_purge_by_time_deletes_all_that_is_older(log: DeadLetterTopic, run: Run) -> None:
    """And says when there is nothing."""
    assert "nothing to purge" in run("purge", "--before", "2026-01-01").output
    assert run("purge", "--before", "now", "--yes").exit_code == 0
    assert _offsets(log, Selection()) == []
    assert "nothing to purge" in run("purge", "--before-id", "0:99").output


def test_a_deletion_that_the_brokers_refuse_says_so(settings: Settings, log: DeadLetterTopic) -> None:
    """It is no outage: waiting would not help."""
    with pytest.raises(DeletionRefused, match=r"dead-letters"):
        asyncio.run(delete_records(settings.kafka, log.name, {0: 99}))
