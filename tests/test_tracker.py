"""Records in; facts, rows, changelog and dead letters out: the same however the records are split."""

from collections.abc import Iterable
from copy import deepcopy
from itertools import pairwise
from typing import NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import codec
from pipeline.metering.events import Reason
from pipeline.metering.session import Facts, Room
from pipeline.metering.timeline import is_live
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, format_time
from pipeline.tracker import Changes, Policy, Tracker
from tests.metering.builders import (
    METERS,
    Document,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    joined,
    of_room,
    parsed,
)
from tests.metering.strategies import logs

_WINDOW_MS = 60 * MS_PER_DAY
_SKEW_MS = 5 * MS_PER_MINUTE
_REST_MS = 6 * MS_PER_HOUR
_POLICY = Policy(2_000, _WINDOW_MS, _SKEW_MS, _REST_MS)
_NOW_MS = clock("20:00:00")
_CLOSED = [connected("14:00:00"), disconnected("14:10:00"), of_room("room.ended", "14:10:00")]


class _Record(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def _record(value: Document | bytes | None, offset: int = 0, partition: int = 0, at_ms: int = _NOW_MS) -> _Record:
    payload = orjson.dumps(value) if isinstance(value, dict) else value
    return _Record("lifecycle", partition, offset, at_ms, b"acme/RM_1", payload)


def _tracker(policy: Policy = _POLICY) -> Tracker:
    return Tracker(METERS, policy)


def _expected(log: Iterable[Document]) -> Facts:
    return facts_of(map(parsed, log))


def _facts_of_rows(changes: Changes) -> Facts:
    """Return what the store knows after it joined the rows of a batch."""
    facts = Facts()
    for project, name, known in changes.rooms:
        facts.rooms.setdefault((project, name), Room()).join(Room(known.ends_ms, known.started_at_ms))
    for project, name, session, observed in changes.sessions:
        facts.rooms.setdefault((project, name), Room()).join(Room(sessions={session: observed}))
    return joined([facts, Facts(restarts_ms=dict(changes.restarts), quantities=changes.quantities)])


def _in_memory(tracker: Tracker) -> Facts:
    """Return what a tracker remembers, joined over its partitions: of what was only reported, nothing."""
    return joined(deepcopy(facts) for facts in tracker.partitions.values())


def _remembered(facts: Facts) -> Facts:
    """Return facts without what was reported: that is the store's to join."""
    return Facts(facts.rooms, facts.restarts_ms)


def _batches(log: list[Document], cuts: list[int]) -> list[list[_Record]]:
    """Cut the records of a log into batches; some are empty."""
    edges = [0, *sorted(cut % (len(log) + 1) for cut in cuts), len(log)]
    records = [_record(document, offset) for offset, document in enumerate(log)]
    return [records[start:end] for start, end in pairwise(edges)]


_cuts = st.lists(st.integers(0, 100), max_size=5)


@given(logs, _cuts)
def test_any_split_into_batches_gives_the_same_facts(log: list[Document], cuts: list[int]) -> None:
    """R10: in memory, and joined from the rows of all batches."""
    tracker = _tracker()
    rows = [deepcopy(_facts_of_rows(tracker.apply(batch))) for batch in _batches(log, cuts)]
    assert joined(rows) == _expected(log)
    assert _in_memory(tracker) == _remembered(_expected(log))


@given(logs, st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_any_split_over_partitions_gives_the_same_facts(log: list[Document], numbers: list[int]) -> None:
    """R10: each worker knows a part, and their join is the whole."""
    tracker = _tracker()
    changes = tracker.apply(_record(document, partition=number) for document, number in zip(log, numbers, strict=False))
    assert _in_memory(tracker) == _remembered(_expected(log))
    assert changes.quantities == _expected(log).quantities


@given(logs, _cuts)
def test_records_applied_again_change_nothing(log: list[Document], cuts: list[int]) -> None:
    """R10: the next owner of a partition repeats what was not committed."""
    tracker = _tracker()
    for batch in (*_batches(log, cuts), *_batches(log, [])):
        tracker.apply(batch)
    assert _in_memory(tracker) == _remembered(_expected(log))


@given(logs, _cuts, st.booleans())
def test_what_is_recovered_from_the_changelog_is_what_was_known(
    log: list[Document],
    cuts: list[int],
    is_compacted: bool,  # noqa: FBT001 - drawn
) -> None:
    """The changelog whole or compacted: the newest entry of a key holds all."""
    tracker, recovered = _tracker(), _tracker()
    entries = [entry for batch in _batches(log, cuts) for entry in tracker.apply(batch).changelog[0]]
    recovered.recover(0, dict(entries).items() if is_compacted else entries)
    assert recovered.partitions[0] == _remembered(_expected(log))


def test_an_entry_without_a_value_forgets_what_it_names() -> None:
    """What was evicted does not come back with the next owner."""
    tracker, recovered = _tracker(), _tracker()
    entries = tracker.apply(map(_record, _CLOSED)).changelog[0] + tracker.evict(clock("14:10:00") + _WINDOW_MS)[0]
    recovered.recover(0, entries)
    assert recovered.partitions[0] == Facts()


def test_a_batch_gives_only_the_rows_that_it_touched() -> None:
    """A session among thousands of its room is one row, not thousands."""
    tracker = _tracker()
    tracker.apply(_record(connected("14:00:00", session=f"PA_{number}")) for number in range(9))
    changes = tracker.apply([_record(disconnected("14:10:00", session="PA_3"))])
    assert [row[:3] for row in changes.sessions] == [("acme", "RM_1", "PA_3")]
    assert (changes.rooms, len(changes.changelog[0])) == ([], 1)


_BAD: dict[Reason, Document | bytes] = {
    Reason.NOT_JSON: b"\xff{",
    Reason.NOT_AN_OBJECT: b"[]",
    Reason.TOO_LARGE: b"x" * 2_001,
    Reason.MISSING_FIELD: of_room("session.aborted", "14:00:00"),
    Reason.WRONG_FIELD: connected("14:00:00", region=7),
    Reason.UNKNOWN_VERSION: of_room("room.ended.v2", "14:00:00"),
    Reason.UNKNOWN_KIND: connected("14:00:00", kind="robot"),
    Reason.UNKNOWN_METER: event("usage.recorded", "14:00:00", project="acme", meter="steps", quantity=1),
    Reason.IMPOSSIBLE_TIME: of_room("room.ended", "14:00:00") | {"time": "yesterday"},
    Reason.NEGATIVE_QUANTITY: event("usage.recorded", "14:00:00", project="acme", meter="stt_seconds", quantity=-1),
    Reason.TOO_OLD: of_room("room.ended", _NOW_MS - _WINDOW_MS - 1),
    Reason.IN_THE_FUTURE: of_room("room.ended", _NOW_MS + _SKEW_MS + 1),
}


@pytest.mark.parametrize("reason", Reason)
def test_a_dead_letter_keeps_bytes_place_reason_and_time(reason: Reason) -> None:
    """R21: every reason of the closed list; its bytes as they came, with the key they came with."""
    record = _record(_BAD[reason], offset=41, partition=3)
    changes = _tracker().apply([record])
    [letter] = changes.dead_letters
    said = dict(letter.headers)
    assert (letter.key, letter.value) == (record.key, record.value)
    assert said.pop("detail")
    place = {"topic": b"lifecycle", "partition": b"3", "offset": b"41", "time": format_time(_NOW_MS).encode()}
    assert said == place | {"reason": reason.value.encode()}


@pytest.mark.parametrize("meter", [meter.name for meter in METERS.values() if meter.measures != "discrete"])
def test_usage_of_a_meter_that_is_measured_otherwise_is_refused(meter: str) -> None:
    """R14, R21: accepted, it would be kept and never billed; minutes, bytes and rentals are measured, not reported."""
    said = event("usage.recorded", "14:00:00", project="acme", meter=meter, quantity=60_000)
    assert [row.disposition for row in _tracker().apply([_record(said)]).events] == ["unknown_meter"]


def test_what_is_bad_stops_nothing_behind_it() -> None:
    """R21: good events before, between and after are joined; all are counted by what became of them."""
    good = [connected("14:00:00"), disconnected("14:10:00")]
    tracker = _tracker()
    changes = tracker.apply(
        _record(value, offset) for offset, value in enumerate([good[0], *_BAD.values(), {"x": 1}, good[1]])
    )
    assert tracker.partitions[0] == _expected(good)
    dispositions = [row.disposition for row in changes.events]
    assert dispositions == ["accepted", *(reason.value for reason in _BAD), "unknown_version", "accepted"]


def test_the_log_of_events_keeps_the_bytes_of_what_was_accepted_and_not_of_dead_letters() -> None:
    """R21: dead letters have their own topic; a copy would make the store hold what nobody can bound."""
    good = _record(connected("14:00:00"), 0)
    changes = _tracker().apply([good, _record(b"\xff{", 1)])
    assert [row.payload for row in changes.events] == [good.value, b""]


def test_a_record_without_key_and_value_can_still_be_sent_on() -> None:
    """R21: Kafka refuses a record that has neither, so an empty key stands for it."""
    changes = _tracker().apply([_record(None)._replace(key=None)])
    assert [(letter.key, letter.value) for letter in changes.dead_letters] == [(b"", None)]


def test_an_unknown_type_is_ignored_and_counted() -> None:
    """R21: not a dead letter, and no fact."""
    tracker = _tracker()
    changes = tracker.apply([_record(of_room("room.painted", "14:00:00"))])
    assert [row.disposition for row in changes.events] == ["ignored"]
    assert (changes.dead_letters, dict(changes.changelog), tracker.count()) == ([], {}, (0, 0))


@pytest.mark.parametrize(
    ("away_ms", "disposition"),
    [(-_WINDOW_MS, "accepted"), (-_WINDOW_MS - 1, "too_old"), (_SKEW_MS, "accepted"), (_SKEW_MS + 1, "in_the_future")],
)
@pytest.mark.parametrize("at_ms", [_NOW_MS, _NOW_MS - 900 * MS_PER_DAY])
def test_the_window_is_judged_by_the_records_timestamp(away_ms: int, disposition: str, at_ms: int) -> None:
    """R11: not by any clock of ours, so that a second run years later judges alike."""
    changes = _tracker().apply([_record(of_room("room.ended", at_ms + away_ms), at_ms=at_ms)])
    assert [row.disposition for row in changes.events] == [disposition]


def test_without_a_brokers_clock_no_window_applies() -> None:
    """R11: a file may hold events of any time."""
    log = [of_room("room.ended", _NOW_MS - 900 * MS_PER_DAY), of_room("room.ended", _NOW_MS + 900 * MS_PER_DAY)]
    changes = _tracker(Policy(2_000, None, 0, 0)).apply(map(_record, log))
    assert [row.disposition for row in changes.events] == ["accepted", "accepted"]


@pytest.mark.parametrize(("rest_ms", "count"), [(_REST_MS - 1, 1), (_REST_MS, 0)])
def test_a_closed_room_is_forgotten_when_it_has_rested(rest_ms: int, count: int) -> None:
    """Since it was last seen; the changelog forgets its sessions, and then the room."""
    tracker = _tracker()
    tracker.apply(map(_record, _CLOSED))
    entries = tracker.evict(clock("14:10:00") + rest_ms).get(0, [])
    forgotten = [(codec.split_key(key), value) for key, value in entries]
    assert tracker.count()[0] == count
    assert forgotten == ([] if count else [(("acme", "RM_1", "PA_1"), None), (("acme", "RM_1"), None)])


@pytest.mark.parametrize(("rest_ms", "count"), [(_WINDOW_MS - 1, 1), (_WINDOW_MS, 0)])
def test_a_room_with_a_live_session_stays_for_the_correction_window(rest_ms: int, count: int) -> None:
    """R11: as long as an event of it may still count."""
    tracker = _tracker()
    tracker.apply([_record(connected("14:00:00"))])
    tracker.evict(clock("14:00:00") + rest_ms)
    assert tracker.count() == (count, count)


@given(logs, logs)
def test_an_event_after_eviction_bills_as_if_nothing_had_been_forgotten(
    log: list[Document], late: list[Document]
) -> None:
    """R10, R11: the store joins what it had and what comes now."""
    tracker = _tracker()
    before = deepcopy(_facts_of_rows(tracker.apply(map(_record, log))))
    tracker.evict(_NOW_MS + _WINDOW_MS)
    assert tracker.count() == (0, 0)
    after = _facts_of_rows(tracker.apply(map(_record, late)))
    assert joined([before, after]) == _expected([*log, *late])


def test_a_session_that_connects_late_to_a_forgotten_room_is_live_in_memory_alone() -> None:
    """R5: the room's end is in the store, which bills by it; whoever rebuilds its memory from there knows it too."""
    tracker = _tracker()
    stored = [deepcopy(_facts_of_rows(tracker.apply(map(_record, _CLOSED))))]
    tracker.evict(_NOW_MS + _REST_MS)
    stored.append(_facts_of_rows(tracker.apply([_record(connected("14:05:00", session="PA_2"))])))
    [room] = joined(stored).rooms.values()
    assert tracker.count() == (1, 1)
    assert not is_live(room.sessions["PA_2"], room)


def test_partitions_that_another_worker_owns_are_forgotten() -> None:
    """What it will write is newer; what we keep would go stale."""
    tracker = _tracker()
    tracker.apply(_record(connected("14:00:00"), partition=number) for number in range(4))
    tracker.keep_only({1, 3, 7})
    assert tracker.partitions.keys() == {1, 3}


def test_rooms_and_live_sessions_are_counted() -> None:
    """R8: what is presumed to have ended is live; what has ended is not."""
    tracker = _tracker()
    log = [*_CLOSED, connected("14:20:00", session="PA_2"), connected("14:00:00", room="RM_2")]
    tracker.apply(map(_record, log))
    assert tracker.count() == (2, 2)
