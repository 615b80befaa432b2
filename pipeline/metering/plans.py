"""Plans and prices: what a unit of each meter costs, from which hour on, and which project is on which plan.

A change of a price list, or of a project's plan, applies from its moment on, a whole UTC hour. The file's format and
how mistakes in it are reported is plans_file.py.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Final, Literal, NamedTuple

Model = Literal["graduated", "volume"]


class InvalidPlans(ValueError):
    """The plans file cannot be used; the message names table and field, and what to mend."""


class Tier(NamedTuple):
    """A unit price, up to a quantity of the month; None is without end."""

    up_to: Decimal | None
    price: Decimal


class Band(NamedTuple):
    """A stretch of the month's quantity, after one and up to another (None: no end), and a unit's price in it."""

    after: Decimal
    up_to: Decimal | None
    price: Decimal


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a plan charges for a meter, in units of the meter and of the currency.

    The month's first `included` units cost nothing (None: all of them). Tiers count the month's whole quantity, the
    included one too; they end beyond that, in their order. Graduated: each unit has the price of the tier it lies in.
    Volume: all units beyond the included have the price of the tier that the month's whole quantity reaches.
    """

    included: Decimal | None
    tiers: tuple[Tier, ...]
    model: Model

    def bands(self, total: Decimal) -> Iterator[Band]:
        """Yield the stretches that cost something, for a month in which `total` is used."""
        after = self.included
        if after is None:
            return
        for tier in self.tiers:
            if self.model == "graduated":
                yield Band(after, tier.up_to, tier.price)
                after = after if tier.up_to is None else tier.up_to
            elif tier.up_to is None or total <= tier.up_to:
                yield Band(after, None, tier.price)
                return


#: A meter that a plan does not name costs nothing there.
FREE: Final = Tariff(None, (), "graduated")


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a plan costs from an hour on: the fee of a whole month, and the tariff of each meter."""

    plan: str
    title: str
    from_ms: int
    base_fee: Decimal
    tariffs: Mapping[str, Tariff]

    def tariff(self, meter: str) -> Tariff:
        """Return what the plan charges for a meter."""
        return self.tariffs.get(meter, FREE)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan and its price lists, the earliest first."""

    name: str
    currency: str
    price_lists: tuple[PriceList, ...]

    def at(self, time_ms: int) -> PriceList | None:
        """Return the price list in force at a time, None before the first."""
        index = bisect_right(self.price_lists, time_ms, key=lambda prices: prices.from_ms)
        return self.price_lists[index - 1] if index else None


@dataclass(frozen=True, slots=True)
class Account:
    """Who is billed: the lines of an address, and the plans in order of the times (ms) from which they apply."""

    project: str
    plans: tuple[tuple[int, Plan | None], ...]
    bill_to: tuple[str, ...] = ()

    @property
    def currency(self) -> str:
        """The currency of its plans, of which all have the same."""
        return next(plan.currency for _, plan in self.plans if plan is not None)

    def at(self, time_ms: int) -> PriceList | None:
        """Return the price list that applies to the project at a time, None where it has no plan."""
        index = bisect_right(self.plans, time_ms, key=lambda entry: entry[0])
        plan = self.plans[index - 1][1] if index else None
        return None if plan is None else plan.at(time_ms)

    def spans(self, from_ms: int, to_ms: int) -> Iterator[tuple[int, int, PriceList]]:
        """Yield the stretches of a time, each from one moment to another (ms), in which one price list applies."""
        changes = {prices.from_ms for _, plan in self.plans if plan is not None for prices in plan.price_lists}
        changes |= {changed_ms for changed_ms, _ in self.plans}
        edges = [from_ms, *sorted(changed_ms for changed_ms in changes if from_ms < changed_ms < to_ms), to_ms]
        for begin_ms, end_ms in pairwise(edges):
            if (prices := self.at(begin_ms)) is not None:
                yield begin_ms, end_ms, prices


@dataclass(frozen=True, slots=True)
class Seller:
    """Who bills: a name, the lines of an address, a note at the end, and what stands before an invoice's number."""

    name: str = ""
    address: tuple[str, ...] = ()
    note: str = ""
    number_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Plans:
    """The whole file: plans and accounts by name."""

    plans: Mapping[str, Plan]
    accounts: Mapping[str, Account]
    seller: Seller = field(default_factory=Seller)
