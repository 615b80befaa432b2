"""The bill by SQL over the raw events of a store (tests/sql_oracle.sql), and a digest that knows no order."""

from collections.abc import Iterable
from hashlib import md5
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.clickhouse import Store

_SQL: Final = Path(__file__).with_suffix(".sql").read_text()
_COUNTED: Final = Path(__file__).with_name("sql_oracle_counted.sql").read_text()
_DIGEST: Final = f"""
SELECT count(), sum(reinterpretAsUInt64(substring(MD5(arrayStringConcat(
    [project, meter, room, session, toString(hour_ms), toString(minutes), toString(minutes_open)], '|')), 1, 8)))
FROM ({_SQL})
"""  # noqa: S608 - of two constants


class Line(NamedTuple):
    """Minutes begun by one session in one hour on one meter ('' where it feeds none), and those of it while open."""

    project: str
    meter: str
    room: str
    session: str
    hour_ms: int
    minutes: int
    minutes_open: int


def sql_oracle(store: Store, as_of_ms: int, orphan_after_ms: int) -> list[Line]:
    """Return what the raw events of a store bill as of a moment, in no order."""
    rows = store.query(_SQL, as_of=as_of_ms / 1_000, orphan_after_ms=orphan_after_ms)
    return [Line(*row) for row in rows]


def sql_oracle_counted(store: Store, as_of_ms: int) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Return increments and subjects of what is reported, by project, meter and hour, from raw events (R13 to R15)."""
    rows = store.query(_COUNTED, as_of=as_of_ms / 1_000)
    return {(project, meter, hour_ms): (increments, count) for project, meter, hour_ms, increments, count in rows}


def sql_digest(store: Store, as_of_ms: int, orphan_after_ms: int) -> tuple[int, int]:
    """Return `digest` of the same lines, computed by the store."""
    [found] = store.query(_DIGEST, as_of=as_of_ms / 1_000, orphan_after_ms=orphan_after_ms)
    return (found[0], found[1])


def digest(lines: Iterable[Line]) -> tuple[int, int]:
    """Return how many lines there are and the sum of their hashes: a sum, since a xor would hide pairs."""
    hashes = [md5("|".join(map(str, line)).encode(), usedforsecurity=False).digest()[:8] for line in lines]
    return len(hashes), sum(int.from_bytes(part, "little") for part in hashes) % 2**64
