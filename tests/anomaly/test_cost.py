"""What an anomaly costs: at list price, as a text that can be put before a customer."""

import pytest

from pipeline.metering.anomaly.cost import cost
from pipeline.metering.plans import Account, Plans
from tests.anomaly.builders import finding
from tests.metering.builders import METERS
from tests.metering.plan_texts import account_of, flat

_TIERS = "included = 10, tiers = [{ up_to = 100, price = 0.5 }, { price = 0.25 }]"


def _cost(account: Account | None, **changes: object) -> tuple[str, str]:
    accounts = {} if account is None else {"acme": account}
    return cost(finding(**changes), METERS, Plans({}, accounts))


@pytest.mark.parametrize(
    ("tariff", "increments", "amount"),
    [
        ("price = 0.5", 803, "401.5"),
        ("included = 10, price = 0.5", 803, "401.5"),
        (_TIERS, 803, "401.5"),
        ("price = 0.5", -803, "-401.5"),
        (_TIERS, -803, "-401.5"),
        ("price = 0.0005", 10, "0.01"),
        ("price = 0.0005", 9, "0"),
        ("price = 10", 10, "100"),
        ("price = 0.5", 0, "0"),
    ],
)
def test_increments_are_priced_as_the_first_unit_that_costs_anything(tariff: str, increments: int, amount: str) -> None:
    """Whether quantities are included is known when the month is over; rounded once, without needless zeros."""
    assert _cost(account_of(flat(tariff)), increments=increments) == (amount, "USD")


def test_of_volume_prices_the_tier_is_that_of_the_excess() -> None:
    """Above a hundred units all cost a quarter."""
    account = account_of(flat('tiers = [{ up_to = 100, price = 0.5 }, { price = 0.25 }], model = "volume"'))
    assert _cost(account, increments=100) == ("50", "USD")
    assert _cost(account, increments=-101) == ("-25.25", "USD")


def test_a_currency_without_cents_keeps_its_zeros() -> None:
    """400 yen are not 4."""
    assert _cost(account_of(flat("price = 0.5"), currency="JPY"), increments=800) == ("400", "JPY")


def test_what_a_plan_does_not_name_costs_nothing() -> None:
    """In the currency of the plan all the same."""
    assert _cost(account_of(flat(meter="webrtc_minutes"))) == ("0", "USD")


def test_without_a_price_list_or_a_meter_there_is_no_price() -> None:
    """No plan at all, none yet at the onset, and findings that are about no meter."""
    assert _cost(None) == ("0", "")
    assert _cost(account_of(flat()), since_ms=0) == ("0", "")
    assert _cost(account_of(flat()), meter="") == ("0", "")
