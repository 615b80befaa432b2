"""What is read from the store is what is counted one by one; and each kind of reading, on a small case."""

from random import Random

from pipeline.alerts.reader import Reader
from pipeline.clickhouse import Store
from pipeline.embedded import now_ms
from pipeline.metering.anomaly.readings import Connected, Part, Past
from pipeline.metering.events import parse_event
from pipeline.metering.session import Session
from pipeline.metering.timeline import ORPHAN_AFTER_MS
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, NEVER_MS, hour_of
from pipeline.rows import Batch
from tests.anomaly.oracle import readings
from tests.metering.builders import METERS, connected

_METER = "agent_session_minutes"
#: Names of people and the log are kept for 60 days only.
AS_OF_MS = hour_of(now_ms())


def _reader(store: Store) -> Reader:
    return Reader(store, METERS, None, ORPHAN_AFTER_MS)


def _store(store: Store, *sessions: Connected) -> None:
    store.write(Batch([(one.project, one.room, one.session, _facts(one)) for one in sessions]))


def _facts(one: Connected) -> Session:
    ended_ms = NEVER_MS if one.is_open else one.ended_ms
    return Session(
        "agent",
        identity=one.identity,
        connected_at_ms=one.began_ms,
        disconnected_at_ms=ended_ms,
        last_seen_ms=one.ended_ms,
    )


def test_activity_is_what_the_oracle_counts(store: Store) -> None:
    """Of random sessions of a week, some of them on the bounds of windows and hours, as of four moments."""
    chance = Random(7)  # noqa: S311 - not for secrets
    sessions = []
    for number in range(300):
        began_ms = AS_OF_MS - chance.randrange(7 * MS_PER_DAY)
        began_ms -= began_ms % chance.choice([1, MS_PER_MINUTE, 5 * MS_PER_MINUTE, MS_PER_HOUR])
        length_ms = chance.choice([0, 1, 9_000, 5 * MS_PER_MINUTE, chance.randrange(3 * MS_PER_HOUR)])
        project = chance.choice(["acme", "globex"])
        times = (began_ms, began_ms + length_ms)
        sessions.append(Connected(project, _METER, f"R{number}", "", f"S{number}", *times, is_open=False))
    _store(store, *sessions)
    reader = _reader(store)
    for as_of_ms in (AS_OF_MS - MS_PER_DAY, AS_OF_MS - MS_PER_MINUTE, AS_OF_MS, AS_OF_MS + 3 * MS_PER_MINUTE):
        found, counted = reader.read(as_of_ms).activity, readings(sessions, as_of_ms).activity
        assert found.keys() == counted.keys()
        for key, activity in counted.items():
            assert list(found[key].connects.windows) == list(activity.connects.windows)
            assert list(found[key].active.windows) == list(activity.active.windows)
            assert {hour: past for hour, past in found[key].connects.hours.items() if past != Past(0, 0)} == {
                hour: past for hour, past in activity.connects.hours.items() if past != Past(0, 0)
            }
            assert found[key].active.hours == activity.active.hours


def test_parts_lengths_long_sessions_and_twins_are_read(store: Store) -> None:
    """One very short session and one of ninety seconds; one open for six hours, twice under one identity."""
    ago = AS_OF_MS - 30 * MS_PER_MINUTE
    long_ago = AS_OF_MS - 6 * MS_PER_HOUR
    _store(
        store,
        Connected("acme", _METER, "R1", "", "S1", ago, ago + 9_000, is_open=False),
        Connected("acme", _METER, "R2", "", "S2", ago, ago + 90_000, is_open=False),
        Connected("acme", _METER, "R3", "jo", "S3", long_ago, AS_OF_MS - 1, is_open=True),
        Connected("acme", _METER, "R3", "jo", "S4", ago, AS_OF_MS - 1, is_open=True),
        Connected("acme", _METER, "R4", "", "S5", ago - MS_PER_DAY, ago - MS_PER_DAY + 7_000, is_open=False),
    )
    found = _reader(store).read(AS_OF_MS)
    assert found.shares["flapping", "acme", _METER].latest == Part(1, 2)
    assert found.shares["rounding_loss", "acme", _METER].latest == Part(1, 3)
    assert found.shares["flapping", "acme", _METER].past == [Part(1, 1)]
    assert found.lengths["acme", _METER] == (1, 7_000, 7_000)
    assert [(one.session, one.is_open) for one in found.long] == [("S3", True)]
    assert {one.session for one in found.twins} == {"S3", "S4"}


def test_events_that_are_sent_again_dead_letters_and_servers_are_read_from_the_log(store: Store) -> None:
    """By the broker's time; one of three events twice, and one input that is none."""
    event = parse_event(connected(AS_OF_MS), METERS)
    other = parse_event(connected(AS_OF_MS) | {"id": "EV_2"}, METERS)
    at_ms = AS_OF_MS - MS_PER_MINUTE
    rows = [("lifecycle", 0, number, at_ms, "accepted", one, b"{}") for number, one in enumerate((event, event, other))]
    store.write(Batch(events=[*rows, ("lifecycle", 0, 3, at_ms, "dead_letter", None, b"?")]))
    found = _reader(store).read(AS_OF_MS)
    assert found.shares["duplicates", "", "sfu-1"].latest == Part(1, 3)
    assert found.shares["dead_letters", "", ""].latest == Part(1, 4)
    assert found.servers["sfu-1"].windows[0] == 3
