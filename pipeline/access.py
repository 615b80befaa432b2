"""Roles, row policies, quotas and profiles on a ClickHouse server, from what is in the database.

Every table with a column `project` gets the policies; so do tables that somebody adds later, when `migrate --access`
runs again. A table without projects is closed to tenants, unless it is one of the few that views need.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.migrations import InvalidSchema, Migration, Target, schema_text

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

#: Tables without a project that views need, and that tell nothing of any: meters, the rule for orphans, and names of
#: media servers with the moments at which they restarted.
SHARED: Final = frozenset({"meter_tables", "rules", "server_facts"})
#: Tables that nobody but us reads, though they have no project.
CLOSED: Final = frozenset({"progress", "schema_versions"})

_RELATIONS: Final = """
SELECT
    name, engine = 'View' AS is_view,
    name IN (SELECT table FROM system.columns WHERE database = {database:String} AND name = 'project') AS has_project,
    match(create_table_query, '(?i)SQL\\s+SECURITY\\s+(DEFINER|NONE)') AS runs_as_another
FROM system.tables WHERE database = {database:String}
ORDER BY name
"""


class Relation(NamedTuple):
    """A table or view of the database; `runs_as_another` is a view that has the rights of whoever made it."""

    name: str
    is_view: bool
    has_project: bool
    runs_as_another: bool


def access_statements(target: Target, relations: Iterable[Relation]) -> list[str]:
    """Return the statements that make roles and give them what they may have, in order; all can be repeated.

    Raises InvalidSchema for a table of which nobody has decided who may read it, and for a view that would show
    everybody what its maker may see.
    """
    parts = [_rendered("roles", target, {})]
    for relation in relations:
        if relation.runs_as_another:
            raise InvalidSchema(
                f"{relation.name} runs as another user, so no policy would hold: make it SQL SECURITY INVOKER"
            )
        if relation.has_project and not relation.is_view:
            parts.append(_rendered("project_table", target, {"name": relation.name}))
        elif relation.is_view or relation.name in SHARED:
            parts.append(_rendered("readable", target, {"name": relation.name}))
        elif relation.name not in CLOSED:
            raise InvalidSchema(
                f"{relation.name} has no project: say in pipeline/access.py whether tenants may read it"
            )
    return [statement for part in parts for statement in part]


def relations(store: "Store") -> list[Relation]:
    """Return the tables and views there are, by name."""
    return [
        Relation(name, *map(bool, flags)) for name, *flags in store.query(_RELATIONS, database=store.target.database)
    ]


def apply_access(store: "Store") -> int:
    """Make roles and give them what they may have; return how many statements that took.

    Raises StoreUnavailable or StoreError: only a server has users, and only who may manage access can do this.
    """
    statements = access_statements(store.target, relations(store))
    for statement in statements:
        store.query(statement)
    return len(statements)


def _rendered(file: str, target: Target, names: dict[str, str]) -> list[str]:
    return Migration(file, schema_text(f"clickhouse/access/{file}.sql")).statements(target, **names)
