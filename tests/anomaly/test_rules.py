"""The file of rules: what it may say, and how mistakes in it are told."""

import pytest

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
        ('flapping.enabled = "no"', "flapping.enabled: has to be true or false"),
        ('flapping.severity = "bad"', "flapping.severity: is one of info, warning, critical"),
        ("flapping = 3", "flapping: has to be a table"),
        ('holidays = ["2026-12-25"]', "holidays: has to be a list of dates"),
        ("project = 3", "project: has to be a list of tables"),
        ("[[project]]\nflapping.least = 3", r"project\[1\].name: has to be the name of a project"),
        ('[[project]]\nname = "a"\n[[project]]\nname = "a"', r"project\[2\].name: a is there already"),
        ('[[project]]\nname = "a"\nflapping.lest = 3', r"project\[1\].flapping.lest: is no field"),
    ],
)
def test_a_mistake_says_where_it_is_and_what_to_do(own: str, told: str) -> None:
    """A typo must not silence an alert."""
    with pytest.raises(InvalidRules, match=told):
        parse_rules(_SHIPPED, own)


def test_the_file_that_ships_has_to_say_everything() -> None:
    """What is not there has no default elsewhere."""
    with pytest.raises(InvalidRules, match=r"connection_storm\.least: is missing"):
        parse_rules(_SHIPPED.replace("least = 60\n", "", 1))


def test_a_projects_rules_stand_on_the_common_ones() -> None:
    """And its holidays are added."""
    own = 'flapping.least = 7\nholidays = [2026-12-25]\n[[project]]\nname = "acme"\nholidays = [2026-12-26]\n'
    rules = parse_rules(_SHIPPED, own)
    assert [rules.of(name).flapping.least for name in ("acme", "globex")] == [7, 7]
    assert [len(rules.of(name).holidays) for name in ("acme", "globex")] == [2, 1]
