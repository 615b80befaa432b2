"""Whose discrete usage it is: by whatever it is ascribed to, it adds up to the usage (R1, R14)."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.clickhouse import Store
from tests.metering.builders import METERS, ROOT

_SAMPLE: Final = ROOT / "tests" / "data" / "llm" / "litellm.json"
_AS_OF: Final = ("--as-of", "2026-10-01")


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of a store with LiteLLM's sample, read twice, and a usage event that names nobody."""
    dsn = f"chdb://{tmp_path_factory.mktemp('clickhouse')}"
    nobody = tmp_path_factory.mktemp("events") / "nobody.json"
    data = {"project": "acme", "meter": "llm_input_tokens", "quantity": 7}
    event = {"specversion": "1.0", "id": "U1", "source": "s", "type": "usage.recorded", "data": data}
    nobody.write_text(json.dumps(event | {"time": "2026-09-21T14:30:00Z"}))
    with closing(Store.open(dsn)) as store:
        store.migrate(METERS)
        environ = {"ROOMMETER_STORE": dsn}
        _run(environ, "replay", "--project", "acme", _SAMPLE, _SAMPLE, nobody, "--json")
        yield environ


def _run(environ: dict[str, str], *arguments: object) -> list[dict[str, Any]]:
    result = CliRunner(env=environ).invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def _totals(rows: list[dict[str, Any]]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row["meter"]] += row["increments"]
    return totals


def test_usage_is_shown_by_team(environ: dict[str, str]) -> None:
    """Each event once, however often it was read; what names nobody in a row of its own."""
    rows = _run(environ, "attribute", "--by", "team", "--meter", "llm_input_tokens", *_AS_OF, "--json")
    assert [(row["team"], row["events"], row["increments"]) for row in rows] == [
        ("", 1, 7),
        ("team-text", 1, 30),
        ("team-voice", 1, 1024),
    ]


@pytest.mark.parametrize("by", ["team", "key", "model", "endpoint"])
def test_by_whatever_it_is_grouped_it_adds_up_to_the_usage(by: str, environ: dict[str, str]) -> None:
    """As `usage` has it."""
    rows = _run(environ, "attribute", "--by", by, *_AS_OF, "--json")
    assert _totals(rows) == _totals(_run(environ, "usage", *_AS_OF, "--json"))
    assert len({row[by] for row in rows}) == 3


def test_hours_and_projects_are_kept_to(environ: dict[str, str]) -> None:
    """Before, after, and of somebody else: nothing."""
    for bounds in (("--to", "2026-09-21T14:00:00Z"), ("--from", "2026-09-21T15:00:00Z"), ("--project", "other")):
        assert _run(environ, "attribute", "--by", "team", *bounds, *_AS_OF, "--json") == []
    span = ("--from", "2026-09-21T14:00:00Z", "--to", "2026-09-21T15:00:00Z", "--project", "acme")
    assert _totals(_run(environ, "attribute", "--by", "key", *span, *_AS_OF, "--json"))["llm_output_tokens"] == 230
