"""The table of meters (R16), as data: what feeds each, its unit and its increment."""

import tomllib
from dataclasses import dataclass, fields
from decimal import Context, Decimal
from math import gcd
from typing import Any, Final, Literal, get_args

Kind = Literal["agent", "egress", "ingress", "participant", "sip"]
Measures = Literal["session", "counter", "discrete", "rental"]

#: Decimals of a quantity: what the store and rollups hold.
_MOST_DECIMALS: Final = 9
#: Wide enough that no quantity is ever rounded: 64 bits by 64 bits and the decimals.
_EXACT: Final = Context(prec=80)
KINDS: frozenset[str] = frozenset(get_args(Kind))


class InvalidMeters(ValueError):
    """The table of meters cannot be used; the message names the meter and what to change."""


@dataclass(frozen=True, slots=True)
class Meter:
    """What is measured: `increment` and `unit_size` are in base units (ms, bytes, tokens); `meaning` is for people."""

    name: str
    measures: Measures
    unit: str
    unit_size: int
    increment: int
    kind: str = ""
    with_number: bool = False
    meaning: str = ""

    def __post_init__(self) -> None:
        """Refuse what the rules cannot bill."""
        for condition, problem in (
            (not self.name.isidentifier(), "the name has to be a word of letters, digits and _"),
            (self.measures not in get_args(Measures), f"measures is one of {get_args(Measures)}"),
            ((self.kind in KINDS) != (self.measures == "session"), "measures = 'session' and a kind go together"),
            (self.unit_size < 1 or self.increment < 1, "unit_size and increment are at least 1"),
            (not self._is_exact(), f"increments are not decimals of the unit with at most {_MOST_DECIMALS} places"),
        ):
            if condition:
                msg = f"meter {self.name!r}: {problem}"
                raise InvalidMeters(msg)

    def _is_exact(self) -> bool:
        """Tell whether increment / unit_size ends as a decimal: its denominator divides that power of ten."""
        if self.unit_size < 1:
            return False
        return 10**_MOST_DECIMALS % (self.unit_size // gcd(self.unit_size, self.increment)) == 0

    def quantity(self, increments: int) -> Decimal:
        """Return increments as an exact decimal of the meter's unit (R17): 2 of 0.01 GB is 0.02."""
        exact = _EXACT.divide(Decimal(increments * self.increment), Decimal(self.unit_size))
        return _EXACT.add(exact.normalize(_EXACT), Decimal(0))  # no exponents: 10, not 1E+1


Meters = dict[str, Meter]


def parse_meters(text: str) -> Meters:
    """Read a table of meters from TOML text, by name; raises InvalidMeters saying what to mend."""
    try:
        rows: Any = tomllib.loads(text)["meter"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        msg = f"not a table of meters ([[meter]] entries in TOML): {error}"
        raise InvalidMeters(msg) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = "not a table of meters ([[meter]] entries in TOML): meter is something else"
        raise InvalidMeters(msg)
    expected = {field.name: field.type if field.type in (int, bool) else str for field in fields(Meter)}
    meters: Meters = {}
    for row in rows:
        for name, value in row.items():
            if type(value) is not expected.get(name):
                msg = f"meter {row.get('name')!r}: no field {name} of this type; fields are {sorted(expected)}"
                raise InvalidMeters(msg)
        try:
            meter = Meter(**row)
        except TypeError as error:
            msg = f"meter {row.get('name')!r}: {error}"
            raise InvalidMeters(msg) from error
        if meter.name in meters:
            msg = f"meter {meter.name!r} is there twice"
            raise InvalidMeters(msg)
        meters[meter.name] = meter
    return meters


def discrete_meters(meters: Meters) -> frozenset[str]:
    """Return the names that a usage event may name (R14): what another meter measures, nobody can report to it."""
    return frozenset(name for name, meter in meters.items() if meter.measures == "discrete")
