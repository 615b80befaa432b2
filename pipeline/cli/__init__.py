"""The command line: `roommeter`, also `python -m pipeline`."""

import logging
from importlib.metadata import version

import click

from pipeline.cli.alerts import alerter, alerts
from pipeline.cli.amend import amend
from pipeline.cli.audit import audit
from pipeline.cli.canary import canary
from pipeline.cli.console import console
from pipeline.cli.data import produce, replay, simulate
from pipeline.cli.dead_letters import dead_letters
from pipeline.cli.deliver import deliver
from pipeline.cli.demo_month import demo_month
from pipeline.cli.erase import erase
from pipeline.cli.explain import explain
from pipeline.cli.export import export
from pipeline.cli.gateway import gateway
from pipeline.cli.invoice import invoice
from pipeline.cli.limits import limiter, limits
from pipeline.cli.options import examples
from pipeline.cli.query import attribute, rollups, sessions, usage
from pipeline.cli.reconcile import reconcile
from pipeline.cli.run import demo, emitter, migrate, up, worker


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "roommeter demo                      watch a simulated day being billed",
        "roommeter up                        run everything on this machine",
        "roommeter produce calls.jsonl       send events to Kafka",
        "roommeter usage --store http://127.0.0.1:8130",
    ),
)
@click.version_option(version("roommeter"), prog_name="roommeter")
def main() -> None:
    """Meter real-time media servers: lifecycle events in, billed minutes and hourly rollups out.

    Every setting can be given as ROOMMETER_<NAME> in the environment; see the README.
    """
    # Its errors reach the user once, as ours; commands that log add a handler.
    logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())


for command in (
    *(up, gateway, worker, emitter, limiter, console, alerter, migrate, demo, demo_month),
    *(produce, replay, simulate, canary, reconcile, amend, erase, dead_letters),
    *(audit, explain, usage, attribute, sessions, rollups, limits, alerts, invoice, export, deliver),
):
    main.add_command(command)
