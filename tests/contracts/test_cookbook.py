"""Every question of the cookbook is answered, and those whose answer is known by hand rightly.

The cookbook names days of September 2026; what is asked here are yesterday and its month, since old events lapse.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from unittest.mock import ANY
from uuid import uuid4

import orjson
import pytest

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metering.events import Amendment
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, NEVER_MS
from pipeline.replay import replay
from pipeline.rows import Batch
from tests.cookbook import TEXT, Question, questions
from tests.metering.builders import connected, disconnected, event

_NOW_MS: Final = now_ms()
_DAY_MS: Final = _NOW_MS // MS_PER_DAY * MS_PER_DAY - MS_PER_DAY
_DAY: Final = datetime.fromtimestamp(_DAY_MS / 1000, UTC)
_MONTH: Final = _DAY.replace(day=1)
_LAST_MONTH: Final = (_MONTH - timedelta(days=1)).replace(day=1)
#: What is asked in place of the days that the cookbook names.
_MEANT: Final = {
    "2026-09-21": f"{_DAY:%Y-%m-%d}",
    "2026-09-22": f"{_DAY + timedelta(days=1):%Y-%m-%d}",
    "2026-09-01": f"{_MONTH:%Y-%m-%d}",
    "2026-10-01": f"{(_MONTH + timedelta(days=32)).replace(day=1):%Y-%m-%d}",
    "2026-08-01": f"{_LAST_MONTH:%Y-%m-%d}",
    "2026-09": f"{_MONTH:%Y-%m}",
}
_LEAST_QUESTIONS: Final = 20
_TOKENS: Final = "llm_input_tokens"
#: Answers that are known, by the number of the question: at least half of all.
_KNOWN: Final[dict[int, list[tuple[Any, ...]]]] = {
    1: [("acme", "webrtc_minutes", 45, "minute"), ("bolt", "agent_session_minutes", 7, "minute")],
    2: [(_DAY.date(), "webrtc_minutes", 45)],
    3: [("acme", "webrtc_minutes", 20, 45, 25), ("bolt", "agent_session_minutes", 0, 7, 7)],
    4: [("acme", "webrtc_minutes", -15, 45)],
    6: [("bolt", "agent_session_minutes", 1, 3)],
    7: [("USD", 1, Decimal("12.5"))],
    8: [("bolt", 7, 1)],
    11: [("PA_amended", 3, ["amended"])],
    14: [
        ("acme", "PA_amended", 1, False, None, _DAY.replace(tzinfo=None) + timedelta(hours=1, minutes=3), "jo", "why")
    ],
    15: [("participant", "", 3, 6), ("agent", "support", 1, 2)],
    16: [("agent", 90, 90, 90), ("participant", 70, 180, 180)],
    17: [("agent", 2, 90, 30), ("participant", 6, 260, 100)],
    18: [(2, _DAY.replace(tzinfo=None))],
    19: [("RM_2", "eve", 2, 3)],
    20: [("RM_2", 2, 3), ("RM_3", 1, 3), ("RM_1", 1, 2)],
    21: [("red", "m-1", _TOKENS, 2, 77), ("blue", "m-1", _TOKENS, 1, 5)],
    22: [("m-1", 3, 1, 70)],
    23: [("participant", 2, ANY)],
    24: [("RM_4", "PA_silent", ANY, ANY)],
    26: [("unknown_meter", 1, _DAY.replace(tzinfo=None))],
    27: [(0, 45)],
}


def _asked(question: Question) -> str:
    """Ask for yesterday and its month; what is asked of now, of a project that has open sessions."""
    sql = re.sub(r"'(2026-[\d-]+)'", lambda found: f"'{_MEANT[found[1]]}'", question.sql)
    return sql.replace("'acme'", "'live'") if question.over.endswith("now") else sql


def _events() -> Iterator[dict[str, Any]]:
    """Yield a day of acme: an agent of 90 s, eve twice, 10 and 70 s, an hour that is amended, tokens of two teams."""
    yield connected(_DAY_MS, "PA_agent", project="acme", agent="support")
    yield disconnected(_DAY_MS + 90_000, "PA_agent", project="acme")
    for session, begin_ms, duration_ms in (("PA_1", 0, 10_000), ("PA_2", 20_000, 70_000)):
        who = {"kind": "participant", "identity": "eve"}
        yield connected(_DAY_MS + begin_ms, session, project="acme", room="RM_2", **who)
        yield disconnected(_DAY_MS + begin_ms + duration_ms, session, project="acme", room="RM_2")
    yield connected(_DAY_MS + MS_PER_HOUR, "PA_amended", project="acme", kind="participant", room="RM_3")
    yield disconnected(_DAY_MS + 2 * MS_PER_HOUR, "PA_amended", project="acme", room="RM_3")
    yield disconnected(_DAY_MS, "PA_never", project="acme")
    for team, tokens, status in (("red", 70, "ok"), ("red", 7, "error"), ("blue", 5, "ok")):
        says: dict[str, Any] = {"team": team, "model": "m-1", "status": status, "latency_ms": tokens}
        used = event("usage.recorded", _DAY_MS, project="acme", meter=_TOKENS, quantity=tokens, **says)
        yield used | {"id": f"EV_{tokens}"}
    for session, silent_ms in (("PA_open", MS_PER_MINUTE), ("PA_silent", 20 * MS_PER_MINUTE)):
        yield connected(_NOW_MS - silent_ms, session, project="live", kind="participant", room="RM_4")


@pytest.fixture(scope="module")
def fed(store_dsn: str, meters: Meters) -> Iterator[Store]:
    """A store with that day, with emitted hours, an amendment, an invoice and a dead letter."""
    store = Store.open(store_dsn, f"test_{uuid4().hex}")
    store.migrate(meters)
    list(replay(map(orjson.dumps, _events()), "file:day", store, meters, _NOW_MS, 262_144, 30_000))
    end_ms = _DAY_MS + MS_PER_HOUR + 3 * MS_PER_MINUTE
    amendment = Amendment(1, is_void=False, started_at_ms=NEVER_MS, ended_at_ms=end_ms, actor="jo", reason="why")
    amended = Session("participant", amendment=amendment)
    dead = ("lifecycle", 0, 7, _DAY_MS, "unknown_meter", None, b"{}")
    store.write(Batch(sessions=[("acme", "RM_3", "PA_amended", amended)], events=[dead]))
    last_month_ms = int(_LAST_MONTH.timestamp() * 1000)
    rollups = [
        Rollup("acme", "webrtc_minutes", _DAY_MS, 1, 60, 10, 60, 4, _NOW_MS - 1, _NOW_MS),
        Rollup("acme", "webrtc_minutes", _DAY_MS, 2, 45, 0, -15, 3, _NOW_MS, _NOW_MS),
        Rollup("acme", "webrtc_minutes", last_month_ms, 1, 20, 0, 20, 1, _NOW_MS, _NOW_MS),
        Rollup("bolt", "agent_session_minutes", _DAY_MS, 1, 7, 3, 7, 1, _NOW_MS, _NOW_MS),
    ]
    store.insert_rollups(rollups, meters)
    store.query(
        "INSERT INTO invoices (number, project, month, currency, total, as_of, document) "
        "VALUES (1, 'acme', {month:String}, 'USD', 12.5, now64(3), '{}')",
        month=f"{_MONTH:%Y-%m}",
    )
    yield store
    store.query(f"DROP DATABASE {store.target.database} SYNC")
    store.close()


def test_there_are_enough_questions_and_each_is_found() -> None:
    """Numbered without gaps; a heading that does not parse would be a question that nobody runs."""
    found = questions()
    assert [question.number for question in found] == list(range(1, TEXT.count("```sql") + 1))
    assert len(found) >= _LEAST_QUESTIONS
    assert 2 * len(_KNOWN) >= len(found)


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.asked)
def test_a_question_is_answered_with_the_columns_that_it_promises(fed: Store, question: Question) -> None:
    """And rightly, where the answer is known by hand."""
    sql = _asked(question)
    assert [name for name, *_ in fed.query(f"DESCRIBE ({sql})")] == question.columns
    rows = fed.query(sql)
    assert rows == _KNOWN.get(question.number, rows)
    assert rows or question.number == 25, "no row would pass whatever is asked"
