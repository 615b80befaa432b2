"""The invoice of a month: what is due, less what was invoiced before."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metering.invoice import BASE_FEE, Invoice, first_month, invoice
from pipeline.metering.meters import Meter
from pipeline.metering.months import Month
from pipeline.metering.plans import Account, InvalidPlans, Seller
from pipeline.metering.pricing import base_fee, price
from pipeline.metering.units import MS_PER_DAY
from tests.metering.builders import METERS
from tests.metering.plan_texts import Document, account_of, documents, flat, plans_of, to_toml

_METER = "agent_session_minutes"
_SEPTEMBER, _OCTOBER, _NOVEMBER = Month(2026, 9), Month(2026, 10), Month(2026, 11)
_FROM_OCTOBER = 'plans = [{ from = 2026-10-01, plan = "p" }]'
_FEE = flat("included = 10, price = 0.5", fee="50")

Hours = Mapping[int, int]


def _day(month: Month, day: int) -> int:
    return month.start_ms + (day - 1) * MS_PER_DAY


def _issue(
    account: Account, month: Month, hours: Hours, *earlier: Invoice | None, adjusted_from: Month = _SEPTEMBER
) -> Invoice | None:
    """Return the next invoice, under the next number."""
    before = [one for one in earlier if one is not None]
    found = invoice(
        account,
        month,
        METERS,
        {_METER: hours},
        before,
        adjusted_from=max(adjusted_from, first_month(month, 60 * MS_PER_DAY)),
        as_of_ms=month.end_ms,
        seller=Seller(),
    )
    return found and replace(found, number=len(before) + 1)


def _lines(found: Invoice | None) -> list[tuple[str, str, str]]:
    """Return month, item and amount of each line."""
    return [] if found is None else [(str(line.month), line.item, str(line.amount)) for line in found.lines]


def test_a_fee_is_due_in_advance_and_usage_in_arrears() -> None:
    """The first invoice has the base fee of its own month as well: nobody has charged it yet."""
    first = _issue(account_of(_FEE, _FROM_OCTOBER), _OCTOBER, {_day(_OCTOBER, 3): 14})
    assert _lines(first) == [
        ("2026-11", BASE_FEE, "50.00"),
        ("2026-10", BASE_FEE, "50.00"),
        ("2026-10", _METER, "2.00"),
    ]
    assert first is not None
    assert str(first.total) == "102.00"


def test_usage_that_costs_nothing_is_shown_beside_what_is_due() -> None:
    """Of the month itself alone; and nothing of the first invoice is an adjustment."""
    hours = {_day(_SEPTEMBER, 3): 5, _day(_OCTOBER, 3): 7}
    first = _issue(account_of(_FEE), _OCTOBER, hours)
    assert _lines(first)[2:] == [("2026-10", _METER, "0.00"), ("2026-09", BASE_FEE, "50.00")]
    assert first is not None
    assert [line.is_adjustment for line in first.lines] == [False, False, False, True]
    assert first.lines[2].hours == ((_day(_OCTOBER, 3), 7),)
    assert first.lines[2].changed == ()


def test_a_line_has_the_hours_behind_it_in_their_order() -> None:
    """Of those in which the project has a plan, whatever order usage comes in."""
    account = account_of(flat(), 'plans = [{ from = 2026-10-16, plan = "p" }]')
    found = _issue(account, _OCTOBER, {_day(_OCTOBER, day): day for day in (20, 17, 3, 16)})
    assert found is not None
    assert found.lines[0].hours == tuple((_day(_OCTOBER, day), day) for day in (16, 17, 20))


def test_a_line_says_what_the_table_of_meters_says() -> None:
    """R16: what it means, in which unit, how it is measured; a base fee measures nothing and is of hours."""
    first = _issue(account_of(_FEE, _FROM_OCTOBER), _OCTOBER, {_day(_OCTOBER, 3): 14})
    assert first is not None
    fee, _, usage = first.lines
    meter = METERS[_METER]
    assert (usage.meaning, usage.measures, usage.unit) == (meter.meaning, "session", "minute")
    assert (fee.meaning, fee.measures, fee.unit) == (BASE_FEE, "", "hour")
    assert _meaning(replace(meter, meaning="")) == _METER


def _meaning(meter: Meter) -> str:
    """Return what the line of a meter says."""
    usage = {meter.name: {_day(_OCTOBER, 3): 1}}
    account = account_of(flat(), _FROM_OCTOBER)
    found = invoice(
        account, _OCTOBER, {meter.name: meter}, usage, [], adjusted_from=_OCTOBER, as_of_ms=0, seller=Seller()
    )
    assert found is not None
    return found.lines[0].meaning


def test_an_adjustment_names_the_hours_that_have_changed_in_their_order() -> None:
    """With the difference; what came new, what is gone, and not what stayed."""
    account = account_of(flat("price = 1"), _FROM_OCTOBER)
    day = [_day(_OCTOBER, number) for number in range(1, 6)]
    first = _issue(account, _OCTOBER, {day[3]: 1, day[1]: 2, day[2]: 3})
    second = _issue(account, _NOVEMBER, {day[4]: 5, day[2]: 3, day[1]: 9, day[0]: 1}, first)
    assert second is not None
    assert second.lines[0].changed == ((day[0], 1), (day[1], 7), (day[3], -1), (day[4], 5))


def test_a_fee_that_was_charged_in_advance_is_not_charged_again() -> None:
    """November's was in October's invoice."""
    account = account_of(_FEE, _FROM_OCTOBER)
    first = _issue(account, _OCTOBER, {})
    assert _lines(_issue(account, _NOVEMBER, {}, first)) == [("2026-12", BASE_FEE, "50.00")]


def test_a_plan_that_changes_after_its_fee_was_charged_is_settled_by_the_hour() -> None:
    """Half of November on the fee of 50, half on 500: 225 more than was charged."""
    prices = _FEE + '[plans.q]\ncurrency = "USD"\n[[plans.q.prices]]\nfrom = 2026-01-01\nbase_fee = 500\n'
    first = _issue(account_of(prices, _FROM_OCTOBER), _OCTOBER, {})
    moved = account_of(prices, 'plans = [{ from = 2026-10-01, plan = "p" }, { from = 2026-11-16, plan = "q" }]')
    second = _issue(moved, _NOVEMBER, {}, first)
    assert _lines(second) == [("2026-12", BASE_FEE, "500.00"), ("2026-11", BASE_FEE, "225.00")]
    assert second is not None
    assert second.lines[1].is_adjustment


def test_a_customer_who_leaves_gets_back_the_fee_of_hours_to_come() -> None:
    """Negative, and with the hours that stay charged."""
    first = _issue(account_of(_FEE, _FROM_OCTOBER), _OCTOBER, {})
    left = account_of(_FEE, 'plans = [{ from = 2026-10-01, plan = "p" }, { from = 2026-11-16, plan = "" }]')
    assert _lines(_issue(left, _NOVEMBER, {}, first)) == [("2026-11", BASE_FEE, "-25.00")]


@pytest.mark.parametrize(("now", "amount"), [(20, "3.00"), (4, "-2.00"), (0, "-2.00")])
def test_a_later_correction_becomes_an_adjustment_of_the_next_invoice(now: int, amount: str) -> None:
    """More or less: October was invoiced with 14 minutes, of which 4 cost something."""
    account = account_of(flat("included = 10, price = 0.5"), _FROM_OCTOBER)
    hour_ms = _day(_OCTOBER, 3)
    first = _issue(account, _OCTOBER, {hour_ms: 14})
    second = _issue(account, _NOVEMBER, {hour_ms: now} if now else {}, first)
    assert _lines(second) == [("2026-10", _METER, amount)]
    assert second is not None
    [line] = second.lines
    assert (line.is_adjustment, str(line.invoiced_quantity)) == (True, "14")
    assert line.changed == ((hour_ms, now - 14),)


def test_an_adjustment_of_the_largest_amounts_is_exact() -> None:
    """All but one of 62 bits of minutes, at the highest price, never happened."""
    account = account_of(flat("price = 999999999999"), _FROM_OCTOBER)
    first = _issue(account, _OCTOBER, {_day(_OCTOBER, 3): 2**62})
    second = _issue(account, _NOVEMBER, {_day(_OCTOBER, 3): 1}, first)
    assert _lines(second) == [("2026-10", _METER, f"-{(2**62 - 1) * 999999999999}.00")]


def test_an_adjustment_is_made_once() -> None:
    """The third invoice knows what the second has set right."""
    account = account_of(flat("price = 0.5"), _FROM_OCTOBER)
    hours = {_day(_OCTOBER, 3): 20, _day(_NOVEMBER, 3): 1}
    first = _issue(account, _OCTOBER, {_day(_OCTOBER, 3): 14})
    second = _issue(account, _NOVEMBER, hours, first)
    third = _issue(account, Month(2026, 12), hours | {_day(Month(2026, 12), 1): 2}, first, second)
    assert _lines(third) == [("2026-12", _METER, "1.00")]


def test_a_correction_that_came_too_late_for_the_window_is_not_invoiced() -> None:
    """R11: what is accepted after December began is not older than 60 days, so September cannot have changed since."""
    account = account_of(flat("price = 0.5"))
    first = _issue(account, _SEPTEMBER, {_day(_SEPTEMBER, 3): 14})
    hours = {_day(_SEPTEMBER, 3): 99, _day(_OCTOBER, 3): 1}
    assert _lines(_issue(account, Month(2026, 12), hours, first)) == [("2026-10", _METER, "0.50")]


@pytest.mark.parametrize(
    ("month", "first"), [("2026-10", "2026-08"), ("2026-12", "2026-10"), ("2027-01", "2026-11"), ("2027-03", "2026-12")]
)
def test_the_window_reaches_back_from_the_months_begin(month: str, first: str) -> None:
    """60 days before it, and the whole month which that day lies in."""
    assert str(first_month(Month.parse(month), 60 * MS_PER_DAY)) == first


def test_a_month_that_nobody_invoiced_comes_with_the_next() -> None:
    """Nothing was due in September when it was over; what came in late is not lost."""
    account = account_of(flat("price = 0.5"))
    found = _issue(account, _OCTOBER, {_day(_SEPTEMBER, 9): 2, _day(_OCTOBER, 1): 4})
    assert _lines(found) == [("2026-10", _METER, "2.00"), ("2026-09", _METER, "1.00")]
    assert found is not None
    assert [(str(line.invoiced), str(line.invoiced_quantity)) for line in found.lines] == [("0", "0")] * 2


def test_months_before_the_first_invoice_of_all_are_left_alone() -> None:
    """They were somebody else's to bill."""
    account = account_of(flat("price = 0.5"))
    found = _issue(account, _OCTOBER, {_day(_SEPTEMBER, 9): 2, _day(_OCTOBER, 1): 4}, adjusted_from=_OCTOBER)
    assert _lines(found) == [("2026-10", _METER, "2.00")]


def test_nothing_due_is_no_invoice() -> None:
    """Nor is usage that is included; beside something due, it is shown."""
    account = account_of(flat("included = 10, price = 0.5"))
    assert _issue(account, _OCTOBER, {}) is None
    assert _issue(account, _OCTOBER, {_day(_OCTOBER, 1): 10}) is None


@pytest.mark.parametrize(
    ("hour", "month"),
    [("first", "2026-10"), ("last", "2026-10"), ("before", "2026-09"), ("after", "2026-11")],
)
def test_the_hours_of_a_month_are_utcs(hour: str, month: str) -> None:
    """Its first and its last hour belong to it, the hours around do not."""
    hours_ms = {
        "before": _OCTOBER.start_ms - 3_600_000,
        "first": _OCTOBER.start_ms,
        "last": _OCTOBER.end_ms - 3_600_000,
        "after": _OCTOBER.end_ms,
    }
    found = _issue(account_of(flat()), Month.parse(month), {hours_ms[hour]: 1}, adjusted_from=Month.parse(month))
    assert _lines(found) == [(month, _METER, "0.01")]


def test_a_change_of_currency_under_an_invoiced_project_is_refused() -> None:
    """Amounts of two currencies have no difference."""
    first = _issue(account_of(flat(), _FROM_OCTOBER), _OCTOBER, {_day(_OCTOBER, 1): 1})
    with pytest.raises(InvalidPlans, match="was invoiced in another currency than EUR"):
        _issue(account_of(flat(), _FROM_OCTOBER, "EUR"), _NOVEMBER, {}, first)


def test_an_invoice_is_called_by_its_number() -> None:
    """With the seller's prefix; without a number it is a preview."""
    first = _issue(account_of(flat(), _FROM_OCTOBER), _OCTOBER, {_day(_OCTOBER, 1): 1})
    assert first is not None
    assert replace(first, seller=Seller(number_prefix="RM-"), number=17).name == "RM-000017"
    assert replace(first, number=None).name == "preview"


_any_hours = st.dictionaries(
    st.sampled_from([_day(month, day) for month in (_SEPTEMBER, _OCTOBER, _NOVEMBER) for day in (1, 15, 20, 30)]),
    st.integers(1, 40),
    max_size=6,
)


@settings(max_examples=settings().max_examples // 2)
@given(documents(), st.lists(_any_hours, min_size=3, max_size=3))
def test_all_invoices_together_are_what_is_due(document: Document, seen: list[dict[int, int]]) -> None:
    """Whatever usage turns out to be, month after month: the newest view of it is what was charged in the end."""
    account = plans_of(to_toml(document)).accounts["acme"]
    issued: list[Invoice | None] = []
    for month, hours in zip((_SEPTEMBER, _OCTOBER, _NOVEMBER), seen, strict=True):
        issued.append(_issue(account, month, hours, *issued))
    due = Decimal(0)
    for month in (_SEPTEMBER, _OCTOBER, _NOVEMBER):
        hours = {at: n for at, n in seen[-1].items() if Month.at(at) == month}
        due += price(METERS[_METER], hours, account).amount
    for month in (_SEPTEMBER, _OCTOBER, _NOVEMBER, Month(2026, 12)):
        due += base_fee(month, account).amount
    assert sum(one.total for one in issued if one is not None) == due
