"""The audit of what is reported (C3, C4b), and the facts that an upgrade takes from the log."""

import time
from collections.abc import Callable
from typing import Any, Final

import orjson
import pytest

from pipeline import migrations
from pipeline.audit.laws import Checked, Difference, Law
from pipeline.audit.quantities import check_quantities
from pipeline.clickhouse import Store
from pipeline.metering.meters import Meters
from pipeline.metering.quantities import Held, Quantities, Recorded, Transferred
from pipeline.metering.units import MS_PER_HOUR
from pipeline.replay import replay
from pipeline.rows import Batch, UsageQuery
from tests.metering.builders import Document, clock, connected, disconnected, event, sampled

_HOUR_MS: Final = clock("14:00:00")
_LOG: Final[list[Document]] = [
    connected("14:00:00"),
    sampled("14:10:00", bytes_in=7, bytes_out=8),
    disconnected("15:00:00", bytes_in=9_000_000),
    event("usage.recorded", "14:00:00", project="acme", meter="stt_seconds", quantity=1_001, model="a"),
    event("usage.recorded", "14:30:00", project="acme", meter="stt_seconds", quantity=900, model="b"),
    event("number.acquired", "14:00:00", project="acme", number="+15550100"),
    event("number.released", "14:59:00", project="acme", number="+15550100"),
]


def _replay(store: Store, meters: Meters) -> None:
    list(replay(map(orjson.dumps, _LOG), "log", store, meters, time.time_ns() // 1_000_000, 65_536, 100))


def _differences(store: Store, floor_ms: int = 0, pause: Callable[[int], None] = lambda _: None) -> list[Difference]:
    result = Checked(Law.FACTS)
    check_quantities(result, store, 0, floor_ms, "", pause)
    assert result.checked
    return result.differences


_ALTERED: Final[dict[str, tuple[Quantities, str]]] = {
    "bytes that no event tells": (
        Quantities(counters={("acme", "RM_1", "PA_1", _HOUR_MS): Transferred(7, 9)}),
        "bytes in and out are stored as 7 and 9, the events give 7 and 8",
    ),
    "a quantity that no event tells": (
        Quantities(discrete={("acme", "sfu-1", "EV_1", "stt_seconds", _HOUR_MS): Recorded(1_002)}),
        "usage event EV_1 of sfu-1 is stored with 1002, the events give 1001",
    ),
    "an acquire that no event tells": (
        Quantities(numbers={("acme", "+15550100"): Held(frozenset({_HOUR_MS + 1}))}),
        "number +15550100 acquired at 2026-09-21T14:00:00.001Z is stored, but no event tells it",
    ),
}


@pytest.mark.parametrize(("added", "detail"), _ALTERED.values(), ids=_ALTERED)
def test_what_no_event_tells_is_named_and_its_hour_held(
    store: Store, meters: Meters, added: Quantities, detail: str
) -> None:
    """C4b: nothing is stored that no event tells; of what is older than the log nobody knows."""
    _replay(store, meters)
    assert _differences(store) == []
    store.write(Batch(quantities=added))
    [found] = _differences(store)
    assert (found.detail, found.holds) == (detail, frozenset({("acme", _HOUR_MS)}))
    assert _differences(store, floor_ms=_HOUR_MS + MS_PER_HOUR) == []


@pytest.mark.parametrize("table", ["counter_facts", "discrete_facts", "number_facts"])
def test_what_an_event_tells_and_nobody_stored_is_named(store: Store, meters: Meters, table: str) -> None:
    """C4b: joining what the events give must change nothing, however old it is."""
    _replay(store, meters)
    store._client.command(f"TRUNCATE TABLE {table}")
    assert len(_differences(store, floor_ms=_HOUR_MS + 99 * MS_PER_HOUR)) == 2 - (table == "discrete_facts")


def test_a_report_on_its_way_is_no_difference(store: Store, meters: Meters) -> None:
    """A worker stores facts first: at a later look the event is there."""
    facts = Quantities(numbers={("acme", "+15550100"): Held(frozenset({_HOUR_MS}), frozenset({clock("14:59:00")}))})
    store.write(Batch(quantities=facts))
    assert _differences(store, pause=lambda _: _replay(store, meters)) == []


def test_an_upgrade_meters_what_the_log_knew(open_store: Callable[[], Store], meters: Meters) -> None:
    """R16, R20: the facts are those of a replay, labels too; migrating again changes nothing."""
    store = open_store()
    store.migrate(meters)
    _replay(store, meters)
    expected = _everything(store)
    for table in ("counter_facts", "discrete_facts", "number_facts"):
        store._client.command(f"TRUNCATE TABLE {table}")
    assert _everything(store) != expected
    [upgrade] = [file for file in migrations.shipped_migrations() if file.version.startswith("0010")]
    for number in range(2):
        store.apply([migrations.Migration(f"again_{number}", upgrade.script)], meters)
        assert _everything(store) == expected


_QUESTIONS: Final = [
    "SELECT project, room, session, hour, max(bytes_in), max(bytes_out) FROM counter_facts GROUP BY ALL",
    "SELECT project, source, id, meter, hour, max(quantity), max(model), max(team) FROM discrete_facts GROUP BY ALL",
    "SELECT project, number, groupUniqArrayArray(acquired), max(released) FROM number_facts GROUP BY ALL",
]


def _everything(store: Store) -> tuple[Any, ...]:
    facts = [sorted(map(tuple, store.query(question))) for question in _QUESTIONS]
    return (*facts, store.usage(UsageQuery(as_of_ms=clock("20:00:00"))))
