"""From usage by the hour to what is due: charges of a month, exact until they are rounded once.

The month's hours consume included quantity and tiers in their order: an hour begins where the hours before it have
brought the month's quantity, and its units are priced by the list in force in that hour. So a change of prices or of
the plan applies from its hour on and touches nothing before, and the month's quantity goes on counting through it.
"""

from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import NamedTuple

from pipeline.metering.meters import Meter
from pipeline.metering.money import EXACT, to_minor_units
from pipeline.metering.months import Month
from pipeline.metering.plans import Account
from pipeline.metering.units import MS_PER_HOUR


class Part(NamedTuple):
    """A quantity at one unit price, under one plan, used in hours from one (ms) up to the end of another."""

    plan: str
    from_ms: int
    to_ms: int
    quantity: Decimal
    unit_price: Decimal


class Charge(NamedTuple):
    """What is due for a month: the quantity, the part of it that costs nothing, the parts that do, and the amount."""

    quantity: Decimal
    included: Decimal
    parts: tuple[Part, ...]
    amount: Decimal


def price(meter: Meter, increments: Mapping[int, int], account: Account) -> Charge:
    """Price one meter's increments by the hour (ms) of one month; hours without a plan do not count.

    The amount is rounded to the currency's minor unit, once.
    """
    hours = [(hour_ms, prices) for hour_ms in sorted(increments) if (prices := account.at(hour_ms)) is not None]
    with localcontext(EXACT):
        total = meter.quantity(sum(increments[hour_ms] for hour_ms, _ in hours))
        reached, counted = Decimal(0), 0
        parts: dict[tuple[int, str, Decimal, Decimal], Part] = {}
        for hour_ms, prices in hours:
            counted += increments[hour_ms]
            upto = meter.quantity(counted)
            for band in prices.tariff(meter.name).bands(total):
                quantity = (upto if band.up_to is None else min(upto, band.up_to)) - max(reached, band.after)
                if quantity > 0:
                    key = (prices.from_ms, prices.plan, band.after, band.price)
                    before = parts.get(key, Part(prices.title, hour_ms, hour_ms, Decimal(0), band.price))
                    parts[key] = before._replace(to_ms=hour_ms + MS_PER_HOUR, quantity=before.quantity + quantity)
            reached = upto
        billable = sum((part.quantity for part in parts.values()), Decimal(0))
        exact = sum((part.quantity * part.unit_price for part in parts.values()), Decimal(0))
        return Charge(total, total - billable, tuple(parts.values()), to_minor_units(exact, account.currency))


def base_fee(month: Month, account: Account) -> Charge:
    """Return the base fee of a month, of each hour the month's share of the fee that applies in it; rounded once.

    Its quantity is in hours; `unit_price` of a part is the fee of a whole month.
    """
    parts = tuple(
        Part(prices.title, from_ms, to_ms, Decimal((to_ms - from_ms) // MS_PER_HOUR), prices.base_fee)
        for from_ms, to_ms, prices in account.spans(month.start_ms, month.end_ms)
        if prices.base_fee
    )
    with localcontext(EXACT):
        hours = sum((part.quantity for part in parts), Decimal(0))
        fees = sum((part.quantity * part.unit_price for part in parts), Decimal(0))
    return Charge(hours, Decimal(0), parts, to_minor_units(fees, account.currency, month.hours))
