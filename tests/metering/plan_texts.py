"""Plans files in tests: short ones, and random ones as documents and as text."""

from fractions import Fraction
from typing import Any, Final

from hypothesis import strategies as st

from pipeline.metering.plans import Account, Plans
from pipeline.metering.plans_file import parse_plans
from tests.metering.builders import METERS

Document = dict[str, Any]

#: Meters of whole units, of hundredths, and of seconds.
PRICED: Final = ("agent_session_minutes", "data_transfer_gb", "stt_seconds")
_HOURS: Final = ("2026-09-01T00:00:00Z", "2026-10-01T00:00:00Z", "2026-10-01T02:00:00Z", "2026-10-20T23:00:00Z")
_LATER: Final = _HOURS[1:]


def plans_of(text: str) -> Plans:
    """Return the plans of a file's text."""
    return parse_plans(text, METERS)


def account_of(
    prices: str, plan: str = 'plans = [{ from = 2026-09-01, plan = "p" }]', currency: str = "USD"
) -> Account:
    """Return acme's account, on the plan `p` of which these are the tables of prices."""
    text = f'[plans.p]\ncurrency = "{currency}"\n{prices}\n[projects.acme]\n{plan}\n'
    return plans_of(text).accounts["acme"]


def flat(tariff: str = "price = 0.01", meter: str = "agent_session_minutes", fee: str = "0") -> str:
    """Return a price list from September 2026 on, of one meter."""
    return f"[[plans.p.prices]]\nfrom = 2026-09-01\nbase_fee = {fee}\nmeters.{meter} = {{ {tariff} }}\n"


def _decimals(places: int, most: int) -> st.SearchStrategy[str]:
    return st.integers(0, most * 10**places).map(lambda n: f"{n // 10**places}.{n % 10**places:0{places}}")


@st.composite
def _tariffs(draw: st.DrawFn) -> Document:
    # Edges on whole increments of every meter here: the oracle prices an increment as one.
    edges = sorted(draw(st.sets(st.integers(1, 60), min_size=1, max_size=3)))
    tariff: Document = {"included": str(draw(st.integers(0, edges[0] - 1)))} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        return tariff | {"price": draw(_decimals(5, 3))}
    tiers = [{"up_to": str(edge), "price": draw(_decimals(4, 3))} for edge in edges]
    return tariff | {
        "tiers": [*tiers, {"price": draw(_decimals(3, 3))}],
        "model": draw(st.sampled_from(["graduated", "volume"])),
    }


@st.composite
def _price_lists(draw: st.DrawFn) -> list[Document]:
    times = [_HOURS[0], *sorted(draw(st.sets(st.sampled_from(_LATER), max_size=2)))]
    return [
        {
            "from": time,
            "base_fee": draw(_decimals(2, 500)),
            "meters": draw(st.dictionaries(st.sampled_from(PRICED), _tariffs())),
        }
        for time in times
    ]


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Draw a plans file: two plans, whose prices and whose project change on and inside October 2026."""
    times = sorted(draw(st.sets(st.sampled_from(_HOURS), min_size=1, max_size=3)))
    plans = [{"from": time, "plan": draw(st.sampled_from(["p", "q", ""]))} for time in times]
    plans[0]["plan"] = plans[0]["plan"] or "p"
    currency = draw(st.sampled_from(["USD", "JPY", "KWD"]))
    return {
        "plans": {name: {"currency": currency, "prices": draw(_price_lists())} for name in ("p", "q")},
        "projects": {"acme": {"plans": plans}},
    }


def to_toml(document: Document) -> str:
    """Write a document as a plans file."""
    lines = []
    for name, plan in document["plans"].items():
        lines += [f"[plans.{name}]", f'currency = "{plan["currency"]}"']
        for prices in plan["prices"]:
            lines += [f"[[plans.{name}.prices]]", f"from = {prices['from']}", f"base_fee = {prices['base_fee']}"]
            lines += [f"meters.{meter} = {_inline(tariff)}" for meter, tariff in prices["meters"].items()]
    for name, project in document["projects"].items():
        entries = ", ".join(f'{{ from = {entry["from"]}, plan = "{entry["plan"]}" }}' for entry in project["plans"])
        lines += [f"[projects.{name}]", f"plans = [{entries}]"]
    return "\n".join(lines)


def _inline(tariff: Document) -> str:
    fields = {name: value for name, value in tariff.items() if name not in ("tiers", "model")}
    if "tiers" in tariff:
        tiers = ", ".join(_inline(tier) for tier in tariff["tiers"])
        fields |= {"tiers": f"[{tiers}]", "model": f'"{tariff["model"]}"'}
    return "{ " + ", ".join(f"{name} = {value}" for name, value in fields.items()) + " }"


def unit_of(meter: str) -> Fraction:
    """Return one increment of a meter, in its unit."""
    return Fraction(METERS[meter].increment, METERS[meter].unit_size)
