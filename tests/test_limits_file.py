"""The limits file: what it may say, and how mistakes in it are told."""

from pathlib import Path

import pytest

from pipeline.limits.file import InvalidLimits, parse_limits, read_limits
from pipeline.metering.limits import Limit
from pipeline.metering.meters import Meter
from tests.metering.builders import METERS

_DAILY = 'project = "acme"\nmeter = "agent_session_minutes"\nper = "day"\n'


def _table(text: str) -> str:
    return f"[[limit]]\n{text}\n"


def test_a_limit_is_kept_in_base_units() -> None:
    """Half a minute is 30 000 ms."""
    limits = parse_limits(_table(_DAILY + 'soft = "0.5"\nhard = "1200"'), METERS, "limits.toml")
    assert limits.of("acme") == [Limit("agent_session_minutes", "day", 30_000, 72_000_000, "minute", 60_000)]


def test_sessions_at_one_moment_are_limited_by_their_kind() -> None:
    """For every project."""
    limits = parse_limits(_table('project = "*"\nconcurrent = "sip"\nhard = "10"'), METERS, "limits.toml")
    assert limits.of("whoever") == [Limit("concurrent_sip", "now", None, 10, "session", 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[limit", "limits.toml: not TOML"),
        ("", "limits.toml: limit: is missing; the file consists of [[limit]] tables"),
        (_table(_DAILY), "limits.toml: limit.0: needs soft, hard or both"),
        (_table(_DAILY + "soft = 5"), "limits.toml: limit.0.soft: is no text; put it in quotes"),
        (_table(_DAILY + 'soft = "0"'), "limits.toml: limit.0.soft: is not a decimal above 0"),
        (_table(_DAILY + 'soft = "1e3"'), "limits.toml: limit.0.soft: is not a decimal above 0"),
        (_table(_DAILY + 'soft = "0.000001"'), "limits.toml: limit.0: 0.000001 has more decimals than a minute"),
        (_table(_DAILY + 'soft = "9"\nhard = "8"'), "limits.toml: limit.0: soft = 9 is more than hard = 8"),
        (_table(_DAILY + 'sofd = "9"'), "limits.toml: limit.0.sofd: is no field of this table"),
        (_table('project = "acme"\nhard = "8"'), "limits.toml: limit.0: needs either meter and per"),
        (_table(_DAILY + 'hard = "8"\nconcurrent = "sip"'), "limits.toml: limit.0: needs either meter and per"),
        (_table(_DAILY.replace("day", "year") + 'hard = "8"'), "limits.toml: limit.0.per: "),
        (_table(_DAILY.replace("acme", "") + 'hard = "8"'), "limits.toml: limit.0.project: is not the name of a proj"),
        (
            _table(_DAILY.replace("agent", "robot") + 'hard = "8"'),
            "limits.toml: limit.0: there is no meter 'robot_ses",
        ),
        (_table(_DAILY + 'hard = "8"') * 2, "limits.toml: limit.1: acme agent_session_minutes day has a limit already"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_to_do(text: str, told: str) -> None:
    """Nothing passes in silence."""
    with pytest.raises(InvalidLimits) as caught:
        parse_limits(text, METERS, "limits.toml")
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("meter", METERS.values(), ids=str)
def test_every_meter_of_the_table_can_be_limited(meter: Meter) -> None:
    """R16: whatever measures it, in its own unit."""
    text = _table(f'project = "*"\nmeter = "{meter.name}"\nper = "day"\nhard = "3"')
    [limit] = parse_limits(text, METERS, "x").all()
    assert (limit.meter, limit.unit, limit.hard) == (meter.name, meter.unit, 3 * meter.unit_size)


def test_a_meter_that_is_not_in_the_table_is_refused() -> None:
    """A limit that nothing could ever reach would only seem to protect."""
    with pytest.raises(InvalidLimits, match="there is no meter 'minutes'; there are: agent_session_minutes, data_tr"):
        parse_limits(_table('project = "*"\nmeter = "minutes"\nper = "day"\nhard = "1"'), METERS, "x")


def test_an_amount_beyond_what_can_be_counted_is_refused() -> None:
    """Quantities have 64 bits; a limit above them would never be reached."""
    with pytest.raises(InvalidLimits, match="more than can be counted"):
        parse_limits(_table('project = "*"\nmeter = "data_transfer_gb"\nper = "day"\nhard = "9223372037"'), METERS, "x")


def test_every_mistake_is_told_at_once() -> None:
    """One a line."""
    with pytest.raises(InvalidLimits) as caught:
        parse_limits(_table(_DAILY + 'soft = "x"\nhard = "y"'), METERS, "x")
    assert len(str(caught.value).splitlines()) == 2


def test_without_a_file_there_are_no_limits_and_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    """The file is named by a setting."""
    assert read_limits(None, METERS) is None
    (tmp_path / "limits.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidLimits, match="not text"):
        read_limits(tmp_path / "limits.toml", METERS)
