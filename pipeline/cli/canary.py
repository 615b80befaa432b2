"""The command that feeds the audit's canary: canary."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import DURATION, examples, expected_errors, settings_with
from pipeline.cli.output import print_json

if TYPE_CHECKING:
    from pipeline.settings import Settings


@click.command(
    epilog=examples(
        "roommeter canary                 send one world, from cron every hour, say",
        "roommeter canary --every 1h      again and again, until stopped",
        "roommeter audit                  an hour later: the law C11 has checked its sessions",
    ),
)
@click.option("--every", "every_s", type=DURATION, help="Send a world again and again, until stopped.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each world, for machines.")
@expected_errors
def canary(every_s: int | None, *, as_json: bool) -> None:
    """Send sessions whose right answer is known: ten of the project `canary`, just over, with faults among them.

    An hour later every audit compares what became of them, to the millisecond (C11).
    """
    from pipeline.cli.run import stopped

    async def run() -> None:
        settings = settings_with()
        await _send_world(settings, as_json=as_json)
        if every_s is None:
            return
        ended = asyncio.create_task(stopped())
        while not ended.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), every_s)
                return
            await _send_world(settings, as_json=as_json)

    asyncio.run(run())


async def _send_world(settings: "Settings", *, as_json: bool) -> None:
    """Send the world that has just ended, in the order and with the repetitions in which its events would come."""
    import orjson

    from pipeline.audit.canary import CANARY, finished_scenario
    from pipeline.embedded import now_ms
    from pipeline.producer import Producer
    from pipeline.publish import publish
    from pipeline.simulator import simulate
    from pipeline.topics import topics

    world = simulate(finished_scenario(now_ms()))
    async with Producer(settings.kafka, on_wait=lambda reason: click.echo(f"waiting: {reason}", err=True)) as producer:
        for _, document in world.events:
            await publish(producer, topics(settings).lifecycle.name, orjson.dumps(document))
        await producer.flush()
    if as_json:
        print_json({"project": CANARY, "sessions": len(world.truth), "events": len(world.events)})
    else:
        click.echo(f"sent {len(world.events)} events of {len(world.truth)} sessions of the project {CANARY}")
