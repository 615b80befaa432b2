"""Databases of the embedded engine that tests use one after another: migrating one takes longer than most tests."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final
from uuid import uuid4

from pipeline.clickhouse import Store
from pipeline.metering.meters import Meters
from tests.metering.builders import METERS

#: What migrating leaves in a database; rows of all other tables are a test's own.
_MIGRATED: Final = ("meter_tables", "rules", "schema_versions")


class Databases:
    """Databases of one engine, and which of them are free, as migrating has left them."""

    def __init__(self) -> None:
        """Begin without any."""
        self._schemas: dict[str, Any] = {}
        self._free: list[str] = []

    def take(self) -> str:
        """Return the name of a database that is free, or of one that is not there yet."""
        return self._free.pop() if self._free else new_name()

    def make_ready(self, store: Store, meters: Meters) -> None:
        """Migrate a database that is new; of one that was used before, remove what the last test left."""
        if store.target.database in self._schemas:
            # Also of tables with parts that hold no row any more: they remember what was inserted.
            for [table] in store.query("SELECT DISTINCT table FROM system.parts WHERE database = currentDatabase()"):
                if table not in _MIGRATED:
                    store._client.command(f"TRUNCATE TABLE {table}")
        else:
            store.migrate(meters)
            self._schemas[store.target.database] = _schema(store)

    def give_back(self, store: Store) -> bool:
        """Keep a database for another test; tell whether it is fit: only rows may have changed."""
        name = store.target.database
        is_fit = name in self._schemas and _schema(store) == self._schemas[name]
        if is_fit:
            self._free.append(name)
        return is_fit

    @contextmanager
    def migrated(self, dsn: str) -> Iterator[Store]:
        """Yield a store with a migrated database without rows."""
        with closing(Store.open(dsn, self.take())) as store:
            self.make_ready(store, METERS)
            yield store
            if not self.give_back(store):
                store._client.command(f"DROP DATABASE {store.target.database} SYNC")


def new_name() -> str:
    """Return a name that no database has."""
    return f"test_{uuid4().hex}"


def _schema(store: Store) -> Any:
    """Return what tells one schema from another; a view that is replaced has another id."""
    here = "FROM system.tables WHERE database = currentDatabase()"
    return (
        store.query(f"SELECT name, create_table_query {here} AND engine LIKE '%MergeTree' ORDER BY name"),
        store.query(f"SELECT name, uuid {here} AND engine NOT LIKE '%MergeTree' ORDER BY name"),
        *(sorted(store.query("SELECT * FROM {name:Identifier}", name=table)) for table in _MIGRATED),
    )
