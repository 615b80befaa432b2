"""What usage costs, reckoned as slowly as the rules read: one increment after the other, in fractions.

It reads the plans file's document itself, and shares nothing with the product but that.
"""

from datetime import datetime
from fractions import Fraction
from math import floor
from typing import Any

Document = dict[str, Any]


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000


def _prices(document: Document, project: str, hour_ms: int) -> Document | None:
    """Return the price list in force for a project in an hour: the last one that has begun, of the last plan."""
    plan = None
    for entry in document["projects"][project]["plans"]:
        if _ms(entry["from"]) <= hour_ms:
            plan = entry["plan"]
    prices = None
    for entry in document["plans"][plan]["prices"] if plan else ():
        if _ms(entry["from"]) <= hour_ms:
            prices = entry
    return prices


def _unit_price(tariff: Document, position: Fraction, total: Fraction) -> Fraction:
    """Return the price of a unit that begins at a position of the month's quantity."""
    if position < Fraction(tariff.get("included", "0")):
        return Fraction(0)
    if "price" in tariff:
        return Fraction(tariff["price"])
    is_volume = tariff.get("model") == "volume"
    for tier in tariff["tiers"]:
        end = Fraction(tier["up_to"]) if "up_to" in tier else None
        if end is None or (total <= end if is_volume else position < end):
            return Fraction(tier["price"])
    raise AssertionError("the last tier has no end")


def oracle_amount(
    document: Document, project: str, meter: str, unit: Fraction, hours: dict[int, int], digits: int
) -> tuple[Fraction, Fraction]:
    """Return what a month's increments of a meter cost, in whole minor units, and their quantity; `unit` is one."""
    priced = [(hour_ms, _prices(document, project, hour_ms)) for hour_ms in sorted(hours)]
    total = unit * sum(hours[hour_ms] for hour_ms, prices in priced if prices is not None)
    position = amount = Fraction(0)
    for hour_ms, prices in priced:
        if prices is None:
            continue
        tariff = prices.get("meters", {}).get(meter, {"price": "0"})
        for _ in range(hours[hour_ms]):
            amount += unit * _unit_price(tariff, position, total)
            position += unit
    return Fraction(floor(amount * 10**digits + Fraction(1, 2))), position


def oracle_fee(document: Document, project: str, hours_ms: list[int], digits: int) -> Fraction:
    """Return the base fee of the month of these hours, in whole minor units: each hour has its share."""
    lists = [_prices(document, project, hour_ms) for hour_ms in hours_ms]
    fee = sum(Fraction(prices.get("base_fee", "0")) / len(hours_ms) for prices in lists if prices is not None)
    return Fraction(floor(fee * 10**digits + Fraction(1, 2)))
