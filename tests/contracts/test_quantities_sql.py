"""Counters, discrete usage and rental (R13 to R15) in SQL and in the core, on logs of all types; meters are data."""

import random
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from uuid import uuid4

import orjson
import pytest

from pipeline.audit.bill_store import BillStore, Window
from pipeline.audit.laws import session_hours
from pipeline.clickhouse import Store
from pipeline.explain.store import ExplainStore
from pipeline.explain.subjects import SubjectStore
from pipeline.metering.events import MAX_QUANTITY
from pipeline.metering.meters import Meter, Meters
from pipeline.metering.session import Facts
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from pipeline.metering.usage import usage
from pipeline.replay import replay
from pipeline.rows import UsageQuery
from tests.metering.builders import Document, clock, connected, disconnected, event, facts_of, parsed, rfc3339

#: The log of events forgets after 60 days.
_NOW_MS: Final = time.time_ns() // 1_000_000
_EVENTS: Final = 8_000
_BEGIN_MS: Final = clock("0:00:00")
_SPAN_MS: Final = 6 * MS_PER_DAY
#: Edges of months: a new year's, a leap day's, and those of the month of the log.
_MONTHS_MS: Final = [1_704_067_200_000, 1_709_164_800_000, 1_709_251_200_000, 1_788_220_800_000, 1_790_812_800_000]
_OURS: Final = {
    "sessions_bytes": Meter("sessions_bytes", "counter", "byte", 1, 1),
    "sessions_mib": Meter("sessions_mib", "counter", "MiB", 1_048_576, 1_048_576),
    "number_halves": Meter("number_halves", "rental", "number", 2, 1),
    "pages": Meter("pages", "discrete", "page", 1, 7),
}
_METERS_USED: Final = ("stt_seconds", "stt_seconds", "stt_seconds", "llm_input_tokens", "pages")
_AS_OFS: Final = {
    "before anything": _BEGIN_MS - 900 * MS_PER_DAY,
    "at the edge of an hour": _BEGIN_MS + 2 * MS_PER_DAY,
    "within an hour": _BEGIN_MS + 3 * MS_PER_DAY + 1_234_567,
    "years later": _BEGIN_MS + 800 * MS_PER_DAY,
}


class Stored(NamedTuple):
    """A store that a log was replayed into, some of it twice, and the facts of the same log."""

    store: Store
    facts: Facts
    meters: Meters


def _document(chance: random.Random) -> Document:
    """Return an event of any type with quantities, of few subjects, so that they compete."""
    at_ms = _BEGIN_MS + chance.randrange(_SPAN_MS)
    if chance.random() < 0.2:
        at_ms -= at_ms % MS_PER_HOUR
    project = f"project-{chance.randrange(7)}"
    source = chance.choice(("sfu-1", "sfu-2"))
    kind = chance.random()
    if kind < 0.25:
        quantity = chance.choice((0, 1, 999, 1_000, 1_001, chance.randrange(10**6)))
        name = chance.choice(("acme", chance.randrange(1_000)))
        data = {"meter": chance.choice(_METERS_USED), "quantity": quantity, "model": chance.choice(("", "a", "b"))}
        return event("usage.recorded", at_ms, source, project=project, **data) | {"id": f"U_{name}"}
    if kind < 0.35:
        month_ms = chance.choice(_MONTHS_MS) + chance.choice((-1, 0, 1, chance.randrange(40 * MS_PER_DAY)))
        what = chance.choice(("number.acquired", "number.released"))
        return event(what, chance.choice((at_ms, month_ms)), project=project, number=f"+{chance.randrange(60)}")
    session = {"project": project, "room": f"RM_{chance.randrange(40)}", "session": f"PA_{chance.randrange(9)}"}
    if kind < 0.5:
        return event("session.connected", at_ms, source, **session, kind="agent")
    if kind < 0.52:
        times = chance.choice(({"void": True}, {"started_at": rfc3339(at_ms)}, {}))
        who = {"epoch": chance.randrange(1, 4), "actor": "jo", "reason": "ticket"}
        return event("session.amended", at_ms, source, **session, **who, **times)
    size = chance.choice((0, 1, 9_999_999, 10_000_000, 10_000_001, chance.randrange(10**9)))
    counters = {chance.choice(("bytes_in", "bytes_out")): size, "bytes_in": chance.choice((None, size // 3))}
    begun = {"connected_at": rfc3339(at_ms - MS_PER_MINUTE)} if chance.random() < 0.1 else {}
    return event(
        chance.choice(("session.sampled", "session.disconnected")), at_ms, source, **session, **counters, **begun
    )


@pytest.fixture(scope="module")
def stored(store_dsn: str, meters: Meters) -> Iterator[Stored]:
    """A log of all types, out of order and partly repeated, stored batch by batch; and an operator's own meters."""
    chance = random.Random(20_261_122)  # noqa: S311 - the same log in every run
    log = [_document(chance) for _ in range(_EVENTS)]
    log += chance.choices(log, k=_EVENTS // 10)
    meters = meters | _OURS
    database = f"test_{uuid4().hex}"
    store = Store.open(store_dsn, database)
    store.migrate(meters)
    accepted = sum(
        batch["accepted"]
        for batch in replay(map(orjson.dumps, log), "log", store, meters, _NOW_MS, 65_536, _EVENTS // 5)
    )
    assert accepted == len(log)
    yield Stored(store, facts_of(parsed(document, meters) for document in log), meters)
    store._client.command(f"DROP DATABASE {database} SYNC")
    store.close()


@pytest.mark.parametrize("as_of_ms", _AS_OFS.values(), ids=_AS_OFS)
def test_usage_in_sql_is_usage_in_the_core(stored: Stored, as_of_ms: int) -> None:
    """R1, R10, R13 to R16: of every meter, the operator's own too."""
    expected = usage(stored.facts, stored.meters, as_of_ms)
    assert stored.store.usage(UsageQuery(as_of_ms=as_of_ms)) == sorted(expected.items())


def test_every_meter_has_usage_in_the_log(stored: Stored) -> None:
    """What is compared above is not nothing: each kind of measure, in several hours."""
    cells = usage(stored.facts, stored.meters, _AS_OFS["years later"])
    used = {meter: sum(1 for _, name, _ in cells if name == meter) for meter in stored.meters}
    assert all(used[name] > 20 for name in (*_OURS, *_METERS_USED, "data_transfer_gb", "number_rental"))


@pytest.mark.parametrize("from_ms", [_BEGIN_MS + 2 * MS_PER_DAY + 1, _BEGIN_MS + 3 * MS_PER_DAY, _MONTHS_MS[-1]])
def test_a_span_of_hours_is_a_cut_of_the_whole(stored: Stored, from_ms: int) -> None:
    """What was reported before the span is still known in it: nothing is billed again."""
    as_of_ms, to_ms = _AS_OFS["years later"], from_ms + 30 * MS_PER_HOUR
    whole = stored.store.usage(UsageQuery(as_of_ms=as_of_ms))
    query = UsageQuery(as_of_ms=as_of_ms, from_ms=from_ms, to_ms=to_ms)
    assert stored.store.usage(query) == [(key, cell) for key, cell in whole if from_ms <= key[2] < to_ms]


@pytest.mark.parametrize("meter", ["data_transfer_gb", "stt_seconds", "number_rental"])
def test_a_project_and_a_meter_are_a_cut_of_the_whole(stored: Stored, meter: str) -> None:
    """Asking for one project and meter gives what the whole says of them."""
    whole = stored.store.usage(UsageQuery(as_of_ms=_AS_OFS["years later"]))
    query = UsageQuery(as_of_ms=_AS_OFS["years later"], project="project-3", meter=meter)
    assert stored.store.usage(query) == [cell for cell in whole if cell[0][:2] == ("project-3", meter)]


@pytest.mark.parametrize("from_ms", [0, _BEGIN_MS + 2 * MS_PER_DAY, _MONTHS_MS[-1]])
def test_the_audit_counts_the_same_in_its_own_way(stored: Stored, from_ms: int) -> None:
    """C3, R1: the hours of every meter add up to what two maxima of each subject give, and none is crowded."""
    window = Window(from_ms, _BEGIN_MS + 300 * MS_PER_DAY)
    totals = BillStore(stored.store).hour_totals(window, _AS_OFS["years later"])
    assert {"number_rental", "number_halves"} <= {row.meter for row in totals}
    assert session_hours(totals, stored.meters).differences == []


@pytest.mark.parametrize("meter", ["data_transfer_gb", "stt_seconds", "number_rental", "sessions_bytes", "pages"])
def test_explanations_of_an_hour_add_up_to_its_usage(stored: Stored, meter: str) -> None:
    """R1, R20: subject by subject, as `roommeter explain` lists them, in the hour of which there is most."""
    as_of_ms = _AS_OFS["years later"]
    whole = [cell for cell in stored.store.usage(UsageQuery(as_of_ms=as_of_ms)) if cell[0][1] == meter]
    (project, _, hour_ms), cell = max(whole, key=lambda found: found[1].sessions)
    is_of_sessions = stored.meters[meter].measures == "counter"
    sessions = ExplainStore(stored.store, stored.meters, as_of_ms, MS_PER_DAY)
    reader = sessions if is_of_sessions else SubjectStore(stored.store, stored.meters, as_of_ms)
    found = list(reader.hour(project, stored.meters[meter], hour_ms))
    assert sum(one.increments(meter, hour_ms) for one in found) == cell.increments
    assert len(found) == cell.sessions
    assert all(one.events and one.steps for one in found)


def test_an_hour_holds_64_bits_and_shows_no_more(store: Store, meters: Meters) -> None:
    """R17: the largest counters and quantities there can be stop nobody's bill."""
    tokens: dict[str, Any] = {"project": "acme", "meter": "llm_input_tokens", "quantity": MAX_QUANTITY}
    log = [event("usage.recorded", "14:00:00", **tokens) | {"id": name} for name in ("U_1", "U_2")]
    log += [connected("14:00:00"), disconnected("14:00:30", bytes_in=MAX_QUANTITY, bytes_out=MAX_QUANTITY)]
    list(replay(map(orjson.dumps, log), "log", store, meters, _NOW_MS, 65_536, 100))
    expected = usage(facts_of(map(parsed, log)), meters, clock("15:00:00"))
    assert expected["acme", "llm_input_tokens", clock("14:00:00")].increments == MAX_QUANTITY
    assert store.usage(UsageQuery(as_of_ms=clock("15:00:00"))) == sorted(expected.items())


def test_a_meter_added_later_bills_what_was_stored_before(store: Store, meters: Meters) -> None:
    """R16: a row of each measure that needs no event of its own; no code, no replay."""
    log = [connected("14:00:00"), disconnected("14:00:30", bytes_in=5)]
    log += [event("number.acquired", "14:00:00", project="acme", number="+15550100")]
    list(replay(map(orjson.dumps, log), "log", store, meters, _NOW_MS, 65_536, 100))
    store.migrate(meters | _OURS)
    found = {meter: cell.increments for (_, meter, _), cell in store.usage(UsageQuery(as_of_ms=clock("15:00:00")))}
    assert {name: found.get(name) for name in _OURS} == {
        "sessions_bytes": 5,
        "sessions_mib": 1,
        "number_halves": 2,
        "pages": None,
    }


def test_whom_usage_is_ascribed_to_is_kept_with_it(store: Store, meters: Meters) -> None:
    """R14, R10: the greater of two texts, whatever the order."""
    one = {"model": "a", "endpoint": "chat", "team": "support", "key": "key-7", "status": "ok", "latency_ms": 412}
    log = [
        event("usage.recorded", "14:00:00", project="acme", meter="stt_seconds", quantity=1, **labels)
        for labels in (one, {"model": "b"}, {"room": "RM_1", "session": "PA_1"})
    ]
    list(replay(map(orjson.dumps, log), "log", store, meters, _NOW_MS, 65_536, 100))
    [row] = store.query(
        "SELECT max(quantity), max(room), max(session), max(model), max(endpoint), max(team), max(key), max(status), "
        "max(latency_ms) FROM discrete_facts GROUP BY project, source, id"
    )
    assert tuple(row) == (1, "RM_1", "PA_1", "b", "chat", "support", "key-7", "ok", 412)
