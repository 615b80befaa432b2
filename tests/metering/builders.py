"""Short ways to say events in tests, and to bill them with the core."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pipeline.metering.events import Event, parse_event
from pipeline.metering.meters import Meters, parse_meters
from pipeline.metering.session import Facts
from pipeline.metering.timeline import ORPHAN_AFTER_MS, Timeline, newest_restart_ms, timeline
from pipeline.metering.usage import usage

Document = dict[str, Any]

ROOT: Final = Path(__file__).parents[2]
METERS: Final = parse_meters((ROOT / "schemas" / "meters.toml").read_text())
_DAY: Final = datetime(2026, 9, 21, tzinfo=UTC)


def clock(text: str) -> int:
    """Return a time of day, H:MM:SS[.mmm], on the test's day in ms; 24:00:00 and later is the next day."""
    hours, minutes, seconds = text.split(":")
    whole, _, thousandths = seconds.partition(".")
    since_midnight_ms = (int(hours) * 60 + int(minutes)) * 60_000 + int(whole) * 1_000 + int(thousandths or 0)
    return int(_DAY.timestamp()) * 1_000 + since_midnight_ms


def rfc3339(time_ms: int) -> str:
    """Write ms since the epoch as RFC 3339 in UTC."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec="milliseconds")


def event(event_type: str, time: str | int, source: str = "sfu-1", **data: object) -> Document:
    """Return a canonical event; `time` is a time of day (see `clock`) or ms since the epoch."""
    time_ms = clock(time) if isinstance(time, str) else time
    return {
        "specversion": "1.0",
        "id": "EV_1",
        "source": source,
        "type": event_type,
        "time": rfc3339(time_ms),
        "data": data,
    }


def of_room(event_type: str, time: str | int, source: str = "sfu-1", **data: object) -> Document:
    """Return a room.* event of acme's RM_1."""
    return event(event_type, time, source, **{"project": "acme", "room": "RM_1"} | data)


def connected(time: str | int, session: str = "PA_1", source: str = "sfu-1", **data: object) -> Document:
    """Return the connect of an agent to acme's RM_1."""
    return of_room("session.connected", time, source, **{"session": session, "kind": "agent"} | data)


def disconnected(time: str | int, session: str = "PA_1", source: str = "sfu-1", **data: object) -> Document:
    """Return the disconnect of a session in acme's RM_1."""
    return of_room("session.disconnected", time, source, session=session, **data)


def sampled(time: str | int, session: str = "PA_1", source: str = "sfu-1", **data: object) -> Document:
    """Return a sign of life of a session in acme's RM_1."""
    return of_room("session.sampled", time, source, session=session, **data)


def absent(time: str | int, session: str = "PA_1", source: str = "reconcile/sfu-1", **data: object) -> Document:
    """Return a server's answer that it does not know a session in acme's RM_1 any more."""
    return of_room("session.absent", time, source, session=session, **data)


def amended(time: str | int, epoch: int = 1, session: str = "PA_1", **data: object) -> Document:
    """Return an operator's amendment of a session in acme's RM_1."""
    who = {"actor": "jo", "reason": "ticket 4711"}
    return of_room("session.amended", time, "roommeter/amend", **{"session": session, "epoch": epoch} | who | data)


def aborted(time: str | int, session: str = "PA_1", source: str = "sfu-1", **data: object) -> Document:
    """Return the abort of a session in acme's RM_1."""
    return of_room("session.aborted", time, source, session=session, **data)


def parsed(document: Document, meters: Meters = METERS) -> Event:
    """Return the event of a document that has to be one."""
    parsed_event = parse_event(document, meters)
    assert parsed_event is not None
    return parsed_event


def facts_of(events: Iterable[Event]) -> Facts:
    """Return the facts of events, observed one after the other."""
    facts = Facts()
    for one in events:
        facts.observe(one)
    return facts


def joined(parts: Iterable[Facts]) -> Facts:
    """Return the join of facts, which stay as they are."""
    facts = Facts()
    for part in parts:
        facts.join(part)
    return facts


def bill(documents: Iterable[Document], as_of: str) -> dict[tuple[str, str], int]:
    """Return acme's increments by (meter, hour of day) as the core bills them; "14" is the hour from 14:00."""
    cells = usage(facts_of(map(parsed, documents)), METERS, clock(as_of))
    midnight_ms = clock("0:00:00")
    return {
        (meter, str((hour_ms - midnight_ms) // 3_600_000)): cell.increments
        for (project, meter, hour_ms), cell in cells.items()
        if project == "acme"
    }


def timelines(
    events: Sequence[Event], as_of_ms: int, orphan_after_ms: int = ORPHAN_AFTER_MS
) -> dict[tuple[str, str, str], Timeline | None]:
    """Return the timeline of every session (project, room, session) as the core sees it."""
    facts = facts_of(events)
    return {
        (*key, name): timeline(
            session, facts.rooms[key], newest_restart_ms(session, facts.restarts_ms), as_of_ms, orphan_after_ms
        )
        for key, name, session in facts.sessions()
    }
