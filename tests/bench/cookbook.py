"""How long each question of the cookbook takes over a large store: `python -m tests.bench.cookbook [--sessions N]`.

A month of sessions of a thousand projects, the largest with three percent of them, is made inside the engine, with
room ends, tokens and emitted hours. Each question is asked of a middling project (the median of sessions, not of
projects, lies in one larger) and of the largest; the best of three counts, in wall time and CPU of all threads.
Making 20 million takes minutes: with `--keep DIRECTORY` they are made there once, and only asked the next time.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from pipeline.clickhouse import Store
from pipeline.embedded import load_meters
from pipeline.settings import Settings
from tests.cookbook import Question, questions

_SAY: Final = Console(stderr=True)
_LARGEST: Final = "project-0000"
_MIDDLING: Final = "project-0250"
_BATCH: Final = 2_000_000
_RUNS: Final = 3
#: Goals of the issue, on two cores, by what a question is over.
_GOALS_MS: Final = {"one": 200, "all": 2000}
#: A month of sessions, in the order of their starts: three to a room, projects by the square of a uniform number.
_SHAPE: Final = """
WITH
    number + {first:UInt64} AS n, intDiv(n, 3) AS room_number, cityHash64(n, 1) AS dice, cityHash64(n, 2) AS other,
    cityHash64(room_number, 3) AS room_dice,
    pow((room_dice % 1000003) / 1000003., 2) * 1000 AS skewed,
    concat('project-', leftPad(toString(toUInt32(floor(skewed))), 4, '0')) AS p,
    concat('RM_', substring(lower(hex(room_dice)), 1, 12)) AS r,
    toInt64(1788220800000) + toInt64(room_number * 3 / {sessions:UInt64} * 30 * 86400000) AS opened_ms,
    opened_ms + dice % 600000 AS start_ms, start_ms + toInt64(5000 + exp(other % 1000 / 1000. * 7.2) * 2000) AS end_ms
"""
_SESSIONS: Final = f"""
INSERT INTO session_facts (project, room, session, kind, number, agent, identity, region, connected_at, disconnected_at,
    last_seen, bytes_in, bytes_out, sources)
{_SHAPE}
SELECT p, r, concat('PA_', substring(lower(hex(dice)), 1, 12)),
    ['participant', 'participant', 'agent', 'sip'][1 + dice % 4], if(dice % 4 = 3, '+493012345', ''),
    if(dice % 4 = 2, 'support', ''), concat('user-', toString(other % 100000)), ['eu', 'us', 'ap'][1 + room_dice % 3],
    fromUnixTimestamp64Milli(start_ms, 'UTC'),
    if(other % 50 = 0, toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), fromUnixTimestamp64Milli(end_ms, 'UTC')),
    fromUnixTimestamp64Milli(end_ms, 'UTC'), dice % 100000000, other % 100000000, ['livekit/eu-1']
FROM numbers({{rows:UInt64}})
"""  # noqa: S608 - both parts are constants
_ROOMS: Final = f"""
INSERT INTO room_facts (project, room, ends, started_at)
{_SHAPE}
SELECT p, r, [fromUnixTimestamp64Milli(opened_ms + 4200000, 'UTC')], fromUnixTimestamp64Milli(opened_ms, 'UTC')
FROM numbers({{rows:UInt64}}) WHERE n % 3 = 0
"""  # noqa: S608 - both parts are constants
_TOKENS: Final = f"""
INSERT INTO discrete_facts (project, source, id, meter, hour, quantity, model, team, status, latency_ms)
{_SHAPE}
SELECT p, 'litellm', hex(dice), 'llm_input_tokens',
    toStartOfHour(fromUnixTimestamp64Milli(start_ms, 'UTC')), dice % 5000, concat('m-', toString(other % 5)),
    concat('team-', toString(dice % 20)), if(other % 100 = 0, 'error', 'ok'), other % 3000
FROM numbers({{rows:UInt64}}) WHERE n % 10 = 0
"""  # noqa: S608 - both parts are constants
_EVENTS: Final = f"""
INSERT INTO events (topic, partition, offset, broker_time, disposition, type, id, source, time, project, room, session)
{_SHAPE}
SELECT 'lifecycle', n % 8, n, fromUnixTimestamp64Milli(start_ms, 'UTC'),
    if(other % 10000 = 0, 'unknown_meter', 'accepted'), 'session.connected', hex(dice), 'livekit/eu-1',
    fromUnixTimestamp64Milli(start_ms, 'UTC'), p, r, concat('PA_', substring(lower(hex(dice)), 1, 12))
FROM numbers({{rows:UInt64}}) WHERE n % 10 = 0
"""  # noqa: S608 - both parts are constants
_ROLLUPS: Final = """
INSERT INTO rollups (project, meter, hour, revision, id, status, quantity, quantity_open, delta, increments,
    increments_open, increments_delta, sessions, as_of, watermark)
WITH number % 3000 AS cell, intDiv(number, 3000) AS hours, cityHash64(number) % 500 AS used,
    toDateTime64('2026-09-01 00:00:00', 3, 'UTC') + toIntervalHour(hours) AS begin
SELECT concat('project-', leftPad(toString(cell % 1000), 4, '0')),
    ['agent_session_minutes', 'webrtc_minutes', 'telephony_minutes'][1 + intDiv(cell, 1000)], begin, 1,
    generateUUIDv4(number), 'settled', used, 0, used, used, 0, used, used % 100, begin + INTERVAL 65 MINUTE,
    begin + INTERVAL 65 MINUTE
FROM numbers(3000 * 720)
"""


class Asked(NamedTuple):
    """What a question cost."""

    question: str
    over: str
    project: str
    wall_ms: float
    cpu_ms: float
    goal_ms: int


def main() -> None:
    """Make the store, ask everything, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cookbook", description=__doc__)
    parser.add_argument("--sessions", type=int, default=20_000_000, help="sessions of the month")
    parser.add_argument("--keep", type=Path, help="directory in which the store stays")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Store.open(f"chdb://{(arguments.keep or Path(directory)).resolve()}")) as store,
    ):
        store.migrate(load_meters(Settings()))
        [[kept]] = store.query("SELECT count() FROM session_facts")
        if kept not in (0, arguments.sessions):
            parser.error(f"{arguments.keep} has {kept} sessions: give another directory, or --sessions {kept}")
        if not kept:
            _fill(store, arguments.sessions)
        asked = [
            _ask(store, question, project)
            for question in questions()
            for project in ((_MIDDLING, _LARGEST) if question.over.startswith("one") else ("",))
        ]
    if arguments.json:
        sys.stdout.writelines(json.dumps(row._asdict()) + "\n" for row in asked)
        return
    title = f"cookbook over {arguments.sessions:,} sessions"
    table = Table("question", "over", "project", "wall ms", "CPU ms", "goal", title=title, title_justify="left")
    for row in asked:
        missed = " missed" if row.wall_ms > row.goal_ms else ""
        goal = f"< {row.goal_ms}{missed}"
        table.add_row(row.question, row.over, row.project, f"{row.wall_ms:,.0f}", f"{row.cpu_ms:,.0f}", goal)
    Console(width=140).print(table)


def _fill(store: Store, sessions: int) -> None:
    """Make the month; the questions name days that grow old, so what would lapse is kept."""
    for kept in ("events REMOVE TTL", "session_facts MODIFY COLUMN identity REMOVE TTL"):
        store.query(f"ALTER TABLE {kept}")
    for first in range(0, sessions, _BATCH):
        rows = {"first": first, "rows": min(_BATCH, sessions - first), "sessions": sessions}
        for statement in (_SESSIONS, _ROOMS, _TOKENS, _EVENTS):
            store.query(statement, **rows)
        _SAY.print(f"{first + rows['rows']:,} sessions")
    store.query(_ROLLUPS)


def _ask(store: Store, question: Question, project: str) -> Asked:
    """Ask three times; the best counts, since others share the machine."""
    sql = question.sql.replace("'acme'", f"'{project}'").replace("now64(3)", "toDateTime64('2026-09-30 12:00:00', 3)")
    costs = []
    for _ in range(_RUNS):
        began, used = time.perf_counter(), time.process_time()
        store.query(sql.replace("now('UTC')", "toDateTime('2026-09-30 12:00:00', 'UTC')"))
        costs.append((time.perf_counter() - began, time.process_time() - used))
    wall_s, cpu_s = (min(column) for column in zip(*costs, strict=True))
    goal = _GOALS_MS["all" if question.over.startswith("all") else "one"]
    return Asked(f"{question.number}. {question.asked}", question.over, project, wall_s * 1000, cpu_s * 1000, goal)


if __name__ == "__main__":
    main()
