"""The tally of what is reported: usage events once by their id, bytes by their growth, numbers by the month."""

from itertools import pairwise
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.quantities import Quantities
from pipeline.metering.session import Facts
from pipeline.metering.tally import Tally
from pipeline.metering.units import MS_PER_DAY, hour_of
from tests.metering.builders import METERS, Document, clock, connected, event, facts_of, parsed, sampled
from tests.metering.strategies import logs, moments_ms, rental_logs
from tests.oracle import oracle

_EVER: Final = 1 << 62


def _settled(tally: Tally, as_of_ms: int) -> Tally:
    while not tally.settle(as_of_ms, 100):
        pass
    return tally


def _stored(facts: Facts, from_ms: int) -> Facts:
    """Return what a store gives whoever begins: every room and number, and usage events of the hours from one on."""
    known = facts.quantities
    discrete = {key: recorded for key, recorded in known.discrete.items() if key[-1] >= from_ms}
    return Facts(facts.rooms, facts.restarts_ms, Quantities(known.counters, discrete, known.numbers))


def _older(facts: Facts, from_ms: int) -> Facts:
    """Return what usage events of those hours have reported before."""
    later = {key[:3] for key in facts.quantities.discrete if key[-1] >= from_ms}
    older = {key: one for key, one in facts.quantities.discrete.items() if key[-1] < from_ms and key[:3] in later}
    return Facts(quantities=Quantities(discrete=older))


def _rooms(facts: Facts, keys: set[tuple[str, str]]) -> Facts:
    """Return what a store knows of some rooms."""
    counters = {key: one for key, one in facts.quantities.counters.items() if key[:2] in keys}
    return Facts({key: facts.rooms[key] for key in keys if key in facts.rooms}, {}, Quantities(counters))


@given(logs | rental_logs, moments_ms, moments_ms, st.data())
def test_whoever_begins_with_what_is_stored_and_reads_on_has_the_oracles_hours(
    log: list[Document], one_ms: int, other_ms: int, data: st.DataObject
) -> None:
    """R1, R10, R13 to R15: some events are stored and read again, some are new, some late; hours from one on agree."""
    from_ms, as_of_ms = hour_of(min(one_ms, other_ms)), max(one_ms, other_ms)
    events = [parsed(document) for document in log]
    stored = data.draw(st.integers(0, len(events)))
    begin = data.draw(st.integers(0, stored))
    tally = Tally([*METERS.values()], None, MS_PER_DAY)
    tally.rebase(from_ms, {})
    tally.join(_stored(facts_of(events[:stored]), from_ms))
    tally.join(_older(facts_of(events[:stored]), from_ms))
    for one in events[begin:]:
        tally.observe(one)
    everything = facts_of(events)
    tally.join(_rooms(everything, set(tally.doubtful)))
    tally.join(_older(everything, from_ms))
    _settled(tally, as_of_ms)
    expected: dict[tuple[str, str], int] = {}
    for (project, meter, hour_ms), (increments, *_) in oracle(log, as_of_ms).items():
        if hour_ms >= from_ms:
            expected[project, meter] = expected.get((project, meter), 0) + increments
    found = {
        (name, meter): tally.increments(name, meter, from_ms, _EVER) for name in ("acme", "globex") for meter in METERS
    }
    assert {key: count for key, count in found.items() if count} == expected


def _tally(meter: str, *documents: Document) -> Tally:
    tally = Tally([METERS[meter]], None, MS_PER_DAY)
    for document in documents:
        tally.observe(parsed(document))
    return tally


def _used(name: str, quantity: int, time: str = "14:00:00", meter: str = "tts_characters") -> Document:
    return event("usage.recorded", time, project="acme", meter=meter, quantity=quantity) | {"id": name}


def test_a_usage_event_counts_once_and_its_increase_in_its_own_hour() -> None:
    """R14: said again it adds nothing, said larger the difference."""
    tally = _tally("tts_characters", _used("a", 5), _used("a", 5), _used("b", 2), _used("a", 9, "15:00:00"))
    _settled(tally, clock("16:00:00"))
    hours = [clock("14:00:00"), clock("15:00:00"), clock("16:00:00")]
    assert [tally.increments("acme", "tts_characters", *span) for span in pairwise(hours)] == [7, 4]


def test_usage_of_an_hour_that_has_not_begun_waits_for_it() -> None:
    """Producers' clocks may be ahead by minutes; a day's limit does not count what is not yet used."""
    tally = _settled(_tally("tts_characters", _used("a", 5, "15:00:00")), clock("14:58:00"))
    counts = [tally.increments("acme", "tts_characters", 0, _EVER)]
    counts.append(_settled(tally, clock("15:00:00.001")).increments("acme", "tts_characters", 0, _EVER))
    assert counts == [0, 5]


def test_a_repetition_of_usage_that_has_left_memory_adds_nothing() -> None:
    """Its hour is the store's by then, and so it is when the whole topic is read again."""
    tally = _settled(_tally("tts_characters", _used("a", 5)), clock("14:30:00"))
    tally.rebase(clock("15:00:00"), {("acme", "tts_characters", clock("14:00:00")): 5})
    tally.observe(parsed(_used("a", 5)))
    _settled(tally, clock("16:00:00"))
    assert tally.increments("acme", "tts_characters", 0, _EVER) == 5


def test_a_number_that_is_held_is_used_again_when_a_month_begins() -> None:
    """R15: nothing is sent any more."""
    tally = _tally("number_rental", event("number.acquired", "14:00:00", project="acme", number="+1"))
    october_ms = clock("240:00:00")
    moments = (clock("14:00:00.001"), october_ms, october_ms + 1)
    counts = [_settled(tally, as_of_ms).increments("acme", "number_rental", 0, _EVER) for as_of_ms in moments]
    assert counts == [1, 1, 2]


def _number(event_type: str, time: str) -> Document:
    return event(f"number.{event_type}", time, project="acme", number="+1")


def test_a_release_that_is_told_late_takes_back_the_months_after_it() -> None:
    """R15, R10: October was counted before it was known that the number had been given back in September."""
    tally = _tally("number_rental", _number("acquired", "14:00:00"))
    october_ms, later_ms = clock("240:00:00"), clock("250:00:00")
    counts = [_settled(tally, later_ms).increments("acme", "number_rental", october_ms, _EVER)]
    tally.observe(parsed(_number("released", "20:00:00")))
    counts.append(_settled(tally, later_ms).increments("acme", "number_rental", october_ms, _EVER))
    assert counts == [1, 0]
    assert tally.increments("acme", "number_rental", 0, _EVER) == 1


def test_of_a_number_every_release_is_kept() -> None:
    """R15: it was held twice, and is held no more; what is learned later takes nothing of the first away."""
    tally = _tally("number_rental", _number("acquired", "1:00:00"), _number("released", "2:00:00"))
    tally.observe(parsed(_number("acquired", "230:00:00")))
    tally.observe(parsed(_number("released", "231:00:00")))
    assert _settled(tally, clock("1000:00:00")).increments("acme", "number_rental", 0, _EVER) == 1


def test_a_number_is_held_from_the_moment_it_is_acquired() -> None:
    """Producers' clocks may be ahead by minutes: nobody uses it before, and nothing has to be sent for it to begin."""
    tally = _tally("number_rental", _number("acquired", "15:00:00"))
    moments = [clock("14:58:00"), clock("15:00:00"), clock("15:00:00.001")]
    assert [_settled(tally, at_ms).increments("acme", "number_rental", 0, _EVER) for at_ms in moments] == [0, 0, 1]


def test_what_an_id_reported_in_hours_that_are_sums_by_now_still_counts_against_its_later_reports() -> None:
    """R14: 5, then 9 an hour later, then 12: the hour has what lies above the 5, whatever of it was forgotten."""
    tally = _tally("tts_characters", _used("a", 3, "12:00:00"), _used("a", 5, "13:00:00"), _used("a", 9, "14:00:00"))
    _settled(tally, clock("14:30:00"))
    tally.rebase(clock("14:00:00"), {("acme", "tts_characters", clock("13:00:00")): 5})
    tally.observe(parsed(_used("a", 12, "14:40:00")))
    _settled(tally, clock("15:00:00"))
    assert tally.increments("acme", "tts_characters", clock("14:00:00"), _EVER) == 7


def test_ids_of_hours_that_are_sums_by_now_take_no_memory() -> None:
    """But for those that have reported again since, of which the largest report is kept."""
    tally = _tally("tts_characters", _used("a", 3, "12:00:00"), _used("b", 4, "13:00:00"), _used("b", 5, "14:00:00"))
    tally.rebase(clock("14:00:00"), {})
    assert [*tally._reported._sources.values()] == [
        {("tts_characters", clock("14:00:00")): {"b": 5}, ("tts_characters", 0): {"b": 4}}
    ]
    tally.rebase(clock("15:00:00"), {})
    assert not tally._reported._sources


def test_bytes_count_by_their_growth_in_the_hours_that_are_exact() -> None:
    """R13: what was reported before belongs to hours that are sums from elsewhere."""
    tally = _tally("data_transfer_gb", connected("13:00:00"), sampled("13:59:00", bytes_in=30_000_000))
    _settled(tally, clock("14:30:00"))
    tally.rebase(clock("14:00:00"), {("acme", "data_transfer_gb", clock("13:00:00")): 3})
    tally.observe(parsed(sampled("14:40:00", bytes_in=50_000_001)))
    _settled(tally, clock("14:41:00"))
    hours = [clock("13:00:00"), clock("14:00:00"), clock("15:00:00")]
    assert [tally.increments("acme", "data_transfer_gb", *span) for span in pairwise(hours)] == [
        3,
        3,
    ]


def test_bytes_of_a_room_that_may_have_left_memory_wait_until_it_is_asked_for() -> None:
    """All that the session has ever sent would seem to be new; nobody is told that he exceeds what he does not."""
    tally = _tally("data_transfer_gb")
    tally.rebase(clock("14:00:00"), {})
    tally.observe(parsed(sampled("14:10:00", bytes_out=90_000_000)))
    counts = [_settled(tally, clock("14:11:00")).increments("acme", "data_transfer_gb", 0, _EVER)]
    tally.join(facts_of([parsed(connected("13:00:00")), parsed(sampled("13:50:00", bytes_out=80_000_000))]))
    counts.append(_settled(tally, clock("14:11:00")).increments("acme", "data_transfer_gb", 0, _EVER))
    assert counts == [0, 1]


def test_what_is_reported_takes_no_memory_where_no_limit_needs_it() -> None:
    """Bytes and usage of meters without limits are passed over."""
    tally = _tally("agent_session_minutes", connected("14:00:00"), sampled("14:10:00", bytes_in=5), _used("a", 5))
    assert not tally.facts.quantities
    assert not tally._bytes
    assert not tally._reported._sources
