"""What the emitter does not look at did not change: the view `changes` on random logs, beside all usage (R17, R20)."""

from collections.abc import Iterator
from itertools import count

import orjson
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metering.meters import Meters
from pipeline.metering.units import MS_PER_HOUR, NEVER_MS, hour_of
from pipeline.metering.usage import CellKey, Usage
from pipeline.rows import ChangeQuery, Changes, UsageQuery
from pipeline.tracker import Policy, Tracker
from pipeline.work import work_out
from tests.bench.load import Line
from tests.metering.builders import Document
from tests.metering.strategies import logs, moments_ms, orphan_afters_ms

_NOTHING = ChangeQuery(since_ms=NEVER_MS, after_ms=0, until_ms=0)
_offsets = count()


class _Books:
    """A store in which each example has projects of its own."""

    def __init__(self, store: Store, meters: Meters) -> None:
        self._store = store
        self._tracker = Tracker(meters, Policy(10_000, None, 0, 0))
        self._of = f"-{next(_offsets)}"

    def ingest(self, log: list[Document]) -> None:
        """Write what a worker would."""
        lines = [
            Line("file:changes", 0, next(_offsets), now_ms(), None, orjson.dumps(self._own(document)))
            for document in log
        ]
        if lines:
            self._store.write(work_out(self._tracker, lines))

    def _own(self, document: Document) -> Document:
        data = document["data"]
        return document | {"data": data | {"project": data["project"] + self._of} if "project" in data else data}

    def usage(self, as_of_ms: int, orphan_after_ms: int) -> dict[CellKey, Usage]:
        """Return the usage of this example's projects, of complete hours."""
        query = UsageQuery(as_of_ms=as_of_ms, to_ms=hour_of(as_of_ms), orphan_after_ms=orphan_after_ms)
        return {key: cell for key, cell in self._store.usage(query) if key[0].endswith(self._of)}

    def changes(self, query: ChangeQuery) -> Changes:
        """Ask the store."""
        return self._store.changes(query)


def _between(one: dict[CellKey, Usage], other: dict[CellKey, Usage]) -> Iterator[int]:
    """Yield the hour of every cell that two usages do not agree on."""
    yield from (key[2] for key in one.keys() | other.keys() if one.get(key) != other.get(key))


@settings(
    max_examples=30, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(logs, st.integers(0, 100), moments_ms, st.integers(0, 30 * MS_PER_HOUR), orphan_afters_ms)
def test_no_hour_changes_before_the_one_that_is_named(
    store: Store, meters: Meters, log: list[Document], cut: int, as_of_ms: int, later_ms: int, orphan_after_ms: int
) -> None:
    """Whatever is ingested, and however long nothing is: every cell that differs lies in an hour that is looked at."""
    books = _Books(store, meters)
    books.ingest(log[: cut % (len(log) + 1)])
    looked = books.changes(_NOTHING)
    before = books.usage(as_of_ms, orphan_after_ms)
    books.ingest(log[cut % (len(log) + 1) :])
    changes = books.changes(
        ChangeQuery(
            since_ms=looked.store_ms,
            after_ms=as_of_ms,
            until_ms=as_of_ms + later_ms,
            orphan_after_ms=orphan_after_ms,
        )
    )
    after = books.usage(as_of_ms + later_ms, orphan_after_ms)
    from_ms = min(hour_of(changes.earliest_ms), hour_of(as_of_ms))
    assert [hour_ms for hour_ms in _between(before, after) if hour_ms < from_ms] == []


def test_where_nothing_is_ingested_nothing_changes(store: Store) -> None:
    """A quiet store costs an emitter a question."""
    assert store.changes(_NOTHING).earliest_ms == NEVER_MS
