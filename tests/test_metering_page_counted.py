"""The pricing page, rule by rule: data, discrete usage and numbers. The number in each docstring is the rule's."""

import pytest

from pipeline.metering.counted import held_by_hour
from pipeline.metering.meters import Meters, parse_meters
from pipeline.metering.quantities import Held
from pipeline.metering.units import MS_PER_DAY, format_time, parse_time
from pipeline.metering.usage import Usage, usage
from tests.metering.builders import (
    METERS,
    ROOT,
    Document,
    amended,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    of_room,
    parsed,
    sampled,
)

_LATER_MS = clock("20:00:00")
_MB = 1_000_000


def _bill(documents: list[Document], meter: str, as_of_ms: int = _LATER_MS, meters: Meters = METERS) -> dict[str, int]:
    """Return acme's increments of a meter by hour, written as 2026-09-21T14."""
    cells = usage(facts_of(map(parsed, documents)), meters, as_of_ms)
    return {
        format_time(hour_ms)[:13]: cell.increments
        for (project, name, hour_ms), cell in sorted(cells.items())
        if (project, name) == ("acme", meter)
    }


def _bytes(documents: list[Document], as_of: str = "20:00:00") -> dict[str, int]:
    """Return acme's hundredths of GB by hour of the day."""
    return {hour[-2:]: cents for hour, cents in _bill(documents, "data_transfer_gb", clock(as_of)).items()}


def _used(quantity: int, time: str = "14:00:00", name: str = "U_1", meter: str = "stt_seconds") -> Document:
    """Return usage of acme's."""
    return event("usage.recorded", time, project="acme", meter=meter, quantity=quantity) | {"id": name}


def _discrete(documents: list[Document], meter: str = "stt_seconds", as_of: str = "20:00:00") -> dict[str, int]:
    """Return acme's increments by hour of the day."""
    return {hour[-2:]: increments for hour, increments in _bill(documents, meter, clock(as_of)).items()}


def _acquired(time: str, number: str = "+15550100") -> Document:
    return event("number.acquired", parse_time(time), project="acme", number=number)


def _released(time: str, number: str = "+15550100") -> Document:
    return event("number.released", parse_time(time), project="acme", number=number)


def _rented(documents: list[Document], as_of: str) -> dict[str, int]:
    """Return acme's numbers by hour."""
    return _bill(documents, "number_rental", parse_time(as_of))


@pytest.mark.parametrize(
    ("size", "cents"), [(0, 0), (1, 1), (9_999_999, 1), (10 * _MB, 1), (10 * _MB + 1, 2), (1_000 * _MB, 100)]
)
def test_data_is_billed_by_the_begun_hundredth_of_a_gigabyte(size: int, cents: int) -> None:
    """R13, R1: 1 GB is 1 000 000 000 bytes; nothing transferred is nothing billed, R7's minimum is one of time."""
    assert _bytes([connected("14:00:00"), disconnected("14:10:00", bytes_in=size)]) == ({"14": cents} if cents else {})


def test_data_in_and_out_is_added_before_it_is_rounded() -> None:
    """R13: 4 MB in and 5 MB out are one hundredth of a GB."""
    assert _bytes([connected("14:00:00"), disconnected("14:10:00", bytes_in=4 * _MB, bytes_out=5 * _MB)]) == {"14": 1}


def test_data_is_rounded_up_for_each_session() -> None:
    """R1, R13: two sessions of one byte are two hundredths."""
    log = [connected("14:00:00"), disconnected("14:10:00", bytes_in=1)]
    log += [connected("14:00:00", session="PA_2"), disconnected("14:10:00", session="PA_2", bytes_out=1)]
    assert _bytes(log) == {"14": 2}


def test_of_cumulative_counters_only_the_largest_counts() -> None:
    """R13, R10: in any order and repeated; each direction has its own maximum."""
    log = [connected("14:00:00"), sampled("14:10:00", bytes_in=30 * _MB), sampled("14:20:00", bytes_in=20 * _MB)]
    log += [sampled("14:20:00", bytes_out=30 * _MB), disconnected("14:30:00", bytes_out=5 * _MB)]
    assert _bytes(log) == _bytes(log[::-1] + log) == {"14": 6}


def test_data_belongs_to_the_hour_in_which_its_increment_begins() -> None:
    """R1: what was begun at 14:00 is not billed again at 15:00, and what comes with the hour belongs to it."""
    log = [connected("14:00:00"), sampled("14:59:59.999", bytes_in=15 * _MB), sampled("15:00:00", bytes_in=20 * _MB)]
    assert _bytes([*log, sampled("16:00:00", bytes_in=20 * _MB + 1)]) == {"14": 2, "16": 1}


def test_data_of_a_session_that_never_connected_is_not_billed() -> None:
    """R4: without a start there is no usage, of data either."""
    assert _bytes([sampled("14:00:00", kind="agent", bytes_in=_MB), disconnected("14:10:00", bytes_in=_MB)]) == {}


def test_data_of_a_void_session_is_not_billed_until_that_is_taken_back() -> None:
    """R12: there was no such session."""
    log = [connected("14:00:00"), disconnected("14:10:00", bytes_in=_MB), amended("15:00:00", void=True)]
    assert _bytes(log) == {}
    assert _bytes([*log, amended("15:10:00", 2)]) == {"14": 1}


def test_data_reported_after_the_end_is_billed_when_it_is_reported() -> None:
    """R5, R13: time stops with the room; the report that follows tells what was transferred in it."""
    log = [connected("14:00:00"), of_room("room.ended", "14:59:59"), disconnected("15:00:01", bytes_out=_MB)]
    assert _bytes(log) == {"15": 1}


def test_data_is_billed_of_every_session_whatever_its_kind() -> None:
    """R16: also of one whose kind nobody told."""
    assert _bytes([disconnected("14:10:00", connected_at="2026-09-21T14:00:00Z", bytes_in=_MB)]) == {"14": 1}


def test_what_a_counter_has_counted_is_never_open() -> None:
    """R8: it only grows, so no late event can shrink what it has shown, of an open session either."""
    log = [connected("14:00:00"), sampled("14:10:00", bytes_in=_MB)]
    cells = usage(facts_of(map(parsed, log)), METERS, clock("14:30:00"))
    assert cells["acme", "data_transfer_gb", clock("14:00:00")] == Usage(1, 0, 1)


@pytest.mark.parametrize(
    ("meter", "quantity", "increments"),
    [
        ("observability_events", 3, 3),
        ("recorded_audio_minutes", 60_000, 1),
        ("recorded_audio_minutes", 60_001, 2),
        ("stt_seconds", 1, 1),
        ("stt_seconds", 1_200, 2),
        ("llm_input_tokens", 731, 731),
        ("llm_output_tokens", 1, 1),
        ("tts_characters", 12_345, 12_345),
    ],
)
def test_each_usage_event_is_rounded_up_for_itself(meter: str, quantity: int, increments: int) -> None:
    """R14, R1, R16: in the meter's increments, in the hour of the event; two events are two subjects."""
    assert _discrete([_used(quantity, meter=meter)], meter) == {"14": increments}
    two = [_used(quantity, meter=meter), _used(quantity, name="U_2", meter=meter)]
    assert _discrete(two, meter) == {"14": 2 * increments}


def test_usage_of_nothing_is_not_billed() -> None:
    """R14: a quantity of 0 begins no increment."""
    assert _discrete([_used(0)]) == {}


def test_the_same_usage_event_counts_once() -> None:
    """R14: its name is (source, id); sent again later it changes nothing, earlier it counts there."""
    assert _discrete([_used(1_000), _used(1_000), _used(1_000, "15:00:00")]) == {"14": 1}
    assert _discrete([_used(1_000, "15:00:00"), _used(1_000, "13:00:00")]) == {"13": 1}


def test_sent_again_with_another_quantity_the_larger_one_counts() -> None:
    """R14, R1: with another time too, the hours add up to the larger, each with what was shown by then."""
    assert _discrete([_used(2_000), _used(1_000), _used(3_000)]) == {"14": 3}
    assert _discrete([_used(1_500), _used(4_000, "16:00:00")]) == {"14": 2, "16": 2}


def test_the_same_id_from_another_source_or_project_is_another_usage_event() -> None:
    """R14, R17: nobody's producer can change another project's bill."""
    other = _used(1_000) | {"source": "sfu-2"}
    foreign = event("usage.recorded", "14:00:00", project="globex", meter="stt_seconds", quantity=9_000) | {"id": "U_1"}
    assert _discrete([_used(1_000), other, foreign]) == {"14": 2}


def test_a_usage_event_sent_for_two_meters_counts_on_one() -> None:
    """R14: the same (source, id) counts once, in any order, with what was said of that meter."""
    log = [_used(5_000), _used(7, meter="llm_input_tokens")]
    assert _discrete(log) == _discrete(log[::-1]) == {"14": 5}
    assert _discrete(log, "llm_input_tokens") == {}


def test_an_hour_that_begins_with_the_moment_has_nothing_yet() -> None:
    """R8: as of a moment nothing after it is billed; within an hour, all that is known of that hour is."""
    assert _discrete([_used(5_000, "15:00:00")], as_of="15:00:00") == {}
    assert _discrete([_used(5_000, "15:30:00")], as_of="15:00:00.001") == {"15": 5}


def test_a_number_is_billed_once_for_every_month_in_which_it_is_held() -> None:
    """R15: in the hour in which it is first held, over the end of a year too."""
    log = [_acquired("2025-12-24T18:30:00Z"), _released("2026-02-01T00:00:00.001Z")]
    assert _rented(log, "2026-06-01T00:00:00Z") == {"2025-12-24T18": 1, "2026-01-01T00": 1, "2026-02-01T00": 1}


def test_a_month_of_a_number_is_billed_when_it_has_begun() -> None:
    """R15, R8: as of a moment nothing after it is billed; a number that is held stays on the bill."""
    log = [_acquired("2026-01-31T23:59:59.999Z")]
    assert _rented(log, "2026-01-31T23:59:59.999Z") == {}
    assert _rented(log, "2026-02-01T00:00:00Z") == {"2026-01-31T23": 1}
    assert _rented(log, "2026-02-01T00:00:00.001Z") == {"2026-01-31T23": 1, "2026-02-01T00": 1}


def test_a_number_released_with_the_end_of_a_month_is_not_held_in_the_next() -> None:
    """R15: midnight belongs to the month that begins."""
    log = [_acquired("2024-02-29T23:59:59Z"), _released("2024-03-01T00:00:00Z")]
    assert _rented(log, "2024-06-01T00:00:00Z") == {"2024-02-29T23": 1}


def test_the_months_of_a_number_come_in_their_order() -> None:
    """R20: whatever order the facts are kept in."""
    acquired_ms = frozenset(parse_time("2026-01-10T00:00:00Z") + 31 * day * MS_PER_DAY + 7 - day for day in range(8))
    hours = [*held_by_hour(Held(acquired_ms, frozenset(at_ms + 1 for at_ms in acquired_ms)), _LATER_MS)]
    assert hours == sorted(hours)
    assert len(hours) == 8


def test_a_number_released_and_acquired_again_in_a_month_is_billed_once() -> None:
    """R15: one unit per number and month, where it was first held."""
    log = [_acquired("2026-03-02T10:00:00Z"), _released("2026-03-03T10:00:00Z"), _acquired("2026-03-20T10:00:00Z")]
    assert _rented([*log, _released("2026-03-21T10:00:00Z")], "2026-06-01T00:00:00Z") == {"2026-03-02T10": 1}


def test_acquiring_a_held_number_again_changes_nothing() -> None:
    """R15, R10: whatever the order, and however often."""
    log = [_acquired("2026-03-02T10:00:00Z"), _acquired("2026-03-20T10:00:00Z"), _released("2026-04-02T10:00:00Z")]
    expected = {"2026-03-02T10": 1, "2026-04-01T00": 1}
    assert _rented(log, "2026-06-01T00:00:00Z") == _rented(log[::-1] * 2, "2026-06-01T00:00:00Z") == expected


def test_a_number_is_held_at_its_acquire_however_soon_it_is_released() -> None:
    """R15: for any time, as a session that connected bills its minute (R7)."""
    log = [_acquired("2026-03-02T10:00:00Z"), _released("2026-03-02T10:00:00Z")]
    assert _rented(log, "2026-06-01T00:00:00Z") == {"2026-03-02T10": 1}


def test_a_release_without_an_acquire_is_not_billed() -> None:
    """R15: nothing shows that it was held."""
    assert _rented([_released("2026-03-02T10:00:00Z")], "2026-06-01T00:00:00Z") == {}


def test_two_numbers_are_two_units() -> None:
    """R15: and each project rents its own."""
    log = [_acquired("2026-03-02T10:00:00Z"), _acquired("2026-03-02T10:30:00Z", "+15550199")]
    log.append(event("number.acquired", parse_time("2026-03-02T10:00:00Z"), project="globex", number="+15550100"))
    assert _rented(log, "2026-03-03T00:00:00Z") == {"2026-03-02T10": 2}


@pytest.mark.parametrize(
    ("row", "billed"),
    [
        ('measures = "session"\nkind = "agent"\nunit_size = 60_000\nincrement = 6_000', 100),
        ('measures = "counter"\nunit_size = 1_000\nincrement = 1_000', 8_000),
        ('measures = "discrete"\nunit_size = 1\nincrement = 10', 2),
        ('measures = "rental"\nunit_size = 1\nincrement = 1', 1),
    ],
    ids=["session", "counter", "discrete", "rental"],
)
def test_a_row_in_the_table_is_a_meter(row: str, billed: int) -> None:
    """R16: of whatever it measures, beside those there are, for events of before."""
    shipped = (ROOT / "schemas" / "meters.toml").read_text()
    meters = parse_meters(f'{shipped}\n[[meter]]\nname = "ours"\nunit = "thing"\n{row}\n')
    log = [connected("14:00:00"), disconnected("14:10:00", bytes_in=8 * _MB)]
    log += [_acquired("2026-09-21T14:00:00Z")]
    facts = facts_of(map(parsed, log))
    used = _used(11) | {"data": {"project": "acme", "meter": "ours", "quantity": 11}}
    facts.observe(parsed(used, meters))
    assert usage(facts, meters, _LATER_MS)["acme", "ours", clock("14:00:00")].increments == billed
