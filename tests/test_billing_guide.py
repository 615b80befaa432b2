"""The guide of infra/billing.md equals code: its plans file is one, and its commands do what it says, in its order."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.clickhouse import Store
from pipeline.invoices.text import CSV_COLUMNS
from pipeline.metering.money import MOST_DECIMALS
from pipeline.metering.months import Month
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE
from pipeline.rows import Batch
from pipeline.settings import Settings
from tests.metering.builders import METERS, ROOT
from tests.metering.plan_texts import plans_of

_GUIDE: Final = (ROOT / "infra" / "billing.md").read_text()
_MOST_LINES: Final = 150
_JANUARY: Final = Month(2026, 1)
_HOSTILE: Final = "[/b]\x1b[2J<script>"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _GUIDE, re.DOTALL | re.MULTILINE)


def _commands() -> list[str]:
    return [line for line in "\n".join(_blocks("sh")).splitlines() if line.startswith("roommeter ")]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A directory with the guide's plans file, and the environment of a store: 5 010 agent minutes in January 2026."""
    folder = tmp_path_factory.mktemp("billing")
    (folder / "plans.toml").write_text(_blocks("toml")[0])
    dsn = f"chdb://{folder / 'clickhouse'}"
    start_ms = _JANUARY.start_ms + 3 * MS_PER_DAY
    end_ms = start_ms + 5_010 * MS_PER_MINUTE
    facts = Session("agent", connected_at_ms=start_ms, disconnected_at_ms=end_ms, last_seen_ms=end_ms)
    with closing(Store.open(dsn)) as store:
        store.migrate(METERS)
        store.write(Batch(sessions=[("acme", "RM_1", "PA_1", facts), (_HOSTILE, "RM_1", "PA_1", facts)]))
        yield folder, {"ROOMMETER_STORE": dsn, "ROOMMETER_PLANS_FILE": str(folder / "plans.toml")}


def _run(books: tuple[Path, dict[str, str]], command: str, **environment: str | None) -> Result:
    folder, environ = books
    words = [str(folder / word) if word == "invoices" else word for word in shlex.split(command)[1:]]
    return CliRunner(env=environ | environment).invoke(main, words, prog_name="roommeter")


def test_the_guide_is_short() -> None:
    """Who sends bills reads it whole."""
    assert len(_GUIDE.splitlines()) <= _MOST_LINES


def test_the_plans_file_of_the_guide_is_one() -> None:
    """And it shows every field that there is."""
    [text] = _blocks("toml")
    plans = plans_of(text)
    assert plans.accounts["acme"].bill_to == ("Acme Robotics", "12 High Street")
    fields = {
        "currency",
        "title",
        "from",
        "base_fee",
        "included",
        "price",
        "tiers",
        "up_to",
        "model",
        "bill_to",
        "plan",
    }
    fields |= {"name", "address", "note", "number_prefix"}
    assert {field for field in fields if not re.search(rf"\b{field} =", text)} == set()


def test_the_limits_told_are_the_codes() -> None:
    """Decimals of a price, days of the window."""
    assert f"up to {MOST_DECIMALS} decimals" in _GUIDE
    days = Settings.model_fields["correction_window_ms"].default // MS_PER_DAY
    assert f"`correction_window_ms`, {days} days" in _GUIDE


def test_every_command_of_the_guide_works_in_its_order(books: tuple[Path, dict[str, str]]) -> None:
    """Tried, previewed, issued, shown again, written as files, followed."""
    commands = _commands()
    results = {command: _run(books, command) for command in commands if "--plan" not in command}
    assert {command: result.output for command, result in results.items() if result.exit_code} == {}
    said = [result.stdout for result in results.values()]
    assert "Preview of an invoice: acme, 2026-01, USD" in said[0]
    assert "on no plan, though with usage: [/b]\\x1b[2J<script>" in results["roommeter invoice --month 2026-01"].stderr
    assert "issued RM-000001: acme, 100.10 USD" in results["roommeter invoice --month 2026-01 --issue"].stderr
    assert "Invoice RM-000001: acme" in results["roommeter invoice --month 2026-01 --issue"].stdout
    assert {path.name for path in (books[0] / "invoices").iterdir()} == {
        "000001-2026-01-acme.html",
        "000001-2026-01-acme.pdf",
    }


def test_the_example_can_be_tried_without_a_file(books: tuple[Path, dict[str, str]]) -> None:
    """Every project with usage, two months' fee, ten minutes beyond what is included."""
    [command] = [command for command in _commands() if "--plan" in command]
    result = _run(books, f"{command} --format json", ROOMMETER_PLANS_FILE=None)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["project"], one["number"], one["total"]) for one in found] == [
        (_HOSTILE, None, "100.10"),
        ("acme", None, "100.10"),
    ]


def test_a_terminal_obeys_no_project(books: tuple[Path, dict[str, str]]) -> None:
    """Neither its own codes nor those of our tables."""
    result = _run(books, "roommeter invoice --month 2026-01 --plan ship")
    assert "Preview of an invoice: [/b]\\x1b[2J<script>, 2026-01, USD" in result.stdout


def test_csv_is_a_row_for_each_line(books: tuple[Path, dict[str, str]]) -> None:
    """Under names that a spreadsheet sorts by."""
    result = _run(books, "roommeter invoice --month 2026-01 --plan ship --project acme --format csv")
    heading, *rows = result.stdout.splitlines()
    assert heading == ",".join(CSV_COLUMNS)
    assert rows[2].startswith("preview,acme,2026-01,usage,agent_session_minutes,2026-01,minute,5010,5000,10,0.01,0.10,")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--month 2026-13", "'2026-13' is not a month such as 2026-10"),
        ("--month 2026-01 --plan ship --issue", "--plan is for previews"),
        ("--month 2026-01 --issue --as-of 2199-01-01", "--as-of lies ahead"),
        ("--month 2026-01 --format pdf", "html and pdf need --out DIR"),
        ("--month 2026-01 --project bolt", "the plans file says nothing of a project 'bolt'"),
        ("--month 2026-01 --as-of 2026-01-15 --issue --project acme --store chdb:///nowhere", "there is no store"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(books: tuple[Path, dict[str, str]], options: str, message: str) -> None:
    """With what to do instead."""
    result = _run(books, f"roommeter invoice {options}")
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr.splitlines()[-1]


def test_a_plans_file_that_cannot_be_used_is_said_with_its_name(books: tuple[Path, dict[str, str]]) -> None:
    """Its path, the place in it, the reason."""
    path = books[0] / "wrong.toml"
    path.write_text('[plans.p]\ncurrency = "USD"\nprice = 1\n')
    result = _run(books, "roommeter invoice --month 2026-01", ROOMMETER_PLANS_FILE=str(path))
    assert result.stderr.startswith(f"Error: {path}: plans.p.price: is no field here")
    gone = _run(books, "roommeter invoice --month 2026-01", ROOMMETER_PLANS_FILE=str(books[0] / "gone.toml"))
    assert "cannot be read (No such file or directory); mend ROOMMETER_PLANS_FILE" in gone.stderr
