"""Invoices from the store: previews, and issuing, which gives a number and freezes. Blocking."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.audit.store import AuditStore
from pipeline.clickhouse import StoreUnavailable
from pipeline.invoices.store import InvoiceStore
from pipeline.metering.invoice import Hours, Invoice, first_month, invoice
from pipeline.metering.meters import Meters
from pipeline.metering.months import Month
from pipeline.metering.plans import Account, InvalidPlans, Plans
from pipeline.metering.plans_file import parse_plans
from pipeline.metering.units import format_time
from pipeline.resources import schemas
from pipeline.rows import UsageQuery
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: How often another issuer may take a number before this one does, until it gives up.
_MOST_ATTEMPTS: Final = 100


class _Usage(NamedTuple):
    """Increments by project, meter and hour (ms), from the first month that is looked at on."""

    since: Month
    cells: Mapping[str, Mapping[str, Hours]]


class InvoiceRefused(ValueError):
    """An invoice cannot be issued, or not yet; the message says why."""


def plans_text(settings: Settings) -> str:
    """Return the text of the plans file, or of the example that ships where none is named; raises InvalidPlans."""
    path = _plans_path(settings)
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InvalidPlans(f"{path}: cannot be read ({error.strerror}); mend ROOMMETER_PLANS_FILE") from error
    except UnicodeDecodeError as error:
        raise InvalidPlans(f"{path}: {error}") from error


def read_plans(settings: Settings, meters: Meters) -> Plans:
    """Read the plans file, or the example that ships where none is named; raises InvalidPlans."""
    text = plans_text(settings)
    try:
        return parse_plans(text, meters)
    except InvalidPlans as error:
        raise InvalidPlans(f"{_plans_path(settings)}: {error}") from error


def _plans_path(settings: Settings) -> Path:
    return settings.plans_file or schemas() / "plans.toml"


class Invoicing:
    """Makes the invoices of a month, as of a moment (ms)."""

    def __init__(
        self, store: "Store", meters: Meters, plans: Plans, settings: Settings, month: Month, as_of_ms: int
    ) -> None:
        """Keep the parts; nothing is read yet."""
        self._store = store
        self._log = InvoiceStore(store)
        self._meters = meters
        self._plans = plans
        self._settings = settings
        self._month = month
        self._as_of_ms = as_of_ms
        self._seen: set[str] = set()

    def preview(self, project: str | None = None) -> list[Invoice]:
        """Return the invoices of the month, in order of the projects: those issued as they are, others as of now."""
        self._log.read()
        usage = self._usage(project)
        found = (self._one(name, usage) for name in self._projects(project))
        return [one for one in found if one is not None]

    def trial(self, plan: str, project: str | None = None) -> list[Invoice]:
        """Return what the month would cost every project with usage in it, if all were on that plan. Issues nothing."""
        if plan not in self._plans.plans:
            raise InvalidPlans(f"there is no plan {plan!r}; they are {', '.join(sorted(self._plans.plans))}")
        tried = self._plans.plans[plan]
        usage = self._usage(project)
        accounts = (Account(name, ((tried.price_lists[0].from_ms, tried),)) for name in sorted(usage.cells))
        found = (self._compute(account, usage, ()) for account in accounts)
        return [one for one in found if one is not None]

    def unassigned(self) -> list[str]:
        """Return the projects, of those that were looked at, with usage that the plans file does not name."""
        return sorted(self._seen - self._plans.accounts.keys())

    def issue(self, project: str | None = None) -> Iterator[Invoice]:
        """Issue the invoices of the month, one after the other, and yield each; those issued already as they are.

        Running it again, at the same time elsewhere, or after it was killed anywhere, issues none twice. Raises
        InvoiceRefused before the first one where any of them may not be issued.
        """
        self._log.read()
        projects = self._projects(project)
        self._check({name for name in projects if self._month not in self._log.months(name)})
        usage = self._usage(project)
        for name in projects:
            one = self._issue(name, usage)
            if one is not None:
                yield one

    def _issue(self, project: str, usage: _Usage) -> Invoice | None:
        """Append to the log as it was read; where it has grown meanwhile, read on and begin again."""
        for _ in range(_MOST_ATTEMPTS):
            self._log.read()
            found = self._one(project, usage)
            if found is None or found.number is not None:
                return found
            self._check_order(project)
            numbered = replace(found, number=self._log.last_number + 1)
            if self._log.append(numbered):
                return numbered
        raise StoreUnavailable(f"others took {_MOST_ATTEMPTS} numbers while one was wanted for {project}")

    def _one(self, project: str, usage: _Usage) -> Invoice | None:
        """Return the invoice of the month that was issued, else the one that is due."""
        months = self._log.months(project)
        if self._month in months:
            return self._log.invoices(project, self._month, self._month)[0]
        before = (usage.since.shifted(-1), self._month.shifted(-1))
        earlier = self._log.invoices(project, *before) if months else ()
        return self._compute(self._plans.accounts[project], usage, earlier)

    def _compute(self, account: Account, usage: _Usage, earlier: Sequence[Invoice]) -> Invoice | None:
        return invoice(
            account,
            self._month,
            self._meters,
            usage.cells.get(account.project, {}),
            earlier,
            adjusted_from=usage.since,
            as_of_ms=self._as_of_ms,
            seller=self._plans.seller,
        )

    def _usage(self, project: str | None) -> _Usage:
        """Return usage from the first month that is looked at: in the window, and not before the first one invoiced."""
        window = first_month(self._month, self._settings.correction_window_ms)
        since = min(self._month, max(window, self._log.first_month or self._month))
        query = UsageQuery(
            as_of_ms=self._as_of_ms,
            from_ms=since.start_ms,
            to_ms=self._month.end_ms,
            project=project,
            orphan_after_ms=self._settings.orphan_after_ms,
        )
        cells: dict[str, dict[str, dict[int, int]]] = {}
        for (name, meter, hour_ms), cell in self._store.usage(query):
            cells.setdefault(name, {}).setdefault(meter, {})[hour_ms] = cell.increments
        self._seen |= cells.keys()
        return _Usage(since, cells)

    def _projects(self, project: str | None) -> list[str]:
        """Return who may have an invoice of the month: whom the plans file names, and who has one already."""
        known = self._plans.accounts.keys() | self._log.projects(self._month)
        if project is not None and project not in known:
            raise InvalidPlans(f"the plans file says nothing of a project {project!r}")
        return sorted(known) if project is None else [project]

    def _check(self, projects: AbstractSet[str]) -> None:
        """Refuse to freeze too early, out of order, or what is known to be wrong."""
        complete_ms = self._month.end_ms + self._settings.grace_period_ms
        if projects and self._as_of_ms < complete_ms:
            raise InvoiceRefused(f"{self._month} is not complete before {format_time(complete_ms)}: leave out --issue")
        for project in sorted(projects):
            self._check_order(project)
        for project, hour_ms in sorted(AuditStore(self._store).held()):
            if project in projects and hour_ms < self._month.end_ms:
                raise InvoiceRefused(
                    f"the audit holds back {format_time(hour_ms)} of {project}: mend what `roommeter audit` shows"
                )

    def _check_order(self, project: str) -> None:
        later = [month for month in self._log.months(project) if month > self._month]
        if later:
            raise InvoiceRefused(
                f"{project} has the invoice of {min(later)} already: "
                f"what is due for {self._month} comes with its next one"
            )
