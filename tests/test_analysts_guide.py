"""The guide of infra/analysts.md equals code: its commands do what it says, its tables say what there is."""

import re
import shlex
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result

from pipeline.access import access_statements
from pipeline.cli import main
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metering.rollup import Rollup
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_HOUR, hour_of
from pipeline.migrations import Target, shipped_migrations
from pipeline.rows import Batch
from tests.endpoint.server import server
from tests.metering.builders import METERS, ROOT

_GUIDE: Final = (ROOT / "infra" / "analysts.md").read_text()
_MOST_LINES: Final = 150
_HERE: Final = "http://127.0.0.1:8130"
_HOUR_MS: Final = hour_of(now_ms()) - MS_PER_HOUR


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _GUIDE, re.DOTALL | re.MULTILINE)


def _commands(program: str) -> list[str]:
    return [line for line in "\n".join(_blocks("sh")).splitlines() if line.startswith(f"{program} ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store: a session of acme and of bolt, with an identity, and an emitted hour of acme."""
    path = tmp_path_factory.mktemp("analysts")
    with closing(Store.open(f"chdb://{path / 'clickhouse'}")) as store:
        store.migrate(METERS)
        facts = Session("agent", identity="eve", connected_at_ms=_HOUR_MS, last_seen_ms=now_ms())
        store.write(Batch(sessions=[("acme", "RM_1", "PA_1", facts), ("bolt", "RM_1", "PA_1", facts)]))
        rollup = Rollup("acme", "agent_session_minutes", _HOUR_MS, 1, 7, 0, 7, 1, _HOUR_MS + MS_PER_HOUR, 0)
        store.insert_rollups([rollup], METERS)
    return path


def _asked(command: str, folder: Path) -> str:
    """Run a command of curl's against a server on the store."""
    with server(folder) as (ports, _):
        words = shlex.split(command.replace(_HERE, f"http://127.0.0.1:{ports.reader}"))
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _run(command: str, folder: Path, stdin: str = "") -> Result:
    runner = CliRunner(env={"ROOMMETER_STORE": f"chdb://{folder / 'clickhouse'}", "USER": "jo"})
    return runner.invoke(main, shlex.split(command)[1:], input=stdin, prog_name="roommeter")


@pytest.fixture
def views() -> dict[str, set[str]]:
    """The parameters of every view for analysts, as the migrations have them; the newest counts."""
    text = "".join(migration.script for migration in shipped_migrations())
    found = re.findall(r"VIEW \$\{database\}\.(v_\w+)(.*?;)\n", text, re.DOTALL)
    return {name: set(re.findall(r"\{(\w+):", body.replace("${", ""))) for name, body in found}


def test_the_guide_is_short() -> None:
    """Who wants to ask reads it whole."""
    assert len(_GUIDE.splitlines()) <= _MOST_LINES


def test_the_table_of_views_is_the_views(views: dict[str, set[str]]) -> None:
    """Each, with its parameters and what it stands on."""
    rows = re.findall(r"^\| (v_\w+) \|[^|]+\|([^|]*)\| (\w+) \|$", _GUIDE, re.MULTILINE)
    assert {name: set(re.findall(r"\w+", parameters)) for name, parameters, _ in rows} == views
    text = "".join(migration.script for migration in shipped_migrations())
    for name, _, stands_on in rows:
        said = re.findall(rf"VIEW \$\{{database\}}\.{name} .*?\n\)\nCOMMENT '.*?Stands on: (\w+)", text, re.DOTALL)
        assert said[-1] == stands_on


def test_every_command_of_the_guide_does_what_it_says_in_its_order(folder: Path) -> None:
    """Asked, refused where there are no users, erased, recorded; other projects and the bill stay."""
    ask, trail = _commands("curl")
    migrate, personal, everything = _commands("roommeter")
    assert "agent_session_minutes" in _asked(ask, folder)
    refused = _run(migrate.partition(" --store")[0], folder)
    assert "the engine in process has no users" in refused.stderr
    for command, gone in ((personal, "session_facts"), (everything, "rollups")):
        result = _run(command, folder)
        assert (result.exit_code, gone in result.stdout) == (0, True), result.output
        assert re.search(r"usage\.rollups: for ever, unless you set retention\.ms", result.stdout)
    erased = _asked(trail, folder)
    assert "\tacme\tpersonal-data\tjo\tGDPR request 4711\t{'session_facts':1}\n" in erased
    assert "\tacme\tproject\tjo\tcontract ended, ticket 4712\t{'rollups':1,'session_facts':1}\n" in erased
    assert "bolt" in _run("roommeter sessions --json", folder).stdout
    assert "acme" not in _run("roommeter sessions --json", folder).stdout


def test_an_erasure_asks_first_and_no_means_no(folder: Path) -> None:
    """Shown with how many rows of what."""
    result = _run("roommeter erase --project bolt --reason why", folder, stdin="n\n")
    assert "session_facts" in result.stdout
    assert "Erase this for good" in result.output
    assert "bolt" in _run("roommeter sessions --json", folder).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--project '' --reason why --yes", "--project is empty"),
        ("--project bolt --reason why --json", "--json needs --yes"),
        ("--project bolt --yes", "Missing option '--reason'"),
    ],
)
def test_an_erasure_that_cannot_be_is_said(folder: Path, options: str, message: str) -> None:
    """Before anything is touched."""
    assert message in _run(f"roommeter erase {options}", folder).stderr


def test_the_statements_of_the_guide_are_sql(folder: Path) -> None:
    """Those for users need a server, which tests/contracts/test_isolation.py has."""
    inline = re.findall(r"`((?:ALTER|SELECT|SHOW)\s[^`]+)`", _GUIDE)
    statements = [*re.findall(r"(.+?);\n", "".join(_blocks("sql"))), *inline]
    assert len(statements) == 8
    with closing(Store.open(f"chdb://{folder / 'clickhouse'}")) as store:
        for statement in statements:
            assert store.query(f"EXPLAIN AST {statement}"), statement


def test_the_bounds_told_are_those_of_the_roles() -> None:
    """Seconds, bytes and queries."""
    roles = "\n".join(access_statements(Target("roommeter"), []))
    told = "60 s and 4 GB a query unless it asks for more, at most 600 s and 8 GB"
    assert told in _GUIDE
    assert "max_memory_usage = 4000000000 MAX 8000000000, max_execution_time = 60 MIN 1 MAX 600" in roles
    assert "30 s, 1 GB, 3 000 queries an hour" in _GUIDE
    assert "max_memory_usage = 1000000000 MIN 1 MAX 1000000000, max_execution_time = 30 MIN 1 MAX 30" in roles
    assert "MAX queries = 3000" in roles


def test_the_python_of_the_guide_runs(folder: Path) -> None:
    """Against what answers there."""
    [code] = _blocks("python")
    with server(folder) as (ports, _):
        names: dict[str, object] = {}
        exec(code.replace(_HERE, f"http://127.0.0.1:{ports.reader}"), names)  # noqa: S102
    assert {"usage", "sessions", "rollups", "open_now"} <= names.keys()
