"""Commands that bring events: produce, replay, simulate."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with, store_option
from pipeline.cli.output import print_json, progress

if TYPE_CHECKING:
    from pipeline.settings import Settings

_files = click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
_format = click.option(
    "--format",
    "file_format",
    type=click.Choice(["auto", "canonical", "livekit", "janus", "litellm", "openai-log", "otlp"]),
    default="auto",
    show_default=True,
    help="What the files hold: canonical events, LiveKit webhook bodies, a Janus event handler's capture; LLM usage: "
    "logs of LiteLLM, answers of OpenAI's API, OTLP metrics.",
)
_project = click.option(
    "--project",
    default="demo",
    show_default=True,
    help="Who is billed for what names nobody (all but canonical events).",
)
_json = click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object, for machines.")


def _say(summary: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(summary)
    else:
        click.echo(text)


def _payloads(files: Iterable[Path], file_format: Any, project: str, to_ms: int | None) -> Iterator[bytes]:
    from pipeline.sources import read_events, shifted

    for path in files:
        events = read_events(path, file_format, project)
        yield from events if to_ms is None else shifted(events, to_ms)


@click.command(
    epilog=examples(
        "roommeter produce events.jsonl",
        "roommeter produce --format livekit --project acme webhooks.jsonl",
        "roommeter produce --shift-to now schemas/recordings/livekit-call.jsonl",
    ),
)
@_files
@_format
@_project
@click.option(
    "--shift-to", "shift_to_ms", type=TIME, help="Move the events in time so that the newest is at this moment."
)
@_json
@expected_errors
def produce(files: tuple[Path, ...], file_format: str, project: str, shift_to_ms: int | None, *, as_json: bool) -> None:
    """Send the events of files to Kafka, in order; what is no event goes too, for the dead-letter topic."""
    payloads = list(_payloads(files, file_format, project, shift_to_ms))
    with progress("sending", len(payloads)) as step:
        asyncio.run(_send(settings_with(), payloads, step))
    _say({"sent": len(payloads)}, f"sent {len(payloads)} events", as_json=as_json)


async def _send(settings: "Settings", payloads: Iterable[bytes], step: Any) -> None:
    from pipeline.producer import Producer
    from pipeline.publish import publish
    from pipeline.topics import topics

    async with Producer(settings.kafka, on_wait=lambda reason: click.echo(f"waiting: {reason}", err=True)) as producer:
        for number, payload in enumerate(payloads, 1):
            await publish(producer, topics(settings).lifecycle.name, payload)
            step(number)
        await producer.flush()


@click.command(
    epilog=examples(
        "roommeter replay events.jsonl --store chdb:///var/lib/usage",
        "roommeter usage --store chdb:///var/lib/usage --as-of 2026-09-21T15:30:00Z --json",
    ),
)
@_files
@store_option
@_format
@_project
@_json
@expected_errors
def replay(files: tuple[Path, ...], store: str | None, file_format: Any, project: str, *, as_json: bool) -> None:
    """Join the events of files straight into a store, without Kafka: backfill and audit.

    Replaying a file again, or files in another order, changes nothing: state is a join (R10).
    """
    from pipeline.clickhouse import Store
    from pipeline.embedded import load_meters, now_ms
    from pipeline.replay import digest
    from pipeline.replay import replay as join
    from pipeline.sources import read_events

    settings = settings_with(store=store)
    meters = load_meters(settings)
    counts: Counter[str] = Counter()
    with closing(Store.open(settings.store, settings.database, settings.cluster)) as opened:
        opened.migrate(meters, settings.orphan_after_ms)
        with progress("replaying", None) as step:
            for path in files:
                payloads = read_events(path, file_format, project)
                limits = (settings.max_event_bytes, settings.batch_events)
                for batch in join(payloads, f"file:{digest(path)}", opened, meters, now_ms(), *limits):
                    counts += batch
                    step(counts.total())
    refused = {name: count for name, count in sorted(counts.items()) if name not in ("accepted", "ignored")}
    text = f"joined {counts['accepted']} events, ignored {counts['ignored']} of other types"
    text += "".join(f"\n  refused {count}: {name}" for name, count in refused.items())
    _say({"accepted": counts["accepted"], "ignored": counts["ignored"], "refused": refused}, text, as_json=as_json)


@click.command(
    epilog=examples(
        "roommeter simulate --sessions 1000 --out day.jsonl --truth truth.jsonl",
        "roommeter simulate --sessions 20000 --duplicate 0.05 --late 0.02 --lost 0.01 --kafka",
        "roommeter simulate --hours 1 --speed 60 --kafka          (an hour in a minute)",
    ),
)
@click.option("--sessions", type=click.IntRange(1), default=1000, show_default=True, help="About so many sessions.")
@click.option(
    "--hours", type=click.FloatRange(0.1, 24 * 60), default=24.0, show_default=True, help="How long it lasts."
)
@click.option("--until", "until_ms", type=TIME, default="now", show_default=True, help="When it ends.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same events.")
@click.option("--projects", type=click.IntRange(1), default=5, show_default=True, help="How many projects.")
@click.option(
    "--reconnect", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Share that reconnects."
)
@click.option(
    "--crash", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share of rooms whose server dies."
)
@click.option("--duplicate", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="Share sent twice.")
@click.option("--disorder-ms", type=click.IntRange(0), default=2000, show_default=True, help="Most delay of an event.")
@click.option(
    "--late", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share that comes hours late."
)
@click.option("--lost", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share never sent.")
@click.option(
    "--abort", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="Share that never connects."
)
@click.option(
    "--usage-every-ms",
    type=click.IntRange(0),
    default=60_000,
    show_default=True,
    help="How often agents report models; 0 is never.",
)
@click.option("--numbers", type=click.IntRange(0), default=9, show_default=True, help="Phone numbers rented.")
@click.option(
    "--speed", type=click.FloatRange(0), default=0.0, help="Times real time; 0 is as fast as possible.  [default: 0]"
)
@click.option("--out", type=click.File("wb"), default="-", help="Write JSON Lines here.  [default: stdout]")
@click.option("--truth", type=click.File("wb"), help="Write what really happened, session by session, here.")
@click.option("--kafka", "to_kafka", is_flag=True, help="Send to Kafka instead.")
@expected_errors
def simulate(
    *,
    speed: float,
    out: IO[bytes],
    truth: IO[bytes] | None,
    to_kafka: bool,
    hours: float,
    until_ms: int,
    projects: int,
    **rates: Any,
) -> None:
    """Play media servers with a known truth: calls, reconnects, crashes, duplicates, disorder, losses."""
    import orjson

    from pipeline.simulator import Scenario
    from pipeline.simulator import simulate as play

    start_ms = until_ms - int(hours * 3_600_000)
    names = tuple(f"project-{number}" for number in range(1, projects + 1))
    played = play(Scenario(start_ms=start_ms, end_ms=until_ms, projects=names, **rates))
    sent = [event for event in played.events if event[0] <= until_ms]  # the rest is still to happen
    if truth is not None:
        # What is still to be sent cannot be told from what was.
        unsent = [document["data"] for sent_at_ms, document in played.events if sent_at_ms > until_ms]
        unsent_rooms = {(data["project"], data.get("room")) for data in unsent if data}
        for session in played.truth:
            is_exact = session.is_exact and (session.project, session.room) not in unsent_rooms
            truth.write(orjson.dumps(session._asdict() | {"is_exact": is_exact}) + b"\n")
    if to_kafka:
        asyncio.run(_send_paced(settings_with(), sent, speed))
    else:
        out.writelines(orjson.dumps(document) + b"\n" for _, document in sent)


async def _send_paced(settings: "Settings", events: list[tuple[int, dict[str, Any]]], speed: float) -> None:
    """Send simulated events at `speed` times real time."""
    import orjson

    from pipeline.producer import Producer
    from pipeline.publish import publish
    from pipeline.topics import topics

    topic = topics(settings).lifecycle.name
    started = asyncio.get_running_loop().time()
    with progress("sending", len(events)) as step:
        async with Producer(settings.kafka) as producer:
            for number, (sent_at_ms, document) in enumerate(events, 1):
                if speed:
                    due = started + (sent_at_ms - events[0][0]) / 1000 / speed
                    await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                await publish(producer, topic, orjson.dumps(document))
                step(number)
            await producer.flush()
