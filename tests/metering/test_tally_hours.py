"""Numbers by the hour, as others add to them: periods, hours that lie ahead, and hours that are sums from elsewhere."""

from typing import Final

from pipeline.metering.tally_hours import TallyHours
from pipeline.metering.units import MS_PER_HOUR as HOUR

_KEY: Final = ("acme", "webrtc_minutes")
#: Increments of four hours, of which no two sums are alike.
_COUNTS: Final = {0: 1, HOUR: 2, 2 * HOUR: 4, 3 * HOUR: 8}


def _filled(as_of_ms: int = 4 * HOUR) -> TallyHours:
    hours = TallyHours()
    hours.reveal(as_of_ms)
    for hour_ms, increments in _COUNTS.items():
        hours.add(*_KEY, hour_ms, increments)
    return hours


def test_a_period_has_the_hours_that_start_in_it() -> None:
    """From its first millisecond to before its end; whether they were added or come from elsewhere."""
    hours = _filled()
    assert hours.increments(*_KEY, HOUR, 3 * HOUR) == 2 + 4
    hours.rebase(2 * HOUR, {(*_KEY, hour_ms): increments for hour_ms, increments in _COUNTS.items()})
    assert hours.increments(*_KEY, HOUR, 3 * HOUR) == 2 + 4
    assert hours.increments(*_KEY, 0, HOUR) == 1
    assert hours.increments(*_KEY, 0, 9 * HOUR) == 15


def test_periods_that_begin_alike_have_each_its_own_sum() -> None:
    """An hour, a day and a month may begin at the same midnight."""
    hours = TallyHours()
    hours.rebase(4 * HOUR, {(*_KEY, hour_ms): increments for hour_ms, increments in _COUNTS.items()})
    assert [hours.increments(*_KEY, 0, end_ms) for end_ms in (HOUR, 2 * HOUR, 9 * HOUR, HOUR)] == [1, 3, 15, 1]


def test_numbers_are_of_a_project_and_a_meter() -> None:
    """Others have nothing of them."""
    hours = _filled()
    hours.rebase(2 * HOUR, {(*_KEY, hour_ms): increments for hour_ms, increments in _COUNTS.items()})
    assert hours.increments("acme", "telephony_minutes", 0, 9 * HOUR) == 0
    assert hours.increments("globex", "webrtc_minutes", 0, 9 * HOUR) == 0


def test_an_hour_that_has_not_begun_waits_for_its_first_millisecond() -> None:
    """Also where what lay ahead is taken away again; and time does not go back."""
    hours = _filled(2 * HOUR)
    assert hours.increments(*_KEY, 0, 9 * HOUR) == 1 + 2
    hours.add(*_KEY, 3 * HOUR, -8)
    hours.reveal(2 * HOUR + 1)
    hours.reveal(HOUR)
    hours.add(*_KEY, 2 * HOUR, 16)
    assert hours.increments(*_KEY, 0, 9 * HOUR) == 1 + 2 + 4 + 16


def test_hours_from_elsewhere_are_taken_whole_and_not_added_to() -> None:
    """What they were before is forgotten; hours from the moment on are not taken."""
    hours = _filled()
    hours.rebase(2 * HOUR, {(*_KEY, 0): 100, (*_KEY, 2 * HOUR): 1_000})
    hours.add(*_KEY, HOUR, 50)
    assert hours.increments(*_KEY, 0, 9 * HOUR) == 100 + 4 + 8
    hours.rebase(3 * HOUR, {(*_KEY, 0): 200})
    assert hours.increments(*_KEY, 0, 9 * HOUR) == 200 + 8


def test_a_project_is_known_and_has_changed_once_it_has_a_number() -> None:
    """Whoever looks at what changed empties it; after a rebase everything has."""
    hours = TallyHours()
    hours.reveal(HOUR)
    hours.add(*_KEY, 0, 0)
    assert (hours.projects(), hours.changed) == (set(), set())
    hours.add(*_KEY, 0, 1)
    hours.add("globex", "webrtc_minutes", HOUR, 1)
    assert (hours.projects(), hours.changed) == ({"acme"}, {"acme"})
    hours.changed.clear()
    hours.rebase(0, {})
    assert hours.changed == {"acme"}
    hours.rebase(HOUR, {("umbrella", "webrtc_minutes", 0): 1})
    assert hours.projects() == {"acme", "umbrella"}
