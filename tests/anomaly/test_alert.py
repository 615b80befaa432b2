"""The story of an alert: raised once, told again when it doubles, resolved; and the same whoever tells it."""

from typing import Final

import orjson
import pytest
from jsonschema import Draft202012Validator

from pipeline.alerts import codec
from pipeline.metering.anomaly.alert import (
    DETECTORS,
    SEVERITIES,
    Alert,
    Finding,
    Mute,
    Story,
    changes,
    decimal,
    follows,
)
from pipeline.metering.units import MS_PER_MINUTE, NOT_SEEN_MS
from tests.anomaly.builders import NOON_MS, finding
from tests.metering.builders import ROOT

_SCHEMA: Final = orjson.loads((ROOT / "schemas" / "alert.v1.json").read_bytes())
_STORM: Final = Alert(finding(), 1, "open", NOON_MS)


def _said(*alerts: Alert) -> dict[Story, Alert]:
    return {alert.finding.story: alert for alert in alerts}


def _changes(findings: list[Finding], said: dict[Story, Alert], minutes: int = 1) -> list[Alert]:
    return [*changes(findings, said, DETECTORS, NOON_MS + minutes * MS_PER_MINUTE)]


def test_a_finding_raises_an_alert_and_the_same_again_says_nothing() -> None:
    """Raised once."""
    [raised] = _changes([finding()], {})
    assert (raised.revision, raised.status, raised.id) == (1, "open", _STORM.id)
    assert (raised.muted, raised.cost, raised.currency) == (False, "0", "")
    assert _changes([finding()], _said(raised)) == []


def test_an_onset_that_moves_is_the_same_alert() -> None:
    """Late events may show that it began earlier: it keeps the onset, and the id, that it was raised with."""
    [update] = _changes([finding(since_ms=NOON_MS - 1, observed=9_000_000)], _said(_STORM))
    assert (update.id, update.revision, update.finding.since_ms) == (_STORM.id, 2, NOON_MS)
    assert (update.status, update.key) == ("open", f"{_STORM.id}.2")


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        ({"observed": 900_000}, False),
        ({"observed": 9_500 + 2 * 802_500 - 1}, False),
        ({"observed": 9_500 + 2 * 802_500}, True),
        ({"observed": 9_500 - 2 * 802_500}, True),
        ({"increments": 2 * 803 - 1}, False),
        ({"increments": 2 * 803}, True),
        ({"severity": "critical"}, True),
        ({"severity": "info"}, False),
    ],
)
def test_an_alert_is_told_again_when_it_has_doubled_or_become_graver(
    change: dict[str, object], *, is_told: bool
) -> None:
    """So that an alert of any size makes few revisions."""
    assert len(_changes([finding(**change)], _said(_STORM))) == is_told


def test_what_was_told_of_nearly_nothing_is_told_again_only_when_it_is_something() -> None:
    """Twice nothing is nothing, and below two hundred increments their doubling is no news."""
    told = Alert(finding(observed=9_500, increments=0), 1, "open", NOON_MS)
    for change, is_told in (
        ({"observed": 9_501}, False),
        ({"observed": 9_502}, True),
        ({"increments": 199}, False),
        ({"increments": 200}, True),
    ):
        again = told.finding._replace(**change)  # type: ignore[arg-type] # either of two numbers
        assert len(_changes([again], _said(told))) == is_told


def test_an_alert_is_resolved_when_its_detector_finds_it_no_more() -> None:
    """And says what it said last."""
    [resolved] = _changes([], _said(_STORM))
    assert (resolved.status, resolved.revision, resolved.finding) == ("resolved", 2, _STORM.finding)
    assert (_STORM.resolved_at_ms, resolved.resolved_at_ms) == (NOT_SEEN_MS, NOON_MS + MS_PER_MINUTE)
    assert _changes([], _said(resolved)) == []


def test_a_detector_that_was_not_evaluated_resolves_nothing() -> None:
    """Some look every minute, some every hour."""
    assert [*changes([], _said(_STORM), ["flapping"], NOON_MS + 1)] == []


def test_what_is_weak_keeps_an_alert_open_and_raises_none() -> None:
    """Two thresholds, so that what hovers at one of them is one alert."""
    weak = finding(is_new=False)
    assert _changes([weak], {}) == []
    assert _changes([weak], _said(_STORM)) == []


def test_an_onset_that_was_told_is_never_raised_again() -> None:
    """Whatever is evaluated again after a resolution; a later onset is another alert."""
    [resolved] = _changes([], _said(_STORM))
    assert _changes([finding()], _said(resolved), 2) == []
    [later] = _changes([finding(since_ms=NOON_MS + 1)], _said(resolved), 2)
    assert (later.revision, later.id == _STORM.id) == (1, False)


def test_of_two_proposals_the_first_in_the_log_counts() -> None:
    """Whatever they say of the onset; and a revision follows the one before it alone."""
    second = Alert(finding(since_ms=NOON_MS + 1), 1, "open", NOON_MS + 2)
    assert follows(_STORM, None)
    assert not follows(second, _STORM)
    resolved = _STORM._replace(revision=2, status="resolved", as_of_ms=NOON_MS + 1)
    assert follows(resolved, _STORM)
    assert not follows(resolved, resolved)
    assert follows(second, resolved)
    assert not follows(_STORM._replace(as_of_ms=NOON_MS + 9), resolved)


def test_a_revision_is_the_next_of_its_own_alert_and_of_a_later_moment() -> None:
    """One that is worked out twice, skips one, or is of another onset, is not."""
    update = _STORM._replace(revision=2, as_of_ms=NOON_MS + 1)
    assert follows(update, _STORM)
    assert not follows(update, None)
    assert follows(update._replace(as_of_ms=NOON_MS), _STORM) is False
    assert not follows(update._replace(revision=3), _STORM)
    assert not follows(update._replace(finding=finding(since_ms=NOON_MS + 1)), _STORM)


def test_after_a_resolution_only_a_later_onset_begins_anew() -> None:
    """With its first revision."""
    over = _STORM._replace(revision=2, status="resolved", as_of_ms=NOON_MS + 1)
    later = Alert(finding(since_ms=NOON_MS + 1), 1, "open", NOON_MS + 2)
    assert follows(later, over)
    assert not follows(later._replace(revision=2), over)
    assert not follows(later._replace(revision=3, finding=finding()), over)


@pytest.mark.parametrize(
    ("mute", "is_muted"),
    [
        ({}, True),
        ({"detector": ""}, True),
        ({"project": "", "detector": ""}, True),
        ({"subject": "PA_1"}, False),
        ({"project": "globex"}, False),
        ({"detector": "flapping"}, False),
        ({"until_ms": NOON_MS}, False),
    ],
)
def test_a_mute_covers_what_it_names_until_it_ends(mute: dict[str, str | int], *, is_muted: bool) -> None:
    """What it leaves open is any."""
    one = Mute("acme", "connection_storm", "", NOON_MS + 1, NOON_MS - 1, "jo", "ticket 4711")
    assert one._replace(**mute).covers(finding(), NOON_MS) == is_muted  # type: ignore[arg-type] # parametrized


def test_a_decision_is_read_as_it_was_written() -> None:
    """Who told it, and every field."""
    alert = _STORM._replace(cost="8.03", currency="USD", muted=True)
    assert codec.decode_decision(codec.encode_decision("me", alert)) == ("me", alert)


@pytest.mark.parametrize("status", ["open", "resolved"])
def test_every_alert_we_write_is_valid_by_its_schema(status: str) -> None:
    """And what names a revision is read from it."""
    payload = codec.encode_alert(_STORM._replace(status=status))  # type: ignore[arg-type] # parametrized
    Draft202012Validator(_SCHEMA).validate(orjson.loads(payload))
    assert codec.alert_key(payload) == f"{_STORM.id}.1"


def test_the_schemas_detectors_are_the_cores() -> None:
    """One closed list; of severities too, the gravest last."""
    assert _SCHEMA["properties"]["detector"]["enum"] == list(DETECTORS)
    assert SEVERITIES == ("info", "warning", "critical")


@pytest.mark.parametrize("example", _SCHEMA["examples"], ids=lambda example: example["detector"])
def test_an_examples_id_comes_from_its_story_and_onset(example: dict[str, str]) -> None:
    """As the core makes it."""
    from pipeline.metering.units import parse_time

    told = finding(
        detector=example["detector"],
        project=example["project"],
        meter=example["meter"],
        subject=example["subject"],
        since_ms=parse_time(example["since"]),
    )
    assert Alert(told, 1, "open", 1).id == example["id"]


@pytest.mark.parametrize(
    ("thousandths", "text"), [(0, "0"), (9_500, "9.5"), (-1, "-0.001"), (-1_020, "-1.02"), (800_000, "800")]
)
def test_quantities_are_exact_decimals(thousandths: int, text: str) -> None:
    """Thousandths, without needless zeros."""
    assert f"{decimal(thousandths):f}" == text
