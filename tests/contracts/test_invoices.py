"""Invoices from the store: what they are made of, how they are numbered, and that they never change."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from pipeline.audit.store import AuditStore
from pipeline.clickhouse import Store, StoreError
from pipeline.invoices.document import encode_invoice
from pipeline.invoices.invoicing import InvoiceRefused, Invoicing, read_plans
from pipeline.invoices.store import InvoiceStore
from pipeline.metering.invoice import Invoice
from pipeline.metering.meters import Meters
from pipeline.metering.months import Month
from pipeline.metering.plans import InvalidPlans, Plans
from pipeline.metering.rollup import revise
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from pipeline.rows import Batch, UsageQuery
from pipeline.settings import Settings
from tests.metering.builders import METERS
from tests.metering.plan_texts import flat, plans_of

_OCTOBER, _NOVEMBER = Month(2026, 10), Month(2026, 11)
_METER = "agent_session_minutes"
_SETTINGS = Settings.model_construct()
_PROJECTS = ("acme", "bolt", "coda", "dyna", "echo", "flux")


def _plans(*projects: str) -> Plans:
    """Return plans on which a minute costs a cent from October on, a project each."""
    accounts = "".join(f'[projects.{name}]\nplans = [{{ from = 2026-10-01, plan = "p" }}]\n' for name in projects)
    return plans_of(f'[plans.p]\ncurrency = "USD"\n{flat()}{accounts}')


def _used(store: Store, minutes: int, project: str = "acme", month: Month = _OCTOBER, session: str = "PA_1") -> None:
    """Store an agent's session of so many minutes, which begins on the 3rd of a month."""
    start_ms = month.start_ms + 2 * MS_PER_DAY
    end_ms = start_ms + minutes * MS_PER_MINUTE
    facts = Session("agent", connected_at_ms=start_ms, disconnected_at_ms=end_ms, last_seen_ms=end_ms)
    store.write(Batch(sessions=[(project, "RM_1", session, facts)]))


def _invoicing(store: Store, plans: Plans, month: Month = _OCTOBER, as_of_ms: int = 0) -> Invoicing:
    return Invoicing(store, METERS, plans, _SETTINGS, month, as_of_ms or month.end_ms + MS_PER_HOUR)


def _issue(store: Store, plans: Plans, month: Month = _OCTOBER) -> list[Invoice]:
    return list(_invoicing(store, plans, month).issue())


def _said(invoices: Sequence[Invoice]) -> list[tuple[int | None, str, str]]:
    return [(one.number, one.project, str(one.total)) for one in invoices]


def _numbers(store: Store) -> list[tuple[int, str]]:
    """Return number and project of each row of the log."""
    return [
        (number, project) for number, project in store.query("SELECT number, project FROM invoices ORDER BY number")
    ]


def test_the_hours_behind_a_line_are_the_cells_of_usage(store: Store) -> None:
    """What is invoiced is what is metered, hour by hour, and its sum."""
    _used(store, 130)
    _used(store, 7, session="PA_2")
    [one] = _invoicing(store, _plans("acme")).preview()
    [line] = one.lines
    cells = store.usage(UsageQuery(as_of_ms=one.as_of_ms, project="acme", meter=_METER))
    assert list(line.hours) == [(hour_ms, cell.increments) for (_, _, hour_ms), cell in cells]
    assert str(line.charge.quantity) == str(sum(increments for _, increments in line.hours)) == "137"


def test_a_lines_quantity_is_the_sum_of_what_was_emitted(store: Store) -> None:
    """R17: the newest revision of each hour of the month, as consumers of rollups add them up."""
    _used(store, 130)
    [one] = _invoicing(store, _plans("acme")).preview()
    cells = dict(store.usage(UsageQuery(as_of_ms=one.as_of_ms, project="acme", meter=_METER)))
    store.insert_rollups(list(revise({}, cells, one.as_of_ms, one.as_of_ms)), METERS)
    emitted = store.query("SELECT sum(quantity) FROM rollups WHERE toYYYYMM(hour) = 202610")
    assert [tuple(row) for row in emitted] == [(one.lines[0].charge.quantity,)]


def test_a_preview_issues_nothing(store: Store) -> None:
    """It has no number, and leaves none behind."""
    _used(store, 5)
    assert _said(_invoicing(store, _plans("acme")).preview()) == [(None, "acme", "0.05")]
    assert _numbers(store) == []


def test_numbers_begin_at_one_and_leave_none_out(store: Store) -> None:
    """A project with nothing due takes none."""
    _used(store, 5)
    _used(store, 6, "coda")
    assert _said(_issue(store, _plans("acme", "bolt", "coda"))) == [(1, "acme", "0.05"), (2, "coda", "0.06")]


def test_an_invoice_is_issued_once(store: Store) -> None:
    """Again, the same one is returned."""
    _used(store, 5)
    first = _issue(store, _plans("acme"))
    assert _issue(store, _plans("acme")) == first
    assert _numbers(store) == [(1, "acme")]


def test_an_invoice_never_changes(store: Store) -> None:
    """Late usage, another price list and a later moment leave each byte as it was issued."""
    _used(store, 5)
    [issued] = _issue(store, _plans("acme"))
    _used(store, 50, session="PA_2")
    plans = _plans("acme")
    dearer = replace(plans, accounts=plans_of(_dearer()).accounts)
    [shown] = _invoicing(store, dearer, as_of_ms=_NOVEMBER.end_ms).preview()
    assert encode_invoice(shown) == encode_invoice(issued)


def test_an_invoice_stays_when_its_project_leaves_the_file(store: Store) -> None:
    """It was issued, and is shown."""
    _used(store, 5)
    issued = _issue(store, _plans("acme"))
    assert _invoicing(store, _plans("bolt")).preview() == _issue(store, _plans("bolt")) == issued


def _dearer() -> str:
    account = '[projects.acme]\nplans = [{ from = 2026-10-01, plan = "p" }]\n'
    return f'[plans.p]\ncurrency = "USD"\n{flat("price = 9")}{account}'


def test_a_later_correction_comes_with_the_next_invoice(store: Store) -> None:
    """R11: 45 minutes more of October, in November's."""
    _used(store, 5)
    _issue(store, _plans("acme"))
    _used(store, 45, session="PA_2")
    _used(store, 1, month=_NOVEMBER, session="PA_3")
    [second] = _issue(store, _plans("acme"), _NOVEMBER)
    lines = [(str(line.month), str(line.amount), line.is_adjustment) for line in second.lines]
    assert (second.number, lines) == (2, [("2026-11", "0.01", False), ("2026-10", "0.45", True)])


def test_a_project_that_had_nothing_due_is_charged_for_what_came_late(store: Store) -> None:
    """It has no invoice of October, and its minutes are in November's."""
    _used(store, 5)
    _issue(store, _plans("acme", "bolt"))
    _used(store, 45, "bolt")
    assert _said(_issue(store, _plans("acme", "bolt"), _NOVEMBER)) == [(2, "bolt", "0.45")]


def test_two_issuers_at_once_share_the_numbers(open_store: Callable[[], Store], meters: Meters) -> None:
    """Each project once, 1 to 3, whoever was faster; both are told the same."""
    stores = [open_store() for _ in range(2)]
    stores[0].migrate(meters)
    projects = _PROJECTS[:3]
    for minutes, project in enumerate(projects, 1):
        _used(stores[0], minutes, project)
    told: list[list[Invoice]] = [[] for _ in stores]

    def issue(index: int) -> None:
        for project in projects[index:] + projects[:index]:
            told[index].extend(_invoicing(stores[index], _plans(*projects)).issue(project))

    threads = [threading.Thread(target=issue, args=(index,)) for index in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers, owners = zip(*_numbers(stores[0]), strict=True)
    assert (numbers, set(owners)) == ((1, 2, 3), set(projects))
    by_number = [sorted(encode_invoice(one) for one in found) for found in told]
    assert by_number[0] == by_number[1]


def test_a_number_is_given_to_one_invoice_alone(store: Store) -> None:
    """The second one with it is told so, and the first stays."""
    _used(store, 5)
    _used(store, 6, "bolt")
    first, second = (replace(one, number=1) for one in _invoicing(store, _plans("acme", "bolt")).preview())
    log = InvoiceStore(store)
    assert (log.append(first), log.append(second), log.append(first)) == (True, False, True)
    assert _numbers(store) == [(1, "acme")]


def test_an_issuer_that_died_half_way_is_carried_on(store: Store) -> None:
    """What was issued keeps its number; the rest follows."""
    for minutes, project in enumerate(_PROJECTS, 1):
        _used(store, minutes, project)
    first = next(_invoicing(store, _plans(*_PROJECTS)).issue())
    found = _issue(store, _plans(*_PROJECTS))
    assert found[0] == first
    assert [one.number for one in found] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("numbers", "message"), [((2,), "number 1 is missing"), ((1, 3), "number 2 is missing")])
def test_a_missing_number_is_said_and_nothing_more_is_issued(
    store: Store, numbers: tuple[int, ...], message: str
) -> None:
    """Somebody deleted from the log, or restored half of it."""
    _used(store, 5)
    [one] = _invoicing(store, _plans("acme")).preview()
    for number in numbers:
        InvoiceStore(store).append(replace(one, number=number, project=f"other-{number}"))
    with pytest.raises(StoreError, match=message):
        _issue(store, _plans("acme"))


def test_a_number_that_was_given_twice_is_said(store: Store) -> None:
    """Where the table's tokens were lost, and two wrote at once."""
    _used(store, 5)
    _issue(store, _plans("acme"))
    store._client.command("INSERT INTO invoices SELECT * FROM invoices", settings={"insert_deduplicate": "0"})
    with pytest.raises(StoreError, match="number 1 was given twice"):
        _issue(store, _plans("acme"))


def test_a_month_that_is_not_complete_is_not_issued(store: Store) -> None:
    """R18: not before its last hour has been emitted, an hour's grace included."""
    _used(store, 5)
    until_ms = _OCTOBER.end_ms + _SETTINGS.grace_period_ms
    with pytest.raises(InvoiceRefused, match=r"not complete before 2026-11-01T00:05:00\.000Z"):
        list(_invoicing(store, _plans("acme"), as_of_ms=until_ms - 1).issue())
    assert len(list(_invoicing(store, _plans("acme"), as_of_ms=until_ms).issue())) == 1


def test_a_month_before_one_that_is_issued_is_not_issued(store: Store) -> None:
    """Its charges are in no invoice yet and come with the next."""
    _used(store, 5, month=_NOVEMBER)
    _used(store, 5, session="PA_2")
    _issue(store, _plans("acme"), _NOVEMBER)
    with pytest.raises(InvoiceRefused, match="acme has the invoice of 2026-11 already"):
        _issue(store, _plans("acme"))


def test_what_is_issued_is_shown_again_though_later_months_are(store: Store) -> None:
    """Issuing a month again is no change of order."""
    _used(store, 5)
    first = _issue(store, _plans("acme"))
    _used(store, 5, month=_NOVEMBER, session="PA_2")
    _issue(store, _plans("acme"), _NOVEMBER)
    assert _issue(store, _plans("acme")) == first


def test_an_hour_that_the_audit_holds_back_is_not_invoiced(store: Store) -> None:
    """What is known to differ is not frozen."""
    _used(store, 5)
    AuditStore(store).hold({("acme", _OCTOBER.start_ms): "differs"}, [], _OCTOBER.end_ms)
    with pytest.raises(InvoiceRefused, match=r"the audit holds back 2026-10-01T00:00:00\.000Z of acme"):
        _issue(store, _plans("acme"))


def test_a_project_on_no_plan_is_named(store: Store) -> None:
    """Usage that nobody pays for must not go unseen."""
    _used(store, 5, "bolt")
    invoicing = _invoicing(store, _plans("acme"))
    assert invoicing.preview() == []
    assert invoicing.unassigned() == ["bolt"]


def test_a_plan_can_be_tried_on_everybody(store: Store) -> None:
    """What the example that ships would cost: the fee of this month and the next, and nothing beyond the included."""
    _used(store, 5)
    plans = read_plans(_SETTINGS, METERS)
    assert _said(_invoicing(store, plans).trial("ship")) == [(None, "acme", "100.00")]
    with pytest.raises(InvalidPlans, match="there is no plan 'shop'; they are build, scale, ship"):
        _invoicing(store, plans).trial("shop")
