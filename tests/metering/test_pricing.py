"""What is due for a month's usage, and for its base fee, against an oracle that counts one increment at a time."""

from decimal import Decimal
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metering.money import minor_digits
from pipeline.metering.months import Month
from pipeline.metering.pricing import Charge, base_fee, price
from tests.metering.builders import METERS
from tests.metering.plan_texts import PRICED, Document, account_of, documents, flat, plans_of, to_toml, unit_of
from tests.metering.pricing_oracle import oracle_amount, oracle_fee

_OCTOBER = Month(2026, 10)
_HOUR_MS = 3_600_000
_hours = st.dictionaries(
    st.sampled_from([0, 1, 2, 3, 478, 479, 480, 743]).map(lambda n: _OCTOBER.start_ms + n * _HOUR_MS),
    st.integers(1, 40),
    max_size=6,
)


def _priced(prices: str, *increments: int, meter: str = "agent_session_minutes", currency: str = "USD") -> Charge:
    """Return what increments in the first hours of October cost."""
    account = account_of(prices, currency=currency)
    hours = {_OCTOBER.start_ms + index * _HOUR_MS: count for index, count in enumerate(increments)}
    return price(METERS[meter], hours, account)


def _amount(tariff: str, *increments: int) -> Decimal:
    return _priced(flat(tariff), *increments).amount


@settings(max_examples=settings().max_examples * 17 // 10)  # six usages of each plan: a thousand prices
@given(documents(), st.lists(_hours, min_size=2, max_size=2))
def test_a_charge_is_what_its_increments_cost_one_by_one(document: Document, months: list[dict[int, int]]) -> None:
    """Tiers, volume, included, changes of prices and plans inside the month; rounded once."""
    account = plans_of(to_toml(document)).accounts["acme"]
    digits = minor_digits(account.currency)
    for meter, hours in product(PRICED, months):
        charge = price(METERS[meter], hours, account)
        amount, quantity = oracle_amount(document, "acme", meter, unit_of(meter), hours, digits)
        assert (Fraction(charge.amount) * 10**digits, Fraction(charge.quantity)) == (amount, quantity)
        assert charge.quantity == charge.included + sum(part.quantity for part in charge.parts)
        assert all(part.quantity > 0 for part in charge.parts)


@settings(max_examples=settings().max_examples // 4)  # each of 744 hours
@given(documents())
def test_a_base_fee_is_the_sum_of_its_hours_shares(document: Document) -> None:
    """A change of plan or fee inside a month splits it by hours."""
    account = plans_of(to_toml(document)).accounts["acme"]
    digits = minor_digits(account.currency)
    hours_ms = list(range(_OCTOBER.start_ms, _OCTOBER.end_ms, _HOUR_MS))
    fee = base_fee(_OCTOBER, account)
    assert Fraction(fee.amount) * 10**digits == oracle_fee(document, "acme", hours_ms, digits)


@pytest.mark.parametrize(
    ("used", "amount"),
    [(0, "0.00"), (1, "0.00"), (10, "0.00"), (11, "1.00"), (20, "10.00"), (21, "10.50"), (30, "15.00"), (31, "15.10")],
)
def test_graduated_tiers_end_where_they_say(used: int, amount: str) -> None:
    """Ten units are included; those up to 20 cost 1, up to 30 one half, then a tenth."""
    tariff = "included = 10, tiers = [{ up_to = 20, price = 1 }, { up_to = 30, price = 0.5 }, { price = 0.1 }]"
    assert str(_amount(tariff, used)) == amount


@pytest.mark.parametrize(("used", "amount"), [(10, "0.00"), (20, "10.00"), (21, "5.50"), (30, "10.00"), (31, "2.10")])
def test_volume_is_decided_by_the_whole_month(used: int, amount: str) -> None:
    """Ten units are included; the others all cost what the tier costs that the month reaches."""
    tiers = "[{ up_to = 20, price = 1 }, { up_to = 30, price = 0.5 }, { price = 0.1 }]"
    assert str(_amount(f'included = 10, model = "volume", tiers = {tiers}', used)) == amount


def test_what_is_included_to_the_last_unit_has_no_part_that_costs() -> None:
    """Nor has a month without a fee."""
    account = account_of(flat("included = 10, price = 1"))
    assert _priced(flat("included = 10, price = 1"), 10).parts == ()
    assert base_fee(_OCTOBER, account).parts == ()


def test_how_usage_is_spread_over_hours_changes_nothing_while_prices_stay() -> None:
    """The month's quantity counts, not its hours."""
    tariff = "included = 3, tiers = [{ up_to = 7, price = 1.25 }, { price = 0.5 }]"
    assert _amount(tariff, 1, 2, 3, 4, 5) == _amount(tariff, 15) == Decimal("9.00")


def test_a_change_of_prices_applies_from_its_hour_on() -> None:
    """Inside a month too; included units that are used up before stay used up."""
    later = "[[plans.p.prices]]\nfrom = 2026-10-01T01:00:00Z\nmeters.agent_session_minutes = {{ {} }}"
    charge = _priced(flat("included = 5, price = 1") + later.format("included = 5, price = 2"), 8, 10)
    assert [(str(part.quantity), str(part.unit_price)) for part in charge.parts] == [("3", "1"), ("10", "2")]
    assert (str(charge.amount), str(charge.included)) == ("23.00", "5")


def test_a_larger_included_quantity_counts_what_was_used_before() -> None:
    """The quantity of the month goes on: 8 are used when 10 become included, so 2 more cost nothing."""
    later = "[[plans.p.prices]]\nfrom = 2026-10-01T01:00:00Z\nmeters.agent_session_minutes = {{ {} }}"
    charge = _priced(flat("included = 5, price = 1") + later.format("included = 10, price = 2"), 8, 10)
    assert [(str(part.quantity), str(part.unit_price)) for part in charge.parts] == [("3", "1"), ("8", "2")]


def test_a_meter_that_the_plan_does_not_name_costs_nothing() -> None:
    """Its quantity is shown as included."""
    charge = _priced(flat(), 7, meter="webrtc_minutes")
    assert (str(charge.quantity), str(charge.included), str(charge.amount)) == ("7", "7", "0.00")


def test_hours_without_a_plan_are_nobodys() -> None:
    """They neither cost anything nor use up what is included later."""
    account = account_of(flat("included = 5, price = 1"), 'plans = [{ from = 2026-10-01T01:00:00Z, plan = "p" }]')
    hours = {_OCTOBER.start_ms: 100, _OCTOBER.start_ms + _HOUR_MS: 6}
    charge = price(METERS["agent_session_minutes"], hours, account)
    assert (str(charge.quantity), str(charge.amount)) == ("6", "1.00")


@pytest.mark.parametrize(
    ("tariff", "currency", "amount"),
    [
        ("price = 0.005", "USD", "0.01"),
        ("price = 0.0049999", "USD", "0.00"),
        ("price = 0.5", "JPY", "1"),
        ("price = 0.0005", "KWD", "0.001"),
        ("price = 999999999999.999", "USD", "1000000000000.00"),
    ],
)
def test_an_amount_is_rounded_once_half_up_to_the_minor_unit(tariff: str, currency: str, amount: str) -> None:
    """Cents, whole yen, thousandths of a dinar."""
    assert str(_priced(flat(tariff), 1, currency=currency).amount) == amount


def test_hours_are_not_rounded_on_their_own() -> None:
    """Three hours of a third of a cent each are a cent."""
    assert _amount("price = 0.0033334", 1, 1, 1) == Decimal("0.01")


def test_the_largest_usage_there_can_be_is_priced_exactly() -> None:
    """64 bits of increments at a price of 12 decimals: nothing is rounded on the way."""
    used = 2**63 - 1
    assert _amount("price = 0.000000000001", used) == Decimal("9223372.04")


def test_a_part_says_in_which_hours_it_was_used() -> None:
    """From its first hour to the end of its last."""
    [part] = _priced(flat(), 2, 0, 3).parts
    assert (part.from_ms, part.to_ms) == (_OCTOBER.start_ms, _OCTOBER.start_ms + 3 * _HOUR_MS)


@pytest.mark.parametrize(
    ("month", "day", "fee"),
    [("2026-10", 16, "203.23"), ("2026-11", 16, "200.00"), ("2027-02", 15, "200.00"), ("2028-02", 15, "203.45")],
)
def test_a_base_fee_is_shared_by_the_hours_of_its_month(month: str, day: int, fee: str) -> None:
    """100 until a day and 300 from it on, in months of 31, 30, 28 and 29 days."""
    account = account_of(flat(fee="100") + f"[[plans.p.prices]]\nfrom = {month}-{day}\nbase_fee = 300\n")
    assert str(base_fee(Month.parse(month), account).amount) == fee


def test_a_change_on_the_edge_of_a_month_leaves_it_whole() -> None:
    """Of a change at its first instant, and of one at its end, no empty stretch is left."""
    changes = "".join(f"[[plans.p.prices]]\nfrom = {day}\nbase_fee = 300\n" for day in ("2026-10-01", "2026-11-01"))
    account = account_of(flat(fee="100") + changes)
    assert [str(part.quantity) for part in base_fee(_OCTOBER, account).parts] == ["744"]


def test_a_base_fee_is_of_the_hours_in_which_it_applies() -> None:
    """Of all of October's 744, or of those from the 16th on; none of them is included."""
    late = 'plans = [{ from = 2026-10-16, plan = "p" }]'
    found = [base_fee(Month(2026, 10), account_of(flat(fee="50"), *plan)) for plan in ((), (late,))]
    assert [(int(one.quantity), int(one.included), str(one.amount)) for one in found] == [
        (744, 0, "50.00"),
        (16 * 24, 0, "25.81"),
    ]
