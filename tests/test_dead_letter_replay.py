"""What today's code makes of a dead letter before it is sent again (R21)."""

from pathlib import Path
from typing import Final

import pytest

from pipeline.deadletters import letter as deadletter
from pipeline.deadletters.log import Letter
from pipeline.deadletters.replay import Judge, Outcome, Verdict, revive_with
from pipeline.gateway.projects import read_projects
from pipeline.gateway.server import make_border
from pipeline.messages import Message
from pipeline.metering.events import InvalidEvent, Reason
from pipeline.metering.units import MS_PER_DAY
from pipeline.settings import Settings
from tests.metering.builders import METERS, clock

_NOW_MS: Final = clock("14:00:05")
_ERROR: Final = InvalidEvent(Reason.MISSING_FIELD, "data.kind is required")
_CONNECTED: Final = (
    b'{"specversion":"1.0","id":"E1","source":"sfu-1","type":"session.connected","time":"2026-09-21T14:00:00Z",'
    b'"data":{"project":"acme","room":"RM_1","session":"PA_1","kind":"agent"}}'
)
_WEBHOOK: Final = (
    b'{"event":"room_started","id":"EV_1","createdAt":"1790000000","room":{"sid":"RM_1","creationTime":"1790000000"}}'
)


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Today's code, with one project."""
    file = tmp_path / "projects.toml"
    file.write_text("[projects.acme]\n")
    file.chmod(0o600)
    settings = Settings()
    revive = revive_with(make_border(settings, METERS), read_projects(file, {}))
    return Judge("lifecycle", "dead-letters", METERS, 1_000, 60 * MS_PER_DAY, 1_000, revive)


def _of_worker(value: bytes | None, key: bytes | None = b"acme/RM_1") -> Letter:
    headers = deadletter.record_headers("lifecycle", 5, 17, _NOW_MS, _ERROR)
    return Letter(0, _NOW_MS, key, value, deadletter.document(key, value, headers))


def _of_gateway(value: bytes, origin: str = "webhooks/livekit", project: str = "acme") -> Letter:
    headers = deadletter.gateway_headers(origin, project, _NOW_MS, _ERROR, value)
    return Letter(0, _NOW_MS, None, value, deadletter.document(None, value, headers))


def test_a_record_that_is_an_event_today_goes_as_it_came_under_its_key(judge: Judge) -> None:
    """R21: original bytes and key, so that it reaches the partition of its room."""
    verdict = judge.judge(_of_worker(_CONNECTED), _NOW_MS)
    assert verdict == Verdict(Outcome.ACCEPTED, messages=(Message("lifecycle", b"acme/RM_1", _CONNECTED),))


def test_a_record_without_a_key_goes_to_the_partition_that_it_came_from(judge: Judge) -> None:
    """R9: each copy of a restart concerns the rooms of one partition."""
    [message] = judge.judge(_of_worker(_CONNECTED, None), _NOW_MS).messages
    assert (message.key, message.partition) == (None, 5)


def test_a_record_of_a_type_that_nobody_defined_goes_to_be_ignored(judge: Judge) -> None:
    """R21: it is counted there."""
    verdict = judge.judge(_of_worker(_CONNECTED.replace(b"session.connected", b"session.waved")), _NOW_MS)
    assert (verdict.outcome, len(verdict.messages)) == (Outcome.IGNORED, 1)


@pytest.mark.parametrize(
    ("value", "now_ms", "reason"),
    [
        (None, _NOW_MS, Reason.NOT_JSON),
        (_CONNECTED[:-1], _NOW_MS, Reason.NOT_JSON),
        (_CONNECTED + b" " * 1_000, _NOW_MS, Reason.TOO_LARGE),
        (_CONNECTED.replace(b"agent", b"robot"), _NOW_MS, Reason.UNKNOWN_KIND),
        (_CONNECTED, _NOW_MS + 61 * MS_PER_DAY, Reason.TOO_OLD),
        (_CONNECTED, _NOW_MS - MS_PER_DAY, Reason.IN_THE_FUTURE),
    ],
    ids=lambda value: value if isinstance(value, Reason) else "",
)
def test_a_record_that_would_die_again_is_not_sent(
    judge: Judge, value: bytes | None, now_ms: int, reason: Reason
) -> None:
    """R11, R21: judged as the worker would, at the time of the replay."""
    verdict = judge.judge(_of_worker(value), now_ms)
    assert (verdict.outcome, verdict.reason, verdict.messages) == (Outcome.STILL_DEAD, reason, ())


def test_a_webhook_goes_through_todays_adapter(judge: Judge) -> None:
    """R21: what the gateway could not read then, it reads now, for the project that sent it."""
    verdict = judge.judge(_of_gateway(_WEBHOOK), 1_790_000_000_000)
    assert verdict.outcome is Outcome.ACCEPTED
    assert [message.key for message in verdict.messages] == [b"acme/RM_1"]


def test_an_event_posted_goes_through_todays_gateway(judge: Judge) -> None:
    """R21: for its project."""
    verdict = judge.judge(_of_gateway(_CONNECTED, "v1/events"), _NOW_MS)
    assert (verdict.outcome, len(verdict.messages)) == (Outcome.ACCEPTED, 1)


@pytest.mark.parametrize(
    ("letter", "outcome"),
    [
        (_of_gateway(b"{"), Outcome.STILL_DEAD),
        (_of_gateway(b'{"event":"nobody_knows_it","id":"EV_1","createdAt":"1790000000"}'), Outcome.IGNORED),
        (_of_gateway(_WEBHOOK, project="gone"), Outcome.NOT_REVIVED),
        (_of_gateway(b"{}", "webhooks/janus"), Outcome.NOT_REVIVED),
        (_of_gateway(_CONNECTED.replace(b"acme", b"north"), "v1/events"), Outcome.NOT_REVIVED),
        (_of_gateway(_WEBHOOK.replace(b"1790000000", b"1500000000")), Outcome.STILL_DEAD),
    ],
    ids=["not JSON", "unknown", "no project", "Janus", "of others", "too old"],
)
def test_a_body_that_the_gateway_does_not_take_sends_nothing(judge: Judge, letter: Letter, outcome: Outcome) -> None:
    """R21: it stays as it is, with what is wrong."""
    verdict = judge.judge(letter, 1_790_000_000_000)
    assert (verdict.outcome, verdict.messages) == (outcome, ())
    assert bool(verdict.detail) is (outcome is not Outcome.IGNORED)
