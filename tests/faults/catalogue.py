"""Every scenario of the fault laboratory, in the order in which they run."""

from typing import Final

from tests.faults.crashpoints import crash_points
from tests.faults.engine import Scenario
from tests.faults.fulldisk import full_disk
from tests.faults.kills import kills
from tests.faults.laws import laws, seeds
from tests.faults.outages import brokers, stores
from tests.faults.partitions import partitions
from tests.faults.rebalances import rolling, storm
from tests.faults.replays import changelog, replays
from tests.faults.zombies import emitters, zombies

SCENARIOS: Final = (
    Scenario("kills", kills),
    Scenario("points", crash_points),
    Scenario("zombies", zombies),
    Scenario("emitters", emitters),
    Scenario("broker", brokers),
    Scenario("store", stores),
    Scenario("disk", full_disk),
    Scenario("storm", storm),
    Scenario("rolling", rolling),
    Scenario("replay", replays),
    Scenario("changelog", changelog),
    Scenario("partitions", partitions),
    Scenario("seeds", seeds),
    Scenario("laws", laws),
)
