"""Amounts in the minor unit of their currency, and arithmetic that does not round."""

from decimal import Decimal, Inexact, localcontext

import pytest

from pipeline.metering.money import EXACT, minor_digits, to_minor_units

#: ISO 4217, by how many decimals an amount has.
_ISO_4217 = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: "AUD BRL CAD CHF CNY EUR GBP INR MXN PLN SEK USD ZAR",
    3: "BHD IQD JOD KWD LYD OMR TND",
}


@pytest.mark.parametrize("digits", _ISO_4217)
def test_amounts_have_the_decimals_of_their_currency(digits: int) -> None:
    """Cents, nothing, or thousandths."""
    assert {minor_digits(currency) for currency in _ISO_4217[digits].split()} == {digits}


@pytest.mark.parametrize(
    ("amount", "shares", "rounded"),
    [
        ("0.005", 1, "0.01"),
        ("-0.005", 1, "-0.01"),
        ("0.00499999999999999999999999999999999999", 1, "0.00"),
        ("0.015", 3, "0.01"),
        ("10", 3, "3.33"),
        ("20", 3, "6.67"),
        ("3.72", 744, "0.01"),
        ("3.71999", 744, "0.00"),
        ("0", 744, "0.00"),
    ],
)
def test_half_a_minor_unit_is_rounded_away_from_zero(amount: str, shares: int, rounded: str) -> None:
    """Once, and of the exact share."""
    assert str(to_minor_units(Decimal(amount), "USD", shares)) == rounded


def test_arithmetic_that_would_round_is_an_error() -> None:
    """A wrong cent is worse than none."""
    with localcontext(EXACT), pytest.raises(Inexact):
        _ = Decimal(1) / Decimal(3)
