"""The questions of the cookbook, as the file has them: for its test, and for the bench."""

import re
from typing import Final, NamedTuple

from tests.metering.builders import ROOT

_QUESTION: Final = re.compile(
    r"^## (\d+)\. ([^\n]+)\n\*([^*·]+) · ([^*]+)\* → ([^\n]+)\n```sql\n(.*?)```$", re.MULTILINE | re.DOTALL
)
TEXT: Final = (ROOT / "schemas" / "clickhouse" / "COOKBOOK.md").read_text()


class Question(NamedTuple):
    """One question: its number, who asks, over what, the columns of the answer, and the query."""

    number: int
    asked: str
    asked_by: str
    over: str
    columns: list[str]
    sql: str


def questions() -> list[Question]:
    """Return every question, in order."""
    return [
        Question(int(number), asked, asked_by, over, columns.split(", "), sql)
        for number, asked, asked_by, over, columns, sql in _QUESTION.findall(TEXT)
    ]
