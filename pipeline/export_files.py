"""Rows into Parquet and CSV, a block at a time, and files that are there whole or not at all."""

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final

import pyarrow as pa
from pyarrow import parquet

from pipeline.export import TIME, Row
from pipeline.metering.units import format_time

#: A spreadsheet takes a cell that begins with one of these for a formula, the wide ones in some languages.
_FORMULA: Final = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")
_QUOTE: Final = "'"


Write = Callable[[Sequence[Row]], None]
"""Writes a block of rows, at least one."""


@contextmanager
def parquet_rows(out: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    """Write rows as Parquet, a row group a block; `out` need not be able to seek."""
    stream = _Counted(out)
    writer = parquet.ParquetWriter(pa.PythonFile(stream, mode="w"), schema, compression="zstd")

    def write(rows: Sequence[Row]) -> None:
        columns = zip(zip(*rows, strict=True), schema, strict=True)
        arrays = [pa.array(values, field.type) for values, field in columns]
        writer.write_batch(pa.record_batch(arrays, schema=schema))

    try:
        yield write
    except BaseException:
        stream.is_given_up = True
        raise
    finally:
        writer.close()


@contextmanager
def csv_rows(out: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    """Write rows as CSV (RFC 4180) in UTF-8: decimals in full, times in RFC 3339, no cell that is a formula."""
    lines = csv.writer(_Encoded(out))
    cells = [_cell_writer(field.type) for field in schema]
    lines.writerow(schema.names)

    def write(rows: Sequence[Row]) -> None:
        for row in rows:
            lines.writerow("" if value is None else cell(value) for value, cell in zip(row, cells, strict=True))

    yield write


#: By the word that is typed.
FORMATS: Final = {"parquet": parquet_rows, "csv": csv_rows}


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: where it could be one, a ' is put before it.

    A text that begins with ' gets one more, so that taking one away gives the text back.
    """
    begin = text.lstrip()[:1]
    return f"{_QUOTE}{text}" if begin in _FORMULA or text[:1] == _QUOTE else text


def _cell_writer(kind: pa.DataType) -> Callable[[Any], str]:
    if kind == TIME:
        return format_time
    if pa.types.is_decimal(kind):
        return "{:f}".format  # never 1E-9
    if pa.types.is_boolean(kind):
        return lambda value: "true" if value else "false"
    return safe_cell if pa.types.is_string(kind) else str


class _Counted(io.RawIOBase):
    """A stream that knows how far it is: Parquet asks, and a pipe cannot tell."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__()
        self._out = out
        self._written = 0
        #: After an error the library would still end the file on its way out, and a part would look like the whole.
        self.is_given_up = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        size = len(memoryview(data).cast("B")) if self.is_given_up else self._out.write(data)
        self._written += size
        return size

    def flush(self) -> None:
        if not self.is_given_up:
            self._out.flush()


class _Encoded:
    """Where csv writes its text: a stream of bytes, which stays open."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, text: str) -> None:
        self._out.write(text.encode())


@contextmanager
def whole_file(path: str) -> Iterator[IO[bytes]]:
    """Open a file to write that appears under its name when all of it is on disk; `-` is stdout.

    Until then, and after an error, what had that name before is there unchanged. Only its owner may read a
    new file. Raises OSError, also for a name that is no ordinary file.
    """
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path).resolve()  # a link goes on leading to the file
    if target.exists() and not target.is_file():
        raise OSError(f"{path}: not an ordinary file; to write to a pipe or a device use --out - and >")
    with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", suffix=".partial", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink()
            raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
