"""The invoice of a project and month: what is due, less what was invoiced before.

In advance the base fee of the month that follows, in arrears the month's usage and what of its own base fee is not
invoiced yet. What has changed in earlier months since they were invoiced becomes adjustments: each is the difference
of two rounded amounts, so the invoices of a project add up to what is due, and nothing is rounded twice. Earlier
months are looked at as far back as events may still have changed them since the month before was over (R11).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Final, NamedTuple

from pipeline.metering.meters import Meter, Meters
from pipeline.metering.money import EXACT
from pipeline.metering.months import Month
from pipeline.metering.plans import Account, InvalidPlans, Seller
from pipeline.metering.pricing import Charge, base_fee, price

#: The item of a base fee, which no meter may be called: names of meters have no space.
BASE_FEE: Final = "base fee"

Hours = Mapping[int, int]
"""Increments by hour (ms)."""


class Line(NamedTuple):
    """What an invoice says of an item (a meter, or the base fee) in a month.

    `charge` is what is due for the month as known now, `invoiced` what earlier invoices have charged, and `amount`
    what is still to pay. `hours` are the increments behind it; `changed` those hours whose increments are other than
    when the item was last invoiced, with the difference. What the table of meters said
    of the item is kept with the line; a base fee measures nothing.
    """

    item: str
    month: Month
    meaning: str
    measures: str
    unit: str
    charge: Charge
    invoiced: Decimal
    invoiced_quantity: Decimal
    amount: Decimal
    hours: tuple[tuple[int, int], ...]
    changed: tuple[tuple[int, int], ...]
    is_adjustment: bool


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice as a value; `number` is None in a preview, and times are ms."""

    project: str
    month: Month
    currency: str
    as_of_ms: int
    lines: tuple[Line, ...]
    seller: Seller
    bill_to: tuple[str, ...] = ()
    number: int | None = None

    @property
    def total(self) -> Decimal:
        """The sum of all amounts; what is due to the customer, where negative."""
        with localcontext(EXACT):
            return sum((line.amount for line in self.lines), Decimal(0))

    @property
    def name(self) -> str:
        """What the invoice is called: its number with the prefix, or `preview`."""
        return "preview" if self.number is None else f"{self.seller.number_prefix}{self.number:06}"


def first_month(month: Month, window_ms: int) -> Month:
    """Return the earliest month that an invoice may adjust.

    What was accepted since the month before was over is at most `window_ms` older than that moment (R11).
    """
    return Month.at(month.start_ms - window_ms)


def invoice(
    account: Account,
    month: Month,
    meters: Meters,
    usage: Mapping[str, Hours],
    earlier: Sequence[Invoice],
    *,
    adjusted_from: Month,
    as_of_ms: int,
    seller: Seller,
) -> Invoice | None:
    """Return a project's invoice of a month, or None where nothing is due.

    `usage` is its increments by meter and hour, of all months from `adjusted_from` on to this one; hours in which the
    project has no plan are left out. `earlier` are its invoices before this one that charge any of those months, in
    the order of their numbers. Raises InvalidPlans where those are in another currency.
    """
    if any(one.currency != account.currency for one in earlier):
        raise InvalidPlans(f"projects.{account.project}: was invoiced in another currency than {account.currency}")
    before: dict[tuple[Month, str], Line] = {}
    for one in earlier:
        assert one.month < month, "months are invoiced in their order"
        before |= {(line.month, line.item): line for line in one.lines}
    lines = []
    for charged, meter, hours, charge in _charges(account, month, meters, usage, adjusted_from):
        item = meter.name if meter else BASE_FEE
        line = _line(charged, meter, hours, charge, before.get((charged, item)), is_earlier=charged < month)
        if line.amount or (charged == month and line.hours):
            lines.append(line)
    if not any(line.amount for line in lines):
        return None
    return Invoice(account.project, month, account.currency, as_of_ms, tuple(lines), seller, account.bill_to)


def _charges(
    account: Account, month: Month, meters: Meters, usage: Mapping[str, Hours], adjusted_from: Month
) -> Iterator[tuple[Month, Meter | None, Hours, Charge]]:
    """Yield all that is due, by month and meter (None: the base fee).

    First of the next month and this one, then of the months before, the earliest first.
    """

    def fee(charged: Month) -> tuple[Month, None, Hours, Charge]:
        return charged, None, {}, base_fee(charged, account)

    yield fee(month.shifted(1))
    charged = month
    while True:
        yield fee(charged)
        for meter in meters.values():
            hours = {
                hour_ms: increments
                for hour_ms, increments in sorted(usage.get(meter.name, {}).items())
                if charged.start_ms <= hour_ms < charged.end_ms and account.at(hour_ms) is not None
            }
            yield charged, meter, hours, price(meter, hours, account)
        charged = adjusted_from if charged == month else charged.shifted(1)
        if charged >= month:
            return


def _line(
    month: Month, meter: Meter | None, hours: Hours, charge: Charge, before: Line | None, *, is_earlier: bool
) -> Line:
    amount, quantity = (before.charge.amount, before.charge.quantity) if before else (Decimal(0), Decimal(0))
    seen = dict(before.hours) if before else {}
    changed = {hour_ms: hours.get(hour_ms, 0) - seen.get(hour_ms, 0) for hour_ms in sorted(hours.keys() | seen.keys())}
    is_adjustment = is_earlier or before is not None
    return Line(
        meter.name if meter else BASE_FEE,
        month,
        (meter.meaning or meter.name) if meter else BASE_FEE,
        meter.measures if meter else "",
        meter.unit if meter else "hour",
        charge,
        amount,
        quantity,
        EXACT.subtract(charge.amount, amount),
        tuple(hours.items()),
        tuple((hour_ms, by) for hour_ms, by in changed.items() if by) if is_adjustment else (),
        is_adjustment,
    )
