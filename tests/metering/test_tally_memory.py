"""What a tally keeps in memory, forgets, doubts, and looks at again; and that time alone brings it to the usage."""

from typing import Final

import pytest

from pipeline.metering.tally import Tally
from pipeline.metering.units import MS_PER_HOUR
from pipeline.metering.usage import usage
from tests.metering.builders import (
    METERS,
    Document,
    amended,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    of_room,
    parsed,
    sampled,
)

_AGENT: Final = "agent_session_minutes"
_ROOM: Final = ("acme", "RM_1")
_USED: Final = event("usage.recorded", "14:00:00", project="acme", meter="tts_characters", quantity=5)
_ACQUIRED: Final = event("number.acquired", "14:00:00", project="acme", number="+1")

_OF_ALL_KINDS: Final = [connected("14:00:00"), sampled("14:10:00", bytes_in=5), _USED, _ACQUIRED]


def _tally(*documents: Document, meters: tuple[str, ...] = (_AGENT,), from_ms: int = 0) -> Tally:
    tally = Tally([METERS[name] for name in meters], None, MS_PER_HOUR)
    tally.rebase(from_ms, {})
    for document in documents:
        tally.observe(parsed(document))
    return tally


def _settled(tally: Tally, as_of: str) -> Tally:
    while not tally.settle(clock(as_of), 100):
        pass
    return tally


def _count(tally: Tally, meter: str = _AGENT) -> int:
    return tally.increments("acme", meter, 0, 1 << 62)


@pytest.mark.parametrize(
    ("log", "moments"),
    [
        ([connected("14:30:00")], ["14:10:00", "14:30:00", "14:30:00.001", "14:31:00", "14:31:00.001"]),
        ([connected("14:00:00")], ["14:59:59.999", "15:00:00", "15:00:00.001", "20:00:00"]),
        (
            [connected("14:00:00"), amended("14:01:00", ended_at="2026-09-21T14:20:00Z")],
            ["14:10:00", "14:20:00", "14:20:00.001", "14:30:00"],
        ),
        (
            [connected("14:30:00"), sampled("14:10:00", bytes_in=15_000_000)],
            ["14:20:00", "14:30:00", "14:30:00.001", "14:40:00"],
        ),
        ([connected("14:00:00", kind="sip", number="+1"), disconnected("14:10:00")], ["14:05:00", "14:20:00"]),
        ([_ACQUIRED, _USED], ["13:00:00", "14:00:00", "14:00:00.001", "240:00:00", "240:00:00.001"]),
    ],
)
def test_time_alone_brings_the_numbers_to_the_usage(log: list[Document], moments: list[str]) -> None:
    """R8, R9, R13, R15: what begins, grows, is presumed to have ended, and ends, without another event."""
    events = [parsed(document) for document in log]
    tally = Tally([*METERS.values()], None, MS_PER_HOUR)
    for one in events:
        tally.observe(one)
    tally.trust([*tally.doubtful])
    for moment in moments:
        expected: dict[str, int] = {}
        for (_, meter, _), cell in usage(facts_of(events), METERS, clock(moment), MS_PER_HOUR).items():
            expected[meter] = expected.get(meter, 0) + cell.increments
        _settled(tally, moment)
        assert {meter: count for meter in METERS if (count := _count(tally, meter))} == expected


def test_a_session_is_open_from_its_first_millisecond_to_its_end() -> None:
    """R8; also where its end is known before."""
    log = [connected("14:00:00"), disconnected("14:10:00")]
    tally = _tally(*log)
    moments = ("14:00:00", "14:00:00.001", "14:09:59.999", "14:10:00")
    assert [_settled(tally, moment).open_sessions("acme", "agent") for moment in moments] == [0, 1, 1, 0]


def test_kinds_can_be_counted_that_no_meter_measures() -> None:
    """A limit of sessions at one moment needs no meter; what nobody asks for is not counted."""
    tally = Tally([METERS["data_transfer_gb"]], None, MS_PER_HOUR, frozenset({"sip"}))
    for document in (
        connected("14:00:00", kind="sip"),
        connected("14:00:00", "PA_2"),
        sampled("14:05:00", "PA_3", connected_at="2026-09-21T14:00:00Z"),
    ):
        tally.observe(parsed(document))
    tally.trust([_ROOM])
    _settled(tally, "14:06:00")
    assert [tally.open_sessions("acme", kind) for kind in ("sip", "agent", "")] == [1, 0, 0]
    assert tally.changed == {"acme"}


def test_a_server_that_restarts_ends_its_own_sessions_at_once() -> None:
    """R9: where they were last seen; rooms of other servers are not even looked at."""
    tally = _tally(connected("14:00:00"), connected("14:00:00", room="RM_2", source="sfu-2"))
    _settled(tally, "14:10:30")
    tally.observe(parsed(event("server.restarted", "14:10:20")))
    assert tally.settle(clock("14:10:30"), 2)
    assert (tally.open_sessions("acme", "agent"), _count(tally)) == (1, 1 + 11)


def test_so_many_rooms_are_settled_at_once_and_no_more() -> None:
    """Whoever asks gets to do something else in between; he is told when nothing is left."""
    tally = _tally(*(connected("14:00:00", room=f"RM_{number}") for number in range(3)))
    for as_of, counts in (("14:00:30", [2, 3]), ("14:01:30", [5, 6])):
        for is_all, count in zip((False, True), counts, strict=True):
            assert tally.settle(clock(as_of), 2) is is_all
            assert _count(tally) == count
        assert tally.settle(clock(as_of), 1)


@pytest.mark.parametrize(
    ("document", "is_doubtful"),
    [
        (connected("14:00:00", room="RM_2"), False),
        (of_room("room.started", "14:00:00", room="RM_2"), False),
        (connected("13:59:59.999", room="RM_2"), True),
        (disconnected("14:10:00", room="RM_2"), True),
        (sampled("14:10:00", room="RM_2"), True),
        (connected("13:00:00", "PA_2"), True),
        (disconnected("14:10:00", "PA_2"), False),
        (connected("13:00:00"), False),
        (of_room("room.ended", "13:00:00"), False),
    ],
)
def test_what_may_be_known_elsewhere_is_doubtful(document: Document, *, is_doubtful: bool) -> None:
    """R10: an event of before the exact hours, or one that begins no room, of what memory does not know."""
    tally = _tally(connected("14:00:00"), from_ms=clock("14:00:00"))
    tally.observe(parsed(document))
    assert bool(tally.doubtful) == is_doubtful


def test_what_nobody_else_knows_is_trusted() -> None:
    """Its numbers are those of memory then; rooms that are not there at all do no harm."""
    log = [connected("13:00:00"), sampled("14:10:00", bytes_in=5)]
    tally = _tally(*log, meters=("data_transfer_gb",), from_ms=clock("14:00:00"))
    assert _count(_settled(tally, "14:20:00"), "data_transfer_gb") == 0
    tally.trust([_ROOM, ("acme", "RM_9")])
    assert _count(_settled(tally, "14:20:00"), "data_transfer_gb") == 1


def test_other_projects_are_nothing_to_a_tally() -> None:
    """Neither their events nor what the store knows of them."""
    tally = Tally([*METERS.values()], {"globex"}, MS_PER_HOUR)
    for document in _OF_ALL_KINDS:
        tally.observe(parsed(document))
    tally.join(facts_of(map(parsed, _OF_ALL_KINDS)))
    _settled(tally, "14:20:00")
    assert (tally.projects(), tally.changed, tally.doubtful, tally.facts.rooms) == (set(), set(), set(), {})


def test_what_the_store_knows_is_joined_to_what_was_observed() -> None:
    """R10: of the projects asked for, of every kind; and it may be the same."""
    tally = Tally([*METERS.values()], {"acme"}, MS_PER_HOUR)
    counts = []
    for _ in range(2):
        tally.join(facts_of(map(parsed, _OF_ALL_KINDS)))
        _settled(tally, "14:20:00")
        meters = (_AGENT, "data_transfer_gb", "tts_characters", "number_rental")
        counts.append([_count(tally, meter) for meter in meters])
    assert counts == [[20, 1, 5, 1]] * 2


def test_events_of_rooms_take_no_memory_where_no_limit_needs_them() -> None:
    """Of tokens alone."""
    assert _tally(connected("14:00:00"), meters=("llm_input_tokens",)).facts.rooms == {}


def test_only_what_has_changed_is_named() -> None:
    """A room that is looked at again and stands as before changes no number."""
    tally = _settled(_tally(connected("14:00:00")), "14:00:30")
    assert tally.changed == {"acme"}
    tally.changed.clear()
    tally.observe(parsed(sampled("14:00:20")))
    assert _settled(tally, "14:00:30").changed == set()
    tally.rebase(0, {})
    assert tally.changed == {"acme"}


@pytest.mark.parametrize(
    ("last", "is_kept"),
    [
        (sampled("13:59:59.999"), False),
        (sampled("14:00:00"), True),
        (of_room("room.ended", "14:00:00"), True),
        (of_room("room.started", "14:00:00"), True),
        (disconnected("13:10:00", bytes_in=5), False),
    ],
)
def test_a_room_is_forgotten_when_nothing_of_it_can_be_of_the_exact_hours(last: Document, *, is_kept: bool) -> None:
    """Its last sign of life is before them, and nobody is connected."""
    before = [connected("13:00:00"), connected("13:00:00", "PA_2"), disconnected("13:05:00", "PA_2")]
    before += [of_room("room.ended", "13:10:00"), disconnected("13:10:00")]
    tally = _tally(*before, last, meters=(_AGENT, "data_transfer_gb"))
    _settled(tally, "14:30:00")
    tally.rebase(clock("14:00:00"), {})
    _settled(tally, "14:30:00")
    assert (_ROOM in tally.facts.rooms) == is_kept
    assert (_ROOM in tally._bytes) == (is_kept and last["data"].get("bytes_in") is not None)


def test_a_room_is_kept_while_somebody_is_connected() -> None:
    """However long nothing was heard, and where no meter measures it."""
    tally = Tally([], None, 24 * MS_PER_HOUR, frozenset({"agent"}))
    tally.observe(parsed(connected("13:00:00")))
    _settled(tally, "14:30:00").rebase(clock("14:00:00"), {})
    assert _settled(tally, "14:30:00").open_sessions("acme", "agent") == 1
    assert _ROOM in tally.facts.rooms


def test_a_room_is_kept_whose_increments_are_of_the_exact_hours() -> None:
    """R12: an amended end may lie after all that was ever seen."""
    tally = _tally(connected("13:00:00"), amended("13:01:00", ended_at="2026-09-21T14:20:00Z"))
    _settled(tally, "15:00:00").rebase(clock("14:00:00"), {})
    assert _count(_settled(tally, "15:00:00")) == 20
    assert _ROOM in tally.facts.rooms


def test_while_a_room_is_doubtful_its_bytes_stay_as_they_were_and_its_minutes_do_not() -> None:
    """What its sessions have sent before may be unknown here."""
    meters = (_AGENT, "data_transfer_gb")
    tally = _tally(connected("14:00:00"), sampled("14:05:00", bytes_in=5), meters=meters, from_ms=clock("14:00:00"))
    counts = [[_count(_settled(tally, "14:06:00"), meter) for meter in meters]]
    old = disconnected("13:10:00", "PA_2", connected_at="2026-09-21T13:00:00Z")
    for document in (old, amended("14:05:00", void=True), sampled("14:05:30", bytes_in=50_000_000)):
        tally.observe(parsed(document))
    assert tally.doubtful == {_ROOM}
    counts.append([_count(_settled(tally, "14:06:00"), meter) for meter in meters])
    assert counts == [[6, 1], [0, 1]]


def test_a_room_of_which_something_new_was_told_is_not_forgotten() -> None:
    """Not before it is looked at."""
    tally = _settled(_tally(connected("13:00:00"), disconnected("13:10:00")), "14:30:00")
    tally.rebase(clock("14:00:00"), {})
    tally.observe(parsed(disconnected("13:05:00")))
    tally.forget([_ROOM, ("acme", "RM_9")])
    assert _ROOM in tally.facts.rooms
    assert _settled(tally, "14:30:00").facts.rooms == {}


def test_a_room_that_waits_for_two_moments_is_looked_at_once() -> None:
    """A session that begins in it makes it due earlier; what it was due for before is passed over."""
    tally = _settled(_tally(connected("14:30:00")), "14:00:00")
    tally.observe(parsed(connected("14:05:00", "PA_2")))
    _settled(tally, "14:05:30")
    assert tally.settle(clock("14:30:30"), 2)
    assert _count(tally) == 1 + 26


def test_a_room_that_was_forgotten_while_it_waited_is_passed_over() -> None:
    """It ended before it was due."""
    tally = _settled(_tally(connected("13:00:00")), "13:00:30")
    tally.observe(parsed(disconnected("13:00:40")))
    _settled(tally, "13:00:50")
    tally.rebase(clock("14:00:00"), {})
    tally.forget([_ROOM])
    assert tally.facts.rooms == {}
    assert _settled(tally, "14:30:00").open_sessions("acme", "agent") == 0


def test_rooms_are_forgotten_by_and_by() -> None:
    """So many at once as whoever asks has time for."""
    rooms = [f"RM_{number}" for number in range(3)]
    ended = [one for room in rooms for one in (connected("13:00:00", room=room), disconnected("13:10:00", room=room))]
    tally = _settled(_tally(*ended), "14:30:00")
    tally.rebase(clock("14:00:00"), {})
    left = []
    for _ in range(3):
        assert not tally.settle(clock("14:30:00"), 1)
        left.append(len(tally.facts.rooms))
    assert left == [2, 1, 0]
    assert tally.settle(clock("14:30:00"), 1)
