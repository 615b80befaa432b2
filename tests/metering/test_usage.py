"""The one law (R1) on any log, against the minute-by-minute oracle."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.counted import reported_by_hour
from pipeline.metering.events import MAX_QUANTITY
from pipeline.metering.meters import Meter
from pipeline.metering.units import MS_PER_HOUR, hour_of
from pipeline.metering.usage import Usage, billed, feeds, increments_by_hour, metered_until_ms, usage
from tests.metering.builders import (
    METERS,
    Document,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    joined,
    parsed,
    timelines,
)
from tests.metering.strategies import logs, moments_ms, month_times_ms, orphan_afters_ms, rental_logs, times_ms
from tests.oracle import METERS_OF_KIND, oracle, oracle_sessions

_lengths_ms = st.integers(-3_600_000, 100 * 3_600_000)
_increments_ms = st.sampled_from([1_000, 6_000, 60_000, 420_000, 3_600_000, 5_000_000])


@given(logs, moments_ms, orphan_afters_ms)
def test_any_log_bills_what_the_oracle_bills(log: list[Document], as_of_ms: int, orphan_after_ms: int) -> None:
    """R1 to R9, R13 to R16: increments, open increments and sessions of every project, meter and hour."""
    cells = usage(facts_of(map(parsed, log)), METERS, as_of_ms, orphan_after_ms)
    assert cells == oracle(log, as_of_ms, orphan_after_ms)


@given(rental_logs, month_times_ms | moments_ms, st.data())
def test_any_log_of_numbers_bills_what_the_oracle_bills(
    log: list[Document], as_of_ms: int, data: st.DataObject
) -> None:
    """R15, R10: months of different lengths, ends of years, leap days; in any order and repeated."""
    again = data.draw(st.permutations(log + log[:3]))
    assert usage(facts_of(map(parsed, again)), METERS, as_of_ms) == oracle(log, as_of_ms)


@given(st.dictionaries(st.integers(0, 30), st.tuples(st.integers(0, 99), st.integers(0, 99))), st.integers(1, 50))
def test_the_hours_of_a_counter_add_up_to_its_rounded_maximum(
    reports: dict[int, tuple[int, int]], increment: int
) -> None:
    """R1, R13: nothing is rounded twice, no hour is negative, and none is listed with nothing."""
    by_hour = list(reported_by_hour({hour * 3_600_000: pair for hour, pair in reports.items()}, increment, 10**9))
    largest = sum(max(pair[side] for pair in reports.values()) for side in (0, 1)) if reports else 0
    assert sum(increments for _, increments in by_hour) == -(-largest // increment)
    assert all(increments > 0 for _, increments in by_hour)


@given(logs)
def test_the_usage_of_reports_is_the_same_whenever_they_are_joined(log: list[Document]) -> None:
    """R10: split over the hour, over workers and repeated, the parts join into the whole."""
    halves = facts_of(map(parsed, log[::2])), facts_of(map(parsed, log[1::2]))
    whole = usage(facts_of(map(parsed, log)), METERS, clock("20:00:00"))
    assert usage(joined([halves[1], halves[0], halves[1]]), METERS, clock("20:00:00")) == whole


def test_an_hour_holds_64_bits_and_shows_no_more() -> None:
    """R17: two usage events of the largest quantity stop nobody's bill."""
    largest = [
        event("usage.recorded", "14:00:00", project="acme", meter="stt_seconds", quantity=MAX_QUANTITY) | {"id": name}
        for name in ("U_1", "U_2")
    ]
    by_one = {"stt_seconds": Meter("stt_seconds", "discrete", "second", 1, 1)}
    cells = usage(facts_of(map(parsed, largest)), by_one, clock("15:00:00"))
    assert cells == {("acme", "stt_seconds", clock("14:00:00")): Usage(MAX_QUANTITY, 0, 2)}


@given(logs, moments_ms, orphan_afters_ms)
def test_each_session_bills_what_the_oracle_bills(log: list[Document], as_of_ms: int, orphan_after_ms: int) -> None:
    """R1 to R9: session by session, so that no two errors cancel in a sum."""
    found = {}
    for key, line in timelines([parsed(document) for document in log], as_of_ms, orphan_after_ms).items():
        if line is not None and line.started_at_ms < as_of_ms:
            until_ms = metered_until_ms(line, as_of_ms)
            for hour_ms, minutes in increments_by_hour(line.started_at_ms, until_ms, 60_000):
                found[*key, hour_ms] = (minutes, minutes if line.is_open() else 0)
    assert found == oracle_sessions(log, as_of_ms, orphan_after_ms)


@given(times_ms, _lengths_ms, _increments_ms)
def test_the_hours_of_a_session_add_up_to_its_rounded_total(start_ms: int, length_ms: int, increment_ms: int) -> None:
    """R1, R7: nothing is rounded twice, and a session that connected bills at least one increment."""
    hours = list(increments_by_hour(start_ms, start_ms + length_ms, increment_ms))
    assert sum(increments for _, increments in hours) == max(1, -(-length_ms // increment_ms))


@given(times_ms, _lengths_ms, _increments_ms)
def test_an_increment_belongs_to_the_hour_in_which_it_begins(start_ms: int, length_ms: int, increment_ms: int) -> None:
    """R1: increment k begins at start + k * increment, also where increments do not divide the hour."""
    hours: dict[int, int] = defaultdict(int)
    for begin_ms in range(start_ms, max(start_ms + 1, start_ms + length_ms), increment_ms):
        hours[hour_of(begin_ms)] += 1
    assert dict(increments_by_hour(start_ms, start_ms + length_ms, increment_ms)) == hours


@given(times_ms, _lengths_ms)
def test_an_hour_of_a_session_has_one_to_sixty_minutes(start_ms: int, length_ms: int) -> None:
    """R1: no hour bills more minutes than it has, none is listed with nothing, and each once, in order."""
    hours = list(increments_by_hour(start_ms, start_ms + length_ms, 60_000))
    assert all(1 <= minutes <= 60 for _, minutes in hours)
    assert [hour for hour, _ in hours] == sorted({hour for hour, _ in hours})


@given(times_ms, st.integers(1, 23 * 3_600_000), st.integers(0, 3_599_999))
def test_an_open_session_only_grows(start_ms: int, first_ms: int, later_ms: int) -> None:
    """R8: as of a later moment no hour of an open session has less."""
    facts = facts_of([parsed(connected(start_ms))])
    earlier = usage(facts, METERS, start_ms + first_ms)
    later = usage(facts, METERS, start_ms + first_ms + later_ms)
    assert all(later[key].increments >= cell.increments for key, cell in earlier.items())


@given(logs, moments_ms)
def test_what_is_open_is_a_part_of_what_is_billed(log: list[Document], as_of_ms: int) -> None:
    """R8, R17: 0 <= open <= all, and nobody is billed for no session."""
    cells = usage(facts_of(map(parsed, log)), METERS, as_of_ms)
    assert all(0 <= cell.increments_open <= cell.increments and cell.sessions >= 1 for cell in cells.values())


@given(logs, moments_ms)
def test_nothing_is_billed_in_an_hour_that_has_not_begun(log: list[Document], as_of_ms: int) -> None:
    """R1, R8: as of a moment, later hours have no usage, whatever clocks are ahead."""
    assert all(hour_ms < as_of_ms for _, _, hour_ms in usage(facts_of(map(parsed, log)), METERS, as_of_ms))


@pytest.mark.parametrize(
    ("elapsed_ms", "increments"), [(-60_001, 0), (-1, 0), (0, 0), (1, 1), (60_000, 1), (60_001, 2)]
)
def test_an_increment_is_billed_when_it_has_begun(elapsed_ms: int, increments: int) -> None:
    """R1: billed(t) = ceil(Q(t) / increment), nothing at the start itself."""
    assert billed(elapsed_ms, 60_000) == increments


def test_an_hour_in_which_no_increment_begins_is_not_listed() -> None:
    """R1, R17: increments of 150 minutes from 14:00 on begin at 14:00, 16:30 and 19:00."""
    hours = list(increments_by_hour(clock("14:00:00"), clock("19:00:01"), 9_000_000))
    assert hours == [(clock(f"{hour}:00:00"), 1) for hour in (14, 16, 19)]


def test_a_session_appears_with_its_first_millisecond() -> None:
    """R1, R7: as of its very start it has begun no minute; a millisecond later it has begun one."""
    facts = facts_of([parsed(connected("14:00:00"))])
    key = ("acme", "agent_session_minutes", clock("14:00:00"))
    assert usage(facts, METERS, clock("14:00:00")) == {}
    assert usage(facts, METERS, clock("14:00:00.001")) == {key: Usage(1, 1, 1)}


def test_a_meter_of_another_increment_bills_the_same_sessions_its_own_way() -> None:
    """R16: meters are data; a table with 30-second increments bills 70 s as three."""
    by_half_minutes = Meter("halves", "session", "minute", 60_000, 30_000, kind="agent")
    facts = facts_of([parsed(connected("14:59:30"))])
    cells = usage(facts, {"halves": by_half_minutes}, clock("15:00:40"))
    hour_ms = clock("14:00:00")
    assert cells == {
        ("acme", "halves", hour_ms): Usage(1, 1, 1),
        ("acme", "halves", hour_ms + MS_PER_HOUR): Usage(2, 2, 1),
    }


@pytest.mark.parametrize("kind", ["agent", "participant", "sip", "ingress", "egress"])
@pytest.mark.parametrize("meter", [meter for meter in METERS.values() if meter.measures != "session"])
def test_connected_time_feeds_no_other_meter(kind: str, meter: Meter) -> None:
    """R16: counters, discrete usage and rentals are not fed by connected time."""
    facts = facts_of([parsed(connected("14:00:00", kind=kind))])
    assert not any(feeds(session, meter) for _, _, session in facts.sessions())


def test_a_busy_day_bills_what_the_oracle_bills() -> None:
    """R1: 5 000 sessions, each decided by exactly two events, so that a fault in one event of a thousand shows."""
    log: list[Document] = []
    for number in range(5_000):
        start_ms = clock("0:00:00") + number * 15_013
        kind = sorted(METERS_OF_KIND)[number % len(METERS_OF_KIND)]
        log.append(connected(start_ms, f"PA_{number}", room=f"RM_{number % 97}", kind=kind))
        end_ms = start_ms + number * 104_729 % 5_400_000
        log.append(disconnected(end_ms, f"PA_{number}", room=f"RM_{number % 97}"))
    cells = usage(facts_of(map(parsed, log)), METERS, clock("30:00:00"))
    assert cells == oracle(log, clock("30:00:00"))
    assert sum(cell.sessions for cell in cells.values()) > 5_000
