"""Events of files straight into a store: batch by batch, of any size, as often as wanted."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from pipeline.clickhouse import Store
from pipeline.metering.units import MS_PER_DAY
from pipeline.metering.usage import CellKey, Usage
from pipeline.replay import digest, replay
from pipeline.rows import UsageQuery
from tests.databases import Databases
from tests.metering.builders import METERS, clock, connected, disconnected, of_room

_TOPIC: Final = "file:1"
#: The log of events forgets after 60 days.
_NOW_MS: Final = time.time_ns() // 1_000_000
_EVENTS: Final = [
    json.dumps(document).encode()
    for number in range(5)
    for document in (
        connected(f"14:0{number}:00", session=f"PA_{number}"),
        disconnected(f"14:3{number}:30", session=f"PA_{number}"),
    )
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded store that stays open while these tests run."""
    dsn = f"chdb://{tmp_path_factory.mktemp('clickhouse')}"
    with closing(Store.open(dsn)):
        yield dsn


@pytest.fixture(scope="module")
def databases() -> Databases:
    """The databases of that engine."""
    return Databases()


@pytest.fixture
def store(engine: str, databases: Databases) -> Iterator[Store]:
    """A store with a database without rows."""
    with databases.migrated(engine) as opened:
        yield opened


def _replay(store: Store, payloads: Iterable[bytes], batch_events: int = 1_000) -> Iterator[Counter[str]]:
    return replay(payloads, _TOPIC, store, METERS, _NOW_MS, 2_000, batch_events)


def _usage(store: Store) -> list[tuple[CellKey, Usage]]:
    return store.usage(UsageQuery(as_of_ms=clock("20:00:00")))


@pytest.mark.parametrize("batch_events", [1, 3, 1_000])
def test_the_size_of_batches_changes_nothing(store: Store, batch_events: int) -> None:
    """R10: no state is kept between them, the store joins their facts."""
    counts = list(_replay(store, _EVENTS, batch_events))
    assert [batch.total() for batch in counts[:-1]] == [batch_events] * (len(counts) - 1)
    assert _usage(store) == [(("acme", "agent_session_minutes", clock("14:00:00")), Usage(155, 0, 5))]


def test_a_file_replayed_again_backwards_changes_nothing(store: Store) -> None:
    """R10: neither the bill nor, for the same content, the log of events."""
    list(_replay(store, _EVENTS))
    before = _usage(store)
    list(_replay(store, _EVENTS, 3))
    assert store.query("SELECT count() FROM events FINAL")[0][0] == len(_EVENTS)
    list(_replay(store, reversed(_EVENTS)))
    assert _usage(store) == before


def test_a_batch_is_stored_before_the_next_is_read(store: Store) -> None:
    """A file may be larger than memory, and what was counted is safe."""
    unread = iter(_EVENTS)
    batches = _replay(store, unread, 4)
    next(batches)
    assert len(list(unread)) == len(_EVENTS) - 4
    assert store.progress(_TOPIC) == {0: (4, _NOW_MS)}


def test_what_became_of_each_event_is_counted(store: Store) -> None:
    """R21: accepted, ignored, or the reason; a bad one stops nothing behind it."""
    payloads = [
        b"{",
        _EVENTS[0],
        json.dumps(of_room("room.painted", "14:00:00")).encode(),
        b" " * 2_001,
        _EVENTS[1],
    ]
    assert list(_replay(store, payloads)) == [Counter(accepted=2, ignored=1, not_json=1, too_large=1)]
    assert len(_usage(store)) == 1


@pytest.mark.parametrize("days", [-9_000, 9_000])
def test_no_event_of_a_file_is_too_old_or_too_new(store: Store, days: int) -> None:
    """R11: a replay has no broker's clock, and applies no window."""
    moment_ms = clock("14:00:00") + days * MS_PER_DAY
    document = connected(moment_ms)
    assert list(_replay(store, [json.dumps(document).encode()])) == [Counter(accepted=1)]


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    """Copied to another place it is the same input; changed by a byte, another."""
    files = [tmp_path / name for name in ("a.jsonl", "copy of a.jsonl", "b.jsonl")]
    for file, content in zip(files, (b"{}", b"{}", b"{} "), strict=True):
        file.write_bytes(content)
    names = [digest(file) for file in files]
    assert names[0] == names[1] != names[2]
