"""`roommeter.connect`: what was metered, with times in UTC and exact decimals; and the notebook that shows it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Final

import nbformat
import polars as pl
import pyarrow as pa
import pytest
from nbclient import NotebookClient

import roommeter
from pipeline.clickhouse import Store, StoreError
from pipeline.embedded import now_ms
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from pipeline.rows import Batch
from tests.endpoint.server import server
from tests.metering.builders import METERS, ROOT

_DAY_MS: Final = now_ms() // MS_PER_DAY * MS_PER_DAY - MS_PER_DAY
_DAY: Final = datetime.fromtimestamp(_DAY_MS / 1000, UTC)
_SPAN: Final = (_DAY, _DAY + timedelta(days=1))
_NOTEBOOK: Final = ROOT / "infra" / "examples" / "usage.ipynb"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a session of 61 s of acme and one that is open, and a rollup of 0.01 GB; nobody has it open."""
    path = tmp_path_factory.mktemp("reading") / "clickhouse"
    with closing(Store.open(f"chdb://{path}")) as store:
        store.migrate(METERS)
        ended = Session("agent", connected_at_ms=_DAY_MS, disconnected_at_ms=_DAY_MS + 61_000)
        is_open = Session("agent", connected_at_ms=_DAY_MS + MS_PER_MINUTE, last_seen_ms=now_ms())
        store.write(Batch(sessions=[("acme", "RM_1", "PA_1", ended), ("acme", "RM_2", "PA_2", is_open)]))
        rollup = Rollup("acme", "data_transfer_gb", _DAY_MS, 1, 1, 0, 1, 1, _DAY_MS + MS_PER_HOUR, _DAY_MS)
        store.insert_rollups([rollup], METERS)
    return path


@pytest.fixture
def store(directory: Path) -> Iterator[roommeter.Connection]:
    """The store, as a notebook opens it."""
    with roommeter.connect(f"chdb://{directory}") as connection:
        yield connection


def test_usage_is_exact_and_its_times_are_utc(store: roommeter.Connection) -> None:
    """In Arrow's own types, by day and by hour."""
    for by in ("day", "hour"):
        table = store.usage(*_SPAN, project="acme", by=by).table
        assert table.schema.field(by).type == pa.timestamp("ms", "UTC")
        assert table.schema.field("quantity").type == pa.decimal128(38, 9)
        assert table.select([by, "quantity"]).to_pylist() == [{by: _DAY, "quantity": Decimal("0.01")}]


def test_sessions_are_frames_of_pandas_and_polars(store: roommeter.Connection) -> None:
    """What is not known yet is missing, and no sentinel."""
    answer = store.sessions(*_SPAN, project="acme")
    assert len(answer) == 2
    pandas, polars = answer.to_pandas(), answer.to_polars()
    assert list(pandas.minutes[:1]) == list(polars["minutes"][:1]) == [2]
    assert list(pandas.ended_at.isna()) == list(polars["ended_at"].is_null()) == [False, True]
    assert polars["started_at"].dtype == pl.Datetime("ms", "UTC") == pl.DataFrame(answer)["started_at"].dtype


def test_rollups_have_their_ids_as_text(store: roommeter.Connection) -> None:
    """As the topic has them."""
    [row] = store.rollups(*_SPAN).table.to_pylist()
    assert len(row["id"]) == 36
    assert row["delta"] == Decimal("0.01")


@pytest.mark.parametrize("project", ["bolt", "acme' OR '1'='1", "acme'; DROP TABLE rollups --"])
def test_a_project_is_bound_and_never_pasted(store: roommeter.Connection, project: str) -> None:
    """Whoever it is, there is nothing of him."""
    assert len(store.usage(*_SPAN, project=project)) == len(store.sessions(*_SPAN, project=project)) == 0


@pytest.mark.parametrize(
    "when", [_DAY, _DAY.date(), f"{_DAY:%Y-%m-%d}", f"{_DAY:%Y-%m-%d}T01:00:00+01:00", _DAY.astimezone(timezone.max)]
)
def test_a_moment_can_be_said_in_many_ways(store: roommeter.Connection, when: datetime | date | str) -> None:
    """All of them the same one."""
    assert len(store.rollups(when, _DAY + timedelta(hours=1))) == 1
    assert len(store.rollups(_DAY - timedelta(hours=1), when)) == 0


def test_a_time_without_a_zone_is_refused(store: roommeter.Connection) -> None:
    """Whose noon would it be?"""
    with pytest.raises(ValueError, match="has no time zone"):
        store.usage(datetime(2026, 9, 21), _DAY)  # noqa: DTZ001


def test_a_question_creates_no_store(tmp_path: Path) -> None:
    """A mistyped directory is said."""
    with pytest.raises(StoreError, match="there is no store"):
        roommeter.connect(f"chdb://{tmp_path / 'typo'}")
    assert not (tmp_path / "typo").exists()


def test_what_runs_is_asked_over_http(directory: Path) -> None:
    """As `roommeter up` answers, which has the directory for itself."""
    with server(directory.parent) as (ports, _), roommeter.connect(f"http://127.0.0.1:{ports.reader}") as store:
        assert len(store.sessions(*_SPAN)) == 2
        assert store.usage(*_SPAN).to_pandas().quantity.sum() == Decimal("0.01")


def test_importing_the_library_loads_no_engine_and_no_frames() -> None:
    """A producer's program starts as fast as before."""
    heavy = {"clickhouse_connect", "chdb", "pyarrow", "pandas", "polars"}
    code = f"import sys, roommeter; print(*({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT).strip() == b""


def test_the_example_notebook_runs_from_top_to_bottom(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Jupyter would; what is kept has no outputs of anybody's."""
    notebook = nbformat.read(_NOTEBOOK, as_version=4)
    assert [cell for cell in notebook.cells if cell.get("outputs")] == []
    monkeypatch.setenv("ROOMMETER_STORE", f"chdb://{directory}")
    run = NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(directory.parent))
    shown = [output["data"]["text/html"] for cell in run.cells for output in cell.get("outputs", ())]
    assert len(shown) == 4
    assert ("data_transfer_gb" in shown[0], "PA_1" in shown[1]) == (True, True)
