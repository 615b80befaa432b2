"""On a ClickHouse server with users: nobody reads more than is granted, whatever is asked."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import pytest

from pipeline.access import apply_access, relations
from pipeline.clickhouse import Store, StoreError
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_HOUR, parse_time
from pipeline.rows import Batch

pytestmark = pytest.mark.parametrize("store_dsn", ["server"], indirect=True, scope="session")
_START_MS: Final = parse_time("2026-09-21T12:00:00Z")
_SPAN: Final = "from = '2026-09-21', to = '2026-09-22', as_of = '2026-09-23'"


class _Server(NamedTuple):
    """A store with roles, and how to open it as somebody else."""

    store: Store
    open_as: Callable[[str], Store]


@pytest.fixture
def server(store: Store, store_dsn: str) -> Iterator[_Server]:
    """Two projects on a server, with a tenant each and an analyst."""
    apply_access(store)
    apply_access(store)  # a second time changes nothing
    for project in ("acme", "bolt"):
        session = Session("agent", connected_at_ms=_START_MS, disconnected_at_ms=_START_MS + MS_PER_HOUR)
        store.write(Batch(sessions=[(project, "RM_1", "PA_1", session)]))
        store.query(f"CREATE USER OR REPLACE {project} IDENTIFIED BY 'pass' DEFAULT ROLE roommeter_tenant")
        store.query(f"GRANT roommeter_tenant TO {project}")
    store.query("CREATE USER OR REPLACE annie IDENTIFIED BY 'pass'")
    store.query("GRANT roommeter_analyst TO annie")
    parts, opened = urlsplit(store_dsn), list[Store]()

    def open_as(user: str) -> Store:
        dsn = parts._replace(netloc=f"{user}:pass@{parts.hostname}:{parts.port}").geturl()
        opened.append(Store.open(dsn, store.target.database))
        return opened[-1]

    yield _Server(store, open_as)
    for one in opened:
        one.close()
    store.query("DROP USER IF EXISTS acme, bolt, annie")


@pytest.mark.parametrize("project", ["", "bolt", "acme' OR '1'='1", "%", "bolt\x00"])
def test_a_tenant_reads_no_row_of_another_whatever_is_asked(server: _Server, project: str) -> None:
    """Through every view and table, with parameters that lie."""
    tenant = server.open_as("acme")
    for relation in relations(tenant):
        if relation.has_project and not relation.is_view:
            assert tenant.query(f"SELECT count() FROM {relation.name} WHERE project != 'acme'") == [(0,)]  # noqa: S608
    asked = f"SELECT DISTINCT project FROM v_sessions(project = {{project:String}}, {_SPAN})"  # noqa: S608
    assert set(tenant.query(asked, project=project)) <= {("acme",)}


def test_a_tenant_sees_its_own_and_an_analyst_everything(server: _Server) -> None:
    """And neither writes."""
    asked = f"SELECT DISTINCT project FROM v_sessions(project = '', {_SPAN}) ORDER BY project"  # noqa: S608
    assert server.open_as("acme").query(asked) == [("acme",)]
    assert server.open_as("annie").query(asked) == [("acme",), ("bolt",)]
    assert server.store.query(asked) == [("acme",), ("bolt",)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO rules VALUES (now64(3), 1)",
        "SELECT * FROM progress",
        "SELECT * FROM url('http://127.0.0.1/', 'CSV', 'a String')",
        "SELECT 1 SETTINGS max_execution_time = 3600",
        "SET max_memory_usage = 0",
    ],
)
def test_a_tenant_cannot_leave_its_bounds(server: _Server, statement: str) -> None:
    """Nothing written, nothing closed read, no other server asked, no limit lifted."""
    with pytest.raises(StoreError):
        server.open_as("acme").query(statement)
