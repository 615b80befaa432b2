"""The command that erases a project, or the personal data in it: erase."""

import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

import click

from pipeline.cli.options import examples, expected_errors, settings_with, store_option
from pipeline.cli.output import print_json, print_table
from pipeline.cli.query import open_store
from pipeline.metering.units import MS_PER_DAY

if TYPE_CHECKING:
    from pipeline.settings import Settings

_KEPT: Final = {
    "invoices": "invoices stay, for as long as the law asks for them",
    "erasures": "the trail of earlier erasures stays",
}


@click.command(
    epilog=examples(
        'roommeter erase --project acme --reason "GDPR request 4711"',
        'roommeter erase --project acme --personal-data-only --reason "GDPR request 4711" --yes --json',
    )
)
@store_option
@click.option("--project", required=True, help="Whose data is erased.")
@click.option(
    "--personal-data-only", is_flag=True, help="Only what names people; sessions, usage and bills stay as they are."
)
@click.option("--actor", required=True, envvar="USER", help="Who erases.  [default: the user's name]")
@click.option("--reason", required=True, help="Why; kept with who, when and how much.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines; needs --yes.")
@expected_errors
def erase(
    store: str | None, project: str, actor: str, reason: str, *, personal_data_only: bool, yes: bool, as_json: bool
) -> None:
    """Erase a project from the store for good: shown first, asked, counted again, recorded.

    Stop what sends events of the project first, and the workers, which remember its rooms for some hours and would
    write them again. Invoices stay. What Kafka still holds is told, because nobody can delete a project from a topic.
    """
    from pipeline.deadletters.text import visible
    from pipeline.erase import Erasure, Scope

    if as_json and not yes:
        raise click.UsageError("--json needs --yes: nobody could answer")
    if not project:
        raise click.UsageError("--project is empty: that would be what belongs to nobody")
    settings = settings_with(store=store)
    with closing(open_store(store)) as opened:
        erasure = Erasure(opened, project, Scope.PERSONAL_DATA if personal_data_only else Scope.PROJECT)
        found, kept = erasure.found(), erasure.kept()
        if not as_json:
            what = "Personal data" if personal_data_only else "Everything"
            rows = ({"table": table, "rows": count} for table, count in found.items())
            print_table(f"{what} of {visible(project)}", ("table", "rows"), rows, nothing="there is none")
            for table in kept:
                click.echo(f"{kept[table]} rows of {table}: {_KEPT[table]}")
        if found and not yes:
            click.confirm(f"Erase this for good from {_without_password(settings.store)}?", abort=True)
        left = erasure.erase(actor, reason, time.time_ns() // 1_000_000) if found else {}
    topics = _kafka_still_has(settings)
    if as_json:
        print_json({"project": project, "erased": found, "left": left, "kept": kept, "kafka": topics})
    else:
        click.echo(f"erased from {len(found)} tables; recorded for {visible(actor)}" if found else "nothing to erase")
        click.echo("Kafka still has it, until the retention of each topic is over:")
        click.echo("\n".join(f"  {name}: {until}" for name, until in topics.items()))
    if left:
        names = ", ".join(f"{table} ({count})" for table, count in left.items())
        raise click.ClickException(f"rows came back while erasing: {names}; stop the workers, then erase again")


def _kafka_still_has(settings: "Settings") -> dict[str, str]:
    """Return until when each topic may hold something of any project."""
    from pipeline.topics import topics

    def until(config: dict[str, str]) -> str:
        if config.get("cleanup.policy") == "compact":
            return "the newest state of each room, until its room is closed and evicted"
        kept_ms = int(config["retention.ms"])
        return "for ever, unless you set retention.ms" if kept_ms < 0 else f"{kept_ms // MS_PER_DAY} days"

    return {topic.name: until(topic.config) for topic in topics(settings).all()}


def _without_password(dsn: str) -> str:
    return f"{dsn.partition('//')[0]}//{dsn.rpartition('@')[2].rpartition('//')[2]}"
