"""Commands about dead letters: list, show, replay, purge."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import TIME, examples, expected_errors, settings_with
from pipeline.cli.output import print_json, print_table, progress
from pipeline.metering.units import format_time

if TYPE_CHECKING:
    from pipeline.deadletters.log import DeadLetterTopic, Letter, Selection, Survey
    from pipeline.deadletters.replay import Judge, Verdict
    from pipeline.settings import Settings


class Id(click.ParamType):
    """The id of a dead letter, as `list` shows it; becomes its offset."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the offset."""
        from pipeline.deadletters.log import parse_id

        try:
            return value if isinstance(value, int) else parse_id(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _selectors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which letters are meant; the command takes them as `selected`."""
    for option in (
        click.option("--until", "until_ms", type=TIME, help="Only those buried before this time."),
        click.option("--since", "since_ms", type=TIME, default=0, help="Only those buried at this time or later."),
        click.option("--origin", "origins", multiple=True, help="Only from here: worker, webhooks/livekit, ..."),
        click.option("--project", "projects", multiple=True, help="Only of this project; can be repeated."),
        click.option("--reason", "reasons", multiple=True, help="Only with this reason; can be repeated."),
    ):
        command = option(command)
    return command


def _selection(selected: dict[str, Any], ids: Iterable[int] = ()) -> "Selection":
    """Return what the options mean. Raises UsageError for a reason that nothing can have."""
    from pipeline.deadletters.log import Selection
    from pipeline.metering.events import Reason

    unknown = sorted(set(selected["reasons"]) - set(Reason))
    if unknown:
        raise click.UsageError(f"--reason {unknown[0]} is none of {', '.join(Reason)}")
    names = {name: frozenset(selected[name]) for name in ("reasons", "projects", "origins")}
    since_ms, until_ms = selected["since_ms"], selected["until_ms"]
    return Selection(**names, offsets=frozenset(ids), since_ms=since_ms, until_ms=until_ms)


_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for machines.")


@click.group(
    "dead-letters",
    epilog=examples(
        "roommeter dead-letters list --summary",
        "roommeter dead-letters show 0:17",
        "roommeter dead-letters replay --reason unknown_meter --dry-run",
    ),
)
def dead_letters() -> None:
    """See what could not be metered and why, replay it after a fix, or purge it.

    The id of a dead letter is its place in the dead-letter topic, partition:offset.
    """


@contextmanager
def _topic(settings: "Settings", what: str) -> "Iterator[DeadLetterTopic]":
    """Give the dead-letter topic, with a progress bar on stderr where somebody watches."""
    from pipeline.deadletters.log import DeadLetterTopic
    from pipeline.topics import topics

    with progress(what, None) as watch:
        yield DeadLetterTopic(settings.kafka, topics(settings).dead_letters.name, watch)


def _described(letter: "Letter", *, was_replayed: bool) -> dict[str, Any]:
    return {
        "id": letter.id,
        "dead_at": format_time(letter.dead_at_ms),
        "replayed": was_replayed,
        **letter.document,
    }


@dead_letters.command(
    "list",
    epilog=examples(
        "roommeter dead-letters list --project acme --since 2026-09-21",
        "roommeter dead-letters list --reason missing_field --limit 1000 --json",
        "roommeter dead-letters list --summary",
    ),
)
@_selectors
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, the newest.")
@click.option("--summary", is_flag=True, help="Count all of them by reason instead.")
@_json
@expected_errors
def list_letters(*, limit: int, summary: bool, as_json: bool, **selected: Any) -> None:
    """List dead letters, oldest first: when and why they were refused, and whose they are."""
    selection = _selection(selected)
    with _topic(settings_with(), "reading") as topic:
        if summary:
            rows = asyncio.run(_summary(topic, selection))
        else:
            told = print_json if as_json else None
            rows = asyncio.run(_newest(topic, selection, limit, told))
    if as_json:
        for row in rows:
            print_json(row)
    elif summary:
        print_table("Dead letters by reason", ("reason", "letters", "replayed", "first", "last"), rows)
    else:
        print_table(
            "Dead letters", ("id", "dead_at", "reason", "project", "origin", "detail", "replayed"), rows, nothing="none"
        )


async def _newest(
    topic: "DeadLetterTopic", selection: "Selection", limit: int, told: Callable[[dict[str, Any]], None] | None
) -> list[dict[str, Any]]:
    """Return rows of a table of the newest letters, or tell each whole where somebody wants to be told."""
    survey = await topic.survey(selection, limit)
    rows = []
    async for letter in topic.letters(survey, selection):
        row = _described(letter, was_replayed=letter.offset in survey.replayed)
        if told is not None:
            told(row)
        else:
            rows.append({**row, "origin": letter.origin, "payload_base64": "", "replayed": "yes" * row["replayed"]})
    return rows


async def _summary(topic: "DeadLetterTopic", selection: "Selection") -> list[dict[str, Any]]:
    return await _by_reason(topic, selection, await topic.survey(selection))


async def _by_reason(topic: "DeadLetterTopic", selection: "Selection", survey: "Survey") -> list[dict[str, Any]]:
    """Return rows that count the letters in the span of a survey, the most frequent reason first."""
    rows: dict[str, dict[str, Any]] = {}
    async for letter in topic.letters(survey, selection):
        dead_at = format_time(letter.dead_at_ms)
        row = rows.setdefault(letter.reason, {"reason": letter.reason, "letters": 0, "replayed": 0, "first": dead_at})
        row["letters"] += 1
        row["replayed"] += letter.offset in survey.replayed
        row["last"] = dead_at
    return sorted(rows.values(), key=lambda row: -row["letters"])


@dead_letters.command(
    epilog=examples("roommeter dead-letters show 0:17", "roommeter dead-letters show 0:17 --raw > body")
)
@click.argument("offset", metavar="ID", type=Id())
@click.option("--raw", is_flag=True, help="Write the payload to stdout, byte for byte, and nothing else.")
@_json
@expected_errors
def show(offset: int, *, raw: bool, as_json: bool) -> None:
    """Show one dead letter: all that is known about it, what to do, and its payload.

    Its ID is its place in the dead-letter topic, partition:offset, as `list` shows it.
    """
    from pipeline.deadletters.log import NoSuchLetter
    from pipeline.deadletters.text import advice, payload_text, visible

    with _topic(settings_with(), "reading") as topic:
        try:
            letter, was_replayed = asyncio.run(topic.one(offset))
        except NoSuchLetter as error:
            raise click.ClickException(str(error)) from error
    if raw:
        click.get_binary_stream("stdout").write(letter.value or b"")
        return
    row = _described(letter, was_replayed=was_replayed)
    if as_json:
        print_json(row)
        return
    del row["payload_base64"]
    for name, value in row.items():
        if value is not None:
            click.echo(f"{name:10} {visible(str(value))}")
    click.echo(f"\nwhat to do: {advice(letter.reason)}\n\n{payload_text(letter.value)}")


@dead_letters.command(
    epilog=examples(
        "roommeter dead-letters replay --reason unknown_meter --dry-run",
        "roommeter dead-letters replay --project acme --since 2026-09-21",
        "roommeter dead-letters replay 0:17 0:23",
    ),
)
@click.argument("offsets", metavar="[ID]...", nargs=-1, type=Id())
@_selectors
@click.option("--dry-run", is_flag=True, help="Send nothing; show what would happen.")
@click.option("--again", is_flag=True, help="Also what was replayed before; that does no harm (R10).")
@_json
@expected_errors
def replay(offsets: tuple[int, ...], *, dry_run: bool, again: bool, as_json: bool, **selected: Any) -> None:
    """Send dead letters again: those that today's code and settings take, once each.

    What would die again is not sent, and can be replayed after the next fix. Use the workers' settings here:
    ROOMMETER_METERS_FILE, ROOMMETER_MAX_EVENT_BYTES and ROOMMETER_CORRECTION_WINDOW_MS decide.
    """
    settings = settings_with()
    replayed = _Replayed(offsets)
    with _topic(settings, "replaying") as topic:
        asyncio.run(_replay(settings, topic, _selection(selected, offsets), replayed, dry_run=dry_run, again=again))
    if as_json:
        for row in replayed.rows():
            print_json(row)
    else:
        title = "Would be replayed" if dry_run else "Replayed"
        print_table(title, ("reason", "outcome", "letters", "detail", "example"), replayed.rows())
    if replayed.missing:
        raise click.ClickException(f"no such dead letter: {', '.join(f'0:{one}' for one in sorted(replayed.missing))}")


class _Replayed:
    """What became of letters, counted by their reason and outcome; with one example each."""

    def __init__(self, offsets: Iterable[int]) -> None:
        #: Those asked for by their ids that were not met.
        self.missing = set(offsets)
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, letter: "Letter", verdict: "Verdict") -> None:
        outcome = f"{verdict.outcome}: {verdict.reason}" if verdict.reason else str(verdict.outcome)
        row = {"reason": letter.reason, "outcome": outcome, "letters": 0, "detail": verdict.detail}
        self._rows.setdefault((letter.reason, outcome), row | {"example": letter.id})["letters"] += 1
        self.missing.discard(letter.offset)

    def rows(self) -> list[dict[str, Any]]:
        return [self._rows[key] for key in sorted(self._rows)]


def _judge(settings: "Settings") -> "Judge":
    """Return today's code with the settings that the workers have, and the gateway's."""
    from pipeline.deadletters.replay import Judge, revive_with
    from pipeline.embedded import load_meters
    from pipeline.gateway.projects import read_projects
    from pipeline.gateway.server import make_border
    from pipeline.topics import topics

    names, meters = topics(settings), load_meters(settings)
    projects = read_projects(settings.projects_file, settings.secrets(os.environ))
    return Judge(
        lifecycle=names.lifecycle.name,
        dead_letters=names.dead_letters.name,
        meters=meters,
        max_event_bytes=settings.max_event_bytes,
        correction_window_ms=settings.correction_window_ms,
        future_skew_ms=settings.future_skew_ms,
        revive=revive_with(make_border(settings, meters), projects),
    )


async def _replay(
    settings: "Settings",
    topic: "DeadLetterTopic",
    selection: "Selection",
    replayed: _Replayed,
    *,
    dry_run: bool,
    again: bool,
) -> None:
    from pipeline.deadletters.replay import Outcome, Verdict, judge_all, replay_all
    from pipeline.embedded import now_ms
    from pipeline.producer import Producer

    survey = await topic.survey(selection)
    judge = _judge(settings)

    def verdict_of(letter: "Letter") -> Verdict:
        if letter.offset in survey.replayed and not again:
            return Verdict(Outcome.REPLAYED_BEFORE)
        return judge.judge(letter, now_ms())

    letters = topic.letters(survey, selection)
    if dry_run:
        await judge_all(letters, verdict_of, replayed.add)
        return
    async with Producer(settings.kafka, on_wait=lambda reason: click.echo(f"waiting: {reason}", err=True)) as producer:
        await replay_all(letters, verdict_of, producer, topic.name, replayed.add)


@dead_letters.command(
    epilog=examples(
        "roommeter dead-letters purge --before 2026-09-01",
        "roommeter dead-letters purge --before-id 0:4096 --yes",
    ),
)
@click.option("--before", "before_ms", type=TIME, help="What was buried before this time.")
@click.option("--before-id", "before_offset", type=Id(), help="What lies before this dead letter.")
@click.option("--reason", hidden=True)
@click.option("--project", hidden=True)
@click.option("--origin", hidden=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@expected_errors
def purge(*, before_ms: int | None, before_offset: int | None, yes: bool, **selected: str | None) -> None:
    """Delete the oldest dead letters for ever, and the marks of their replays.

    By time or place only: Kafka deletes from the beginning of a topic. Without a purge they go by themselves
    when the correction window is over.
    """
    if any(selected.values()):
        raise click.UsageError(
            "dead letters cannot be purged by reason, project or origin: Kafka deletes records from the beginning of "
            "a topic only. Use --before or --before-id; `replay` leaves out what was replayed"
        )
    if (before_ms is None) == (before_offset is None):
        raise click.UsageError("say which go: either --before TIME or --before-id ID")
    from pipeline.kafka import DeletionRefused

    with _topic(settings_with(), "reading") as topic:
        offset, rows = asyncio.run(_oldest(topic, before_ms, before_offset))
    if not rows:
        click.echo("there is nothing to purge")
        return
    print_table("To be purged", ("reason", "letters", "replayed", "first", "last"), rows)
    if not yes:
        click.confirm(f"Everything before 0:{offset} goes for ever. Go on?", abort=True)
    try:
        asyncio.run(topic.purge(offset))
    except DeletionRefused as error:
        raise click.ClickException(f"{error}; they go by themselves when the topic's retention is over") from error
    click.echo(f"deleted everything before 0:{offset}")


async def _oldest(
    topic: "DeadLetterTopic", before_ms: int | None, before_offset: int | None
) -> tuple[int, list[dict[str, Any]]]:
    """Return where a purge would end, and what it would take."""
    from pipeline.deadletters.log import Selection

    survey = await topic.survey(Selection())
    offset = await topic.offset_at(before_ms) if before_ms is not None else before_offset or 0
    offset = max(survey.first, min(offset, survey.end))
    return offset, await _by_reason(topic, Selection(), survey._replace(end=offset))
