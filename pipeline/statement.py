"""What a query may do, judged on ClickHouse's own canonical text, and how its outcome is named in HTTP. Pure.

ClickHouse's `readonly = 1` alone is not enough inside a process of ours: it lets the scalar function
`file()` read any file, `INTO OUTFILE` write one, `DESCRIBE` connect to a URL, and KILL and SYSTEM run.
So a query is judged here first. What is judged has no comments, escapes or spare quotes left: it is the
text as ClickHouse's own formatter writes it, and that text is what then runs.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Final, NamedTuple

#: What a reader may begin a statement with, in canonical text (DESC and FROM ... SELECT are gone there).
READING: Final = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "EXPLAIN", "EXISTS"})
#: Functions that reach files, the network or this process's variables before or although the engine is read-only.
_REACHING_OUT: Final = re.compile(r"file|eval|(?i:python)|(?:ai|AI)[A-Z]\w*")
#: Canonical tokens: a literal, a quoted name, or a word.
_TOKEN: Final = re.compile(r"'(?:[^'\\]|\\.)*'|`((?:[^`\\]|\\.)*)`|\w+", re.DOTALL)
#: DESCRIBE and EXISTS of a plain name or a subquery: the engine does not refuse table functions and paths there.
_OF_A_NAME: Final = re.compile(
    r"(?:DESCRIBE TABLE \(.*|(?:DESCRIBE|EXISTS)(?: TEMPORARY)? \w+ [\w.{}:]+(?: FORMAT \w+)?)", re.DOTALL
)
_NAME: Final = re.compile(r"\w+")
_NAME_PARAMETER: Final = re.compile(r"\{(\w+):Identifier\}")
#: At most 3 decimals, so that nothing rounds to 0, which ClickHouse takes for unlimited.
_LIMIT: Final = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,3})?")
_FORMAT: Final = re.compile(r" FORMAT (\w+)(?: SETTINGS [^']*)?\Z")
_INSERT: Final = re.compile(
    rb"\s*(INSERT\s+INTO\s+[^;()']*?(?:\([^')]*\))?\s*(?:SETTINGS\s[^;]*?)?)\s*\bFORMAT\s+(\w+)[ \t]*\r?\n?",
    re.IGNORECASE,
)
#: Where FORMAT has to have come: what follows may be megabytes of rows.
_LONGEST_INSERT_BYTES: Final = 65_536
_CODE: Final = re.compile(r"Code: (\d+)\.")

READONLY: Final = 164
TOO_MANY_QUERIES: Final = 202
TOO_LARGE: Final = 307
#: Codes with an HTTP status of their own, as ClickHouse maps them; any other is 500.
_STATUS: Final[dict[int, int]] = {
    **dict.fromkeys((6, 26, 27, 33, 36, 38, 41, 53, 62, 72, 117, 427, 441, 456, 457, 467), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 81, 108, 115, 336), 404),
    48: 501,
    159: 408,
    TOO_MANY_QUERIES: 503,
    TOO_LARGE: 413,
}

#: Settings a reader may send: how results look, never what may be reached.
_ALLOWED: Final = frozenset(
    {
        "cast_keep_nullable",
        "date_time_input_format",
        "date_time_output_format",
        "extremes",
        "final",
        "format_csv_delimiter",
        "group_by_use_nulls",
        "join_use_nulls",
        "limit",
        "max_block_size",
        "max_threads",
        "offset",
        "session_timezone",
    }
)
_ALLOWED_PREFIXES: Final = tuple(
    f"output_format_{name}_" for name in ("arrow", "csv", "decimal", "json", "native", "parquet", "pretty", "tsv")
)
#: What belongs to the transport: the endpoint reads some of it and has no use for the rest.
_TRANSPORT: Final = frozenset(
    {
        "buffer_size",
        "cancel_http_readonly_queries_on_client_close",
        "client_protocol_version",
        "close_session",
        "database",
        "default_format",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "password",
        "query",
        "query_id",
        "quota_key",
        "role",
        "send_progress_in_http_headers",
        "session_check",
        "session_id",
        "session_timeout",
        "stacktrace",
        "user",
        "wait_end_of_query",
    }
)


class QueryError(Exception):
    """A refused or failed query: ClickHouse's error code and text."""

    def __init__(self, code: int, text: str) -> None:
        """Keep code and text; the text opens with `Code: <code>.` as ClickHouse's does."""
        super().__init__(text)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status ClickHouse answers with for this code."""
        return _STATUS.get(self.code, 500)


def refusal(code: int, name: str, message: str) -> QueryError:
    """Return an error of our own in ClickHouse's form; `name` is the code's name."""
    return QueryError(code, f"Code: {code}. DB::Exception: {message} ({name})")


def engine_error(text: str) -> QueryError:
    """Return the engine's error with its code; 1001 (STD_EXCEPTION) where it names none."""
    code = _CODE.search(text)
    text = re.sub(r": In scope SELECT formatQuerySingleLine\(.*\)\. ", ". ", text, flags=re.DOTALL)
    return QueryError(int(code[1]), text[code.start() :]) if code else QueryError(1001, text)


def check_reading(canonical: str, parameters: Mapping[str, str]) -> None:
    """Refuse (READONLY) whatever does more than read tables. `canonical` is what formatQuerySingleLine returned."""
    words = list(_words(canonical))
    if words[0] not in READING:
        raise _read_only(f"{words[0]} is not among {', '.join(sorted(READING))}")
    if ("INTO", "OUTFILE") in pairwise(words):
        raise _read_only("INTO OUTFILE writes a file")
    names = {name: parameters.get(name, "") for name in _NAME_PARAMETER.findall(canonical)}
    for name, value in names.items():
        if _NAME.fullmatch(value) is None:
            raise _read_only(f"parameter {name} is not a plain name")
    for word in (*words, *names.values()):
        if _REACHING_OUT.fullmatch(word):
            raise _read_only(f"the name {word} is reserved for a function that reaches beyond the database")
    if words[0] in {"DESCRIBE", "EXISTS"} and _OF_A_NAME.fullmatch(canonical) is None:
        raise _read_only(f"{words[0]} takes the plain name of a table or a subquery")


def _words(canonical: str) -> Iterator[str]:
    for token in _TOKEN.finditer(canonical):
        if not token[0].startswith("'"):
            yield token[0] if token[1] is None else token[1]


def _read_only(why: str) -> QueryError:
    return refusal(READONLY, "READONLY", f"Cannot execute query in readonly mode: {why}.")


def is_reading(canonical: str) -> bool:
    """Tell whether a statement answers with a result set, even an empty one."""
    return canonical.partition(" ")[0] in READING


def format_of(canonical: str) -> str | None:
    """Return the format that a statement asks for by itself, None where it leaves that open."""
    found = _FORMAT.search(canonical)
    return found[1] if found else None


class Insert(NamedTuple):
    """An INSERT that brings its data along."""

    statement: str
    format: str
    data: bytes


def parse_insert(body: bytes) -> Insert | None:
    """Split `INSERT INTO ... FORMAT <name>` from its data; None for VALUES, SELECT and everything else."""
    found = _INSERT.match(body, 0, _LONGEST_INSERT_BYTES)
    if found is None:
        return None
    return Insert(found[1].decode().strip(), found[2].decode(), body[found.end() :])


def reader_settings(query: Mapping[str, str], limits: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a reader's request: the limits, lowered where asked, and what is allowed.

    Raises QueryError (READONLY) for any other setting.
    """
    settings = dict(limits)
    for name, value in query_settings(query).items():
        if name in limits:
            settings[name] = _lower(name, value, limits[name])
        elif name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES):
            settings[name] = value
        else:
            raise refusal(READONLY, "READONLY", f"Cannot modify '{name[:64]}' setting in readonly mode.")
    return settings


def query_settings(query: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's settings among URL parameters: no transport, no `param_`, only identifiers."""
    found = {n: v for n, v in query.items() if n not in _TRANSPORT and not n.startswith("param_")}
    for name in ("compress", "decompress"):
        if found.pop(name, "0") != "0":
            raise refusal(48, "NOT_IMPLEMENTED", f"{name}=1 is not supported; use Accept-Encoding or Content-Encoding.")
    for name in found:
        if not (name.isascii() and name.isidentifier()):
            raise refusal(115, "UNKNOWN_SETTING", f"{name[:64]!r} is not a setting.")
    return found


def _lower(name: str, asked: str, limit: str) -> str:
    if _LIMIT.fullmatch(asked) is None:
        raise refusal(72, "CANNOT_PARSE_NUMBER", f"{name} is not a number with at most 3 decimals.")
    return asked if 0 < Decimal(asked) < Decimal(limit) else limit  # ClickHouse's 0 means unlimited
