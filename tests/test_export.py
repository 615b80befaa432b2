"""Exports: what is read back is what the store has, exactly; no file in parts; no cell that a spreadsheet would run."""

import csv
import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from pipeline.cli import main
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.export import EXPORTS, overlapping
from pipeline.export_files import csv_rows, parquet_rows, safe_cell, whole_file
from pipeline.metering.rollup import Rollup, quantities
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_HOUR, NEVER_MS, parse_time
from pipeline.rows import Batch, RollupQuery, SessionQuery, SessionRow, UsageQuery
from tests.databases import Databases
from tests.metering.builders import METERS

_HOUR_MS: Final = 1_789_999_200_000
_LATER_MS: Final = _HOUR_MS + 5 * MS_PER_HOUR
_AS_OF: Final = "2026-09-21T20:00:00Z"
#: Names as nobody should give them, and as events allow them.
_NAMES: Final = (
    '=HYPERLINK("http://x.example","y")',
    "+1",
    "-1",
    "@SUM(A1)",
    "'quoted",
    'a,"b";c',
    "Zürich 東京 🎧",
    "\uff1d1",
)
_FORMATS: Final = ("parquet", "csv")
_each_format = pytest.mark.parametrize("file_format", _FORMATS)

Export = Callable[..., Result]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded store, kept open for all tests."""
    dsn = f"chdb://{tmp_path_factory.mktemp('clickhouse')}"
    with closing(Store.open(dsn)):
        yield dsn


@pytest.fixture(scope="module")
def databases() -> Databases:
    """The databases of that engine."""
    return Databases()


@pytest.fixture
def store(engine: str, databases: Databases) -> Iterator[Store]:
    """The store of one test, migrated and empty."""
    with databases.migrated(engine) as opened:
        yield opened


@pytest.fixture
def export(engine: str, store: Store) -> Export:
    """Run the command on the test's store."""
    return _exporting(engine, store.target.database)


@pytest.fixture(scope="module")
def export_nothing(engine: str) -> Export:
    """Run the command on a store that stays empty."""
    with closing(Store.open(engine, "empty")) as opened:
        opened.migrate(METERS)
    return _exporting(engine, "empty")


def _exporting(engine: str, database: str) -> Export:
    def run(*arguments: object, **environment: str) -> Result:
        env = {"ROOMMETER_STORE": engine, "ROOMMETER_DATABASE": database} | environment
        return CliRunner(env=env).invoke(main, ["export", *map(str, arguments)], prog_name="roommeter")

    return run


def _rollups() -> list[Rollup]:
    """Return revisions of hostile projects, with a negative delta and the decimals of a GB."""
    first = [Rollup(name, "data_transfer_gb", _HOUR_MS, 1, 5, 5, 5, 2, _LATER_MS, _LATER_MS + 7) for name in _NAMES]
    return first + [one._replace(revision=2, increments=2, increments_open=0, delta=-3) for one in first]


def _filled(store: Store) -> None:
    sessions = [
        Session(
            "agent", connected_at_ms=_HOUR_MS, disconnected_at_ms=_HOUR_MS + 70_000, last_seen_ms=_HOUR_MS + 70_000
        ),
        Session("sip", "+15550100", agent="=cmd", connected_at_ms=_HOUR_MS + 1, last_seen_ms=_HOUR_MS + 1),
        Session("agent", disconnected_at_ms=_LATER_MS, last_seen_ms=_LATER_MS),
    ]
    named = [(name, "RM_1", f"PA_{number}", one) for name in _NAMES for number, one in enumerate(sessions)]
    store.write(Batch(sessions=named))


def _read(path: Path, file_format: str) -> list[dict[str, Any]]:
    """Return rows: texts as they were, times in ms or RFC 3339."""
    if file_format == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: _text(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    table = parquet.read_table(path)
    times = [number for number, field in enumerate(table.schema) if pa.types.is_timestamp(field.type)]
    for number in times:
        assert table.schema.field(number).type == pa.timestamp("ms", "UTC")
        table = table.set_column(number, table.schema.names[number], table.column(number).cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _text(cell: str) -> str:
    """Return the text of a cell: as infra/exports.md says."""
    return cell.removeprefix("'")


def _time(value: Any) -> int:
    """Return a time in ms: of Parquet as it is, of CSV from its RFC 3339, NEVER_MS for none."""
    return NEVER_MS if value in (None, "") else value if isinstance(value, int) else parse_time(value)


def _rollup(row: dict[str, Any]) -> Rollup:
    """Return the rollup of a row, whose quantities have to be its increments' (R17)."""
    counts = (row["increments"], row["increments_open"])
    delta = int(Decimal(row["delta"]) / Decimal("0.01"))
    numbers = [int(number) for number in (row["revision"], *counts, delta, row["sessions"])]
    times = (_time(row["as_of"]), _time(row["watermark"]))
    rollup = Rollup._make((row["project"], row["meter"], _time(row["hour"]), *numbers, *times))
    assert (row["id"], row["status"], row["unit"]) == (rollup.id, rollup.status, "GB")
    assert tuple(Decimal(row[name]) for name in ("quantity", "quantity_open", "delta")) == quantities(rollup, METERS)
    return rollup


def _session(row: dict[str, Any]) -> SessionRow:
    values: list[Any] = []
    for (name, kind), value in zip(SessionRow.__annotations__.items(), row.values(), strict=True):
        values.append(_time(value) if name.endswith("_ms") else value if kind is str else value in (True, "true"))
    return SessionRow._make(values)


@_each_format
def test_rollups_are_read_back_as_the_store_has_them(
    file_format: str, store: Store, export: Export, tmp_path: Path
) -> None:
    """Every revision in the store's order, whatever the projects are called (R17)."""
    store.insert_rollups(_rollups(), METERS)
    assert export("rollups", "--format", file_format, "--out", tmp_path / "f").exit_code == 0
    assert list(map(_rollup, _read(tmp_path / "f", file_format))) == store.rollups(RollupQuery())


@_each_format
def test_sessions_are_read_back_as_the_store_has_them(
    file_format: str, store: Store, export: Export, tmp_path: Path
) -> None:
    """Ended, open, and without a start; with their flags."""
    _filled(store)
    assert export("sessions", "--format", file_format, "--as-of", _AS_OF, "--out", tmp_path / "f").exit_code == 0
    expected = store.sessions(SessionQuery(as_of_ms=parse_time(_AS_OF)))
    assert list(map(_session, _read(tmp_path / "f", file_format))) == expected
    assert len(expected) == 3 * len(_NAMES)


@_each_format
def test_an_identity_is_read_back_as_it_is_and_is_no_formula(
    file_format: str, store: Store, export: Export, tmp_path: Path
) -> None:
    """Of a session of today: of older ones it is forgotten (infra/analysts.md)."""
    seen_ms = now_ms()
    store.write(Batch(sessions=[("acme", "RM_1", "PA_1", Session("agent", identity="=cmd", last_seen_ms=seen_ms))]))
    assert export("sessions", "--format", file_format, "--out", tmp_path / "f").exit_code == 0
    [row] = _read(tmp_path / "f", file_format)
    assert row["identity"] == "=cmd"
    assert (file_format == "csv") == (b",'=cmd," in (tmp_path / "f").read_bytes())


@_each_format
def test_usage_is_read_back_as_the_store_has_it(file_format: str, store: Store, export: Export, tmp_path: Path) -> None:
    """Per project, meter and hour, in the store's order."""
    _filled(store)
    assert export("usage", "--format", file_format, "--as-of", _AS_OF, "--out", tmp_path / "f").exit_code == 0
    expected = store.usage(UsageQuery(as_of_ms=parse_time(_AS_OF)))
    found = [
        (
            (row["project"], row["meter"], _time(row["hour"])),
            tuple(int(row[name]) for name in ("increments", "increments_open", "sessions")),
        )
        for row in _read(tmp_path / "f", file_format)
    ]
    assert found == expected
    assert expected


@_each_format
def test_a_range_and_a_project_are_kept_to(file_format: str, store: Store, export: Export, tmp_path: Path) -> None:
    """Hours that start in [from, to), of one project."""
    later = [one._replace(hour_ms=_HOUR_MS + MS_PER_HOUR) for one in _rollups()]
    store.insert_rollups(_rollups() + later, METERS)
    span = ("--from", "2026-09-21T14:00:00Z", "--to", "2026-09-21T15:00:00Z", "--project", _NAMES[0])
    export("rollups", "--format", file_format, *span, "--out", tmp_path / "f")
    assert [_rollup(row).key for row in _read(tmp_path / "f", file_format)] == [
        (_NAMES[0], "data_transfer_gb", parse_time("2026-09-21T14:00:00Z"))
    ] * 2


@_each_format
@pytest.mark.parametrize("what", EXPORTS)
def test_an_empty_range_is_a_file_with_columns_and_no_rows(
    what: str, file_format: str, export_nothing: Export, tmp_path: Path
) -> None:
    """Who reads it finds the same columns as ever."""
    result = export_nothing(what, "--format", file_format, "--to", "2001-01-01", "--out", tmp_path / "f")
    assert (result.stderr, _read(tmp_path / "f", file_format)) == (f"exported 0 {what}\n", [])
    header = (
        next(csv.reader(io.StringIO((tmp_path / "f").read_text())))
        if file_format == "csv"
        else parquet.read_schema(tmp_path / "f").names
    )
    assert header == EXPORTS[what].schema.names


def test_quantities_are_exact_decimals_in_parquet(store: Store, export: Export, tmp_path: Path) -> None:
    """decimal128, no float anywhere."""
    store.insert_rollups(_rollups(), METERS)
    export("rollups", "--format", "parquet", "--out", tmp_path / "f")
    schema = parquet.read_schema(tmp_path / "f")
    assert {schema.field(name).type for name in ("quantity", "quantity_open", "delta")} == {pa.decimal128(38, 9)}
    assert not any(pa.types.is_floating(field.type) for export in EXPORTS.values() for field in export.schema)


def test_the_least_decimal_is_written_out_in_csv() -> None:
    """Not 1E-9, which is another column to a spreadsheet."""
    out = io.BytesIO()
    with csv_rows(out, pa.schema({"quantity": pa.decimal128(38, 9)})) as write:
        write([(Decimal("1E-9"),), (Decimal("-0.02"),), (Decimal(10),)])
    assert out.getvalue() == b"quantity\r\n0.000000001\r\n-0.02\r\n10\r\n"


@pytest.mark.parametrize("text", [*_NAMES[:5], " =1", "\t@x", "\uff201"])
def test_no_cell_begins_as_a_formula_does(text: str) -> None:
    """A ' goes before it, and taking one away gives the text back."""
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["acme", "", "a=b", "PA_-1", "東京"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    """Nothing is changed that need not be."""
    assert safe_cell(text) == text


def _row(started_ms: int, ended_ms: int, seen_ms: int = 0) -> SessionRow:
    return SessionRow("acme", "RM_1", "PA_1", "agent", "", "", "", "", started_ms, ended_ms, seen_ms, *[False] * 7)


@pytest.mark.parametrize(
    ("session", "is_in"),
    [
        (_row(10, 19), False),
        (_row(10, 20), True),
        (_row(29, NEVER_MS), True),
        (_row(30, 40), False),
        (_row(10, NEVER_MS), True),
        (_row(NEVER_MS, NEVER_MS, 25), True),
        (_row(NEVER_MS, NEVER_MS, 30), False),
    ],
)
def test_a_session_is_in_the_range_in_which_some_part_of_it_lies(session: SessionRow, *, is_in: bool) -> None:
    """Open ones last; one that never started lies where it was last seen."""
    assert list(overlapping([session], 20, 30)) == [session] * is_in


def test_an_error_leaves_what_was_there(store: Store, export: Export, tmp_path: Path) -> None:
    """A meter whose unit nobody knows: the file of yesterday stays, and nothing lies beside it."""
    store.insert_rollups(_rollups(), METERS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "f").write_text("yesterday")
    (tmp_path / "meters.toml").write_text(
        '[[meter]]\nname = "x"\nmeasures = "discrete"\nunit = "x"\nunit_size = 1\nincrement = 1\n'
    )
    result = export(
        "rollups", "--format", "csv", "--out", tmp_path / "out" / "f", ROOMMETER_METERS_FILE=f"{tmp_path}/meters.toml"
    )
    assert "'data_transfer_gb' is not in the table of meters" in result.stderr
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["yesterday"]


def test_a_file_is_replaced_where_a_link_leads(tmp_path: Path) -> None:
    """The link stays, and only the owner may read what is new."""
    (tmp_path / "link").symlink_to(tmp_path / "f")
    with whole_file(str(tmp_path / "link")) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert ((tmp_path / "f").read_bytes(), (tmp_path / "f").stat().st_mode & 0o777) == (b"new", 0o600)


def test_what_is_no_ordinary_file_is_refused(export: Export, tmp_path: Path, store: Store) -> None:
    """Replacing a device or a pipe would destroy it."""
    os.mkfifo(tmp_path / "pipe")
    assert "use --out - and >" in export("usage", "--format", "csv", "--out", tmp_path / "pipe").stderr
    assert store.usage(UsageQuery(as_of_ms=_LATER_MS)) == []


def test_parquet_that_broke_off_is_no_parquet() -> None:
    """Part of the rows must not look like all of them, on stdout too."""
    out, schema = io.BytesIO(), pa.schema({"n": pa.int64()})

    def interrupted() -> None:
        with parquet_rows(out, schema) as write:
            write([(1,)])
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        interrupted()
    with pytest.raises(pa.ArrowInvalid):
        parquet.read_table(io.BytesIO(out.getvalue()))


def test_parquet_goes_through_a_pipe() -> None:
    """Which cannot tell how far it is."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as out, parquet_rows(out, pa.schema({"n": pa.int64()})) as write:
        write([(1,), (2,)])
    with os.fdopen(reading, "rb") as file:
        assert parquet.read_table(io.BytesIO(file.read())).to_pydict() == {"n": [1, 2]}


@_each_format
def test_stdout_has_the_file_and_nothing_else(file_format: str, store: Store, export: Export, tmp_path: Path) -> None:
    """What is said goes to stderr."""
    _filled(store)
    arguments = ("usage", "--format", file_format, "--as-of", _AS_OF, "--out")
    export(*arguments, tmp_path / "f")
    assert export(*arguments, "-").stdout_bytes == (tmp_path / "f").read_bytes()


def test_blocks_are_small_however_much_there_is(store: Store) -> None:
    """What is held at once does not grow with the answer."""
    hours = range(_HOUR_MS, _HOUR_MS + 70_000 * MS_PER_HOUR, MS_PER_HOUR)
    rollups = [Rollup("acme", "webrtc_minutes", hour_ms, 1, 1, 0, 1, 1, _LATER_MS, _LATER_MS) for hour_ms in hours]
    store.insert_rollups(rollups, METERS)
    sizes = [len(block) for block in store.blocks(RollupQuery())]
    assert sum(sizes) == 70_000
    assert max(sizes) <= 65_536
