"""What bodies become: each event is accepted, ignored, dead or refused, and nothing that is a secret passes."""

from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from random import Random
from typing import Any

import orjson
import pytest

from pipeline.gateway.intake import Disposition, Intake, is_deeper
from pipeline.gateway.projects import Project
from pipeline.janus.events import JanusAdapter
from pipeline.messages import EVERY_PARTITION
from pipeline.metering.events import parse_event
from tests.gateway.bodies import JANUS, SECRETS, event, mutated, planted_events, planted_janus, planted_webhooks
from tests.gateway.running import ACME, NOW_MS, border
from tests.gateway.signing import CALL

_BORDER = border()
_HASHING = Project("acme", identity="hash", identity_key=b"k" * 32)
_DROPPING = Project("acme", identity="drop")


def take(document: object, project: Project = ACME, **changes: Any) -> Intake:
    """Take one posted event."""
    return (border(**changes) if changes else _BORDER).from_event(orjson.dumps(document), project, NOW_MS)


def sent(intake: Intake) -> dict[str, Any]:
    """Return the one event that an intake sends on."""
    (message,) = intake.messages
    assert message.topic == "lifecycle"
    document: dict[str, Any] = orjson.loads(message.value)
    return document


def reason(intake: Intake) -> str:
    """Return why the one event of an intake is a dead letter."""
    (answer,) = intake.answers
    assert answer.disposition is Disposition.DEAD_LETTER
    assert [message.topic for message in intake.messages] == ["dead-letters"]
    return answer.reason


def test_an_event_passes_as_it_is() -> None:
    """What has only fields of its type is sent on unchanged, under its room's key."""
    intake = take(event(agent="support", region="eu"))
    assert sent(intake) == event(agent="support", region="eu")
    assert intake.messages[0].key == b"acme/RM_1"


def test_nobody_who_pays_amends_a_session() -> None:
    """R12: amendments are the operator's; they do not come in by a project's token."""
    data = {
        "project": "acme",
        "room": "RM_1",
        "session": "PA_1",
        "epoch": 1,
        "actor": "jo",
        "reason": "x",
        "void": True,
    }
    intake = take({**event(), "type": "session.amended", "data": data})
    assert [answer.disposition for answer in intake.answers] == [Disposition.REFUSED]
    assert intake.messages == []


def test_a_dead_letter_is_told_apart_by_the_bytes_as_they_came() -> None:
    """The digest is of the body itself, white space and all, not of what we would have written."""
    body = b'{ "specversion" : "1.0" }'
    (letter,) = _BORDER.from_event(body, ACME, NOW_MS).messages
    assert dict(letter.headers)["sha256"] == sha256(body).hexdigest().encode()


def test_fields_that_nobody_defined_stay_here() -> None:
    """Privacy: an allow-list of fields, those of the type's schema; free ones are not on it."""
    free: dict[str, Any] = {"displayName": "Ada", "attributes": {"a": "b"}, "name": "Ada", "turnPassword": "x"}
    assert sent(take(event(**free) | {"extension": "x"})) == event()


def test_texts_too_long_to_be_labels_stay_here() -> None:
    """A label that no meter reads costs nobody an event, and carries nobody's essay."""
    ended = event(reason="x" * 300) | {"type": "session.disconnected"}
    assert "reason" not in sent(take(ended))["data"]


def test_a_missing_project_is_the_tokens() -> None:
    """The credential says who is billed; the event may leave it out."""
    without = event()
    del without["data"]["project"]
    assert sent(take(without)) == event()
    assert sent(take(event(project=""))) == event()


def test_another_project_is_refused() -> None:
    """Nothing is kept of an event that is not the poster's to send."""
    intake = take(event(project="other"))
    assert (intake.messages, intake.answers[0].disposition) == ([], Disposition.REFUSED)


@pytest.mark.parametrize(
    ("source", "disposition"),
    [
        ("acme/eu-1", Disposition.ACCEPTED),
        ("acme", Disposition.REFUSED),
        ("acme2/eu-1", Disposition.REFUSED),
        ("livekit", Disposition.REFUSED),
        ("janus/eu-1", Disposition.REFUSED),
    ],
)
def test_a_restart_is_posted_for_servers_of_the_project_alone(source: str, disposition: Disposition) -> None:
    """R9: a restart ends sessions by source, whosesoever they are; so the source has to be the poster's."""
    restart = {"specversion": "1.0", "id": "1", "source": source, "type": "server.restarted", "time": event()["time"]}
    intake = take(restart)
    assert intake.answers[0].disposition is disposition
    assert [message.partition for message in intake.messages] == [EVERY_PARTITION] * len(intake.messages)


@pytest.mark.parametrize("name", ["livekit", "janus"])
def test_a_project_called_like_our_adapters_restarts_none_of_their_servers(name: str) -> None:
    """Sources of webhooks begin with the adapter's name."""
    restart = {"specversion": "1.0", "id": "1", "source": f"{name}/eu-1", "type": "server.restarted"}
    assert take(restart | {"time": event()["time"]}, Project(name)).answers[0].disposition is Disposition.REFUSED


def test_an_identity_is_kept_hashed_or_dropped() -> None:
    """Privacy: the project decides, for posted events too, and the subject tells nothing else."""
    posted = event(identity="ada") | {"subject": "ada"}
    hashed = sent(take(posted, _HASHING))
    assert hashed["data"]["identity"] == hashed["subject"] == _HASHING.identity_of("ada")
    assert b"ada" not in take(posted, _DROPPING).messages[0].value


def test_an_unknown_type_is_ignored() -> None:
    """R21."""
    intake = take(event() | {"type": "room.painted"})
    assert (intake.messages, intake.answers[0].disposition) == ([], Disposition.IGNORED)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (7, "not_an_object"),
        (event() | {"specversion": "0.3"}, "unknown_version"),
        (event() | {"type": "session.connected.v9"}, "unknown_version"),
        (event() | {"data": 7}, "wrong_field"),
        (event() | {"data": None}, "missing_field"),
        (event() | {"time": "yesterday"}, "impossible_time"),
        (event(kind="ghost"), "unknown_kind"),
        (event(project=7), "wrong_field"),
        (event(meter="x", quantity=1) | {"type": "usage.recorded"}, "unknown_meter"),
        (event(bytes_in=-1) | {"type": "session.sampled"}, "negative_quantity"),
    ],
)
def test_what_cannot_be_an_event_is_a_dead_letter(document: object, expected: str) -> None:
    """R21: the border says what the worker would say, at once and to the sender."""
    assert reason(take(document)) == expected


@pytest.mark.parametrize("body", [b"", b"\xff", b"{", b"nan", b"[1,]", b'"\\ud800"', b'{"a":1}{'])
def test_what_is_not_json_is_a_dead_letter(body: bytes) -> None:
    """R21, for every route."""
    for intake in (
        _BORDER.from_event(body, ACME, NOW_MS),
        _BORDER.from_events(body, ACME, NOW_MS),
        _BORDER.from_livekit(body, ACME, NOW_MS),
        _BORDER.from_janus(body, "acme", JanusAdapter("acme").read, NOW_MS),
    ):
        assert reason(intake) == "not_json"


def test_what_nests_too_deep_is_a_dead_letter() -> None:
    """Nothing recurses into what strangers nest."""
    deep = event()
    deep["data"]["attributes"] = orjson.loads(b"[" * 31 + b"]" * 31)
    assert reason(take(deep)) == "too_large"
    assert reason(_BORDER.from_livekit(b"[" * 1_000 + b"]" * 1_000, ACME, NOW_MS)) == "too_large"


@pytest.mark.parametrize(
    ("body", "levels"),
    [
        (b"[[]]", 2),
        (b'{"a":[{}]}', 3),
        (b"[" + b"{}," * 50 + b"{}]", 2),
        (b'["' + b"[" * 50 + b'"]', 1),
        (b'["\\"' + b"[" * 50 + b'"]', 1),
        (b'["\\\\",' + b"[" * 40 + b"]" * 40 + b"]", 41),
    ],
)
def test_depth_counts_brackets_outside_of_strings(body: bytes, levels: int) -> None:
    """The check of raw bytes agrees with what the parser would build."""
    assert not is_deeper(body, levels)
    assert is_deeper(body, levels - 1)


def test_the_check_of_depth_is_quick_for_every_body() -> None:
    """No body makes it look at the same bytes again and again."""
    for body in (b'\\"' * 130_000, b'"\\' * 130_000, b"[" * 260_000, b"{[" * 60_000 + b"]}" * 60_000, b'"' * 260_000):
        assert isinstance(is_deeper(body, 32), bool)


def test_a_dead_letter_is_bounded() -> None:
    """What is kept of a body fits into the dead-letter topic."""
    intake = take({"data": [1] * 50_000, "id": "x"}, max_event_bytes=1_000)
    assert reason(intake) == "unknown_version"
    assert len(intake.messages[0].value) <= 1_000


def test_a_webhook_is_taken_whole_or_not_at_all() -> None:
    """A recording's end is two canonical events: where one cannot be an event, neither is sent."""
    ended = next(orjson.loads(body) for body in CALL if b'"egress_ended"' in body)
    assert len(_BORDER.from_livekit(orjson.dumps(ended), ACME, NOW_MS).messages) == 2
    ended["egressInfo"]["egressId"] = "x" * 300
    assert reason(_BORDER.from_livekit(orjson.dumps(ended), ACME, NOW_MS)) in {"wrong_field", "missing_field"}


def test_a_dead_letter_taken_again_after_a_fix_is_accepted() -> None:
    """What is kept of a webhook is enough to meter it: masked fields are as if absent."""
    joined = next(body for body in CALL if b'"participant_joined"' in body)
    strange = joined.replace(b'"AGENT"', b'"HOLOGRAM"')
    letter = _BORDER.from_livekit(strange, ACME, NOW_MS).messages[0].value
    again = _BORDER.from_livekit(letter.replace(b'"HOLOGRAM"', b'"AGENT"'), ACME, NOW_MS)
    assert sent(again)["data"]["session"] == "PA_eJ8nQ2rUxVbA"


def test_no_secret_of_a_body_reaches_a_message() -> None:
    """Privacy: of real bodies with secrets planted everywhere, nothing of those is sent."""
    janus = JanusAdapter("acme")
    taken = [_BORDER.from_livekit(body, ACME, NOW_MS) for body in planted_webhooks()]
    taken += [_BORDER.from_janus(body, "acme", janus.read, NOW_MS) for body in planted_janus()]
    taken += [_BORDER.from_event(body, ACME, NOW_MS) for body in planted_events()]
    assert sum(intake.count(Disposition.ACCEPTED) for intake in taken) > len(CALL)
    for message in (message for intake in taken for message in intake.messages):
        assert not any(secret in message.value for secret in SECRETS)


def test_no_mutated_body_crashes_anything_and_every_event_is_counted() -> None:
    """100 000 bodies: accepted + ignored + dead + refused is exactly what was sent, and no secret passes in any."""
    random = Random(11)  # noqa: S311 - chance, not secrecy
    janus = JanusAdapter("acme")
    webhooks, events = mutated(random, planted_webhooks()), mutated(random, planted_events())
    server = mutated(random, planted_janus())
    counts = dict.fromkeys(Disposition, 0)
    total = 0
    for events_sent, taken in islice(_taken(janus, webhooks, events, server), 100_000):
        assert len(taken.answers) == events_sent
        _check_messages(taken)
        total += events_sent
        for answer in taken.answers:
            counts[answer.disposition] += 1
    assert sum(counts.values()) == total > 99_000  # a list of no events is a body too
    assert min(counts.values()) > 100, counts


def _taken(janus: JanusAdapter, *bodies: Iterator[bytes]) -> Iterator[tuple[int, Intake]]:
    """Yield what bodies become, and how many events each is."""
    webhooks, events, server = bodies
    while True:
        yield 1, _BORDER.from_livekit(next(webhooks), ACME, NOW_MS)
        yield 1, _BORDER.from_event(next(events), ACME, NOW_MS)
        yield 1, _BORDER.from_livekit(next(webhooks), _HASHING, NOW_MS)
        body = next(server)
        yield _length(body), _BORDER.from_janus(body, "acme", janus.read, NOW_MS)


def _length(body: bytes) -> int:
    """Return how many events a body of a Janus server is: a list as many as it has."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return 1
    return len(document) if isinstance(document, list) and not is_deeper(body, 32) else 1


def _check_messages(taken: Intake) -> None:
    """Check that what is accepted the worker takes, that each dead event is one letter, and that all is clean."""
    letters = [message for message in taken.messages if message.topic == "dead-letters"]
    assert len(letters) == taken.count(Disposition.DEAD_LETTER)
    assert (len(letters) < len(taken.messages)) == (taken.count(Disposition.ACCEPTED) > 0)
    for message in taken.messages:
        is_event = message.topic == "lifecycle"
        assert not is_event or parse_event(orjson.loads(message.value), _BORDER.meters) is not None
        assert not any(secret in message.value for secret in SECRETS), message.value


def test_a_janus_server_of_several_projects_is_billed_by_room() -> None:
    """The rule names the project; what it does not name is dead, and belongs to nobody."""
    adapter = JanusAdapter(lambda room, _: "acme" if room == "1234" else None)
    intake = _BORDER.from_janus(orjson.dumps(JANUS), "", adapter.read, NOW_MS)
    assert intake.count(Disposition.DEAD_LETTER) > 0
    assert {dict(message.headers)["project"] for message in intake.messages if message.headers} == {b""}
