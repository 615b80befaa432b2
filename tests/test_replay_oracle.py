"""From a file to `usage --json`: what the command line answers is what the rules say, for events of every type."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.clickhouse import Store
from pipeline.metering.units import format_time, parse_time
from tests.databases import Databases
from tests.metering.builders import Document
from tests.metering.strategies import documents, moments_ms
from tests.oracle import MeterHour, oracle

_LOGS: Final = 8


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded store that stays open while these tests run."""
    dsn = f"chdb://{tmp_path_factory.mktemp('clickhouse')}"
    with closing(Store.open(dsn)):
        yield dsn


@pytest.fixture(scope="module")
def databases() -> Databases:
    """The databases of that engine."""
    return Databases()


def _used(file: Path, as_of_ms: int, engine: str, database: str) -> dict[MeterHour, tuple[int, int]]:
    """Return increments, and those of open sessions, as the commands tell them."""
    shell = CliRunner(env={"ROOMMETER_STORE": engine, "ROOMMETER_DATABASE": database})
    asked = ["usage", "--as-of", format_time(as_of_ms), "--json"]
    for arguments in (["replay", str(file)], asked):
        done = shell.invoke(main, arguments)
        assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        (row["project"], row["meter"], parse_time(row["hour"])): (row["increments"], row["increments_open"])
        for row in rows
    }


@settings(max_examples=_LOGS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(documents, min_size=25, max_size=60), moments_ms)
def test_usage_of_a_replayed_log_is_the_oracles_for_every_meter_and_hour(
    engine: str, databases: Databases, tmp_path_factory: pytest.TempPathFactory, log: list[Document], as_of_ms: int
) -> None:
    """R1 to R16: timed, counted, recorded and rented, out of order and repeated, as of any moment."""
    file = tmp_path_factory.mktemp("log") / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, log + log[::3])))
    expected = {key: cell[:2] for key, cell in oracle(log, as_of_ms).items() if cell[0]}
    with databases.migrated(engine) as store:
        assert _used(file, as_of_ms, engine, store.target.database) == expected
