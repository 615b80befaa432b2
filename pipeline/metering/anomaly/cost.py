"""What an anomaly costs: increments beyond the baseline, at list price."""

from decimal import localcontext

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.meters import Meters
from pipeline.metering.money import EXACT, to_minor_units
from pipeline.metering.plans import Plans


def cost(finding: Finding, meters: Meters, plans: Plans) -> tuple[str, str]:
    """Return amount and currency at the price of the first unit that costs anything; "0" and "" without a plan.

    Included quantities and higher tiers are left out: whether they apply is known when the month is over.
    """
    account = plans.accounts.get(finding.project)
    prices = None if account is None else account.at(finding.since_ms)
    meter = meters.get(finding.meter)
    if account is None or prices is None or meter is None:
        return "0", ""
    with localcontext(EXACT):
        quantity = meter.quantity(finding.increments)
        band = next(prices.tariff(meter.name).bands(abs(quantity)), None)
        amount = to_minor_units(quantity * (band.price if band else 0), account.currency)
    text = f"{amount:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text), account.currency
