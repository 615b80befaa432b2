"""The limit at which a worker stops rather than bury nearly everything (R21, R22)."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.deadletters.breaker import Breaker, Counts, count_by_project
from pipeline.metering.events import Reason
from pipeline.tracker import Policy, Tracker
from tests.metering.builders import METERS

_counts = st.dictionaries(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 400)).map(Counter)
_batches = st.lists(st.builds(Counts, _counts, _counts), max_size=12)


def _batch(accepted: int = 0, dead: int = 0, project: str = "acme") -> Counts:
    return Counts(Counter({project: accepted}), Counter({project: dead}))


def test_a_backlog_that_fails_as_a_whole_is_stopped_before_its_first_batch_is_buried() -> None:
    """R22: a worker started with a wrong table of meters drains nothing into the dead letters."""
    assert not Breaker(90, 1_000).admits(_batch(dead=1_000))


def test_a_trickle_that_fails_is_stopped_after_less_than_a_window() -> None:
    """R22: where records come one by one, fewer than a window are buried, all of which can be replayed."""
    breaker = Breaker(90, 1_000)
    assert [breaker.admits(_batch(dead=1)) for _ in range(1_001)] == [True] * 999 + [False] * 2


def test_few_records_stop_nothing_whatever_they_are() -> None:
    """At the start there is nothing to compare with."""
    assert Breaker(90, 1_000).admits(_batch(dead=999))


@pytest.mark.parametrize(("accepted", "dead", "is_admitted"), [(100, 900, True), (99, 901, False), (0, 1000, False)])
def test_the_limit_is_reached_when_more_than_the_share_fails(accepted: int, dead: int, *, is_admitted: bool) -> None:
    """Exactly the share may fail."""
    assert Breaker(90, 1_000).admits(_batch(accepted, dead)) is is_admitted


def test_what_was_accepted_long_ago_excuses_nothing() -> None:
    """Only the last records are looked at: a good week does not hide that everything fails now."""
    breaker = Breaker(90, 1_000)
    assert breaker.admits(_batch(accepted=1_000_000))
    told = [breaker.admits(_batch(dead=100)) for _ in range(11)]
    assert told == [True] * 9 + [False] * 2


def test_a_burst_of_one_producer_stops_nobody_else() -> None:
    """Its project fails, the others do not: the fault is not the worker's."""
    breaker = Breaker(90, 1_000)
    assert breaker.admits(_batch(accepted=1, project="quiet"))
    assert breaker.admits(_batch(dead=900, project="loud"))
    assert breaker.admits(Counts(Counter(quiet=1), Counter(loud=5_000)))


def test_when_all_projects_fail_one_exception_excuses_nothing() -> None:
    """R22: more than the share of projects is nearly all of them."""
    dead = Counter({f"project-{number}": 100 for number in range(20)})
    assert not Breaker(90, 1_000).admits(Counts(Counter(exception=100), dead))


def test_a_refused_batch_is_refused_again() -> None:
    """It was not buried: asked again, nothing has changed."""
    breaker = Breaker(90, 1_000)
    assert [breaker.admits(_batch(dead=2_000)) for _ in range(3)] == [False] * 3
    assert breaker.admits(_batch(accepted=2_000))


@given(_batches)
def test_a_limit_of_all_stops_nothing(batches: list[Counts]) -> None:
    """100 percent switches it off."""
    breaker = Breaker(100, 10)
    assert all(breaker.admits(batch) for batch in batches)


@given(_batches)
def test_what_is_stopped_is_nearly_all_of_at_least_a_window(batches: list[Counts]) -> None:
    """The law, by the plain sums of the shortest run of last batches that fills the window."""
    breaker, kept = Breaker(80, 500), list[Counts]()
    for batch in batches:
        last = next((n for n in range(len(kept) + 2) if _total([*kept, batch][-n:] if n else []) >= 500), None)
        if not breaker.admits(batch):
            assert last is not None
            window = [*kept, batch][-last:]
            dead = sum(found.dead.total() for found in window)
            assert dead * 100 > 80 * _total(window)
        else:
            kept.append(batch)


def _total(batches: list[Counts]) -> int:
    return sum(batch.records for batch in batches)


def test_a_batch_is_counted_by_project_and_ignored_events_are_not() -> None:
    """R21: accepted by the event's project, dead by what can be told, an unknown type by neither."""
    good = (
        b'{"specversion":"1.0","id":"E1","source":"sfu-1","type":"room.ended","time":"2026-09-21T14:00:00Z",'
        b'"data":{"project":"acme","room":"RM_1"}}'
    )
    values = [good, good.replace(b"room.ended", b"room.painted"), good.replace(b'"time"', b'"when"'), b"{"]
    tracker = Tracker(METERS, Policy(1_000, None, 0, 0))
    changes = tracker.apply(_Record(offset, value) for offset, value in enumerate(values))
    assert [raw.disposition for raw in changes.events] == [
        "accepted", "ignored", Reason.MISSING_FIELD, Reason.NOT_JSON,
    ]  # fmt: skip
    assert count_by_project(changes) == Counts(Counter(acme=1), Counter({"acme": 1, "": 1}))


class _Record:
    """A record of the lifecycle topic without a key."""

    topic, partition, timestamp, key = "lifecycle", 0, 1_790_000_000_000, None

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset = offset
        self.value = value
