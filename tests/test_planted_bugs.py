"""Planted bugs: each mistake of tests/planted/bugs.py is made in a copy of the tree, and a named test has to notice.

ROOMMETER_TEST_PLANTED=all plants the slow ones too, which need a broker or fill a store.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from tests.planted.bug import Bug
from tests.planted.bugs import BUGS

_ROOT: Final = Path(__file__).parents[1]
_COPIED: Final = ("pipeline", "schemas", "tests", "infra", "pyproject.toml")
#: What tests bring along that ours do not need takes longer to load than most of them to run.
_PYTEST: Final = (
    *("-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin"),
    *("-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0"),
)
_FAILED: Final = 1
_PATIENCE_S: Final = 300
_PLANTED: Final = [bug for bug in BUGS if not bug.is_slow or os.environ.get("ROOMMETER_TEST_PLANTED") == "all"]


def _run(tree: Path, tests: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run tests in a tree, in a process of their own; the day of the SQL oracle is a short one."""
    small = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ROOMMETER_TEST_BROKER": "embedded",
        "ROOMMETER_TEST_EXAMPLES": "100",
        "ROOMMETER_TEST_SESSIONS": "600",
    }
    return subprocess.run(
        [sys.executable, *_PYTEST, *tests],
        check=False,
        cwd=tree,
        env=os.environ | small,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
    )


def _planted(bug: Bug, text: str) -> str:
    """Return a source with the bug in it; each place has to be there, once."""
    for old, new in bug.changes:
        assert text.count(old) == 1, f"planted bug {bug.name!r}: {bug.file} has {text.count(old)} times {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, without bugs."""
    copy = tmp_path_factory.mktemp("tree")
    for name in _COPIED:
        source = _ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_has_its_place_in_the_code(bug: Bug) -> None:
    """Of the slow ones too, in every run: code that moved takes its bug along."""
    planted = _planted(bug, (_ROOT / bug.file).read_text())
    if bug.file.endswith(".py"):
        compile(planted, bug.file, "exec")


def test_without_bugs_every_named_test_passes(tree: Path) -> None:
    """Or what fails below would fail for another reason."""
    done = _run(tree, sorted({bug.test for bug in _PLANTED}))
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.parametrize("bug", _PLANTED, ids=lambda bug: bug.name)
def test_a_planted_bug_is_noticed_by_its_test(tree: Path, bug: Bug) -> None:
    """The test fails: it does not merely crash on the way to it."""
    file = tree / bug.file
    original = file.read_text()
    file.write_text(_planted(bug, original))
    try:
        done = _run(tree, [bug.test])
    finally:
        file.write_text(original)
    assert done.returncode == _FAILED, done.stdout
    assert "1 failed" in done.stdout
    assert "errors during collection" not in done.stdout


def test_twenty_bugs_and_more_are_planted_in_every_run() -> None:
    """Each with a name of its own."""
    assert sum(not bug.is_slow for bug in BUGS) >= 20
    assert len({bug.name for bug in BUGS}) == len(BUGS)
