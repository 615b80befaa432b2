"""Commands about anomalies: alerter; alerts list, show, watch, mute, unmute, check."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.output import print_json, print_table, progress
from pipeline.cli.query import open_store
from pipeline.cli.run import configure_logging, run_system, verbose_option
from pipeline.metering.anomaly.alert import DETECTORS

if TYPE_CHECKING:
    from pipeline.metering.anomaly.alert import Alert, Mute
    from pipeline.settings import Settings

_COLUMNS: Final = ("id", "status", "severity", "since", "message")
#: Letters of an id that tell it from others.
_SHORT: Final = 8
_WATCH_S: Final = 1.0

_alerts_file = click.option(
    "--alerts-file",
    type=click.Path(exists=True, dir_okay=False),
    help="Parameters that are to be otherwise (TOML).  [default: ROOMMETER_ALERTS_FILE]",
)
_project = click.option("--project", default="", help="Only this project.")
_detector = click.option("--detector", default="", type=click.Choice(("", *DETECTORS)), help="Only this detector.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for machines.")


@click.command(epilog=examples("ROOMMETER_KAFKA=kafka:9092 ROOMMETER_STORE=http://clickhouse:8123 roommeter alerter"))
@store_option
@_alerts_file
@verbose_option
@expected_errors
def alerter(store: str | None, alerts_file: str | None, *, verbose: bool) -> None:
    """Look for anomalies of usage: alerts to Kafka, ClickHouse and a webhook. `up` runs one itself.

    Two at once do no harm.
    """
    from pipeline import embedded

    configure_logging(verbose=verbose)
    run_system(embedded.alerter(settings_with(store=store, alerts_file=alerts_file)), "alerter")


@click.group(
    epilog=examples(
        "roommeter alerts list --store http://127.0.0.1:8130",
        "roommeter alerts show 2f0c9d1e",
        'roommeter alerts mute --project acme --until 2026-12-01 --actor jo --reason "load test"',
        "roommeter alerts check --from 2026-09-01 --to 2026-09-08",
    ),
)
def alerts() -> None:
    """Alerts on anomalous usage: what is open, what it costs, what to look at."""


@alerts.command("list", epilog=examples("roommeter alerts list", "roommeter alerts list --all --project acme --json"))
@store_option
@_project
@_detector
@click.option("--all", "is_all", is_flag=True, help="Those too that are resolved.")
@_json
@expected_errors
def list_alerts(store: str | None, project: str, detector: str, *, is_all: bool, as_json: bool) -> None:
    """Show alerts that are open."""
    from pipeline.alerts.store import AlertStore

    with closing(open_store(store)) as opened:
        found = AlertStore(opened).current(project=project, detector=detector, is_all=is_all)
    _show("Alerts" if is_all else "Open alerts", found, as_json=as_json)


def _show(title: str, documents: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for document in documents:
            print_json(document)
    else:
        rows = (document | {"id": document["id"][:_SHORT]} for document in documents)
        print_table(title, _COLUMNS, rows, nothing="none")


@alerts.command(epilog=examples("roommeter alerts show 2f0c9d1e", "roommeter alerts show 2f0c9d1e --json"))
@store_option
@click.argument("alert_id", metavar="ID")
@_json
@expected_errors
def show(store: str | None, alert_id: str, *, as_json: bool) -> None:
    """Show all of an alert: since when, against which baseline, what it costs, what to look at."""
    from pipeline.alerts.store import AlertStore

    with closing(open_store(store)) as opened:
        found = AlertStore(opened).current(alert_id=alert_id, is_all=True)
    if not found:
        raise click.ClickException(f"no alert's id begins with {alert_id!r}: `roommeter alerts list --all` has them")
    for document in found:
        if as_json:
            print_json(document)
        else:
            rows = ({"what": name.replace("_", " "), "is": _told(value)} for name, value in document.items())
            print_table(document["message"], ("what", "is"), rows)


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {one}" for name, one in value.items())
    return "" if value is None else str(value)


@alerts.command(epilog=examples("roommeter alerts watch", "roommeter alerts watch --project acme --json"))
@_project
@_json
@expected_errors
def watch(project: str, *, as_json: bool) -> None:
    """Show alerts as they are raised, changed and resolved, until Ctrl-C; from Kafka."""
    from pipeline.kafka import LogReader, end_offsets
    from pipeline.topics import topics

    settings = settings_with()
    topic = topics(settings).alerts.name

    async def follow() -> None:
        import orjson

        reader = LogReader(settings.kafka, topic, await end_offsets(settings.kafka, topic))
        while True:
            for record in await reader.poll_to_end():
                document = orjson.loads(record.value or b"{}")
                if project in ("", document["project"]):
                    if as_json:
                        print_json(document)
                    else:
                        names = ("updated_at", "status", "severity", "message")
                        click.echo("  ".join(str(document[name]) for name in names))
            await asyncio.sleep(_WATCH_S)

    asyncio.run(follow())


def _what(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says which alerts are meant, who decides, and why."""
    for option in (
        click.option("--reason", required=True, help="Why; kept with it."),
        click.option("--actor", required=True, envvar="USER", help="Who decides.  [default: the user's name]"),
        click.option("--subject", default="", help="Only this session, identity, server or limit."),
        _detector,
        _project,
    ):
        command = option(command)
    return command


@alerts.command(
    epilog=examples('roommeter alerts mute --project acme --until 2026-12-01 --actor jo --reason "load test"')
)
@_what
@click.option("--until", "until_ms", type=TIME, required=True, help="Until when.")
@expected_errors
def mute(until_ms: int, **named: str) -> None:
    """Send alerts to nobody for a time; they are kept and shown, as muted."""
    _decide(until_ms, **named)
    click.echo("muted: alerts that change from now on are not sent to the webhook", err=True)


@alerts.command(epilog=examples("roommeter alerts unmute --project acme --actor jo --reason done"))
@_what
@expected_errors
def unmute(**named: str) -> None:
    """Take back what was muted by the same --project, --detector and --subject."""
    _decide(0, **named)
    click.echo("not muted any more", err=True)


def _decide(until_ms: int, project: str, detector: str, subject: str, actor: str, reason: str) -> None:
    from pipeline.metering.anomaly.alert import Mute

    decided_at_ms = time.time_ns() // 1_000_000
    asyncio.run(_send(settings_with(), Mute(project, detector, subject, until_ms, decided_at_ms, actor, reason)))


async def _send(settings: "Settings", decision: "Mute") -> None:
    from pipeline.alerts.codec import encode_decision
    from pipeline.kafka import create_topics
    from pipeline.producer import Producer
    from pipeline.topics import topics

    topic = topics(settings).alert_decisions
    await create_topics(settings.kafka, [topic])
    async with Producer(settings.kafka) as producer:
        await producer.send(topic.name, None, encode_decision("cli", decision))


@alerts.command(
    epilog=examples(
        "roommeter alerts check",
        "roommeter alerts check --from 2026-09-01 --to 2026-09-08 --alerts-file alerts.toml",
    ),
)
@store_option
@_alerts_file
@click.option("--from", "from_ms", type=TIME, help="Look as of every minute from this time on.  [default: --to alone]")
@click.option("--to", "to_ms", type=TIME, default="now", show_default=True, help="The last moment to look as of.")
@_json
@expected_errors
def check(store: str | None, alerts_file: str | None, from_ms: int | None, to_ms: int, *, as_json: bool) -> None:
    """Look for anomalies in what is stored, now or over a stretch of the past, and tell nobody else.

    For trying parameters out: what would have been raised, with the given file?
    """
    from pipeline.alerts.codec import alert_document
    from pipeline.alerts.loop import read_watch
    from pipeline.alerts.reader import Reader
    from pipeline.alerts.trial import moments, trial
    from pipeline.embedded import load_meters

    settings = settings_with(store=store, alerts_file=alerts_file)
    watched = read_watch(settings, load_meters(settings), settings.secrets(os.environ))
    looked_at = moments(to_ms if from_ms is None else from_ms, to_ms)
    with closing(open_store(store)) as opened, progress("minutes", len(looked_at)) as done:
        reader = Reader(opened, watched.meters, watched.limits, settings.orphan_after_ms)
        found: dict[str, Alert] = {}
        for number, alert in trial(reader.read, watched, looked_at):
            done(number)
            if alert is not None:
                found[alert.id] = alert
    _show("What would be told", map(alert_document, found.values()), as_json=as_json)
