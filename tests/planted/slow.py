"""Mistakes whose tests need a broker, or a store filled with a day."""

from typing import Final

from tests.planted.bug import Bug

_A_DAY: Final = "tests/contracts/test_sql_oracle.py::test_raw_events_bill_what_the_pipeline_rolls_up"
SLOW: Final = (
    Bug(
        "acknowledged before it is stored",
        "pipeline/fastlane.py",
        (
            (
                "            yield batches\n            self.consumer.acknowledge(batches)\n",
                "            self.consumer.acknowledge(batches)\n            yield batches\n",
            ),
        ),
        "tests/contracts/test_fastlane.py::test_an_agent_that_raises_ends_the_app_and_acknowledges_nothing",
        is_slow=True,
    ),
    Bug(
        "acknowledged in spite of an error",
        "pipeline/fastlane.py",
        (
            (
                "            self.consumer.acknowledge(batches)\n        finally:\n",
                "        finally:\n            self.consumer.acknowledge(batches)\n",
            ),
        ),
        "tests/contracts/test_fastlane.py::test_an_agent_that_raises_ends_the_app_and_acknowledges_nothing",
        is_slow=True,
    ),
    Bug(
        "floor for ceil, in SQL",
        "schemas/clickhouse/0004_views.sql",
        (
            (
                "greatest(1, intDiv(until_ms - started_ms + increment - 1, increment))",
                "greatest(1, intDiv(until_ms - started_ms, increment))",
            ),
        ),
        _A_DAY,
        is_slow=True,
    ),
    Bug(
        "the project is missing from the key, in SQL",
        "schemas/clickhouse/0007_amendments.sql",
        (("ON sessions.project = rooms.project AND sessions.room = rooms.room", "ON sessions.room = rooms.room"),),
        _A_DAY,
        is_slow=True,
    ),
    Bug(
        "a minute is billed to the hour in which it ends, in SQL",
        "schemas/clickhouse/0004_views.sql",
        (
            (
                "intDiv((hour_number + 1) * 3600000 - started_ms + increment - 1, increment)",
                "intDiv((hour_number + 1) * 3600000 - started_ms, increment)",
            ),
        ),
        _A_DAY,
        is_slow=True,
    ),
)
