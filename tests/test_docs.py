"""README equals code: every setting, command, path and name in it exists, and it stays short."""

import re
from importlib.metadata import version
from typing import Final

import click
import orjson
import pytest

from pipeline.cli import main
from pipeline.codec import rollup_document
from pipeline.metering.events import EventType, Reason, parse_event
from pipeline.metering.meters import KINDS
from pipeline.metering.rollup import Rollup
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from pipeline.rows import SessionRow
from pipeline.settings import Settings
from pipeline.topics import topics
from tests.metering.builders import METERS, ROOT

_README: Final = (ROOT / "README.md").read_text()
#: Files with a table of settings.
_FILES: Final = (
    *("README.md", "infra/connect.md", "infra/limits.md", "infra/billing.md", "infra/README.md", "infra/alerts.md"),
    "infra/console.md",
)
_MOST_LINES: Final = 170
_BEGIN: Final = "<!-- settings -->\n"
_END: Final = "<!-- /settings -->"
#: Settings of the gateway, beside those that begin with its name: the guide has them.
_OF_THE_GATEWAY: Final = frozenset({"projects_file", "spool_bytes", "ack_timeout_ms", "reconcile_interval_ms"})
#: What only whoever runs it for others needs.
_OF_OPERATIONS: Final = frozenset(
    {
        *("stall_after_ms", "secrets_dir", "batch_events", "session_timeout_ms", "evict_after_ms", "max_event_bytes"),
        *("dead_letter_limit_percent", "dead_letter_window", "audit_interval_ms", "emit_interval_ms", "broker_port"),
        *("replication_factor", "cluster", "topic_prefix", "database"),
    }
)
#: Numbers as the README writes them out.
_NUMBERS: Final = {"ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14}


def _file_of(name: str) -> str:
    """Return the file that has a setting in its table: what the guides do not have, the README has."""
    if name.startswith("limit"):
        return "infra/limits.md"
    if name.startswith("console_"):
        return "infra/console.md"
    if name.startswith("alert"):
        return "infra/alerts.md"
    if name == "plans_file":
        return "infra/billing.md"
    if name in _OF_OPERATIONS:
        return "infra/README.md"
    return "infra/connect.md" if name.startswith("gateway_") or name in _OF_THE_GATEWAY else "README.md"


def _settings_table(file: str) -> str:
    """Return the table of settings as it has to stand in a file."""
    lines = ["| name | default | what it is for |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if _file_of(name) == file:
            default = "" if field.default in ("", None) else f"`{field.default}`"
            lines.append(f"| {name.upper()} | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _found_table(text: str) -> str:
    """Return what stands between the marks of settings."""
    return text.partition(_BEGIN)[2].partition(_END)[0]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _README, re.DOTALL)


def _quoted() -> set[str]:
    """Return what stands in backticks, outside of blocks and of the settings."""
    text = re.sub(r"```.*?```|<!-- settings -->.*<!-- /settings -->", "", _README, flags=re.DOTALL)
    return set(re.findall(r"`([^`]+)`", text))


def _typed() -> list[tuple[str, set[str]]]:
    """Return every `roommeter ...` to be typed: its command (or what stands there) and its options."""
    lines = [*"\n".join(_blocks("sh")).splitlines(), *_quoted()]
    found = [words for line in lines for words in re.findall(r"\broommeter ([\w-]+)([^#&]*)", line)]
    return [(command, set(re.findall(r"--[\w-]+", rest))) for command, rest in found]


def _options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


@pytest.mark.parametrize("file", _FILES)
def test_the_table_of_settings_is_the_settings(file: str) -> None:
    """Name, default and meaning of each; the message is the table to paste."""
    expected = _settings_table(file)
    found = _found_table((ROOT / file).read_text())
    assert found == expected, f"paste this between the settings markers of {file}:\n{expected}"


def test_the_tables_together_are_all_settings() -> None:
    """Each once, and nothing that is none."""
    tables = "".join(_found_table((ROOT / file).read_text()) for file in _FILES)
    names = re.findall(r"^\| ([A-Z_]+) \|", tables, re.MULTILINE)
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)


def test_the_readme_is_short() -> None:
    """What grows beyond this has another place."""
    assert len(_README.splitlines()) <= _MOST_LINES


def test_every_command_and_option_exists() -> None:
    """What the README shows can be typed."""
    typed = _typed()
    assert {"replay", "usage", "migrate", "worker", "emitter"} <= {name for name, _ in typed}
    known = {name: _options(command) for name, command in main.commands.items()} | {
        "--help": set(),
        "COMMAND": {"--help"},
    }
    assert [(name, options) for name, options in typed if name not in known or not options <= known[name]] == []


def test_every_target_of_make_exists() -> None:
    """What the README says to make."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"(?:^|`)make ([a-z-]+)", _README, re.MULTILINE))
    assert {"run", "test"} <= shown <= targets


def test_every_path_exists() -> None:
    """Files and directories of this repository, wherever the README names one."""
    paths = set(re.findall(r"\b(?:tests|schemas|pipeline|infra)/[\w./-]*\w/?|\b[A-Z]+\.md\b", _README))
    assert {"schemas/meters.toml", "CHANGELOG.md"} <= paths
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_every_environment_variable_is_a_setting() -> None:
    """With or without a value."""
    names = set(re.findall(r"\bROOMMETER_(\w+)", _README))
    assert {"KAFKA", "STORE"} <= names <= {name.upper() for name in Settings.model_fields}


def test_every_word_of_the_code_exists_there() -> None:
    """Types, kinds, flags, fields, topics and commands: what stands in backticks is spelled as in the code."""
    rollup = Rollup("acme", "webrtc_minutes", 0, 1, 1, 0, 1, 1, 0, 0)
    known = {*map(str, EventType), *KINDS, *SessionRow._fields, *rollup_document(rollup, METERS), *main.commands}
    known |= {*map(str, Reason), *METERS, *(topic.name for topic in topics(Settings.model_construct()).all())}
    words = {word for word in _quoted() if re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", word)}
    assert {"session.connected", "start_inferred", "quantity_open", "egress"} <= words
    assert words - known == set()


def test_every_type_that_is_metered_is_named() -> None:
    """A producer finds all types of sessions, rooms, jobs and servers."""
    named = {word for word in _quoted() if word in map(str, EventType)}
    kept = {EventType.USAGE_RECORDED, EventType.NUMBER_ACQUIRED, EventType.NUMBER_RELEASED}
    assert named >= set(map(str, EventType)) - set(map(str, kept))


def test_every_meter_of_time_is_in_the_table_with_its_kind() -> None:
    """R16: the table of meters, and nothing that is not in it."""
    rows = re.findall(r"^\| (\w+_minutes(?:, \w+)*) \| `(\w+)`", _README, re.MULTILINE)
    listed = {name: kind for names, kind in rows for name in names.split(", ")}
    assert listed == {name: meter.kind for name, meter in METERS.items() if meter.measures == "session"}


def test_the_number_of_reasons_is_right() -> None:
    """R21: a closed list."""
    [word] = re.findall(r"one of (\w+) reasons", _README)
    assert _NUMBERS[word] == len(Reason)


@pytest.mark.parametrize(
    ("pattern", "unit_ms", "setting"),
    [
        (r"plus (\d+) minutes has been processed", MS_PER_MINUTE, "grace_period_ms"),
        (r"silent for (\d+) h\b", MS_PER_HOUR, "orphan_after_ms"),
        (r"within (\d+) days nothing is too late", MS_PER_DAY, "correction_window_ms"),
    ],
)
def test_every_time_that_the_rules_name_is_the_default(pattern: str, unit_ms: int, setting: str) -> None:
    """R9, R11, R18: as they are when nobody configures anything."""
    [found] = re.findall(pattern, _README)
    assert int(found) * unit_ms == Settings.model_fields[setting].default


def test_the_event_shown_is_one() -> None:
    """Whoever copies it sends a valid event."""
    [block] = _blocks("json")
    event = parse_event(orjson.loads(block), METERS)
    assert event is not None
    assert event.type is EventType.SESSION_CONNECTED


def test_the_changelog_speaks_of_this_version() -> None:
    """Under its number, or as what is not released yet."""
    headings = re.findall(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", version("roommeter")}
