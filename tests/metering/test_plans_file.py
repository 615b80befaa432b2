"""The plans file: what it may say, and every way to write a wrong one."""

from dataclasses import astuple
from decimal import Decimal

import pytest

from pipeline.metering.plans import InvalidPlans, Seller, Tariff, Tier
from pipeline.metering.units import parse_time
from tests.metering.builders import ROOT
from tests.metering.plan_texts import account_of, flat, plans_of

_PLAN = '[plans.p]\ncurrency = "USD"\n'
_LIST = "[[plans.p.prices]]\nfrom = 2026-09-01\n"
_METER = "meters.agent_session_minutes = "


def test_the_example_that_ships_is_one() -> None:
    """Three plans, and nobody on them."""
    plans = plans_of((ROOT / "schemas" / "plans.toml").read_text())
    assert sorted(plans.plans) == ["build", "scale", "ship"]
    assert plans.accounts == {}


def test_prices_are_the_decimals_that_are_written() -> None:
    """No float is between the file and the bill."""
    account = account_of(flat("included = 1_000, price = 0.1"))
    prices = account.at(parse_time("2026-10-01T00:00:00Z"))
    assert prices is not None
    tariff = prices.tariff("agent_session_minutes")
    assert (str(tariff.included), str(tariff.tiers[0].price)) == ("1000", "0.1")
    assert tariff == Tariff(Decimal(1_000), (Tier(None, Decimal("0.1")),), "graduated")


@pytest.mark.parametrize(
    ("time", "fee"),
    [("2026-10-01T13:59:59.999Z", 1), ("2026-10-01T14:00:00.000Z", 2), ("2026-08-31T23:59:59.999Z", None)],
)
def test_prices_apply_from_their_hour_on(time: str, fee: int | None) -> None:
    """A time with an offset is the hour it is in UTC; before the first there are none."""
    account = account_of(flat(fee="1") + "[[plans.p.prices]]\nfrom = 2026-10-01T16:00:00+02:00\nbase_fee = 2\n")
    prices = account.at(parse_time(time))
    assert (prices and prices.base_fee) == fee


@pytest.mark.parametrize(
    ("time", "plan"),
    [("2026-08-31T23:00:00Z", None), ("2026-09-01T00:00:00Z", "p"), ("2026-10-02T00:00:00Z", None)],
)
def test_a_project_is_on_its_plan_from_a_time_until_the_next(time: str, plan: str | None) -> None:
    """The empty name is no plan at all."""
    account = account_of(flat(), 'plans = [{ from = 2026-09-01, plan = "p" }, { from = 2026-10-02, plan = "" }]')
    prices = account.at(parse_time(time))
    assert (prices and prices.plan) == plan


def test_a_project_may_begin_without_a_plan() -> None:
    """Its currency is that of the plan which follows."""
    account = account_of(flat(), 'plans = [{ from = 2026-09-01, plan = "" }, { from = 2026-10-02, plan = "p" }]')
    assert account.currency == "USD"


def test_a_seller_is_who_writes_the_invoice() -> None:
    """Name, address, a note, and what stands before the numbers."""
    text = '[seller]\nname = "Rooms Ltd"\naddress = ["1 High Street"]\nnote = "14 days"\nnumber_prefix = "RM-"\n'
    assert plans_of(text).seller == Seller("Rooms Ltd", ("1 High Street",), "14 days", "RM-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[plans.p\n", r"not TOML: .*line 1"),
        ("[[plan]]\n", r"^plan: is no field here"),
        ("plans = 1\n", r"plans: has to hold tables"),
        (f"{_LIST}", r"plans.p.currency: is missing"),
        ('[plans.p]\ncurrency = "dollar"\n', r"plans.p.currency: has to be a code of ISO 4217"),
        (_PLAN, r"plans.p.prices: is missing; it is a list"),
        (_PLAN + "prices = 1\n", r"plans.p.prices: is missing; it is a list"),
        (_PLAN + "[[plans.p.prices]]\n", r"plans.p.prices\[1\].from: has to be a date"),
        (_PLAN + "[[plans.p.prices]]\nfrom = 2026-10-01T14:00:00\n", r"from: has to be a date"),
        (_PLAN + "[[plans.p.prices]]\nfrom = 2026-10-01T14:30:00Z\n", r"from: has to be a whole hour in UTC"),
        (_PLAN + "[[plans.p.prices]]\nfrom = 2026-10-01T14:00:00.0001Z\n", r"from: has to be a whole hour in UTC"),
        (_PLAN + "[[plans.p.prices]]\nfrom = 1999-10-01\n", r"from: a time outside the years"),
        (_PLAN + _LIST + _LIST, r"plans.p.prices\[2\].from: has to be later"),
        (
            _PLAN + _LIST + "[[plans.p.prices]]\nfrom = 2026-11-01\n[[plans.p.prices]]\nfrom = 2026-10-01\n",
            r"plans.p.prices\[3\].from: has to be later",
        ),
        (_PLAN + _LIST + _METER + "{ tiers = [{ up_to = 1 }, { price = 1 }] }\n", r"tiers\[1\].price: is missing"),
        (_PLAN + _LIST + "base_fee = -1\n", r"plans.p.prices\[1\].base_fee: has to be from 0"),
        (_PLAN + _LIST + "base_fee = nan\n", r"base_fee: has to be a number"),
        (_PLAN + _LIST + "base_fee = true\n", r"base_fee: has to be a number"),
        (_PLAN + _LIST + 'base_fee = "50"\n', r"base_fee: has to be a number, without quotes"),
        (_PLAN + _LIST + "base_fee = 1_000_000_000_000\n", r"base_fee: has to be from 0 to below 1000000000000"),
        (_PLAN + _LIST + "base_fee = 0.0000000000001\n", r"base_fee: .*at most 12 decimals"),
        (_PLAN + _LIST + "basefee = 1\n", r"plans.p.prices\[1\].basefee: is no field here; they are base_fee"),
        (
            _PLAN + _LIST + "meters.minutes = { price = 1 }\n",
            r"prices\[1\].meters.minutes: is no meter; they are agent",
        ),
        (_PLAN + _LIST + _METER + "1\n", r"meters.agent_session_minutes: has to be a table"),
        (_PLAN + _LIST + _METER + "{ included = 1 }\n", r"agent_session_minutes: needs either price or tiers"),
        (_PLAN + _LIST + _METER + '{ price = 1, model = "volume" }\n', r"model: goes with tiers"),
        (_PLAN + _LIST + _METER + "{ tiers = [] }\n", r"tiers: is missing"),
        (_PLAN + _LIST + _METER + "{ tiers = [{ up_to = 1, price = 1 }] }\n", r"tiers\[1\].up_to: belongs to every"),
        (
            _PLAN + _LIST + _METER + "{ tiers = [{ price = 1 }, { price = 2 }] }\n",
            r"tiers\[1\].up_to: belongs to every",
        ),
        (
            _PLAN + _LIST + _METER + "{ included = 5, tiers = [{ up_to = 5, price = 1 }, { price = 2 }] }\n",
            r"tiers\[1\].up_to: has to be more than the included",
        ),
        (
            _PLAN + _LIST + _METER + '{ tiers = [{ price = 1 }], model = "flat" }\n',
            r"model: has to be one of graduated",
        ),
        ("[projects.acme]\n", r"projects.acme.plans: is missing"),
        ('[projects.acme]\nplans = [{ from = 2026-10-01, plan = "x" }]\n', r"plans\[1\].plan: is none of"),
        ('[projects.acme]\nplans = [{ from = 2026-10-01, plan = "" }]\n', r"plans: have to be in one currency"),
        ('[seller]\nname = "a\\nb"\n', r"seller.name: has to be a text of one line"),
        ("[seller]\naddress = [1]\n", r"seller.address.1: has to be a text"),
        ("seller = 1\n", r"^seller: has to hold tables"),
        ("[seller]\nname = 1\n", r"^seller.name: has to be a text of one line"),
        ('[seller]\nnom = "x"\n', r"^seller.nom: is no field here; they are address, name, note, number_prefix"),
        (f'[seller]\nnote = "{"x" * 201}"\n', r"seller.note: .* of at most 200 characters"),
        ('[seller]\naddress = "1 High Street"\n', r"^seller.address: has to be a list of at most 8 lines"),
        (f"[seller]\naddress = {['x'] * 9}\n", r"^seller.address: has to be a list of at most 8 lines"),
        (f'[seller]\nnumber_prefix = "{"x" * 17}"\n', r"^seller.number_prefix: has to be at most 16"),
        ("[projects]\nacme = 1\n", r"^projects.acme: has to be a table"),
        ('[seller]\nnumber_prefix = "<b>"\n', r"seller.number_prefix: has to be at most 16"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_reason(text: str, message: str) -> None:
    """Line and column where it is no TOML, table and field elsewhere."""
    with pytest.raises(InvalidPlans, match=message):
        plans_of(text)


def test_texts_may_be_as_long_as_an_invoice_has_room_for() -> None:
    """Eight lines of 200 characters, and 16 before the number."""
    line, lines = "x" * 200, ["y" * 200] * 8
    text = f'[seller]\nname = "{line}"\nnote = "{line}"\naddress = {lines}\nnumber_prefix = "{"z" * 16}"\n'
    assert plans_of(text).seller == Seller(line, tuple(lines), line, "z" * 16)


def test_what_is_not_said_of_a_seller_is_empty() -> None:
    """Nobody has to have a note."""
    assert astuple(plans_of("[seller]\n").seller) == astuple(plans_of("").seller) == ("", (), "", "")


def test_a_project_says_whom_to_bill_and_a_plan_its_title() -> None:
    """An address of its own; a plan without a title is called by its name."""
    project = 'plans = [{ from = 2026-09-01, plan = "p" }]\nbill_to = ["Acme", "2 Low Street"]'
    assert account_of(flat(), project).bill_to == ("Acme", "2 Low Street")
    assert account_of(flat()).bill_to == ()
    with pytest.raises(InvalidPlans, match=r"^projects\.acme\.bill_to: has to be a list"):
        account_of(flat(), project.replace('["Acme", "2 Low Street"]', '"Acme"'))
    titles = [
        plans_of(f"{_PLAN}{title}{_LIST}").plans["p"].price_lists[0].title for title in ("", 'title = "Private"\n')
    ]
    assert titles == ["p", "Private"]
    assert plans_of(f"{_PLAN}{_LIST}").plans["p"].price_lists[0].base_fee == 0


@pytest.mark.parametrize(
    ("written", "number"),
    [("999_999_999_999", "999999999999"), ("0.000000000001", "1E-12"), ("-0.0", "0.0"), ("1.50", "1.50"), ("0", "0")],
)
def test_numbers_may_be_as_large_and_as_small_as_money_holds(written: str, number: str) -> None:
    """Below a million millions, with twelve decimals, and never less than nothing."""
    plan = plans_of(f"{_PLAN}{_LIST}base_fee = {written}\n").plans["p"]
    assert str(plan.price_lists[0].base_fee) == number


def test_tiers_are_as_they_are_written() -> None:
    """Each up to more than the one before, the last without end; graduated where nothing else is said."""
    tiers = "tiers = [{ up_to = 5.5, price = 3 }, { up_to = 6, price = 2 }, { price = 1 }]"
    expected = (Tier(Decimal("5.5"), Decimal(3)), Tier(Decimal(6), Decimal(2)), Tier(None, Decimal(1)))
    for more, model in (("", "graduated"), (', model = "graduated"', "graduated"), (', model = "volume"', "volume")):
        plan = plans_of(f"{_PLAN}{_LIST}{_METER}{{ included = 5, {tiers}{more} }}\n").plans["p"]
        assert plan.price_lists[0].tariff("agent_session_minutes") == Tariff(Decimal(5), expected, model)  # type: ignore[arg-type] # one of two


@pytest.mark.parametrize(("ends", "place"), [((5, 5), 2), ((5, 7, 6), 3)])
def test_no_tier_may_be_empty(ends: tuple[int, ...], place: int) -> None:
    """Nor end before the one before it does."""
    tiers = "".join(f"{{ up_to = {end}, price = 3 }}, " for end in ends)
    with pytest.raises(InvalidPlans, match=rf"tiers\[{place}\].up_to: has to be more than the included quantity"):
        plans_of(f"{_PLAN}{_LIST}{_METER}{{ tiers = [{tiers}{{ price = 1 }}] }}\n")


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ('{ from = 2026-08-31, plan = "p" }', r"plans\[1\].from: is before the first prices of p"),
        ('{ from = 2026-10-01, plan = "p" }, { from = 2026-10-01, plan = "" }', r"plans\[2\].from: has to be later"),
        (
            '{ from = 2026-10-01, plan = "p" }, { from = 2026-12-01, plan = "" }, { from = 2026-11-01, plan = "p" }',
            r"plans\[3\].from: has to be later",
        ),
        ('{ from = 2026-10-01, plan = "p" }, { from = 2026-11-01, plan = "e" }', r"have to be in one currency"),
    ],
)
def test_a_project_is_on_plans_that_fit(plans: str, message: str) -> None:
    """Prices are there when the plan begins, times rise, and the currency stays."""
    other = '[plans.e]\ncurrency = "EUR"\n[[plans.e.prices]]\nfrom = 2026-01-01\n'
    with pytest.raises(InvalidPlans, match=message):
        account_of(flat() + other, f"plans = [{plans}]")
