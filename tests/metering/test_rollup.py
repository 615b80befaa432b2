"""Hourly rollups: revisions, deltas and ids (R17 to R19)."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.rollup import Rollup, complete_until_ms, follows, quantities, revise, rollup_id, watermark_ms
from pipeline.metering.units import MS_PER_HOUR, NOT_SEEN_MS
from pipeline.metering.usage import CellKey, Usage
from tests.metering.builders import METERS, clock
from tests.metering.strategies import pooled

_HOUR_MS = clock("14:00:00")
_KEY = ("acme", "agent_session_minutes", _HOUR_MS)

_keys = st.tuples(
    st.sampled_from(["acme", "globex"]),
    st.sampled_from(["agent_session_minutes", "webrtc_minutes"]),
    st.sampled_from([_HOUR_MS, _HOUR_MS + MS_PER_HOUR]),
)
_usages = st.builds(Usage, st.integers(1, 5), st.integers(0, 1), st.integers(1, 2))
_histories = st.lists(pooled(st.dictionaries(_keys, _usages)), max_size=6)


def _rollup(**fields: Any) -> Rollup:
    return Rollup(*_KEY, 1, 62, 2, 62, 3, clock("15:05:00"), clock("15:05:01"))._replace(**fields)


def _emit_all(history: list[dict[CellKey, Usage]]) -> dict[CellKey, list[Rollup]]:
    """Emit one state of the usage after another; return each cell's revisions in order."""
    newest: dict[CellKey, Rollup] = {}
    revisions: dict[CellKey, list[Rollup]] = {}
    for moment_ms, current in enumerate(history):
        for rollup in list(revise(newest, current, moment_ms, moment_ms)):
            newest[rollup.key] = rollup
            revisions.setdefault(rollup.key, []).append(rollup)
    return revisions


@given(_histories)
def test_the_deltas_of_an_hour_add_up_to_its_newest_quantity(history: list[dict[CellKey, Usage]]) -> None:
    """R17: at every revision on the way, for any usage that comes, changes and goes."""
    for rollups in _emit_all(history).values():
        sums = [sum(rollup.delta for rollup in rollups[: count + 1]) for count in range(len(rollups))]
        assert sums == [rollup.increments for rollup in rollups]


@given(_histories)
def test_revisions_count_from_one_without_a_gap(history: list[dict[CellKey, Usage]]) -> None:
    """R17, R19: each revision follows the one before it."""
    for rollups in _emit_all(history).values():
        assert follows(rollups[0], None)
        assert all(follows(later, earlier) for earlier, later in pairwise(rollups))


@given(_histories)
def test_the_newest_revisions_are_the_usage(history: list[dict[CellKey, Usage]]) -> None:
    """R17, R20: what was emitted last is what is true now; a cell that vanished stands at nothing."""
    current = history[-1] if history else {}
    for key, rollups in _emit_all(history).items():
        newest = rollups[-1]
        assert Usage(newest.increments, newest.increments_open, newest.sessions) == current.get(key, Usage(0, 0, 0))
    assert current.keys() <= _emit_all(history).keys()


@given(st.dictionaries(_keys, _usages))
def test_what_has_not_changed_is_not_emitted_again(current: dict[CellKey, Usage]) -> None:
    """R19: running the emission a second time emits nothing."""
    emitted = {rollup.key: rollup for rollup in revise({}, current, 1, 1)}
    assert not list(revise(emitted, current, 2, 2))


@given(st.dictionaries(_keys, _usages))
def test_rollups_come_in_the_order_of_their_keys(current: dict[CellKey, Usage]) -> None:
    """R20: the same usage is emitted in the same order, byte for byte."""
    assert [rollup.key for rollup in revise({}, current, 1, 1)] == sorted(current)


def test_a_first_emission_is_revision_one_with_all_of_it_as_delta() -> None:
    """R17, R18: every field of revision 1."""
    assert list(revise({}, {_KEY: Usage(62, 2, 3)}, clock("15:05:00"), clock("15:05:01"))) == [_rollup()]


def test_a_cell_that_vanished_is_revised_to_nothing() -> None:
    """R11, R17: a session that moved to another hour leaves a correction behind, not its old minutes."""
    (correction,) = revise({_KEY: _rollup()}, {}, clock("16:05:00"), clock("16:05:00"))
    assert (correction.revision, correction.increments, correction.delta, correction.sessions) == (2, 0, -62, 0)


def test_a_vanished_cell_that_was_revised_stays_silent() -> None:
    """R19: nothing stays nothing; it is said once."""
    emitted = {_KEY: _rollup(increments=0, increments_open=0, sessions=0, revision=2, delta=-62)}
    assert not list(revise(emitted, {}, 1, 1))


def test_a_session_that_closes_without_a_change_of_minutes_is_a_revision_with_delta_zero() -> None:
    """R8, R17: the hour becomes settled, and its reader has to learn it."""
    (settled,) = revise({_KEY: _rollup()}, {_KEY: Usage(62, 0, 3)}, 1, 1)
    assert (settled.revision, settled.delta, settled.status) == (2, 0, "settled")


@pytest.mark.parametrize(("increments_open", "status"), [(0, "settled"), (1, "open"), (62, "open")])
def test_an_hour_is_open_while_a_part_of_it_is(increments_open: int, status: str) -> None:
    """R8, R17: status follows from the open quantity alone."""
    assert _rollup(increments_open=increments_open).status == status


@pytest.mark.parametrize(
    ("parts", "golden"),
    [
        (("acme", "agent_session_minutes", 1_789_999_200_000, 1), "4280311e-1bdf-5be9-8909-9911c33ea236"),
        (("acme", "agent_session_minutes", 1_789_999_200_000, 2), "9e1d673e-0eae-5204-8bcd-8febc6c5d4ea"),
        (("acme", "data_transfer_gb", 1_789_999_200_000, 2), "02ddcc5a-ddc3-5903-80bc-5326c4acbfa7"),
        (("Ünïcode", "webrtc_minutes", 946_684_800_000, 1), "f05603cb-732b-5e82-9345-f7e4c9bb3fc2"),
    ],
)
def test_the_id_of_a_revision_is_the_same_for_ever(parts: tuple[str, str, int, int], golden: str) -> None:
    """R17, R19: these ids are out in the world; if this test fails, it is not the test that has to change."""
    assert rollup_id(*parts) == golden


def test_the_id_depends_on_project_meter_hour_and_revision_alone() -> None:
    """R17: what was computed, and when, is not part of it; each of the four parts is."""
    assert _rollup().id == _rollup(increments=7, delta=7, as_of_ms=1, watermark_ms=1, sessions=1, increments_open=0).id
    others = [_rollup(project="b"), _rollup(meter="m"), _rollup(hour_ms=0), _rollup(revision=2)]
    assert len({_rollup().id, *(other.id for other in others)}) == 5


def test_parts_of_an_id_do_not_run_into_each_other() -> None:
    """R19: two different cells never share an id."""
    assert rollup_id("a", "bc", 1, 11) != rollup_id("ab", "c", 11, 1) != rollup_id("ab", "c", 1, 11)


@pytest.mark.parametrize(
    ("watermark", "until"),
    [("14:59:59", "14:00:00"), ("15:04:59.999", "14:00:00"), ("15:05:00", "15:00:00"), ("23:00:00", "22:00:00")],
)
def test_an_hour_is_complete_when_the_watermark_has_passed_its_grace(watermark: str, until: str) -> None:
    """R18: the hour's end plus five minutes, and not a millisecond earlier; before 1970 there is none."""
    assert complete_until_ms(clock(watermark), 300_000) == clock(until)
    assert complete_until_ms(NOT_SEEN_MS, 300_000) == 0


@pytest.mark.parametrize(
    ("ends", "progress", "watermark"),
    [
        ({}, {}, 900),
        ({0: 7, 1: 7}, {0: (7, 500), 1: (7, 600)}, 900),
        ({0: 7, 1: 7}, {0: (6, 500), 1: (7, 400)}, 500),
        ({0: 7, 1: 7}, {0: (6, 500), 1: (6, 400)}, 400),
        ({0: 7, 1: 7}, {0: (6, 400), 1: (6, 500)}, 400),
        ({0: 7, 1: 7}, {0: (8, 500), 1: (7, 600)}, 900),
        ({0: 7}, {0: (6, 1_000)}, 900),
        ({0: 0, 1: 7}, {1: (7, 600)}, 900),
        ({0: 1, 1: 7}, {1: (7, 600)}, 0),
    ],
    ids=[
        "no partition",
        "all at their ends",
        "one behind",
        "the slower of two behind",
        "the slower of two behind, the first",
        "processed further than was asked",
        "a broker ahead of our clock",
        "an empty one that nobody has processed",
        "one that nobody has processed",
    ],
)
def test_the_slowest_partition_holds_the_watermark(
    ends: dict[int, int], progress: dict[int, tuple[int, int]], watermark: int
) -> None:
    """R18: an idle partition counts as processed up to now; one with something left up to its last record."""
    assert watermark_ms(ends, progress, 900) == watermark


@pytest.mark.parametrize(
    ("revision", "previous", "is_next"),
    [(1, None, True), (2, None, False), (1, 1, False), (2, 1, True), (3, 1, False), (1, 2, False)],
)
def test_only_the_next_revision_follows(revision: int, previous: int | None, *, is_next: bool) -> None:
    """R19: of two emitters that decided alike, the second in the log does not count."""
    before = None if previous is None else _rollup(revision=previous)
    assert follows(_rollup(revision=revision), before) is is_next


def test_quantities_are_exact_decimals_of_the_unit() -> None:
    """R17: quantity, open quantity and delta; 7 increments of 0.01 GB are 0.07 GB."""
    rollup = _rollup(meter="data_transfer_gb", increments=7, increments_open=0, delta=-30)
    assert [str(quantity) for quantity in quantities(rollup, METERS)] == ["0.07", "0", "-0.3"]
