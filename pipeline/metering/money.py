"""Money: decimals that are never rounded by accident, and the one rounding there is.

Arithmetic with quantities and prices happens `with localcontext(EXACT)`, in which a result that would have to be
rounded is an error. An amount is rounded once, when it becomes the amount of an invoice's line (`to_minor_units`).
"""

from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Final

#: Wide enough for 64 bits of increments times a price, and a trap where it is not.
EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
#: Decimals of a price, and what it is below.
MOST_DECIMALS: Final = 12
PRICE_LIMIT: Final = 10**12

#: ISO 4217: the currencies whose minor unit is not a hundredth.
_WITHOUT_MINOR_UNIT: Final = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF"}
    | {"XOF", "XPF"}
)
_WITH_THOUSANDTHS: Final = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})


def minor_digits(currency: str) -> int:
    """Return how many decimals amounts in a currency have: 2 for USD, 0 for JPY, 3 for KWD."""
    return 0 if currency in _WITHOUT_MINOR_UNIT else 3 if currency in _WITH_THOUSANDTHS else 2


def to_minor_units(amount: Decimal, currency: str, shares: int = 1) -> Decimal:
    """Return amount / shares, rounded once to the currency's minor unit; half of one is rounded away from zero.

    By integers, so that the division itself cannot round.
    """
    assert shares > 0, "a month has hours"
    digits = minor_digits(currency)
    numerator, denominator = amount.as_integer_ratio()
    dividend, divisor = abs(numerator) * 10**digits, denominator * shares
    rounded = (2 * dividend + divisor) // (2 * divisor)
    return Decimal(-rounded if numerator < 0 else rounded).scaleb(-digits, EXACT)
