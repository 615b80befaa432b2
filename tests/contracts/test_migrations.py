"""The schema is brought up to date safely: once, twice, by two at once, and never from an edited file."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.clickhouse import Store, StoreError
from pipeline.metering.meters import Meters
from pipeline.migrations import Migration, Target, create_database, create_versions, shipped_migrations

_TABLES = {
    *("session_facts", "room_facts", "server_facts", "events", "progress", "rollups", "meter_tables"),
    *("meters", "rooms_between", "timelines_between", "session_timelines", "usage_hourly", "schema_versions"),
    *("reconciliations", "amendments", "audit_holds", "invoices"),
    *("alerts", "current_alerts", "alert_mutes", "activity_slots", "event_slots"),
    *("changes", "counter_facts", "discrete_facts", "number_facts"),
    *("counter_usage", "discrete_usage", "rental_usage", "attributed_usage"),
    *(
        "v_rollups",
        "v_usage_hourly",
        "v_usage_daily",
        "v_projects",
        "v_invoices",
        "v_amendments",
        "v_events",
        "rules",
        "erasures",
    ),
    *("v_sessions", "v_unbilled_sessions", "v_open_sessions", "v_usage_live", "v_attribution"),
}


def _meter_names(store: Store) -> set[str]:
    return {name for (name,) in store.query("SELECT name FROM meters")}


def test_migrating_makes_every_table_and_view(store: Store) -> None:
    """What the runbook and the queries name is there."""
    assert {name for (name,) in store.query("SHOW TABLES")} == _TABLES


def test_migrating_applies_every_file_in_order(open_store: Callable[[], Store], meters: Meters) -> None:
    """And says which."""
    versions = [migration.version for migration in shipped_migrations()]
    assert open_store().migrate(meters) == sorted(versions)
    assert versions[0] == "0001_facts"


def test_migrating_again_applies_nothing(store: Store, meters: Meters) -> None:
    """Every start migrates."""
    assert store.migrate(meters) == []


def test_two_processes_may_migrate_at_once(open_store: Callable[[], Store], meters: Meters) -> None:
    """Every statement is idempotent: both succeed, and the schema is whole."""
    first, second = open_store(), open_store()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda store: store.migrate(meters), [first, second]))
    assert {name for (name,) in first.query("SHOW TABLES")} == _TABLES
    assert len(_meter_names(first)) == len(meters)


def test_a_migration_that_died_half_way_is_applied_again(open_store: Callable[[], Store], meters: Meters) -> None:
    """It is recorded only when all of it was applied."""
    store = open_store()
    target = store.target
    for statement in shipped_migrations()[0].statements(target)[:2]:
        store._client.command(statement)
    assert store.migrate(meters)[0] == "0001_facts"


def test_a_migration_that_changed_after_it_was_applied_is_refused(store: Store, meters: Meters) -> None:
    """Two installations of one version would differ."""
    edited = [Migration(file.version, file.script + "\n") for file in shipped_migrations()]
    with pytest.raises(StoreError, match="0001_facts has changed since it was applied: restore the file"):
        store.apply(edited, meters)


def test_a_new_migration_is_applied_alone(store: Store, meters: Meters) -> None:
    """Files that were applied are left alone."""
    script = (
        "-- a comment; with a semicolon\nCREATE VIEW IF NOT EXISTS ${database}.one ${on_cluster} AS SELECT 1 AS n;\n"
    )
    assert store.apply([*shipped_migrations(), Migration("9999_one", script)], meters) == ["9999_one"]
    assert store.query("SELECT n FROM one")[0][0] == 1


def test_a_meter_that_vanished_from_the_file_vanishes_from_the_store(store: Store, meters: Meters) -> None:
    """R16: the table of meters is data, and the store's copy is that data."""
    fewer = {name: meter for name, meter in meters.items() if name != "webrtc_minutes"}
    store.migrate(fewer)
    assert _meter_names(store) == set(fewer)


def test_an_unchanged_table_of_meters_is_not_written_again(store: Store, meters: Meters) -> None:
    """Every start migrates: the history of tables holds changes only."""
    store.migrate(meters)
    assert store.query("SELECT uniqExact(since) FROM meter_tables")[0][0] == 1


def test_an_earlier_table_of_meters_can_come_back(store: Store, meters: Meters) -> None:
    """Undoing a change of the file undoes it here."""
    store.migrate({"webrtc_minutes": meters["webrtc_minutes"]})
    store.migrate(meters)
    assert _meter_names(store) == set(meters)


@pytest.mark.parametrize("cluster", ["", "main"])
def test_the_rendering_for_a_cluster_parses(store: Store, cluster: str) -> None:
    """The same files, with ON CLUSTER and Replicated engines: all of it is SQL."""
    target = Target("roommeter", cluster)
    files = [statement for migration in shipped_migrations() for statement in migration.statements(target)]
    for statement in [create_database(target), create_versions(target), *files]:
        assert store.query(f"EXPLAIN AST {statement}")


def test_a_cluster_gets_replicated_tables_on_every_host() -> None:
    """No statement is left behind on one host, and no table without a replica, which copies what is inserted."""
    for migration in shipped_migrations():
        for statement in migration.statements(Target("roommeter", "main")):
            assert ("ON CLUSTER 'main'" in statement) != statement.startswith("INSERT")
            assert ("ENGINE = Replicated" in statement) == statement.startswith("CREATE TABLE")


def test_every_migration_opens_with_its_reasons() -> None:
    """A comment first: why this engine and this sort key."""
    assert all(migration.script.startswith("-- ") for migration in shipped_migrations())
