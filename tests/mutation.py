"""Mutation score of the core: every small wrong change of `pipeline/metering` has to fail a test.

    python -m tests.mutation [module or package ...] [--jobs N] [--least PERCENT]

A mutant is the core with one operator, constant, call, condition or statement changed (`_replacements` lists all
ways). The fast tests that load its module run against each, those named after the module first, in a process forked
from one that has imported everything else: a tenth of a second of CPU to a few seconds, the longest where it survives.
A mutant that no test notices has survived. One that cannot be noticed, because it behaves alike, is in EQUIVALENT
with the reason, and does not count. Left alone are texts for people (docstrings, what is raised, any that is formatted
or has a space in it), annotations, decorators and asserts, which state what is certain.
"""

import argparse
import ast
import gc
import importlib.abc
import importlib.util
import os
import resource
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final, NamedTuple

import hypothesis
import pytest

from tests.mutation_equivalent import EQUIVALENT

_ROOT: Final = Path(__file__).parents[1]
_CORE: Final = _ROOT / "pipeline" / "metering"
_PREFIX: Final = "pipeline.metering."
#: What a mutant, and a single test of it, may use before it counts as noticed: it never ends, or fills the memory.
_CPU_SECONDS: Final = 60
_CPU_SECONDS_OF_A_TEST: Final = 5
_MEMORY_BYTES: Final = 2 << 30
_EXAMPLES: Final = 25
#: The fast tests: none that waits for anything, or starts processes, which would load the core as it is.
_TESTS: Final = [
    file
    for pattern in ("metering/test_*.py", "anomaly/test_*.py", "test_metering_page*.py")
    for file in sorted((_ROOT / "tests").glob(pattern))
    if file.stem != "test_time_zones"
]

_COMPARISONS: Final = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_OPERATORS: Final = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_CALLS: Final = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
#: Fields of nodes in which nothing is changed.
_ALONE: Final = frozenset({"annotation", "returns", "decorator_list"})


_Place = tuple[ast.AST, str, int | None, ast.AST, tuple[str, ...]]
"""A parent node, field and index in it, the node there, and the names of the classes and functions around it."""


class Mutant(NamedTuple):
    """One change: where it goes in the tree of its module, and what it is called in EQUIVALENT."""

    module: str
    name: str
    line: int
    parent: ast.AST
    field: str
    at: int | None
    new: ast.AST


def mutants(module: str, tree: ast.Module) -> list[Mutant]:
    """Return every mutant of a module; a name that occurs again in its function gets a number."""
    found: list[Mutant] = []
    names: Counter[str] = Counter()
    for parent, field, index, node, scope in _places(tree, ()):
        for new in _replacements(node, field):
            change = f"{_short(node)} -> {_short(new)}"
            name = f"{'.'.join((module, *scope))}: {change}"
            names[name] += 1
            number = f" #{names[name]}" if names[name] > 1 else ""
            line = getattr(node, "lineno", getattr(parent, "lineno", 0))
            found.append(Mutant(module, name + number, line, parent, field, index, new))
    return found


def _places(node: ast.AST, scope: tuple[str, ...]) -> Iterator[_Place]:
    """Yield every node that may be replaced: its parent, where it stands in it, and the names of what it is in."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = (*scope, node.name)
    for field, value in ast.iter_fields(node):
        if field in _ALONE:
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if isinstance(child, ast.AST) and not _is_for_people(child):
                yield node, field, index, child, scope
                if not isinstance(child, ast.Raise):
                    yield from _places(child, scope)


def _is_for_people(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "msg"
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Assert | ast.JoinedStr)


def _replacements(node: ast.AST, field: str) -> Iterator[ast.AST]:  # noqa: C901, PLR0912 - a flat list of kinds
    """Yield what may stand in the place of a node."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=comparators):
            yield ast.Compare(left, [_COMPARISONS[type(op)]()], comparators)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for at, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:at], _COMPARISONS[type(op)](), *ops[at + 1 :]], comparators)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(op)](), right)
        case ast.AugAssign(target=target, op=op, value=value):
            yield ast.AugAssign(target, _OPERATORS[type(op)](), value)
            yield ast.Pass()
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
            for at in range(len(values)):
                yield _rest(op, [*values[:at], *values[at + 1 :]])
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(value=str() as value) if " " not in value:
            yield ast.Constant(f"{value}~")
        case ast.Name(id=name, ctx=ast.Load()) if field == "func" and name in _CALLS:
            yield ast.Name(_CALLS[name], ast.Load())
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.If(test=test, body=body, orelse=orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.comprehension(target=target, iter=iterable, ifs=[_, *_]):
            yield ast.comprehension(target, iterable, [], 0)
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.Delete():
            yield ast.Pass()


def _rest(op: ast.boolop, values: list[ast.expr]) -> ast.expr:
    return values[0] if len(values) == 1 else ast.BoolOp(op, values)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _short(node: ast.AST) -> str:
    """Return what a node reads like, on one line; of a block its head."""
    text = ast.unparse(ast.fix_missing_locations(node)).strip().splitlines()[0]
    return text if len(text) <= 160 else f"{text[:157]}..."


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Loads one module of the core from code in memory."""

    def __init__(self, name: str, code: CodeType, path: Path) -> None:
        self._name = name
        self._code = code
        self._path = path

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for the mutated module, and leave every other to Python."""
        del path, target
        return importlib.util.spec_from_loader(name, self, origin=str(self._path)) if name == self._name else None

    def get_code(self, fullname: str) -> CodeType:
        """Return the mutated code."""
        del fullname
        return self._code

    def get_source(self, fullname: str) -> str:
        """Return the source as it is in the file."""
        del fullname
        return self._path.read_text()


def run(module: str, files: Sequence[Path], mutant: Mutant | None = None, tree: ast.Module | None = None) -> int:
    """Fork a process that runs tests against a mutant (None: the core as it is); return its id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        if mutant is not None and tree is not None:
            _install(mutant, tree)
        code = _test(module, files)
    finally:
        os._exit(code)


def _install(mutant: Mutant, tree: ast.Module) -> None:
    if mutant.at is None:
        setattr(mutant.parent, mutant.field, mutant.new)
    else:
        getattr(mutant.parent, mutant.field)[mutant.at] = mutant.new
    path = _path(mutant.module)
    code = compile(ast.fix_missing_locations(tree), str(path), "exec")
    sys.meta_path.insert(0, _Mutated(_PREFIX + mutant.module, code, path))


def _path(module: str) -> Path:
    return _CORE.joinpath(*module.split(".")).with_suffix(".py")


def _test(module: str, files: Sequence[Path]) -> int:
    """Run tests, those named after the module first; the first failure ends it."""
    hypothesis.settings.register_profile(
        "mutation",
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    name = module.rpartition(".")[2]
    own = [file for file in files if name and (name in file.stem or file.stem.removeprefix("test_") in name)]
    others = [file for file in files if file not in own]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the others take longer to load than most mutants to fail
    plugins = ["-p", "pytest_asyncio.plugin", "-p", "_hypothesis_pytestplugin"]
    plugins += ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]  # the latter collects all garbage five times
    options = ["-x", "-q", "--tb=native", "--noconftest", *plugins, "--hypothesis-profile=mutation"]
    codes = (int(pytest.main([*options, *map(str, some)], [_Quickly()])) for some in (own, others) if some)
    return next(filter(None, codes), 0)


class _Quickly:
    """Puts tests of laws, on random examples, behind the others, which take less time; and ends those without end."""

    @staticmethod
    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        """Sort the tests of all files."""
        items.sort(key=lambda item: hasattr(getattr(item, "obj", None), "hypothesis"))

    @staticmethod
    def pytest_runtest_setup() -> None:
        """Let the system end the process where a test takes far longer than any does."""
        signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS_OF_A_TEST)


def _users() -> dict[str, list[Path]]:
    """Return, by module of the core, the files of tests that load it; all else that they need is imported then."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for file in _TESTS:
        importlib.import_module(".".join(file.relative_to(_ROOT).with_suffix("").parts))
        for name in list(sys.modules):
            if name.startswith(_PREFIX):
                found[name.removeprefix(_PREFIX)].append(file)
            if name.split(".")[0] in ("pipeline", "tests") and name != "tests.mutation":
                del sys.modules[name]  # so that each mutant imports it anew
    gc.collect()
    gc.freeze()
    return found


def outcomes(modules: Sequence[str], jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Yield every mutant, and whether it survived; raises RuntimeError where the tests fail without any."""
    users = _users()
    _, status = os.waitpid(run("", sorted({file for module in modules for file in users[module]})), 0)
    if status:
        raise RuntimeError("the tests of the core fail as it is: nothing can be said of mutants")
    running: dict[int, Mutant] = {}
    for module in modules:
        tree = ast.parse(_path(module).read_text())
        for mutant in mutants(module, tree):
            if len(running) >= jobs:
                yield _ended(running)
            running[run(module, users[module], mutant, tree)] = mutant
    while running:
        yield _ended(running)


def _ended(running: dict[int, Mutant]) -> tuple[Mutant, bool]:
    process, status = os.wait()
    return running.pop(process), status == 0


def main() -> int:
    """Print the survivors and the score; return 1 where it is too low, or EQUIVALENT names what is not there."""
    files = [path.relative_to(_CORE) for path in _CORE.rglob("*.py") if path.stem != "__init__"]
    every = sorted(".".join(file.with_suffix("").parts) for file in files)
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="module", help=f"of {', '.join(every)}; all by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at once")
    parser.add_argument("--least", type=int, default=90, help="the least score in percent")
    asked = parser.parse_args()
    modules = [module for module in every if not asked.modules or {module, module.split(".")[0]} & {*asked.modules}]
    if unknown := {*asked.modules} - {*modules, *(module.split(".")[0] for module in modules)}:
        parser.error(f"no module of the core: {', '.join(sorted(unknown))}")
    counts: dict[str, Counter[str]] = {}
    named = set()
    for mutant, is_alive in outcomes(modules, asked.jobs):
        is_equivalent = is_alive and mutant.name in EQUIVALENT
        named |= {mutant.name} if is_equivalent else set()
        counts.setdefault(mutant.module, Counter())["alike" if is_equivalent else "alive" if is_alive else "dead"] += 1
        if is_alive and not is_equivalent:
            _say(f"survived: {mutant.name}  (line {mutant.line})")
    scores = [_line(module, counts[module]) for module in sorted(counts)]
    total = sum(counts.values(), Counter[str]())
    _say(f"{'module':18} mutants  killed  survived  equivalent  score", *scores, _line("all", total))
    places = tuple(f"{module}{sign}" for module in modules for sign in ".:")
    stale = {name for name in EQUIVALENT if name.startswith(places)} - named
    for name in sorted(stale):
        _say(f"in EQUIVALENT, but killed or not there: {name}")
    return 1 if stale or total["dead"] * 100 < asked.least * (total["dead"] + total["alive"]) else 0


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _line(module: str, count: Counter[str]) -> str:
    per_mille = count["dead"] * 1000 // max(1, count["dead"] + count["alive"])
    return (
        f"{module:18} {count.total():7} {count['dead']:7} {count['alive']:9} {count['alike']:11}"
        f"  {per_mille // 10}.{per_mille % 10} %"
    )


if __name__ == "__main__":
    sys.exit(main())
