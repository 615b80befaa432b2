"""Events from files: JSON Lines or JSON, in any format we know, as canonical events one at a time.

A canonical event that cannot be one is passed on as it stands, for the pipeline to set aside with its
reason (R21). A foreign file that cannot be read is the reader's to mend: it stops with UnreadableFile.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import orjson

from pipeline.janus.events import JanusAdapter
from pipeline.livekit import webhooks as livekit
from pipeline.llm import litellm as llm_litellm
from pipeline.llm import openai as llm_openai
from pipeline.llm import otlp as llm_otlp
from pipeline.metering.events import InvalidEvent
from pipeline.metering.units import format_time, parse_time

Known = Literal["canonical", "livekit", "janus", "litellm", "openai-log", "otlp"]
Format = Literal["auto"] | Known

#: Adapters without a memory, by format.
_ADAPTERS: Final[dict[str, Callable[[Mapping[str, Any], str], list[dict[str, Any]]]]] = {
    "livekit": livekit.canonical,
    "litellm": llm_litellm.canonical,
    "openai-log": llm_openai.canonical,
    "otlp": llm_otlp.canonical,
}
#: What an answer of OpenAI's API says it is.
_OPENAI: Final = ("chat.completion", "chat.completion.chunk", "text_completion", "response")
#: How many entries `detect_format` looks at before it gives up.
_LOOK_AT: Final = 100
#: The times in an event's data, and the names in it that are an event's own.
_TIMES: Final = ("connected_at", "started_at")
_NAMES: Final = ("room", "session", "job")


class UnreadableFile(ValueError):
    """A file that cannot be read as events; the message names the file, the line and what to do."""


class _Entry(NamedTuple):
    """One event as it stands in a file: the line (or place in a JSON array), its bytes, and what they decode to.

    `document` is None where the bytes are not JSON.
    """

    line: int
    raw: bytes
    document: object


def detect_format(path: Path) -> Known:
    """Tell a file's format by its first entries; raises UnreadableFile where none is known."""
    for number, entry in enumerate(_entries(path)):
        document = entry.document
        if isinstance(document, Mapping):
            if "specversion" in document:
                return "canonical"
            if "emitter" in document and "timestamp" in document:
                return "janus"
            if isinstance(document.get("event"), str):
                return "livekit"
            if "resourceMetrics" in document:
                return "otlp"
            if "prompt_tokens" in document and "startTime" in document:
                return "litellm"
            if document.get("object") in _OPENAI or "custom_id" in document:
                return "openai-log"
        if number >= _LOOK_AT:
            break
    raise UnreadableFile(
        f"{path}: no canonical event, LiveKit webhook, Janus event or LLM usage among the first {_LOOK_AT} entries; "
        "name the format if it is one of these"
    )


def read_events(path: Path, format: Format = "auto", project: str = "demo") -> Iterator[bytes]:  # noqa: A002 - the word
    """Yield the canonical events of a file as JSON bytes, in file order.

    Accepted are JSON Lines, a JSON array, and a conformance case ({"events": [...]}). `project` is who is
    billed for what names nobody; canonical events name theirs. JSON Lines are read line by line,
    a JSON array as a whole. Raises UnreadableFile.
    """
    known = detect_format(path) if format == "auto" else format
    if known == "canonical":
        for entry in _entries(path):
            yield entry.raw
        return
    convert = _converter(known, project)
    for entry in _entries(path):
        if not isinstance(entry.document, Mapping):
            raise _unreadable(path, entry.line, "not a JSON object")
        try:
            documents = convert(entry.document)
        except InvalidEvent as error:
            raise _unreadable(path, entry.line, f"not a {known} event ({error})") from error
        for document in documents:
            yield orjson.dumps(document)


def shifted(events: Iterable[bytes], to_ms: int) -> Iterator[bytes]:
    """Move canonical events in time so that the newest happens at `to_ms` (ms).

    All times move by the same offset. Ids of events, rooms, sessions and jobs get a suffix made of it, so
    that the same file moved to another time is another call. What is not an event passes as it stands.
    """
    moved = [(raw, _decoded(raw)) for raw in events]
    times_ms = [time_ms for _, document in moved for time_ms in _times_ms(document)]
    offset_ms = to_ms - max(times_ms, default=to_ms)
    for raw, document in moved:
        if isinstance(document, Mapping) and _times_ms(document):
            yield orjson.dumps(_moved(document, offset_ms))
        else:
            yield raw


def _converter(known: Known, project: str) -> Callable[[Mapping[str, Any]], list[dict[str, Any]]]:
    if known != "janus":
        adapt = _ADAPTERS[known]
        return lambda payload: adapt(payload, project)
    adapter = JanusAdapter(project)
    return lambda event: adapter.canonical([event])


def _unreadable(path: Path, line: int, problem: str) -> UnreadableFile:
    return UnreadableFile(
        f"{path}, entry {line}: {problem}; mend or remove it and read the file again "
        "(events that were read before count once, R10)"
    )


def _entries(path: Path) -> Iterator[_Entry]:
    """Yield the entries of a file: of its lines, or where it is one JSON document of many lines, of that."""
    try:
        with path.open("rb") as file:
            first = next((line for line in file if line.strip()), b"")
            file.seek(0)
            if _decoded(first) is None and first.lstrip()[:1] in (b"[", b"{"):
                document = _decoded(file.read())
                if document is not None:
                    yield from _expanded(0, b"", document)
                    return
                file.seek(0)
            for number, line in enumerate(file, start=1):
                if line.strip():
                    raw = line.rstrip(b"\r\n")
                    yield from _expanded(number, raw, _decoded(raw))
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror}; give the path of a file that can be read") from error


def _expanded(number: int, raw: bytes, document: object) -> Iterator[_Entry]:
    """Yield an entry, or those inside: a server's batch is a list, a conformance case an object with events.

    `number` is the line's, 0 for a document of many lines: its entries are counted instead.
    """
    if isinstance(document, Mapping) and isinstance(document.get("events"), list):
        document = document["events"]
    if not isinstance(document, list):
        yield _Entry(number or 1, raw or orjson.dumps(document), document)
        return
    for place, element in enumerate(document, start=1):
        yield _Entry(number or place, orjson.dumps(element), element)


def _decoded(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def _times_ms(document: object) -> list[int]:
    """Return every time an event names, in ms; none for what is not an event."""
    if not isinstance(document, Mapping):
        return []
    data = document.get("data")
    texts = [data.get(name) for name in _TIMES] if isinstance(data, Mapping) else []
    return [time_ms for text in (document.get("time"), *texts) if (time_ms := _time_ms(text)) is not None]


def _time_ms(text: object) -> int | None:
    try:
        return parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _moved(document: Mapping[str, Any], offset_ms: int) -> dict[str, Any]:
    """Return an event as it would be `offset_ms` later, with names of its own."""
    suffix = f"~{offset_ms:x}"

    def moved(fields: Mapping[str, Any], times: Iterable[str], names: Iterable[str]) -> dict[str, Any]:
        later = {name: format_time(ms + offset_ms) for name in times if (ms := _time_ms(fields.get(name))) is not None}
        renamed = {name: fields[name] + suffix for name in names if isinstance(fields.get(name), str)}
        return {**fields, **later, **renamed}

    data = document.get("data")
    if not isinstance(data, Mapping):
        return moved(document, ("time",), ("id",))
    is_named = document.get("subject") in [data.get(name) for name in _NAMES]
    return moved(document, ("time",), ("id", "subject") if is_named else ("id",)) | {
        "data": moved(data, _TIMES, _NAMES)
    }
