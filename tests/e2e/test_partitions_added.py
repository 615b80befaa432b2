"""Partitions are added while workers run: the scenario of the fault laboratory, in its smallest size."""

from pathlib import Path

from tests.brokers import TestBroker
from tests.faults import feed
from tests.faults.engine import PASSED, Lab
from tests.faults.partitions import added
from tests.faults.rig import rig


def test_workers_that_are_started_again_go_on_with_more_partitions(broker: TestBroker, tmp_path: Path) -> None:
    """R10: sessions split over an old and a new partition are joined; the changelog gets as many partitions."""
    lab = Lab(is_long=False, seed=1, home=tmp_path, say=lambda _line: None)
    with rig(lab, "partitions", broker=broker, partitions=4) as made:
        row = added(made, feed.simulated_events(3_000, seed=41))
    assert (row.verdict, row.problems) == (PASSED, [])
