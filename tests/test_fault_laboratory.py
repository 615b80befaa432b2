"""The fault laboratory (`make faults`) judges as it says: what did not happen, or differs, or broke, is no success."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.engine import FAILED, NOT_COVERED, PASSED, Lab, Row, Scenario, run


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("all is well", times=3, needed=3, wrong=0, lost=0, doubled=0), PASSED),
        (Row("too seldom", times=2, needed=3, wrong=0, lost=0, doubled=0), FAILED),
        (Row("never", wrong=0, lost=0, doubled=0), FAILED),
        (Row("a minute off", times=1, wrong=1, lost=0, doubled=0), FAILED),
        (Row("a record lost", times=1, wrong=0, lost=1, doubled=0), FAILED),
        (Row("a record twice", times=1, wrong=0, lost=0, doubled=1), FAILED),
        (Row("too slow", times=1, wrong=0, lost=0, doubled=0, problems=["slow"]), FAILED),
        (Row("no tmpfs", unavailable="not run here"), NOT_COVERED),
    ],
    ids=lambda value: value.fault if isinstance(value, Row) else "",
)
def test_a_row_is_judged(row: Row, verdict: str) -> None:
    """Passed is what happened often enough and changed nothing."""
    assert row.verdict == verdict


def test_a_scenario_that_breaks_does_not_stop_the_others(tmp_path: Path) -> None:
    """It is a failed row of its own, and those before and after it are shown as they come."""

    def broken(_lab: Lab) -> Iterator[Row]:
        yield Row("first", times=1)
        raise RuntimeError("on purpose")

    def whole(_lab: Lab) -> Iterator[Row]:
        yield Row("last", times=1)

    shown: list[Row] = []
    lab = Lab(is_long=False, seed=1, home=tmp_path, say=lambda _line: None)
    rows = run(lab, [Scenario("broken", broken), Scenario("whole", whole)], shown.append)
    assert [(row.fault, row.verdict) for row in rows] == [("first", PASSED), ("broken", FAILED), ("last", PASSED)]
    assert rows == shown
