"""The demo behind `make demo-month`: a month of many projects, from events to invoices that add up."""

import heapq
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pipeline.cli.options import examples, expected_errors, settings_with
from pipeline.cli.output import print_table, progress
from pipeline.metering.months import Month

if TYPE_CHECKING:
    from pipeline.clickhouse import Store
    from pipeline.metering.invoice import Invoice
    from pipeline.metering.rollup import Rollup
    from pipeline.settings import Settings
    from pipeline.simulator import Scenario

_PLANS: Final = ("ship", "scale", "build")
#: Events that a session brings with it, about: its own, its room's, and the models that an agent uses.
_EVENTS_OF_A_SESSION: Final = 14
_BATCH_EVENTS: Final = 50_000
#: Invoices that are listed.
_SHOWN: Final = 8


@click.command(
    "demo-month", epilog=examples("roommeter demo-month", "roommeter demo-month --events 50000 --out /tmp/m")
)
@click.option("--projects", "count", type=click.IntRange(1, 1000), default=50, show_default=True, help="Projects.")
@click.option("--events", type=click.IntRange(1), default=1_000_000, show_default=True, help="Events, at least.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same month.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="data/demo-month",
    show_default=True,
    help="A new directory, for the store, the plans file and the invoices.",
)
@expected_errors
def demo_month(count: int, events: int, seed: int, out: Path) -> None:
    """Simulate last month for many projects, meter it, and issue its invoices; show that everything adds up."""
    if out.exists():
        raise click.UsageError(f"{out} is there already: remove it, or name another directory with --out")
    out.mkdir(parents=True)
    plans_file = out / "plans.toml"
    plans_file.write_text(_plans([f"project-{number:02}" for number in range(1, count + 1)]))
    settings = settings_with(store=f"chdb:{out / 'clickhouse'}").model_copy(update={"plans_file": plans_file})
    from pipeline.clickhouse import Store

    started = time.monotonic()
    now_ms = time.time_ns() // 1_000_000
    month = Month.at(now_ms - settings.grace_period_ms).shifted(-1)
    click.echo(f"A month of {count} projects: {month}, at least {events:,} events\n")
    with closing(Store.open(settings.store, settings.database)) as store:
        _show(_Demo(store, settings, month, now_ms, count), _scenarios(month, count, events, seed), events, out)
    click.echo(f"\n{time.monotonic() - started:.0f} s in all; everything is in {out}. Look at an invoice, or ask:")
    click.echo(f"  export ROOMMETER_STORE=chdb:{out / 'clickhouse'} ROOMMETER_PLANS_FILE={plans_file}")
    click.echo(f"  roommeter invoice --month {month} --project project-01")


def _plans(projects: Iterable[str]) -> str:
    """Return the example's plans with these projects on them, and somebody who bills."""
    from pipeline.resources import schemas

    parts = [
        (schemas() / "plans.toml").read_text("utf-8"),
        '[seller]\nname = "Demo Rooms Ltd"\nnumber_prefix = "DEMO-"\n',
    ]
    for number, project in enumerate(projects):
        plan = _PLANS[number % len(_PLANS)]
        parts.append(
            f'[projects.{project}]\nbill_to = ["{project}"]\nplans = [{{ from = 2026-01-01, plan = "{plan}" }}]\n'
        )
    return "\n".join(parts)


def _scenarios(month: Month, count: int, events: int, seed: int) -> "Iterator[Scenario]":
    """Yield a month of each project in turn, some larger than others, and again while events are wanted."""
    from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE
    from pipeline.simulator import Scenario

    sizes = random.Random(seed)  # noqa: S311 - a demo, not a secret
    mean = max(1, events // (count * _EVENTS_OF_A_SESSION))
    for number in itertools.count():
        yield Scenario(
            start_ms=month.start_ms,
            end_ms=month.end_ms - 8 * MS_PER_HOUR,  # so that nearly everything ends within it
            sessions=max(1, int(mean * sizes.uniform(0.3, 1.7))),
            seed=seed * 1_000_003 + number,
            projects=(f"project-{number % count + 1:02}",),
            reconnect=0.05,
            crash=0.01,
            duplicate=0.02,
            disorder_ms=2_000,
            abort=0.02,
            lost_connect=0.01,
            sample_every_ms=10 * MS_PER_MINUTE,
            usage_every_ms=2 * MS_PER_MINUTE,
            numbers=2 if number < count else 0,
        )


class _Demo:
    """The month in a new store: filled, its hours emitted, its invoices issued, and all of it compared."""

    def __init__(self, store: "Store", settings: "Settings", month: Month, now_ms: int, projects: int) -> None:
        from pipeline.embedded import load_meters

        self.store = store
        self.settings = settings
        self.month = month
        self.now_ms = now_ms
        self.projects = projects
        self.meters = load_meters(settings)

    def fill(self, scenarios: "Iterable[Scenario]", events: int) -> "Counter[str]":
        """Replay scenarios until there are so many events; return how many were accepted, and what else."""
        from pipeline.replay import replay
        from pipeline.simulator import events_jsonl, simulate

        self.store.migrate(self.meters)
        done: Counter[str] = Counter()
        with progress("metering", events) as step:
            for number, scenario in enumerate(scenarios):
                payloads = events_jsonl(simulate(scenario))
                batches = replay(
                    payloads, f"demo-month-{number}", self.store, self.meters, self.now_ms,
                    self.settings.max_event_bytes, _BATCH_EVENTS,
                )  # fmt: skip
                for batch in batches:
                    done.update(batch)
                    step(done.total())
                if number + 1 >= self.projects and done.total() >= events:
                    return done
        raise AssertionError("scenarios have no end")

    def emit(self) -> "list[Rollup]":
        """Store the month's rollups, as an emitter does that has reached this moment."""
        from pipeline.metering.rollup import revise
        from pipeline.rows import UsageQuery

        query = UsageQuery(as_of_ms=self.now_ms, from_ms=self.month.start_ms, to_ms=self.month.end_ms)
        rollups = list(revise({}, dict(self.store.usage(query)), self.now_ms, self.now_ms))
        self.store.insert_rollups(rollups, self.meters)
        return rollups

    def issue(self, out: Path) -> "list[Invoice]":
        """Issue the month's invoices, and write each as PDF and HTML."""
        from pipeline.invoices.html import to_html
        from pipeline.invoices.invoicing import Invoicing, read_plans
        from pipeline.invoices.pdf import to_pdf
        from pipeline.invoices.text import file_name

        plans = read_plans(self.settings, self.meters)
        issued = list(Invoicing(self.store, self.meters, plans, self.settings, self.month, self.now_ms).issue())
        for one in issued:
            (out / f"{file_name(one)}.pdf").write_bytes(to_pdf(one))
            (out / f"{file_name(one)}.html").write_text(to_html(one), "utf-8")
        return issued

    def unlike(self, invoices: "Iterable[Invoice]", rollups: "Iterable[Rollup]") -> list[str]:
        """Return each project and meter of which the invoice has another quantity than its rollups together."""
        emitted: defaultdict[tuple[str, str], int] = defaultdict(int)
        for rollup in rollups:
            emitted[rollup.project, rollup.meter] += rollup.increments
        invoiced = {
            (one.project, line.item): line.charge.quantity
            for one in invoices
            for line in one.lines
            if line.item in self.meters
        }
        due = {key: self.meters[key[1]].quantity(increments) for key, increments in emitted.items()}
        billed = {one.project for one in invoices}
        keys = invoiced.keys() | {key for key in due if key[0] in billed}
        return sorted(" ".join(key) for key in keys if invoiced.get(key) != due.get(key))

    def explain(self, rollups: "Iterable[Rollup]") -> "Iterator[tuple[Rollup, int, int]]":
        """Yield the largest hour of each kind of meter, with the increments that are explained, and by how many events.

        Each has to be explained down to events that are in the log.
        """
        from pipeline.explain.store import ExplainStore
        from pipeline.explain.subjects import SubjectStore

        largest: dict[str, Rollup] = {}
        for rollup in rollups:
            kind = self.meters[rollup.meter].measures
            largest[kind] = max(largest.get(kind, rollup), rollup, key=lambda one: one.increments)
        sessions = ExplainStore(self.store, self.meters, self.now_ms, self.settings.orphan_after_ms)
        subjects = SubjectStore(self.store, self.meters, self.now_ms)
        for measures, rollup in sorted(largest.items()):
            reader = sessions if measures in ("session", "counter") else subjects
            found = list(reader.hour(rollup.project, self.meters[rollup.meter], rollup.hour_ms))
            explained = sum(one.increments(rollup.meter, rollup.hour_ms) for one in found)
            yield rollup, explained, sum(len(one.events) for one in found)


def _show(demo: _Demo, scenarios: "Iterable[Scenario]", events: int, out: Path) -> None:
    from pipeline.metering.units import format_time

    done = demo.fill(scenarios, events)
    click.echo(f"1. {done.total():,} events metered: " + ", ".join(f"{n:,} {what}" for what, n in sorted(done.items())))
    rollups = demo.emit()
    click.echo(f"2. {len(rollups):,} hourly rollups emitted")
    invoices = demo.issue(out)
    click.echo(f"3. {len(invoices)} invoices issued, as PDF and HTML\n")
    columns = ("invoice", "project", "plan", "lines", "total")
    print_table(f"The largest invoices of {demo.month}", columns, map(_row, _largest(invoices)))
    unlike = demo.unlike(invoices, rollups)
    if unlike:
        raise click.ClickException(f"invoices and rollups differ: {', '.join(unlike[:5])}")
    lines = sum(line.item in demo.meters for one in invoices for line in one.lines)
    click.echo(
        f"4. Each of {lines} lines of usage is the sum of its hourly rollups. The largest hours, down to their events:"
    )
    for rollup, explained, events_behind in demo.explain(rollups):
        if explained != rollup.increments:
            raise click.ClickException(
                f"{rollup.id}: {rollup.increments} increments, of which {explained} are explained"
            )
        hour = format_time(rollup.hour_ms)
        click.echo(f"   {explained:,} of {rollup.increments:,} increments by {events_behind:,} events:")
        click.echo(f"   roommeter explain --project {rollup.project} --meter {rollup.meter} --hour {hour}")


def _largest(invoices: "list[Invoice]") -> "list[Invoice]":
    return heapq.nlargest(_SHOWN, invoices, key=lambda one: one.total)


def _row(one: "Invoice") -> dict[str, object]:
    plans = {part.plan for line in one.lines for part in line.charge.parts}
    total = f"{one.total} {one.currency}"
    return {
        "invoice": one.name,
        "project": one.project,
        "plan": ", ".join(sorted(plans)),
        "lines": len(one.lines),
        "total": total,
    }
