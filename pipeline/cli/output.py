"""What commands print: rows as a table or as JSON lines, and how far long work is."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click


def print_json(row: dict[str, Any]) -> None:
    """Print one JSON object on a line of its own."""
    import orjson

    click.echo(orjson.dumps(row))


def print_table(title: str, columns: Sequence[str], rows: Iterable[dict[str, Any]], nothing: str = "none") -> None:
    """Print rows as a table, numbers to the right; `nothing` stands in its place where there are none.

    What a terminal would obey is escaped: names and details come from whoever sent them.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.deadletters.text import visible

    table = Table(title=title, title_justify="left")
    listed = list(rows)
    for column in columns:
        right = any(isinstance(row[column], int) or str(row[column])[:1].isdigit() for row in listed)
        is_short = column in ("id", "reason")  # copied, or compared from line to line
        table.add_column(
            column.replace("_", " "), justify="right" if right else "left", overflow="fold", no_wrap=is_short
        )
    for row in listed:
        table.add_row(*(Text("" if row[column] is None else visible(str(row[column]))) for column in columns))
    Console().print(table if listed else f"{title}: {nothing}")


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Any]:
    """Show a progress bar on stderr where somebody watches; yields what takes steps done so far, and their total."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of=total: bar.update(task, completed=done, total=of)
