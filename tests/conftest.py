"""For all tests: a real broker, chosen once and named in pytest's output, and how hard the laws are tried.

Each law is tried on 200 random logs, or as many as ROOMMETER_TEST_EXAMPLES says; the failing log is
printed, shrunk to the least.
"""

import asyncio
import gc
import os
import shutil
import socket
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from tests.brokers import EmbeddedTestBroker, ProcessBroker, TestBroker, candidates, start_broker

settings.register_profile(
    "roommeter",
    max_examples=int(os.environ.get("ROOMMETER_TEST_EXAMPLES", "200")),
    deadline=None,  # a shared machine may stall: slowness is no broken law
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("roommeter")

#: Where the longest files are, the longest first.
_FIRST: Final = (
    "tests/janus/test_real_janus.py",
    "tests/contracts/test_emitter_stopped.py",
    "tests/e2e/test_killed_worker.py",
    "tests/test_cli.py",
    "tests/contracts/test_audit_store.py",
    "tests/e2e/",
    "tests/test_planted_bugs.py",
    "tests/contracts/",
    "tests/gateway/test_outbox.py",
)

_said: list[str] = []


def pytest_report_header() -> str:
    """Say which brokers the tests will try."""
    return f"broker: {', else '.join(candidates())} (ROOMMETER_TEST_BROKER forces one)"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was said, where this is one of several processes that share the tests."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["brokers"] = _said


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what one of the processes said."""
    _said.extend(getattr(node, "workeroutput", {}).get("brokers", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which broker the tests used: with -q pytest prints no header."""
    for line in _said:
        terminalreporter.write_line(f"broker: {line}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long or mostly wait: last, they would run alone, or all at once."""
    items.sort(key=lambda item: min((at for at, name in enumerate(_FIRST) if name in item.nodeid), default=len(_FIRST)))


def pytest_collection_finish() -> None:
    """Take what was collected out of the garbage collector's sight: it stays, and is much to walk again and again."""
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the contract tests on the chosen broker and on the embedded one, once where they are the same.

    What kills a broker, or looks into its process, is asked of brokers alone that are ours.
    """
    names, kinds = metafunc.fixturenames, candidates()
    if "each_broker" in names:
        is_embedded_alone = (
            kinds == ["embedded"]
            or ("mortal_broker" in names and kinds[0] == "address")
            or ("process_broker" in names and kinds[0] in ("address", "docker"))
        )
        fixtures = ["embedded_broker"] if is_embedded_alone else ["broker", "embedded_broker"]
        metafunc.parametrize("each_broker", fixtures, indirect=True, scope="session")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBroker]:
    """The best real broker to be had here, shared by all tests."""
    started = start_broker(candidates(), tmp_path_factory.mktemp("broker"), _said.append)
    yield started
    asyncio.run(started.stop())


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTestBroker]:
    """The embedded broker, always."""
    started = start_broker(["embedded"], tmp_path_factory.mktemp("broker"), _said.append)
    assert isinstance(started, EmbeddedTestBroker)
    yield started
    asyncio.run(started.stop())


@pytest.fixture(scope="session")
def each_broker(request: pytest.FixtureRequest) -> TestBroker:
    """First the chosen broker, then the embedded one."""
    chosen: TestBroker = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def mortal_broker(each_broker: TestBroker) -> Iterator[TestBroker]:
    """A broker that the test may kill; the next test finds it alive, even when this one failed half way."""
    yield each_broker
    with socket.socket() as probe:
        is_dead = probe.connect_ex(("127.0.0.1", each_broker.port)) != 0
    if is_dead:
        asyncio.run(each_broker.restart())


@pytest.fixture
def process_broker(each_broker: TestBroker) -> ProcessBroker:
    """A broker that is a child process of ours."""
    assert isinstance(each_broker, ProcessBroker)
    return each_broker


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics and groups of one test, so that tests share a broker."""
    return f"t{uuid4().hex[:12]}."


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own tool for rules and metrics; where ROOMMETER_TEST_PROMTOOL=required, it has to be here."""
    found = shutil.which("promtool")
    if found is None:
        assert os.environ.get("ROOMMETER_TEST_PROMTOOL") != "required", "promtool is not installed"
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found
