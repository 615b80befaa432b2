"""The plans file's format: its tables and fields, what they may hold, and how mistakes in it are reported.

Numbers are read as the decimals that are written, never as floats. Unknown fields are mistakes, since a typo must not
change a bill in silence.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final, get_args

from pipeline.metering.meters import Meters
from pipeline.metering.money import MOST_DECIMALS, PRICE_LIMIT
from pipeline.metering.plans import Account, InvalidPlans, Model, Plan, Plans, PriceList, Seller, Tariff, Tier
from pipeline.metering.units import EARLIEST_MS, MS_PER_HOUR, NEVER_MS, parse_time

_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9 /._-]{0,16}")
_MOST_LINES: Final = 8
_MOST_CHARACTERS: Final = 200


def parse_plans(text: str, meters: Meters) -> Plans:
    """Read a plans file from TOML text; raises InvalidPlans with the line, or the table and field, and the reason."""
    try:
        document = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise InvalidPlans(f"not TOML: {error}") from error
    top = _Table(document, "", {"plans", "projects", "seller"})
    plans = {name: _plan(name, table, meters) for name, table in top.tables("plans")}
    accounts = {name: _account(name, table, plans) for name, table in top.tables("projects")}
    return Plans(plans, accounts, _seller(top))


class _Table:
    """A table of the file and where it stands; what is taken from it is checked, and a mistake says where it is."""

    def __init__(self, table: Any, where: str, fields: set[str]) -> None:
        """Take a table that may have these fields."""
        self.where = where
        if not isinstance(table, dict):
            raise self.mistake("", "has to be a table")
        for name in table:
            if name not in fields:
                raise self.mistake(name, f"is no field here; they are {', '.join(sorted(fields))}")
        self._table = table

    def __contains__(self, name: str) -> bool:
        """Tell whether a field is given."""
        return name in self._table

    def mistake(self, field: str, advice: str) -> InvalidPlans:
        """Return the error that says where a mistake is, and what to do."""
        place = ".".join(filter(None, (self.where, field)))
        return InvalidPlans(f"{place}: {advice}" if place else advice)

    def tables(self, field: str) -> Iterator[tuple[str, Any]]:
        """Yield the tables of a table, by their names."""
        found = self._table.get(field, {})
        if not isinstance(found, dict):
            raise self.mistake(field, f"has to hold tables: [{field}.NAME]")
        yield from found.items()

    def entries(self, field: str, fields: set[str]) -> list["_Table"]:
        """Return the tables of a list, which has to have one at least."""
        found = self._table.get(field)
        if not isinstance(found, list) or not found:
            raise self.mistake(field, "is missing; it is a list of tables, with one at least")
        place = ".".join(filter(None, (self.where, field)))
        return [_Table(table, f"{place}[{number}]", fields) for number, table in enumerate(found, 1)]

    def text(self, field: str, default: str | None = None) -> str:
        """Return a text of one line."""
        found = self._table.get(field, default)
        if found is None:
            raise self.mistake(field, "is missing")
        if not isinstance(found, str) or not found.isprintable() or len(found) > _MOST_CHARACTERS:
            raise self.mistake(field, f"has to be a text of one line, of at most {_MOST_CHARACTERS} characters")
        return found

    def lines(self, field: str) -> tuple[str, ...]:
        """Return a list of short texts, such as an address."""
        found = self._table.get(field, [])
        if not isinstance(found, list) or len(found) > _MOST_LINES:
            raise self.mistake(field, f"has to be a list of at most {_MOST_LINES} lines of text")
        return tuple(
            _Table({str(n): line}, f"{self.where}.{field}", {str(n)}).text(str(n)) for n, line in enumerate(found, 1)
        )

    def number(self, field: str, default: Decimal | None = None) -> Decimal:
        """Return a decimal of at least 0, as it is written."""
        found = self._table.get(field, default)
        if found is None:
            raise self.mistake(field, "is missing")
        if type(found) not in (int, Decimal) or not (number := Decimal(found)).is_finite():
            raise self.mistake(field, "has to be a number, without quotes")
        exponent = number.normalize().as_tuple().exponent
        if not 0 <= number < PRICE_LIMIT or not isinstance(exponent, int) or -exponent > MOST_DECIMALS:
            raise self.mistake(field, f"has to be from 0 to below {PRICE_LIMIT}, with at most {MOST_DECIMALS} decimals")
        return abs(number)  # no -0

    def hour_ms(self, field: str) -> int:
        """Return a date (its first instant in UTC), or a time with its offset, as ms; it has to be a whole UTC hour."""
        found = self._table.get(field)
        if type(found) is date:
            found = datetime.combine(found, time(), UTC)
        if not isinstance(found, datetime) or found.tzinfo is None:
            raise self.mistake(field, "has to be a date such as 2026-10-01, or a time such as 2026-10-01T14:00:00Z")
        try:
            time_ms = parse_time(found.isoformat())
        except ValueError as error:
            raise self.mistake(field, str(error)) from None
        if time_ms % MS_PER_HOUR or found.microsecond:
            raise self.mistake(field, "has to be a whole hour in UTC: usage is counted by such hours")
        assert EARLIEST_MS <= time_ms < NEVER_MS, "parse_time knows no others"
        return time_ms


def _plan(name: str, given: Any, meters: Meters) -> Plan:
    table = _Table(given, f"plans.{name}", {"title", "currency", "prices"})
    currency = table.text("currency")
    if not _CURRENCY.fullmatch(currency):
        raise table.mistake("currency", "has to be a code of ISO 4217 such as USD")
    title = table.text("title", name)
    lists: list[PriceList] = []
    for entry in table.entries("prices", {"from", "base_fee", "meters"}):
        tariffs = {}
        for meter, tariff in entry.tables("meters"):
            where = f"{entry.where}.meters.{meter}"
            if meter not in meters:
                raise InvalidPlans(f"{where}: is no meter; they are {', '.join(meters)}")
            tariffs[meter] = _tariff(_Table(tariff, where, {"included", "price", "tiers", "model"}))
        prices = PriceList(name, title, entry.hour_ms("from"), entry.number("base_fee", Decimal(0)), tariffs)
        if lists and prices.from_ms <= lists[-1].from_ms:
            raise entry.mistake("from", "has to be later than that of the list before")
        lists.append(prices)
    return Plan(name, currency, tuple(lists))


def _tariff(table: _Table) -> Tariff:
    included = table.number("included", Decimal(0))
    if ("price" in table) == ("tiers" in table):
        raise table.mistake("", "needs either price or tiers")
    if "price" in table:
        if "model" in table:
            raise table.mistake("model", "goes with tiers; a single price needs none")
        return Tariff(included, (Tier(None, table.number("price")),), "graduated")
    model = table.text("model", "graduated")
    tiers: list[Tier] = []
    entries = table.entries("tiers", {"up_to", "price"})
    for entry in entries:
        if ("up_to" in entry) == (entry is entries[-1]):
            raise entry.mistake("up_to", "belongs to every tier but the last, which has no end")
        up_to = entry.number("up_to") if "up_to" in entry else None
        least = (tiers[-1].up_to or Decimal(0)) if tiers else included
        if up_to is not None and up_to <= least:
            raise entry.mistake("up_to", "has to be more than the included quantity, and than that of the tier before")
        tiers.append(Tier(up_to, entry.number("price")))
    for known in get_args(Model):
        if model == known:
            return Tariff(included, tuple(tiers), known)
    raise table.mistake("model", f"has to be one of {', '.join(get_args(Model))}")


def _account(name: str, given: Any, plans: Mapping[str, Plan]) -> Account:
    table = _Table(given, f"projects.{name}", {"plans", "bill_to"})
    entries: list[tuple[int, Plan | None]] = []
    currencies: set[str] = set()
    for entry in table.entries("plans", {"from", "plan"}):
        from_ms, plan = entry.hour_ms("from"), entry.text("plan")
        if plan and plan not in plans:
            raise entry.mistake("plan", f'is none of {", ".join(plans)}; "" is no plan at all')
        if entries and from_ms <= entries[-1][0]:
            raise entry.mistake("from", "has to be later than that of the plan before")
        if plan and plans[plan].at(from_ms) is None:
            raise entry.mistake("from", f"is before the first prices of {plan}")
        if plan:
            currencies.add(plans[plan].currency)
        entries.append((from_ms, plans[plan] if plan else None))
    if len(currencies) != 1:
        raise table.mistake("plans", "have to be in one currency: bill another one under another project")
    return Account(name, tuple(entries), table.lines("bill_to"))


def _seller(top: _Table) -> Seller:
    if "seller" not in top:
        return Seller()
    table = _Table(dict(top.tables("seller")), "seller", {"name", "address", "note", "number_prefix"})
    prefix = table.text("number_prefix", "")
    if not _PREFIX.fullmatch(prefix):
        raise table.mistake("number_prefix", "has to be at most 16 letters, digits, spaces, `/`, `.`, `_` and `-`")
    return Seller(table.text("name", ""), table.lines("address"), table.text("note", ""), prefix)
