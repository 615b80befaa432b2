"""The command line: every command documented, every answer for people and machines, every error one line."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.clickhouse import Store
from pipeline.kafka import read_topic
from pipeline.metering.units import parse_time
from pipeline.topics import topics
from tests.brokers import TestBroker
from tests.databases import Databases, new_name
from tests.lane import declare
from tests.metering.builders import ROOT
from tests.oracle import oracle_verdicts

_CASES: Final = sorted((ROOT / "tests" / "data" / "cases").glob("*.json"))
#: Every command by what is typed; those of a group behind its name.
_COMMANDS: Final = dict(main.commands) | {
    f"{name} {below}": command
    for name, group in main.commands.items()
    if isinstance(group, click.Group)
    for below, command in group.commands.items()
}
_PATIENCE_SECONDS: Final = 180
_PROGRAM: Final = (sys.executable, "-m", "pipeline")
_each_command = pytest.mark.parametrize("name", _COMMANDS)
_each_case = pytest.mark.parametrize("path", _CASES, ids=lambda path: path.stem)

Run = Callable[..., Result]


def _run(*arguments: object, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, [str(argument) for argument in arguments], prog_name="roommeter")


def _rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def _refusal(result: Result) -> str:
    """Return what a command said that failed as it should: one line, exit code 1, and nothing unforeseen."""
    assert isinstance(result.exception, SystemExit), result.exception
    [line] = result.stderr.splitlines()
    assert (result.exit_code, line[:7]) == (1, "Error: ")
    return line


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded store, kept open: starting the engine for every command would take longer."""
    dsn = f"chdb://{tmp_path_factory.mktemp('clickhouse')}"
    with closing(Store.open(dsn)):
        yield dsn


@pytest.fixture(scope="module")
def databases() -> Databases:
    """The databases of that engine."""
    return Databases()


@pytest.fixture
def run(engine: str, databases: Databases) -> Iterator[Run]:
    """Run a command on a database without rows."""
    with databases.migrated(engine) as store:
        yield _running(engine, store.target.database)


@pytest.fixture
def run_anew(engine: str) -> Run:
    """Run a command on a database that is not there yet."""
    return _running(engine, new_name())


def _running(engine: str, database: str) -> Run:
    return lambda *arguments: _run(*arguments, ROOMMETER_STORE=engine, ROOMMETER_DATABASE=database)


def _usage(run: Run, as_of: str) -> list[dict[str, Any]]:
    return _rows(run("usage", "--as-of", as_of, "--json"))


def _examples(name: str) -> list[str]:
    epilog = _COMMANDS[name].epilog or ""
    return [line.strip() for line in epilog.partition("Examples:\n")[2].splitlines()]


@_each_command
def test_a_commands_help_has_an_example_of_it(name: str) -> None:
    """As it is typed, after whatever the environment needs."""
    result = _run(*name.split(), "--help")
    assert result.exit_code == 0
    assert any(f"roommeter {name}" in line for line in _examples(name))
    assert "Examples:" in result.stdout


@_each_command
def test_every_option_is_explained(name: str) -> None:
    """An option without help is one that nobody will use."""
    options = [option for option in _COMMANDS[name].params if isinstance(option, click.Option) and not option.hidden]
    assert [option.name for option in options if not option.help] == []


@_each_command
def test_every_command_and_option_of_an_example_exists(name: str) -> None:
    """What is shown can be typed."""
    for line in _examples(name):
        words = shlex.split(line.partition("     ")[0])
        path = words[words.index("roommeter") + 1 :]
        shown = " ".join(path[:2]) if " ".join(path[:2]) in _COMMANDS else path[0]
        known = {option for parameter in _COMMANDS[shown].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_the_list_of_commands_shows_what_each_is_for() -> None:
    """`roommeter` alone helps too."""
    listed = _run("--help").stdout
    assert [name for name in main.commands if not re.search(rf"^  {name}  +[A-Z]", listed, re.MULTILINE)] == []


def test_the_version_is_the_packages() -> None:
    """For whoever reports a fault."""
    assert _run("--version").stdout == f"roommeter, version {version('roommeter')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["usage", "--nonsense"],
        ["usage", "--from", "2026-13-01"],
        ["usage", "--as-of", "yesterday"],
        ["sessions", "--limit", "0"],
        ["replay"],
        ["replay", "no-such-file.jsonl"],
        ["produce", "--format", "xml", __file__],
        ["simulate", "--lost", "2"],
    ],
    ids=" ".join,
)
def test_what_was_typed_wrong_is_exit_code_2(arguments: list[str]) -> None:
    """The shell's convention for usage errors; nothing was done."""
    result = _run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr.splitlines()[-1]


def _billed(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, int]]:
    return sorted((row["project"], row["meter"], row["hour"], row["increments"]) for row in rows)


@_each_case
def test_the_bill_of_a_case_is_as_expected(path: Path, run: Run) -> None:
    """The conformance cases, from file to bill."""
    case = json.loads(path.read_text())
    assert run("replay", path).exit_code == 0
    assert _billed(_usage(run, case["as_of"])) == _billed(case["expect"])


@_each_case
def test_the_sessions_of_a_case_are_what_the_oracle_says(path: Path, run: Run) -> None:
    """R3 to R9: start, end and flags of every session; those that never started have neither."""
    case = json.loads(path.read_text())
    run("replay", path)
    found = {}
    for row in _rows(run("sessions", "--as-of", case["as_of"], "--json")):
        start, end, flags = row["started_at"], row["ended_at"], set(row["flags"].split()) - {"end_without_start"}
        told = (start and parse_time(start), end and parse_time(end), flags)
        found[row["project"], row["room"], row["session"]] = told if start else None
    expected: dict[tuple[str, str, str], tuple[int, int | None, set[str]] | None] = {}
    for key, verdict in oracle_verdicts(case["events"], parse_time(case["as_of"])).items():
        flags = {name for name in ("start_inferred", "end_presumed", "clock_skew") if getattr(verdict, name, False)}
        if verdict is not None:
            end_ms = None if verdict.end_ms is None else max(verdict.start_ms, verdict.end_ms)
            expected[key] = (verdict.start_ms, end_ms, flags | ({"is_open"} if end_ms is None else set()))
        else:
            expected[key] = None
    assert found == expected


@_each_case
def test_order_and_repetition_do_not_matter(path: Path, run: Run, tmp_path: Path) -> None:
    """R10: shuffled, each event twice, in two files, of which one is replayed again."""
    case = json.loads(path.read_text())
    lines = [json.dumps(event) for event in case["events"]] * 2
    random.Random(7).shuffle(lines)  # noqa: S311
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for number, file in enumerate(files):
        file.write_text("\n".join(lines[number::2]))
    run("replay", *reversed(files), files[0])
    assert _billed(_usage(run, case["as_of"])) == _billed(case["expect"])


def test_usage_for_machines_has_these_keys_and_values(run: Run) -> None:
    """One JSON object a line, exact decimals in strings."""
    run("replay", ROOT / "tests" / "data" / "cases" / "seventy_seconds_are_two_minutes.json")
    [row] = _usage(run, "2026-09-21T15:30:00Z")
    assert list(row) == ["project", "meter", "hour", "increments", "increments_open", "quantity", "unit"]
    assert (row["increments"], row["quantity"], row["unit"]) == (2, "2", "minute")


def test_a_recorded_livekit_call_is_billed_to_the_project_named(run_anew: Run) -> None:
    """The format is found by the content; whose it is, is said; what a new store lacks is made."""
    run_anew("replay", "--project", "acme", ROOT / "schemas" / "recordings" / "livekit-call.jsonl")
    rows = _usage(run_anew, "2100-01-01")
    assert {row["project"] for row in rows} == {"acme"}
    assert {row["meter"] for row in rows} >= {"agent_session_minutes", "webrtc_minutes"}


def test_a_replay_says_what_it_refused_and_goes_on(run: Run, tmp_path: Path) -> None:
    """R21: counted by reason; what is good is joined."""
    case = json.loads((ROOT / "tests" / "data" / "cases" / "ten_seconds_are_one_minute.json").read_text())
    (tmp_path / "events.jsonl").write_text("\n".join(["{broken", "7", *map(json.dumps, case["events"])]))
    [summary] = _rows(run("replay", "--json", tmp_path / "events.jsonl"))
    assert summary == {"accepted": 2, "ignored": 0, "refused": {"not_an_object": 1, "not_json": 1}}
    assert len(_usage(run, case["as_of"])) == 1


@pytest.mark.parametrize("command", ["usage", "sessions", "rollups"])
def test_an_answer_for_people_is_a_table_or_says_what_to_look_at(command: str, run: Run) -> None:
    """Nothing found is often the wrong store."""
    run("migrate")
    assert "nothing. Is this the right store" in run(command).stdout
    assert run(command, "--json").stdout == ""


def test_migrating_again_changes_nothing(run_anew: Run) -> None:
    """And says so."""
    assert run_anew("migrate").stdout.startswith("applied 0001_facts")
    assert run_anew("migrate").stdout == "the schema is up to date\n"


def test_a_question_creates_no_store(tmp_path: Path) -> None:
    """A mistyped address is an error, not an empty bill."""
    line = _refusal(_run("usage", "--store", f"chdb://{tmp_path}/typo"))
    assert "there is no store" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ROOMMETER_METERS_FILE": "/no/such/file.toml"}, "/no/such/file.toml"),
        ({"ROOMMETER_METERS_FILE": str(ROOT / "pyproject.toml")}, "not a table of meters"),
        ({"ROOMMETER_PARTITIONS": "none", "ROOMMETER_HTTP_PORT": "-1"}, "ROOMMETER_PARTITIONS: Input should be"),
        ({"ROOMMETER_DATABASE": "a b"}, "ROOMMETER_DATABASE: String should match"),
        ({"ROOMMETER_STORE": "postgres://127.0.0.1"}, "the store is chdb:///directory, or http"),
        ({"ROOMMETER_STORE": "http://127.0.0.1:1"}, "ClickHouse is not available"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_user_can_mend_is_one_line(environment: dict[str, str], said: str) -> None:
    """Without a traceback, which would hide it."""
    assert said in _refusal(_run("usage", **environment))


def test_a_file_that_is_no_events_is_one_line(run: Run, tmp_path: Path) -> None:
    """The file, and what to do."""
    (tmp_path / "photo.jpg").write_bytes(bytes(range(256)))
    assert "photo.jpg: no canonical event" in _refusal(run("replay", tmp_path / "photo.jpg"))


def _simulated(directory: Path, seed: int) -> tuple[bytes, bytes]:
    files = directory / f"{seed}.jsonl", directory / f"{seed}.truth.jsonl"
    faults = ("--late", "0.3", "--disorder-ms", "60000", "--hours", "6", "--until", "2026-09-21T20:00:00Z")
    result = _run("simulate", "--sessions", 150, "--seed", seed, *faults, "--out", files[0], "--truth", files[1])
    assert result.exit_code == 0, result.output
    return files[0].read_bytes(), files[1].read_bytes()


def test_a_simulation_is_the_same_for_the_same_seed_and_another_for_another(tmp_path: Path) -> None:
    """A failing run can be repeated."""
    first = _simulated(tmp_path, 1)
    assert _simulated(tmp_path, 1) == first
    assert _simulated(tmp_path, 2) != first


def test_what_a_simulation_calls_exact_is_metered_exactly(run: Run, tmp_path: Path) -> None:
    """The truth file names the sessions whose start and end can be told from what was sent until then."""
    _simulated(tmp_path, 3)
    run("replay", tmp_path / "3.jsonl")
    rows = _rows(run("sessions", "--limit", 10_000, "--as-of", "2026-09-21T20:00:00Z", "--json"))
    found = {row["session"]: (row["started_at"], row["ended_at"]) for row in rows}
    truth = [json.loads(line) for line in (tmp_path / "3.truth.jsonl").read_text().splitlines()]
    exact = [session for session in truth if session["is_exact"]]
    wrong = [
        session["session"]
        for session in exact
        if [parse_time(time or "2199-01-01T00:00:00Z") for time in found[session["session"]]]
        != [session["started_at_ms"], session["ended_at_ms"]]
    ]
    assert 0 < len(exact) < len(truth)
    assert wrong == []


async def test_produce_sends_the_events_of_a_file_in_order(broker: TestBroker, topic_prefix: str) -> None:
    """Keyed by project and room; what is no event goes too, for the dead-letter topic."""
    settings = await declare(broker.bootstrap, topic_prefix, partitions=2)
    path = ROOT / "tests" / "data" / "cases" / "same_events_twice_and_reversed_bill_once.json"
    environment = {"ROOMMETER_KAFKA": broker.bootstrap, "ROOMMETER_TOPIC_PREFIX": topic_prefix}
    sent = _program("produce", "--json", path, **environment)
    events = json.loads(path.read_text())["events"]
    assert json.loads(sent.stdout) == {"sent": len(events)}
    records = [record async for record in read_topic(broker.bootstrap, topics(settings).lifecycle.name)]
    assert [json.loads(record.value or b"") for record in records] == events
    assert Counter(record.key for record in records) == {b"acme/RM_1": len(events)}


def _program(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program itself, in a process of its own."""
    command = [*_PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        timeout=_PATIENCE_SECONDS,
    )


def test_from_file_to_bill_in_processes_of_their_own(tmp_path: Path) -> None:
    """The shortest way, as the README shows it; the store outlives the process."""
    store = f"chdb://{tmp_path}/usage"
    assert _program("replay", _CASES[0], "--store", store).returncode == 0
    asked = _program("usage", "--store", store, "--as-of", "2026-09-21T15:30:00Z", "--json")
    assert (asked.returncode, len(asked.stdout.splitlines())) == (0, len(json.loads(_CASES[0].read_text())["expect"]))


def test_a_store_that_another_process_has_open_is_an_error_with_advice(engine: str) -> None:
    """Its owner answers questions over HTTP."""
    refused = _program("usage", "--store", engine)
    *_, line = refused.stderr.splitlines()  # before it the engine has its own say, past us
    assert (refused.returncode, refused.stdout) == (1, "")
    assert line.startswith("Error: ")
    assert "another process has it open; query the running `roommeter up`" in line


def test_a_reader_that_has_seen_enough_is_no_error_to_talk_about(tmp_path: Path) -> None:
    """`| head`: the output is closed early, and nothing is said."""
    said = tmp_path / "stderr"
    with (
        said.open("wb") as stderr,
        subprocess.Popen(
            [*_PROGRAM, "simulate", "--sessions", "2000"], stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"specversion"')
        process.stdout.close()
        process.wait(_PATIENCE_SECONDS)
    assert said.read_text() == ""


def test_produce_without_a_broker_waits_and_says_so() -> None:
    """R22: nothing is given up; Ctrl-C ends it."""
    environment = os.environ | {"ROOMMETER_KAFKA": "127.0.0.1:1"}
    command = [*_PROGRAM, "produce", str(_CASES[0])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stderr is not None
        waiting = next(line for line in process.stderr if line.startswith("waiting: "))
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE_SECONDS)
    assert "127.0.0.1" in waiting
    assert process.returncode == 1
