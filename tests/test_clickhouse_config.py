"""infra/clickhouse: ClickHouse itself takes it, the password-less user is gone, and dashboards can only read.

The engine in process reads config.xml of the directory where it is started, and users.d beside it, as a server does. It
is always the user `default`: so what a profile allows is tried by giving it to that user.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.metering.builders import ROOT
from tests.test_image import load_maker

_FOLDER: Final = ROOT / "infra" / "clickhouse"
_REMOVED: Final = re.compile(r'\s*<(\w+) remove="\w+"/>')
_STOCK_USERS: Final = """<clickhouse>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users><default>
        <password/><networks><ip>::/0</ip></networks><profile>{profile}</profile><quota>default</quota>
    </default></users>
</clickhouse>
"""

#: Prints `ok`, or the name of the error.
_ASKING: Final = """
import re, sys

def answer(error):
    print("answer:", re.findall(r"\\(([A-Z_]{4,})\\)", str(error))[0])

try:
    import chdb.session
    session = chdb.session.Session(sys.argv[1])
except RuntimeError as error:
    answer(error)
    sys.exit()
for statement in sys.argv[2:]:
    try:
        session.query(statement)
        print("answer: ok")
    except RuntimeError as error:
        answer(error)
"""


def _asked(directory: Path, profile: str, users: str, *statements: str) -> list[str]:
    """Start ClickHouse with our files and run statements; return `ok`, or how each was refused."""
    config = _REMOVED.sub("", (_FOLDER / "config.xml").read_text())
    named = config.replace("<clickhouse>", "<clickhouse><users_config>users.xml</users_config>")
    (directory / "config.xml").write_text(named)
    (directory / "users.xml").write_text(_STOCK_USERS.format(profile=profile))
    (directory / "users.d").mkdir()
    (directory / "users.d" / "passwords.xml").write_text(load_maker().contents()["clickhouse_users.xml"])
    (directory / "users.d" / "roommeter.xml").write_text(users)
    command = (sys.executable, "-c", _ASKING, str(directory / "data"), *statements)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return re.findall(r"^answer: (\w+)$", done.stdout, re.MULTILINE)


def test_nobody_gets_in_without_a_password(tmp_path: Path) -> None:
    """The user that every ClickHouse comes with is not there any more; everything else of the files was taken."""
    users = (_FOLDER / "users.xml").read_text()
    assert _REMOVED.findall(users) == ["default"]
    assert _asked(tmp_path, "default", users, "SELECT 1") == ["AUTHENTICATION_FAILED"]


def test_a_reader_reads_within_bounds_and_changes_nothing(tmp_path: Path) -> None:
    """What the profile of dashboards allows, and what not: writing, longer queries, more memory, being no reader."""
    users = _REMOVED.sub("", (_FOLDER / "users.xml").read_text())
    allowed = ["SELECT 1", "SELECT 1 SETTINGS max_execution_time = 60"]
    refused = {
        "CREATE TABLE t (a Int8) ENGINE = Memory": "READONLY",
        "SELECT 1 SETTINGS max_execution_time = 61": "SETTING_CONSTRAINT_VIOLATION",
        "SELECT 1 SETTINGS max_execution_time = 0": "SETTING_CONSTRAINT_VIOLATION",
        "SELECT 1 SETTINGS max_memory_usage = 4000000000": "SETTING_CONSTRAINT_VIOLATION",
        "SET readonly = 0": "READONLY",
    }
    answers = _asked(tmp_path, "reader", users, *allowed, *refused)
    assert answers == ["ok", "ok", *refused.values()]
