"""The embedded store as a ClickHouse HTTP server, for other processes: the only importer of chdb.

One process alone may open the store's directory, so that process answers the others: curl, and the
ordinary client of clickhouse-connect. Everybody reads and nobody writes, unless code says `writable`.
Each request gets an engine handle of its own, because a read-only handle stays read-only for ever.
There are no users: whoever reaches the port may read, so it is bound to loopback.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from aiohttp import web

from pipeline import statement
from pipeline.statement import QueryError, refusal

#: Content types by how a format's name begins; any other format is text.
_CONTENT_TYPES: Final = (
    (("JSONEachRow", "JSONLines", "NDJSON"), "application/x-ndjson; charset=UTF-8"),
    (("JSON",), "application/json; charset=UTF-8"),
    (("CSV",), "text/csv; charset=UTF-8"),
    (("TabSeparated", "TSV"), "text/tab-separated-values; charset=UTF-8"),
    (("Arrow", "Avro", "Native", "ORC", "Parquet", "RowBinary"), "application/octet-stream"),
    (("",), "text/plain; charset=UTF-8"),
)
#: Encodings of bodies both ways, the cheapest first.
_ENCODINGS: Final = ("lz4", "zstd", "gzip")
#: What chDB's Python layer would answer with objects instead of bytes.
_OBJECTS: Final = frozenset({"arrowtable", "dataframe", "datastore"})
#: A query id that may stand in a header.
_QUERY_ID: Final = re.compile(r"[!-~]{1,128}")
_CHUNK_BYTES: Final = 65_536
_KILL_AGAIN_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may cost. A request may ask for less, never for more."""

    max_body_bytes: int = 1_048_576
    max_result_rows: int = 5_000_000
    max_result_bytes: int = 134_217_728
    max_memory_bytes: int = 1_073_741_824
    max_execution_ms: int = 30_000
    max_concurrent: int = 4

    def settings(self) -> dict[str, str]:
        """Return the limits that the engine enforces, under the engine's names."""
        return {
            "max_result_rows": str(self.max_result_rows),
            "max_result_bytes": str(self.max_result_bytes),
            "max_memory_usage": str(self.max_memory_bytes),
            "max_execution_time": f"{self.max_execution_ms // 1000}.{self.max_execution_ms % 1000:03d}",
        }


class _Query(NamedTuple):
    """One request, read and decompressed: `sql` with an insert's data behind it."""

    sql: bytes
    url: Mapping[str, str]
    format: str
    reading: bool
    encoding: str


class _Answer(NamedTuple):
    """A statement's outcome; `format` is None where it has no result set."""

    body: bytes
    format: str | None
    summary: dict[str, str]


class Endpoint:
    """The routes `/` and `/ping` over one directory of the embedded store."""

    def __init__(self, directory: Path, *, limits: Limits | None = None, writable: bool = False) -> None:
        """Remember what to serve. `writable` lets POST insert, create and drop: for tests and rehearsals of faults."""
        self._path = str(directory.resolve())  # chDB compares paths as text, and clickhouse-connect resolves its own
        self._limits = limits or Limits()
        self._writable = writable
        self._tag = f"endpoint-{uuid4()}"
        self._running: set[asyncio.Future[_Answer]] = set()
        self._stopping = False
        self._timezone = "UTC"
        self._threads = ThreadPoolExecutor(self._limits.max_concurrent, "endpoint")

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application that is served with bodies as they were sent (pipeline.http.serve)."""
        app.router.add_get("/", self._handle)
        app.router.add_post("/", self._handle)
        app.router.add_get("/ping", self._ping)
        app.cleanup_ctx.append(self._lifetime)
        app.on_shutdown.append(self._cancel)

    async def _lifetime(self, _: web.Application) -> AsyncIterator[None]:
        # The engine stops with its last handle, so one stays open; Connection has no type stubs.
        keeper = await asyncio.to_thread(self._open)
        self._timezone = keeper.query("SELECT timezone()", "RawBLOB").bytes().decode()
        yield
        await asyncio.to_thread(self._threads.shutdown)
        keeper.close()

    async def _cancel(self, _: web.Application) -> None:
        """Stop the reading queries under way, so that stopping does not wait for them; inserts may finish."""
        self._stopping = True

        def kill() -> None:
            with self._open() as handle:
                handle.query(f"KILL QUERY WHERE Settings['log_comment'] = '{self._tag}' ASYNC")

        while running := set(self._running):  # again, because a query may have begun just after the last KILL
            await asyncio.to_thread(kill)
            await asyncio.wait(running, timeout=_KILL_AGAIN_SECONDS)

    def _open(self) -> Any:
        import chdb

        return chdb.connect(self._path)

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _handle(self, request: web.Request) -> web.Response:
        query_id = request.query.get("query_id", "")
        if not _QUERY_ID.fullmatch(query_id):
            query_id = str(uuid4())
        headers = {"X-ClickHouse-Query-Id": query_id, "X-ClickHouse-Timezone": self._timezone}
        try:
            query = await self._read(request)
            if not query.sql.strip():
                return web.Response(text="Ok.\n", headers=headers)
            answer = await self._run(query)
        except QueryError as error:
            headers["X-ClickHouse-Exception-Code"] = str(error.code)
            if error.code == statement.TOO_MANY_QUERIES:
                headers["Retry-After"] = "1"
            return web.Response(text=f"{error}\n", status=error.status, headers=headers)
        headers["X-ClickHouse-Summary"] = json.dumps(answer.summary)
        if answer.format is not None:
            headers["X-ClickHouse-Format"] = answer.format
        if query.encoding:
            headers["Content-Encoding"] = query.encoding
        headers["Content-Type"] = next(t for names, t in _CONTENT_TYPES if (answer.format or "").startswith(names))
        return web.Response(body=answer.body, headers=headers)

    async def _run(self, query: _Query) -> _Answer:
        """Run a query in a thread of the pool, which never has more to do than it has threads."""
        if self._stopping or len(self._running) >= self._limits.max_concurrent:
            message = f"Too many simultaneous queries. Maximum: {self._limits.max_concurrent}."
            raise refusal(statement.TOO_MANY_QUERIES, "TOO_MANY_SIMULTANEOUS_QUERIES", message)
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._execute, query)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.shield(future)  # an asker who goes away does not free the thread

    async def _read(self, request: web.Request) -> _Query:
        """Read a request: SQL comes in the URL, the body, a form, or URL and body one after the other."""
        url = dict(request.query)
        body = b""
        if request.content_type == "multipart/form-data":
            url |= await _form(request, self._limits.max_body_bytes)
        else:
            body = await _body(request, self._limits.max_body_bytes)
        in_url = url.get("query", "").encode()
        accepted = request.headers.get("Accept-Encoding", "")
        compress = url.get("enable_http_compression", "1") == "1"
        result_format = request.headers.get("X-ClickHouse-Format") or url.get("default_format") or "TabSeparated"
        if result_format.lower() in _OBJECTS:
            raise refusal(73, "UNKNOWN_FORMAT", f"Unknown format {result_format}.")
        return _Query(
            sql=b"\n".join(part for part in (in_url, body) if part),
            url=url,
            format=result_format,
            reading=not self._writable or request.method != "POST",
            encoding=next((name for name in _ENCODINGS if compress and name in accepted), ""),
        )

    def _execute(self, query: _Query) -> _Answer:
        """Run a query on a handle of its own, in a thread. Raises QueryError."""
        parameters = {name.removeprefix("param_"): v for name, v in query.url.items() if name.startswith("param_")}
        try:
            with self._open() as handle:
                handle.query(f"SET {self._settings(query)}")
                if query.url.get("database"):
                    handle.query(f"USE {_quoted(query.url['database'], '`')}")
                insert = None if query.reading else statement.parse_insert(query.sql)
                answer = _insert(handle, insert) if insert else _ask(handle, query, parameters)
        except RuntimeError as error:  # all that chDB raises
            raise statement.engine_error(str(error)) from error
        except UnicodeDecodeError as error:
            raise refusal(62, "SYNTAX_ERROR", "The query is not UTF-8.") from error
        return answer._replace(body=_compressed(answer.body, query.encoding)) if query.encoding else answer

    def _settings(self, query: _Query) -> str:
        """Return the list of a SET statement; `readonly` stands last, because nothing can be set after it."""
        if query.reading:
            settings = statement.reader_settings(query.url, self._limits.settings())
            settings |= {"log_comment": self._tag, "enable_http_compression": "1"}
            settings |= {"optimize_and_compare_chain": "0", "readonly": "1"}  # planning our views takes half the time
        else:
            settings = {"enable_http_compression": "1"} | statement.query_settings(query.url)
        quote = "'"
        return ", ".join(f"{name} = {_quoted(value, quote)}" for name, value in settings.items())


def _ask(handle: Any, query: _Query, parameters: dict[str, str]) -> _Answer:
    """Run anything but an insert with data. A reader's statement runs in the form in which it was judged."""
    sql = query.sql.decode()
    is_insert = sql.lstrip()[:6].upper() == "INSERT" and not query.reading
    escaped = sql.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    canonical = ""
    if not is_insert:
        format_query = "SELECT formatQuerySingleLine({sql:String})"
        canonical = handle.query(format_query, "RawBLOB", params={"sql": escaped}).bytes().decode()
    if query.reading:
        statement.check_reading(canonical, parameters)
        sql = canonical
    result = handle.query(sql, query.format, params=parameters)
    body = result.bytes()
    has_rows = bool(body) or statement.is_reading(canonical)
    return _Answer(
        body=body,
        format=(statement.format_of(canonical) or query.format) if has_rows else None,
        summary={
            "read_rows": str(result.storage_rows_read()),
            "read_bytes": str(result.storage_bytes_read()),
            "written_rows": str(result.rows_written()),
            "written_bytes": str(result.bytes_written()),
            "result_rows": str(result.rows_read()),
            "result_bytes": str(len(body)),
        },
    )


def _insert(handle: Any, insert: statement.Insert) -> _Answer:
    with handle.send_insert(insert.statement, insert.format) as inserter:
        inserter.append(insert.data)
        written = inserter.finish()
    summary = {"written_rows": str(written.rows_written), "written_bytes": str(written.bytes_written)}
    return _Answer(b"", None, summary)


def _quoted(text: str, quote: str) -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


async def _form(request: web.Request, max_bytes: int) -> dict[str, str]:
    """Read a form of text fields: how clickhouse-connect sends parameters too long for a URL. aiohttp bounds it."""
    fields: dict[str, str] = {}
    try:
        form = await request.post()
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(max_bytes) from error
    for name, value in form.items():
        if not isinstance(value, str):
            raise refusal(48, "NOT_IMPLEMENTED", "External tables are not supported.")
        fields[name] = value
    return fields


async def _body(request: web.Request, max_bytes: int) -> bytes:
    """Read a body, decompressed; neither the sent nor the decompressed form may exceed `max_bytes`."""
    parts = bytearray()
    async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
        parts += chunk
        if len(parts) > max_bytes:
            raise _too_large(max_bytes)
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding == "identity" or not parts:
        return bytes(parts)
    if encoding not in _ENCODINGS:
        raise refusal(48, "NOT_IMPLEMENTED", f"Content-Encoding is one of {', '.join(_ENCODINGS)}.")
    return await asyncio.to_thread(_decompressed, bytes(parts), encoding, max_bytes)


def _too_large(max_bytes: int) -> QueryError:
    return refusal(statement.TOO_LARGE, "TOO_MANY_BYTES", f"The request is larger than {max_bytes} bytes.")


def _compressed(data: bytes, encoding: str) -> bytes:
    import pyarrow as pa

    compressed: bytes = pa.Codec(encoding).compress(data, asbytes=True)
    return compressed


def _decompressed(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress all frames of `data`, stopping as soon as they hold more than `max_bytes`."""
    import pyarrow as pa

    try:
        plain: bytes = pa.CompressedInputStream(pa.BufferReader(data), encoding).read(max_bytes + 1)
    except (OSError, ValueError) as error:  # Arrow's own errors are both
        raise refusal(271, "CANNOT_DECOMPRESS", f"The body is not {encoding}.") from error
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    return plain
