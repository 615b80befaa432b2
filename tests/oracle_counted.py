"""The second opinion on what is reported rather than timed (R13 to R15): slow, from the rules alone.

It keeps every report in lists and asks, for every hour anew, how much there was by its begin and by its end.
As `tests.oracle` it shares no code with `pipeline`. Where the rules leave a choice, this is how they are read:
an hour has its first millisecond and not its end's; as of a moment within an hour all reports of that hour count; a
session's bytes count if it connected and is not void, also those reported after its end; a usage event is named
by (source, id) in its project, and of two meters it counts on the greater name; a number is held at the moment of its
acquire, however soon it is released.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: R16: the increments of the first table, in base units.
_INCREMENTS: Final = {
    "data_transfer_gb": 10_000_000,
    "observability_events": 1,
    "recorded_audio_minutes": 60_000,
    "stt_seconds": 1_000,
    "llm_input_tokens": 1,
    "llm_output_tokens": 1,
    "tts_characters": 1,
}

Document = dict[str, Any]
SessionName = tuple[str, str, str]
"""Project, room and session."""


class CountedHour(NamedTuple):
    """What one subject is billed in one hour."""

    project: str
    meter: str
    hour_ms: int
    increments: int


def read_time(text: str) -> int:
    """Read an RFC 3339 time in ms since the epoch; a leap second is the first instant of the next minute."""
    is_leap = text[17:19] == "60"
    gap = datetime.fromisoformat(f"{text[:17]}59{text[19:]}" if is_leap else text) - _EPOCH
    return gap.days * _DAY_MS + gap.seconds * 1_000 + gap.microseconds // 1_000 + (1_000 if is_leap else 0)


def counted(
    events: Iterable[Document], starts_ms: Mapping[SessionName, int | None], as_of_ms: int
) -> Iterator[CountedHour]:
    """Yield what every session's bytes, usage event and number are billed, hour by hour, where that is not nothing.

    `starts_ms` says when sessions began, None where they did not connect or are void.
    """
    events = list(events)
    yield from _bytes(events, starts_ms, as_of_ms)
    yield from _usage_events(events, as_of_ms)
    yield from _numbers(events, as_of_ms)


def _bytes(events: list[Document], starts_ms: Mapping[SessionName, int | None], as_of_ms: int) -> Iterator[CountedHour]:
    """R13: in and out together, of each the largest that was reported."""
    own: dict[SessionName, list[Document]] = defaultdict(list)
    for event in events:
        if event["type"] in ("session.sampled", "session.disconnected"):
            own[_name(event)].append(event)
    for name, start_ms in starts_ms.items():
        if start_ms is None or start_ms >= as_of_ms:
            continue
        reports = [
            (read_time(event["time"]), event["data"].get("bytes_in") or 0, event["data"].get("bytes_out") or 0)
            for event in own[name]
        ]
        for hour_ms in _hours([time_ms for time_ms, _, _ in reports], as_of_ms):
            amounts = []
            for edge_ms in (hour_ms, hour_ms + _HOUR_MS):
                before = [report for report in reports if report[0] < edge_ms]
                amounts.append(max((r[1] for r in before), default=0) + max((r[2] for r in before), default=0))
            yield from _grown(name[0], "data_transfer_gb", hour_ms, *amounts)


def _usage_events(events: list[Document], as_of_ms: int) -> Iterator[CountedHour]:
    """R14: each (source, id) once, with the largest quantity."""
    usage: dict[tuple[str, str, str], list[Document]] = defaultdict(list)
    for event in events:
        if event["type"] == "usage.recorded":
            usage[event["data"]["project"], event["source"], event["id"]].append(event)
    for (project, _, _), own in usage.items():
        meter = max(event["data"]["meter"] for event in own)
        reports = [(read_time(e["time"]), e["data"]["quantity"]) for e in own if e["data"]["meter"] == meter]
        for hour_ms in _hours([time_ms for time_ms, _ in reports], as_of_ms):
            before = max((quantity for time_ms, quantity in reports if time_ms < hour_ms), default=0)
            after = max(quantity for time_ms, quantity in reports if time_ms < hour_ms + _HOUR_MS)
            yield from _grown(project, meter, hour_ms, before, after)


def _numbers(events: list[Document], as_of_ms: int) -> Iterator[CountedHour]:
    """R15: go through every calendar month from the first acquire on and look for the first moment held in it."""
    moves = [event for event in events if event["type"].startswith("number.")]
    for project, number in sorted({(event["data"]["project"], event["data"]["number"]) for event in moves}):
        own = [event for event in moves if (event["data"]["project"], event["data"]["number"]) == (project, number)]
        acquires = sorted(read_time(event["time"]) for event in own if event["type"] == "number.acquired")
        releases = sorted(read_time(event["time"]) for event in own if event["type"] == "number.released")
        for month_ms, end_ms in _months(acquires[0], as_of_ms) if acquires else ():
            held = [acquired_ms for acquired_ms in acquires if month_ms <= acquired_ms < end_ms]
            for acquired_ms in acquires:
                later = [released_ms for released_ms in releases if released_ms >= acquired_ms]
                if acquired_ms < month_ms and (not later or later[0] > month_ms):
                    held.append(month_ms)
            if held and min(held) < as_of_ms:
                yield CountedHour(project, "number_rental", min(held) // _HOUR_MS * _HOUR_MS, 1)


def _months(first_ms: int, until_ms: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of every calendar month from the one of a moment to before another, day by day."""
    day = _EPOCH + timedelta(days=first_ms // _DAY_MS)
    day -= timedelta(days=day.day - 1)
    while (month_ms := (day - _EPOCH).days * _DAY_MS) < until_ms:
        following = day + timedelta(days=1)
        while following.day != 1:
            following += timedelta(days=1)
        yield month_ms, (following - _EPOCH).days * _DAY_MS
        day = following


def _name(event: Document) -> SessionName:
    return event["data"]["project"], event["data"]["room"], event["data"]["session"]


def _hours(times_ms: Iterable[int], as_of_ms: int) -> list[int]:
    return sorted({hour_ms for time_ms in times_ms if (hour_ms := time_ms // _HOUR_MS * _HOUR_MS) < as_of_ms})


def _grown(project: str, meter: str, hour_ms: int, before: int, after: int) -> Iterator[CountedHour]:
    """R1: billed by the end of the hour, less billed by its begin; each rounded up."""
    rounded = [(amount + _INCREMENTS[meter] - 1) // _INCREMENTS[meter] for amount in (before, after)]
    if rounded[1] > rounded[0]:
        yield CountedHour(project, meter, hour_ms, rounded[1] - rounded[0])
