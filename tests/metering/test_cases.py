"""The conformance cases: events and the bill that has to come out, readable by any implementation."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.metering.units import parse_time
from pipeline.metering.usage import usage
from tests.metering.builders import METERS, ROOT, facts_of, parsed
from tests.oracle import oracle
from tests.oracle_counted import read_time

_CASES = sorted((ROOT / "tests" / "data" / "cases").glob("*.json"))


def _load(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(path.read_text())
    return case


@pytest.mark.parametrize("path", _CASES, ids=lambda path: path.stem)
def test_the_case_bills_what_it_expects(path: Path) -> None:
    """Each case names the rules it shows."""
    case = _load(path)
    cells = usage(facts_of(map(parsed, case["events"])), METERS, parse_time(case["as_of"]))
    expected = {(row["project"], row["meter"], parse_time(row["hour"])): row["increments"] for row in case["expect"]}
    assert {key: cell.increments for key, cell in cells.items()} == expected


@pytest.mark.parametrize("path", _CASES, ids=lambda path: path.stem)
def test_the_oracle_agrees_with_the_case(path: Path) -> None:
    """The second opinion is itself held to the cases."""
    case = _load(path)
    expected = {(row["project"], row["meter"], read_time(row["hour"])): row["increments"] for row in case["expect"]}
    found = oracle(case["events"], read_time(case["as_of"]))
    assert {key: increments for key, (increments, _, _) in found.items()} == expected


def test_there_are_cases_for_every_rule_of_metering() -> None:
    """R1 to R10 and R13 to R16 are each shown by a case; none is lost from the directory."""
    rules = {rule for path in _CASES for rule in _load(path)["rules"]}
    assert {"R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "R13", "R14", "R15", "R16"} <= rules
    assert len(_CASES) >= 33
