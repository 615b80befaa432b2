"""The table of meters (R16), and every way to write a wrong one."""

from decimal import Decimal

import pytest

from pipeline.metering.meters import InvalidMeters, Meter, discrete_meters, parse_meters
from tests.metering.builders import METERS

_GOOD = """
[[meter]]
name = "minutes"
measures = "session"
kind = "agent"
unit = "minute"
unit_size = 60_000
increment = 60_000
"""


def test_the_table_is_the_pricing_pages() -> None:
    """R16: name, what it measures, kind, number, unit, base units in one unit, increment in base units."""
    assert [(m.name, m.measures, m.kind, m.with_number, m.unit, m.unit_size, m.increment) for m in METERS.values()] == [
        ("agent_session_minutes", "session", "agent", False, "minute", 60_000, 60_000),
        ("webrtc_minutes", "session", "participant", False, "minute", 60_000, 60_000),
        ("telephony_minutes", "session", "sip", False, "minute", 60_000, 60_000),
        ("phone_inbound_minutes", "session", "sip", True, "minute", 60_000, 60_000),
        ("stream_import_minutes", "session", "ingress", False, "minute", 60_000, 60_000),
        ("recording_export_minutes", "session", "egress", False, "minute", 60_000, 60_000),
        ("data_transfer_gb", "counter", "", False, "GB", 1_000_000_000, 10_000_000),
        ("observability_events", "discrete", "", False, "event", 1, 1),
        ("recorded_audio_minutes", "discrete", "", False, "minute", 60_000, 60_000),
        ("stt_seconds", "discrete", "", False, "second", 1_000, 1_000),
        ("llm_input_tokens", "discrete", "", False, "token", 1, 1),
        ("llm_output_tokens", "discrete", "", False, "token", 1, 1),
        ("tts_characters", "discrete", "", False, "character", 1, 1),
        ("number_rental", "rental", "", False, "number", 1, 1),
    ]


def test_meters_are_found_by_their_name() -> None:
    """R16: the key of the table is the meter's name."""
    assert all(name == meter.name for name, meter in METERS.items())


def test_an_empty_field_takes_its_default() -> None:
    """`with_number` and `meaning` need not be written."""
    assert parse_meters(_GOOD)["minutes"] == Meter("minutes", "session", "minute", 60_000, 60_000, kind="agent")


def test_every_meter_says_what_a_bill_says_of_it() -> None:
    """R16: a customer reads the meaning, not the name."""
    assert all(meter.meaning for meter in METERS.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("meter = [", "not a table of meters"),
        ("", "not a table of meters"),
        ("meter = 3", "not a table of meters"),
        (_GOOD.replace("[[meter]]", "[meter]"), "not a table of meters"),
        ('meter = ["minutes"]', "not a table of meters"),
        ('meter = [{}, "minutes"]', "not a table of meters"),
        (_GOOD + "price = 1", "meter 'minutes': no field price of this type; fields are"),
        (_GOOD.replace('"minute"', "1"), "meter 'minutes': no field unit of this type"),
        (_GOOD.replace("60_000", "60_000.0", 1), "meter 'minutes': no field unit_size of this type"),
        (_GOOD.replace("60_000", "true", 1), "meter 'minutes': no field unit_size of this type"),
        (_GOOD.replace('"minutes"', "true"), "no field name of this type"),
        (_GOOD + 'with_number = "no"', "meter 'minutes': no field with_number of this type"),
        (_GOOD.replace('unit = "minute"\n', ""), "meter 'minutes': .*missing 1 required positional argument: 'unit'"),
        (_GOOD + _GOOD, "meter 'minutes' is there twice"),
        (_GOOD.replace('"minutes"', '"agent minutes"'), "the name has to be a word of letters, digits and _"),
        (_GOOD.replace('"session"', '"time"'), "measures is one of"),
        (_GOOD.replace('"agent"', '"robot"'), "measures = 'session' and a kind go together"),
        (_GOOD.replace('"session"', '"discrete"'), "measures = 'session' and a kind go together"),
        (_GOOD.replace('kind = "agent"\n', ""), "measures = 'session' and a kind go together"),
        (_GOOD.replace("unit_size = 60_000", "unit_size = 0"), "unit_size and increment are at least 1"),
        (_GOOD.replace("increment = 60_000", "increment = 0"), "unit_size and increment are at least 1"),
        (_GOOD.replace("increment = 60_000", "increment = -1"), "unit_size and increment are at least 1"),
        (
            _GOOD.replace("increment = 60_000", "increment = 20_000"),
            "increments are not decimals of the unit with at most 9",
        ),
        (_GOOD.replace("unit_size = 60_000", "unit_size = 60_001"), "with at most 9 places"),
        (_GOOD.replace("unit_size = 60_000", "unit_size = 600_000_000_000_000"), "with at most 9 places"),
    ],
)
def test_a_wrong_table_is_refused_and_says_what_to_mend(wrong: str, message: str) -> None:
    """R16: a table that cannot be billed stops at the start, with the meter's name and the fault."""
    with pytest.raises(InvalidMeters, match=message):
        parse_meters(wrong)


@pytest.mark.parametrize(
    ("meter", "increments", "quantity"),
    [
        ("agent_session_minutes", 0, "0"),
        ("agent_session_minutes", 62, "62"),
        ("agent_session_minutes", 100, "100"),
        ("agent_session_minutes", -3, "-3"),
        ("data_transfer_gb", 1, "0.01"),
        ("data_transfer_gb", 2, "0.02"),
        ("data_transfer_gb", -10, "-0.1"),
        ("data_transfer_gb", 100, "1"),
        ("data_transfer_gb", 2**63 - 1, "92233720368547758.07"),
        ("llm_input_tokens", 10**18, "1000000000000000000"),
        ("llm_input_tokens", 10**40 + 1, "1" + "0" * 39 + "1"),
    ],
)
def test_a_quantity_is_an_exact_decimal_of_the_unit(meter: str, increments: int, quantity: str) -> None:
    """R17: no float, no exponent, no trailing zeros: the same amount is always the same text."""
    assert str(METERS[meter].quantity(increments)) == quantity


def test_a_meter_may_bill_by_parts_of_its_unit() -> None:
    """R1: 6-second increments of a minute are tenths, exactly."""
    by_six_seconds = Meter("minutes", "session", "minute", 60_000, 6_000, kind="agent")
    assert by_six_seconds.quantity(7) == Decimal("0.7")


def test_usage_events_may_name_the_discrete_meters_alone() -> None:
    """R14: what another meter measures, nobody can report to it."""
    assert discrete_meters(METERS) == frozenset(
        {
            "observability_events",
            "recorded_audio_minutes",
            "stt_seconds",
            "llm_input_tokens",
            "llm_output_tokens",
            "tts_characters",
        }
    )
