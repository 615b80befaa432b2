"""Who may read what: decided for every table and view that the migrations make. All of it is SQL.

What a server makes of it is tests/contracts/test_isolation.py.
"""

import re
from typing import Final

import pytest

from pipeline.access import Relation, access_statements, apply_access, relations
from pipeline.clickhouse import Store, StoreError
from pipeline.migrations import InvalidSchema, Target

_TARGET: Final = Target("roommeter")


def _about(statements: list[str], table: str) -> list[str]:
    return [statement for statement in statements if re.search(rf"\bON roommeter\.{table}\b", statement)]


def test_every_table_with_a_project_has_its_policies_before_its_grant(store: Store) -> None:
    """All that the migrations make, today and tomorrow."""
    found = relations(store)
    statements = access_statements(_TARGET, found)
    tables = {relation.name for relation in found if relation.has_project and not relation.is_view}
    assert {"session_facts", "events", "rollups", "invoices", "amendments"} <= tables
    for table in tables:
        everyone, tenant, grant = _about(statements, table)
        assert "AS PERMISSIVE FOR SELECT USING 1 TO ALL" in everyone
        assert tenant.endswith("AS RESTRICTIVE FOR SELECT USING project = currentUser() TO roommeter_tenant")
        assert grant == f"GRANT  SELECT ON roommeter.{table} TO roommeter_tenant"


def test_what_has_no_project_is_closed_to_tenants(store: Store) -> None:
    """Where a table holds everybody's, and no column says whose."""
    statements = access_statements(_TARGET, relations(store))
    assert [_about(statements, table) for table in ("progress", "schema_versions")] == [[], []]


def test_a_planted_table_of_which_nobody_decided_fails_the_build(store: Store) -> None:
    """The checks above would pass by looking at nothing, if this one did not fail."""
    store.query("CREATE TABLE secrets (token String) ENGINE = MergeTree ORDER BY token")
    with pytest.raises(InvalidSchema, match="secrets has no project: say in pipeline"):
        access_statements(_TARGET, relations(store))


def test_a_view_that_would_show_what_its_maker_may_see_is_refused() -> None:
    """No policy of the reader's would hold in it."""
    with pytest.raises(InvalidSchema, match="leak runs as another user"):
        access_statements(_TARGET, [Relation("leak", is_view=True, has_project=True, runs_as_another=True)])


def test_a_planted_table_with_a_project_gets_a_policy_by_itself(store: Store) -> None:
    """Nobody has to remember it."""
    store.query("CREATE TABLE planted (project String) ENGINE = MergeTree ORDER BY project")
    assert len(_about(access_statements(_TARGET, relations(store)), "planted")) == 3


@pytest.mark.parametrize("cluster", ["", "main"])
def test_every_statement_parses(store: Store, cluster: str) -> None:
    """On one server and on a cluster."""
    for statement in access_statements(Target("roommeter", cluster), relations(store)):
        assert store.query(f"EXPLAIN AST {statement}"), statement


def test_a_name_that_is_no_word_is_not_rendered() -> None:
    """Rendering cannot inject anything."""
    with pytest.raises(InvalidSchema, match="has to be a word"):
        access_statements(_TARGET, [Relation("t TO evil; --", is_view=True, has_project=True, runs_as_another=False)])


@pytest.mark.parametrize("store_dsn", ["chdb"], indirect=True, scope="session")
def test_the_embedded_engine_has_no_users(store: Store) -> None:
    """It says so, and nothing is half done."""
    with pytest.raises(StoreError, match="Not enough privileges"):
        apply_access(store)
