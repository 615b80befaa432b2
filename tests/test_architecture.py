"""The shape of the code: who may import what, how long a file may be, what stands at the top.

Every check is a function from sources to findings, and is tried on a planted fault as well, so that
none of them can pass by looking at nothing.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[1]
_MOST_LINES: Final = 400
_MOST_MEDIAN_LINES: Final = 200

Sources = dict[str, str]
"""Source text by dotted module name; a package goes by its own name."""

#: Client libraries, and the modules (by pattern) that may import them: to replace one, one file changes.
_IMPORTERS: Final = {
    "faust": ("pipeline.worker", "pipeline.fastlane"),
    "mode": ("pipeline.worker", "pipeline.fastlane"),
    "aiokafka": ("pipeline.kafka", "pipeline.producer"),
    "clickhouse_connect": ("pipeline.clickhouse",),
    "chdb": ("pipeline.endpoint",),
    "msgspec": ("pipeline.plain",),
    "reportlab": ("pipeline.invoices.pdf", "pipeline.invoices.letters"),
    "arabic_reshaper": ("pipeline.invoices.letters",),
    "bidi": ("pipeline.invoices.letters",),
    "noida_db": ("pipeline.broker",),
    "sqlite3": ("pipeline.gateway.spool", "pipeline.janus.memory"),
    "click": ("pipeline.cli", "pipeline.cli.*"),
    "rich": ("pipeline.cli", "pipeline.cli.*"),
}
#: Edges do not know each other; what joins them stands above them.
_EDGES: Final = frozenset(
    f"pipeline.{name}" for name in ("gateway.server", "worker", "emitter", "limits.limiter", "endpoint")
)
#: The top of the order: only these import each other.
_TOP: Final = ("pipeline.cli", "pipeline.cli.*", "pipeline.embedded", "pipeline.__main__")
#: What the core has no business with: clocks, files, processes, threads, chance, logs.
_NOT_IN_THE_CORE: Final = {
    "asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "socket", "sqlite3",
    "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
_NO_CALLS_IN_THE_CORE: Final = {
    "open", "print", "input", "eval", "exec", "float", "now", "utcnow", "today", "uuid1", "uuid4",
}  # fmt: skip
_SQL: Final = ("SELECT ", "INSERT ", "ALTER ", "CREATE ", "DELETE ", "DROP ", "TRUNCATE ", "UPDATE ", "WITH ")
_AT_THE_TOP: Final = {
    ".ci", ".dockerignore", ".editorconfig", ".github", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md",
    "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "infra", "pipeline", "pyproject.toml",
    "requirements.lock", "schemas", "tests",
}  # fmt: skip


def _sources() -> Sources:
    found: Sources = {}
    for path in sorted((_ROOT / "pipeline").rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name.removeprefix("pipeline.lib.")] = path.read_text()  # the library is imported as `roommeter`
    return found


def _imports(source: str) -> Iterator[str]:
    """Yield every name imported anywhere in a module: `a.b` for `import a.b`, `a.b.c` for `from a.b import c`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _module_of(name: str, sources: Sources) -> str | None:
    """Return our module that an imported name is or lies in, None for others."""
    parent = name.rpartition(".")[0]
    return name if name in sources else parent if parent in sources else None


def _edges(sources: Sources) -> dict[str, set[str]]:
    return {
        module: {found for name in _imports(source) if (found := _module_of(name, sources))} - {module}
        for module, source in sources.items()
    }


def _foreign_imports_of_the_core(sources: Sources) -> list[str]:
    allowed = sys.stdlib_module_names - _NOT_IN_THE_CORE
    return [
        f"{module}: {name}"
        for module, source in sources.items()
        if module.startswith("pipeline.metering")
        for name in _imports(source)
        if name.split(".")[0] not in allowed and not name.startswith("pipeline.metering.")
    ]


def _impurities_of_the_core(sources: Sources) -> list[str]:
    return [
        f"{module}:{getattr(node, 'lineno', 0)}: {what}"
        for module, source in sources.items()
        if module.startswith("pipeline.metering")
        for node in ast.walk(ast.parse(source))
        for what in _impurity(node)
    ]


def _impurity(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
        yield f"float literal {node.value}"
    elif isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith):
        yield "await"
    elif isinstance(node, ast.Global | ast.Nonlocal):
        yield "global state"
    elif isinstance(node, ast.Name) and node.id in _NO_CALLS_IN_THE_CORE:
        yield node.id
    elif isinstance(node, ast.Attribute) and node.attr in _NO_CALLS_IN_THE_CORE:
        yield node.attr


def _second_importers(sources: Sources) -> list[str]:
    return [
        f"{module}: {name}"
        for module, source in sources.items()
        for name in _imports(source)
        if not _is_any(module, _IMPORTERS.get(name.split(".")[0], ("*",)))
    ]


def _edges_that_know_each_other(sources: Sources) -> list[str]:
    return [
        f"{module}: {imported}"
        for module, imports in _edges(sources).items()
        for imported in imports
        if imported in _EDGES and module in _EDGES
    ]


def _arrows_back(sources: Sources) -> list[str]:
    return [
        f"{module}: {imported}"
        for module, imports in _edges(sources).items()
        for imported in imports
        if _is_any(imported, _TOP) and not _is_any(module, _TOP)
    ]


def _cycles(sources: Sources) -> list[str]:
    try:
        TopologicalSorter(_edges(sources)).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def _too_long(sources: Sources) -> list[str]:
    lengths = {module: len(source.splitlines()) for module, source in sources.items()}
    found = [f"{module}: {length} lines" for module, length in lengths.items() if length > _MOST_LINES]
    middle = median(length for length in lengths.values() if length > 1)
    return found + [f"median of {middle} lines"] * (middle > _MOST_MEDIAN_LINES)


def _is_sql(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lstrip().upper().startswith(_SQL)
    )


def _builds_sql(node: ast.AST) -> bool:
    """Tell whether a node puts values into the text of a query: f-string, %, + or .format."""
    if isinstance(node, ast.JoinedStr):
        return len(node.values) > 1 and _is_sql(node.values[0])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add):
        return _is_sql(node.left)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "format"
        and _is_sql(node.func.value)
    )


def _sql_from_pieces(sources: Sources) -> list[str]:
    return [
        f"{module}:{getattr(node, 'lineno', 0)}"
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if _builds_sql(node)
    ]


#: Rule, check, and planted faults of which the check has to find each.
_RULES: Final[list[tuple[str, Callable[[Sources], list[str]], list[Sources]]]] = [
    (
        "the core imports the standard library and itself alone, and nothing that acts",
        _foreign_imports_of_the_core,
        [
            {"pipeline.metering.usage": "import orjson"},
            {"pipeline.metering.usage": "from pipeline.settings import Settings"},
            {"pipeline.metering.usage": "from time import time"},
        ],
    ),
    (
        "the core has no clock, float, await or file",
        _impurities_of_the_core,
        [
            {"pipeline.metering.usage": "from datetime import datetime\nx = datetime.now()"},
            {"pipeline.metering.usage": "x = 1.5"},
            {"pipeline.metering.usage": "async def f(): pass"},
            {"pipeline.metering.usage": "def f(): return open('x')"},
        ],
    ),
    (
        "a client library has one importer",
        _second_importers,
        [
            {
                "pipeline.kafka": "import aiokafka",
                "pipeline.gateway.server": "def f():\n    from aiokafka.errors import E",
            },
            {"pipeline.worker": "import rich.progress"},
        ],
    ),
    (
        "edges do not import each other",
        _edges_that_know_each_other,
        [{"pipeline.worker": "from pipeline.emitter import Emitter", "pipeline.emitter": ""}],
    ),
    (
        "nothing imports what stands on top",
        _arrows_back,
        [{"pipeline.worker": "from pipeline import cli", "pipeline.cli": "", "pipeline": ""}],
    ),
    (
        "no module imports itself by a detour",
        _cycles,
        [{"pipeline.a": "import pipeline.b", "pipeline.b": "def f():\n    from pipeline.a import x"}],
    ),
    (
        "files are short and half of them shorter still",
        _too_long,
        [
            {"pipeline.a": "x\n" * (_MOST_LINES + 1), "pipeline.b": "x\n" * 9, "pipeline.c": "x\n" * 9},
            {"pipeline.a": "x\n" * (_MOST_MEDIAN_LINES + 1)},
        ],
    ),
    (
        "no query is put together from pieces",
        _sql_from_pieces,
        [
            {"pipeline.a": "q = f'select 1 from t where x = {x}'"},
            {"pipeline.a": "q = 'SELECT 1 FROM t WHERE x = %s' % x"},
            {"pipeline.a": "q = 'INSERT INTO t VALUES (' + x"},
            {"pipeline.a": "q = 'DROP TABLE {}'.format(x)"},
        ],
    ),
]


@pytest.mark.parametrize("check", [pytest.param(check, id=rule) for rule, check, _ in _RULES])
def test_the_code_keeps_the_rule(check: Callable[[Sources], list[str]]) -> None:
    """Design, section 4: the direction of imports and the size of files."""
    assert check(_sources()) == []


@pytest.mark.parametrize(
    ("check", "planted"), [pytest.param(check, fault, id=rule) for rule, check, faults in _RULES for fault in faults]
)
def test_a_planted_fault_is_found(check: Callable[[Sources], list[str]], planted: Sources) -> None:
    """A check that finds nothing in a wrong source guards nothing."""
    assert len(check(planted)) == 1


def test_the_checks_see_the_whole_package() -> None:
    """The core's modules are among what is checked."""
    core = ("events", "meters", "rollup", "session", "timeline", "units", "usage")
    assert {f"pipeline.metering.{name}" for name in core} <= _sources().keys()


def test_only_known_entries_stand_at_the_top() -> None:
    """A newcomer sees at once where things are; a new entry is a decision, taken here."""
    ignored = [line.strip("/") for line in (_ROOT / ".gitignore").read_text().splitlines() if line.strip()]
    entries = {path.name for path in _ROOT.iterdir() if not _is_any(path.name, (".git", *ignored))}
    assert entries - _AT_THE_TOP == set()
