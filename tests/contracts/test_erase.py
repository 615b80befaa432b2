"""A project is erased, or what is personal in it; the books of all others stay as they were, and stay right."""

import hashlib
import re
from collections.abc import Callable
from typing import Any, Final

import orjson
import pytest

from pipeline.access import relations
from pipeline.audit.auditor import Auditor
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.erase import Erasure, Scope
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import revise
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, hour_of
from pipeline.replay import replay
from pipeline.rows import UsageQuery
from pipeline.settings import Settings
from tests.metering.builders import connected, disconnected, event

_NOW_MS: Final = now_ms()
_HOUR_MS: Final = hour_of(_NOW_MS) - MS_PER_DAY
#: A name that nobody may find again, in whatever form.
_EVE: Final = "Eve Example"


def _call(project: str) -> list[dict[str, Any]]:
    """Return events of a project: a session with all that is personal, and tokens."""
    says: dict[str, Any] = {
        "identity": _EVE,
        "attributes": {"mail": "eve@example.org", "nested": '{"name": "Eve Example"}'},
    }
    begin = connected(_HOUR_MS, "PA_1", project=project, **says)
    end = disconnected(_HOUR_MS + 10 * MS_PER_MINUTE, "PA_1", project=project, nickname=_EVE, bytes_in=2**53 + 1)
    tokens = event("usage.recorded", _HOUR_MS, project=project, meter="llm_input_tokens", quantity=7)
    return [begin | {"displayname": _EVE}, end, tokens]


@pytest.fixture
def books(store: Store, meters: Meters) -> Store:
    """Two projects with the same events, and their hours emitted."""
    payloads = [orjson.dumps(document) for project in ("acme", "bolt") for document in _call(project)]
    list(replay(payloads, "file:books", store, meters, _NOW_MS, 262_144, 30_000))
    usage = dict(store.usage(UsageQuery(as_of_ms=_NOW_MS)))
    store.insert_rollups(list(revise({}, usage, hour_of(_NOW_MS), hour_of(_NOW_MS))), meters)
    return store


@pytest.fixture
def findings(books: Store, meters: Meters) -> Callable[[], list[Any]]:
    """What an audit finds wrong."""
    auditor = Auditor(Settings(), meters, books, lambda _ms: None)
    return lambda: [difference for law in auditor.run(_NOW_MS).laws for difference in law.differences]


def _rows(store: Store, table: str, project: str) -> list[Any]:
    return sorted(map(repr, store.query(f"SELECT * FROM {table} WHERE project = {{project:String}}", project=project)))  # noqa: S608


def _digest(store: Store, project: str) -> str:
    tables = [relation.name for relation in relations(store) if relation.has_project and not relation.is_view]
    return hashlib.sha256(
        "\n".join(row for table in tables for row in _rows(store, table, project)).encode()
    ).hexdigest()


def _says(store: Store) -> str:
    return "".join(row for table in ("events", "session_facts") for row in _rows(store, table, "acme"))


def test_nothing_of_a_project_is_left_but_the_trail(books: Store) -> None:
    """What was erased is counted before and recorded after."""
    erasure = Erasure(books, "acme", Scope.PROJECT)
    found = erasure.found()
    assert found == {"counter_facts": 1, "discrete_facts": 1, "events": 3, "rollups": 3, "session_facts": 1}
    assert erasure.erase("jo", "their wish of today", _NOW_MS) == {}
    [trail] = books.query("SELECT project, scope, actor, reason, rows FROM erasures")
    assert trail == ("acme", "project", "jo", "their wish of today", found)
    assert erasure.kept() == {"erasures": 1}


def test_other_projects_are_as_they_were(books: Store) -> None:
    """To the byte, whichever is erased, and however its name is written."""
    before = _digest(books, "bolt")
    for project, scope in (
        ("acme", Scope.PROJECT),
        ("acme", Scope.PERSONAL_DATA),
        ("bol", Scope.PROJECT),
        ("' OR 1=1 --", Scope.PROJECT),
    ):
        Erasure(books, project, scope).erase("jo", "why", _NOW_MS)
    assert _digest(books, "bolt") == before


@pytest.mark.parametrize("scope", list(Scope))
def test_the_books_are_still_right(books: Store, findings: Callable[[], list[Any]], scope: Scope) -> None:
    """No input was lost (C1, C2), what is stored follows from the log (C4b), what was emitted from the facts (C4)."""
    assert findings() == []
    Erasure(books, "acme", scope).erase("jo", "why", _NOW_MS)
    assert findings() == []


def test_without_its_personal_data_a_project_has_the_same_bill(books: Store) -> None:
    """Nobody is named any more: not in facts, not in the log, not in what an event said beyond its schema."""
    usage = books.usage(UsageQuery(as_of_ms=_NOW_MS, project="acme"))
    assert _says(books).count(_EVE) == 5
    erasure = Erasure(books, "acme", Scope.PERSONAL_DATA)
    assert erasure.found() == {"session_facts": 1, "events": 2}
    assert erasure.erase("jo", "why", _NOW_MS) == {}
    assert books.usage(UsageQuery(as_of_ms=_NOW_MS, project="acme")) == usage
    assert re.findall("(?i)eve example|eve@|nickname|attributes", _says(books)) == []


def test_what_comes_after_an_erasure_is_found_by_the_next(books: Store, meters: Meters) -> None:
    """Who did not stop its producers first is told so."""
    erasure = Erasure(books, "acme", Scope.PROJECT)
    erasure.erase("jo", "why", _NOW_MS)
    late = orjson.dumps(connected(_HOUR_MS + MS_PER_HOUR, "PA_2", project="acme"))
    list(replay([late], "file:late", books, meters, _NOW_MS, 262_144, 30_000))
    assert erasure.found() == {"events": 1, "session_facts": 1}
