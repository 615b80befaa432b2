"""The file of rules: what it may say, and how mistakes in it are told."""

from dataclasses import replace

import pytest

from pipeline.metering.anomaly.alert import DETECTORS
from pipeline.metering.anomaly.rules import InvalidRules, parse_rules
from tests.metering.builders import ROOT

_SHIPPED = (ROOT / "schemas" / "alerts.toml").read_text()


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ("[flapping", "not TOML: Expected"),
        ("flaping.least = 3", "flaping: is no detector; they are connection_storm"),
        ("flapping.lest = 3", "flapping.lest: is no field here; they are enabled, severity, least"),
        ("flapping.least = 0", "flapping.least: has to be a whole number of 1 or more"),
        ("flapping.least = 1.5", "flapping.least: has to be a whole number"),
        ("flapping.least = true", "flapping.least: has to be a whole number"),
        ("flapping.least = 1_000_000_001", "flapping.least: has to be a whole number"),
        ("flapping.enabled = 1", "flapping.enabled: has to be true or false"),
        ('flapping.enabled = "no"', "flapping.enabled: has to be true or false"),
        ('flapping.severity = "bad"', "flapping.severity: is one of info, warning, critical"),
        ("flapping = 3", "flapping: has to be a table"),
        ('holidays = ["2026-12-25"]', "holidays: has to be a list of dates"),
        ('holidays = [2026-12-25, "2027-01-01"]', "holidays: has to be a list of dates"),
        ("holidays = 2026-12-25", "holidays: has to be a list of dates"),
        ("holidays = [2026-12-25T00:00:00]", "holidays: has to be a list of dates"),
        ("project = 3", "project: has to be a list of tables"),
        ("project = [3]", "project: has to be a list of tables"),
        ("[[project]]\nname = 3", r"project\[1\].name: has to be the name of a project"),
        ('[[project]]\nname = ""', r"project\[1\].name: has to be the name of a project"),
        ('[[project]]\nname = "a b"', r"project\[1\].name: has to be the name of a project"),
        (f'[[project]]\nname = "{"a" * 257}"', r"project\[1\].name: has to be the name of a project"),
        ("[[project]]\nflapping.least = 3", r"project\[1\].name: has to be the name of a project"),
        ('[[project]]\nname = "a"\n[[project]]\nname = "a"', r"project\[2\].name: a is there already"),
        ('[[project]]\nname = "a"\nflapping.lest = 3', r"project\[1\].flapping.lest: is no field"),
    ],
)
def test_a_mistake_says_where_it_is_and_what_to_do(own: str, told: str) -> None:
    """A typo must not silence an alert."""
    with pytest.raises(InvalidRules, match=f"^{told}"):
        parse_rules(_SHIPPED, own)


def test_the_file_that_ships_has_to_say_everything() -> None:
    """What is not there has no default elsewhere."""
    with pytest.raises(InvalidRules, match=r"connection_storm\.least: is missing"):
        parse_rules(_SHIPPED.replace("least = 80\n", "", 1))


def test_a_table_that_does_not_ship_is_told_by_its_first_field() -> None:
    """A detector has no parameters but those of the file."""
    with pytest.raises(InvalidRules, match=r"^limit_hovering\.enabled: is missing$"):
        parse_rules(_SHIPPED[: _SHIPPED.index("[limit_hovering]")])


def test_what_an_operator_says_is_otherwise_and_the_rest_is_as_shipped() -> None:
    """Of one detector; the largest number is a thousand millions."""
    own = 'flapping.enabled = false\nflapping.severity = "critical"\nflapping.least = 1_000_000_000\n'
    shipped, rules = parse_rules(_SHIPPED).of("acme"), parse_rules(_SHIPPED, own).of("acme")
    assert rules.flapping == replace(shipped.flapping, enabled=False, severity="critical", least=10**9)
    assert replace(rules, flapping=shipped.flapping) == shipped


def test_rules_are_found_by_their_detector() -> None:
    """As many as there are detectors, each with the fields of its kind."""
    rules = parse_rules(_SHIPPED).of("")
    assert [rules.rule(detector) for detector in DETECTORS] == [getattr(rules, name) for name in DETECTORS]
    assert rules.share("flapping") is rules.flapping


def test_holidays_are_days_since_1970() -> None:
    """In UTC, as days are counted everywhere here."""
    rules = parse_rules(_SHIPPED, "holidays = [1970-01-01, 1970-02-01]").of("acme")
    assert rules.holidays == {0, 31}
    assert parse_rules(_SHIPPED).of("acme").holidays == frozenset()


def test_a_projects_rules_stand_on_the_common_ones() -> None:
    """And its holidays are added."""
    own = 'flapping.least = 7\nholidays = [2026-12-25]\n[[project]]\nname = "acme"\nholidays = [2026-12-26]\n'
    rules = parse_rules(_SHIPPED, own)
    assert [rules.of(name).flapping.least for name in ("acme", "globex")] == [7, 7]
    assert [len(rules.of(name).holidays) for name in ("acme", "globex")] == [2, 1]
