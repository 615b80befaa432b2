"""What detectors are told to regard as anomalous: their parameters, a project's own ones, holidays. From TOML.

The defaults are the file that ships (schemas/alerts.toml), which says what each parameter means. An operator's file
holds only what is to be otherwise. Unknown names are mistakes, since a typo must not silence an alert.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any, Final, get_type_hints

from pipeline.metering.anomaly.alert import SEVERITIES, Detector, Severity

#: Larger numbers are mistakes: all parameters are counts, minutes or percents.
_MOST: Final = 10**9
_PROJECT: Final = re.compile(r"[!-~]{1,256}")


class InvalidRules(ValueError):
    """The file cannot be used; the message names table and field, or the line, and what to mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What every detector has."""

    enabled: bool
    severity: Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRule(Rule):
    """Counts against their own baseline."""

    least: int
    ratio_percent: int
    deviations_percent: int
    noise_percent: int
    cold_least: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceRule(Rule):
    """Nothing, where something is usual."""

    expected: int
    deviations_percent: int
    noise_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRule(Rule):
    """A part of a whole against its own baseline."""

    least: int
    percent: int
    ratio_percent: int
    deviations_percent: int
    cold_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthRule(Rule):
    """Sessions far longer than others."""

    least_minutes: int
    cold_minutes: int
    sessions: int
    fence_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinRule(Rule):
    """Sessions of one identity in one room at once."""

    overlap_minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AmendmentRule(Rule):
    """Amendments of a day, and of one session."""

    least: int
    ratio_percent: int
    of_session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoverRule(Rule):
    """Periods that end just below a hard limit."""

    from_percent: int
    periods: int
    of_periods: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRules:
    """The rules that hold for one project, by detector, and its holidays as days since 1970-01-01."""

    connection_storm: RateRule
    usage_rise: RateRule
    usage_fall: RateRule
    project_silent: SilenceRule
    server_silent: SilenceRule
    flapping: ShareRule
    long_session: LengthRule
    overlapping_twins: TwinRule
    rounding_loss: ShareRule
    clock_skew: ShareRule
    duplicates: ShareRule
    dead_letters: ShareRule
    reconciliation: ShareRule
    ends_without_starts: ShareRule
    frequent_amendments: AmendmentRule
    limit_hovering: HoverRule
    holidays: frozenset[int] = frozenset()

    def rule(self, detector: Detector) -> Rule:
        """Return what all rules have of one."""
        found: Rule = getattr(self, detector)
        return found

    def share(self, detector: Detector) -> ShareRule:
        """Return the rule of a detector of shares."""
        found = self.rule(detector)
        assert isinstance(found, ShareRule), "shares have rules of shares"
        return found


class Rules:
    """All rules: those of every project, and those of single ones."""

    def __init__(self, common: ProjectRules, projects: Mapping[str, ProjectRules]) -> None:
        """Take the common rules, and complete ones of projects that have any of their own."""
        self._common = common
        self._projects = projects

    def of(self, project: str) -> ProjectRules:
        """Return a project's rules; '' is the whole installation."""
        return self._projects.get(project, self._common)


def parse_rules(shipped: str, own: str = "") -> Rules:
    """Read rules from the TOML that ships and an operator's own; raises InvalidRules."""
    common = _complete(_document(shipped))
    document = _document(own)
    entries = document.pop("project", [])
    common = _override(common, document, "")
    projects: dict[str, ProjectRules] = {}
    for place, entry in _entries(entries):
        name = entry.pop("name", None)
        if not isinstance(name, str) or not _PROJECT.fullmatch(name):
            raise InvalidRules(f"{place}.name: has to be the name of a project")
        if name in projects:
            raise InvalidRules(f"{place}.name: {name} is there already; keep one of them")
        projects[name] = _override(common, entry, place)
    return Rules(common, projects)


def _document(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRules(f"not TOML: {error}") from error


def _entries(entries: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRules("project: has to be a list of tables: [[project]]")
    yield from ((f"project[{number}]", dict(entry)) for number, entry in enumerate(entries, 1))


def _complete(document: Mapping[str, Any]) -> ProjectRules:
    """Return the rules of a file that has to say everything."""
    found = {}
    for name, form in _forms().items():
        fields_of = _fields(document.get(name, {}), form, name)
        if missing := {field.name for field in fields(form)} - fields_of.keys():
            raise InvalidRules(f"{name}.{min(missing)}: is missing")
        found[name] = form(**fields_of)
    return ProjectRules(**found)


def _override(base: ProjectRules, table: Mapping[str, Any], where: str) -> ProjectRules:
    """Return rules with what a table says on top."""
    forms = _forms()
    found: dict[str, Any] = {}
    for name, value in table.items():
        place = ".".join(filter(None, (where, name)))
        if name == "holidays":
            found[name] = base.holidays | _days(value, place)
        elif name in forms:
            found[name] = replace(getattr(base, name), **_fields(value, forms[name], place))
        else:
            raise InvalidRules(f"{place}: is no detector; they are {', '.join(forms)}, and holidays")
    return replace(base, **found)


def _forms() -> dict[str, type[Any]]:
    """Return the form of each detector's rule."""
    return {name: form for name, form in get_type_hints(ProjectRules).items() if name != "holidays"}


def _days(value: Any, place: str) -> frozenset[int]:
    if not isinstance(value, list) or any(type(day) is not date for day in value):
        raise InvalidRules(f"{place}: has to be a list of dates, [2026-12-25, 2027-01-01]")
    return frozenset((day - date(1970, 1, 1)).days for day in value)


def _fields(value: Any, form: type[Any], place: str) -> dict[str, Any]:
    """Return a table's fields, checked against those that a rule has."""
    if not isinstance(value, dict):
        raise InvalidRules(f"{place}: has to be a table, [{place}]")
    known = get_type_hints(form)
    for name, found in value.items():
        if name not in known:
            raise InvalidRules(f"{place}.{name}: is no field here; they are {', '.join(known)}")
        if known[name] is bool and type(found) is not bool:
            raise InvalidRules(f"{place}.{name}: has to be true or false")
        if known[name] is int and (type(found) is not int or not 0 < found <= _MOST):
            raise InvalidRules(f"{place}.{name}: has to be a whole number of 1 or more")
        if name == "severity" and found not in SEVERITIES:
            raise InvalidRules(f"{place}.severity: is one of {', '.join(SEVERITIES)}")
    return dict(value)
