"""How long personal data is kept, with times that lie as far back as they have to."""

from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE
from pipeline.rows import Batch, SessionQuery, SessionRow


def _put(store: Store, name: str, at_ms: int) -> None:
    session = Session("agent", identity="eve", connected_at_ms=at_ms, disconnected_at_ms=at_ms + MS_PER_MINUTE)
    session.last_seen_ms = at_ms + MS_PER_MINUTE
    store.write(Batch(sessions=[("acme", "RM_1", name, session)]))


def _sessions(store: Store) -> dict[str, SessionRow]:
    return {row.session: row for row in store.sessions(SessionQuery(as_of_ms=now_ms()))}


def test_a_participants_name_goes_after_60_days_and_nothing_else(store: Store) -> None:
    """With the next merge at the latest; the facts that bills follow from stay."""
    _put(store, "old", now_ms() - 61 * MS_PER_DAY)
    _put(store, "young", now_ms() - 59 * MS_PER_DAY)
    before = _sessions(store)
    store.query("OPTIMIZE TABLE session_facts FINAL")
    assert _sessions(store) == before | {"old": before["old"]._replace(identity="")}


def test_a_row_that_has_lost_the_name_joins_with_one_that_has_not(store: Store) -> None:
    """R10: '' is the bottom of the join, whichever comes first."""
    at_ms = now_ms() - 61 * MS_PER_DAY
    _put(store, "long", at_ms)
    store.query("OPTIMIZE TABLE session_facts FINAL")
    seen = Session("agent", identity="eve", last_seen_ms=now_ms())
    store.write(Batch(sessions=[("acme", "RM_1", "long", seen)]))
    assert _sessions(store)["long"].identity == "eve"
    assert _sessions(store)["long"].started_at_ms == at_ms


def test_an_event_older_than_60_days_is_not_kept(store: Store) -> None:
    """By the broker's time; its facts stay."""
    old_ms, young_ms = now_ms() - 61 * MS_PER_DAY, now_ms() - 59 * MS_PER_DAY
    rows = [
        ("lifecycle", 0, offset, time_ms, "ignored", None, b"{}") for offset, time_ms in enumerate((old_ms, young_ms))
    ]
    store.write(Batch(events=rows))
    store.query("OPTIMIZE TABLE events FINAL")
    assert store.query("SELECT offset FROM v_events") == [(1,)]


def test_rollups_and_invoices_have_no_end(store: Store) -> None:
    """Facts neither: what is dropped would change a bill (R20)."""
    found = dict(
        store.query(
            "SELECT name, create_table_query ILIKE '% TTL %' FROM system.tables WHERE database = currentDatabase()"
        )
    )
    kept = ("rollups", "invoices", "amendments", "counter_facts", "discrete_facts", "number_facts", "room_facts")
    assert {name: found[name] for name in kept} == dict.fromkeys(kept, 0)
