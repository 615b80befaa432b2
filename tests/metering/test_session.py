"""What events leave behind: each fact of a session, a room and a server, by its own event (R10)."""

from typing import Any

import pytest

from pipeline.metering.events import Amendment
from pipeline.metering.session import Facts, Room, Session, shared_set
from pipeline.metering.units import NEVER_MS
from tests.metering.builders import (
    Document,
    aborted,
    absent,
    amended,
    clock,
    connected,
    disconnected,
    event,
    facts_of,
    joined,
    of_room,
    parsed,
    sampled,
)

_KEY = ("acme", "RM_1")
_TEXTS = {"number": "+15550100", "agent": "support", "identity": "agent-1", "region": "eu"}
_GREATER = {"number": "+15550199", "agent": "vip", "identity": "agent-2", "region": "us"}


def _facts(*documents: Document) -> Facts:
    return facts_of(map(parsed, documents))


def _session(*documents: Document) -> Session:
    return _facts(*documents).rooms[_KEY].sessions["PA_1"]


def _known(**facts: Any) -> Session:
    """Return what is known of a session, nothing but these facts."""
    return Session(**{"sources": frozenset({"sfu-1"})} | facts)


_T_MS = clock("14:05:00")
_BEGUN = "2026-09-21T14:00:00Z"


@pytest.mark.parametrize(
    ("document", "known"),
    [
        (connected("14:05:00", **_TEXTS), _known(kind="agent", connected_at_ms=_T_MS, last_seen_ms=_T_MS, **_TEXTS)),
        (
            disconnected("14:05:00", kind="sip", connected_at=_BEGUN, bytes_in=5, bytes_out=7, **_TEXTS),
            _known(
                kind="sip",
                begun_at_ms=clock("14:00:00"),
                disconnected_at_ms=_T_MS,
                last_seen_ms=_T_MS,
                bytes_in=5,
                bytes_out=7,
                **_TEXTS,
            ),
        ),
        (aborted("14:05:00", kind="agent"), _known(kind="agent", disconnected_at_ms=_T_MS, last_seen_ms=_T_MS)),
        (
            sampled("14:05:00", kind="agent", connected_at=_BEGUN, bytes_in=5, bytes_out=7),
            _known(kind="agent", begun_at_ms=clock("14:00:00"), last_seen_ms=_T_MS, bytes_in=5, bytes_out=7),
        ),
        (absent("14:05:00"), Session(absent_at_ms=_T_MS)),
        (
            amended("14:05:00", epoch=3, ended_at=_BEGUN),
            Session(
                amendment=Amendment(
                    3,
                    is_void=False,
                    started_at_ms=NEVER_MS,
                    ended_at_ms=clock("14:00:00"),
                    actor="jo",
                    reason="ticket 4711",
                )
            ),
        ),
    ],
    ids=["connected", "disconnected", "aborted", "sampled", "absent", "amended"],
)
def test_an_event_leaves_the_facts_that_it_tells_and_no_others(document: Document, known: Session) -> None:
    """R3, R5, R9, R12, R13: one row is one type of event."""
    assert _session(document) == known


def test_what_nobody_told_is_at_the_bottom_of_its_join() -> None:
    """R10: any fact outdoes it; these are the defaults of the columns too."""
    nothing = Session()
    assert (nothing.kind, nothing.number, nothing.agent, nothing.identity, nothing.region) == ("", "", "", "", "")
    assert (nothing.bytes_in, nothing.bytes_out, nothing.sources, nothing.amendment) == (0, 0, frozenset(), None)


@pytest.mark.parametrize("name", sorted(_TEXTS))
def test_of_two_texts_the_greater_stays(name: str) -> None:
    """R10: a join by maximum, one event after the other and two workers joined."""
    lesser, greater = connected("14:00:00", **{name: _TEXTS[name]}), connected("14:00:00", **{name: _GREATER[name]})
    assert getattr(_session(lesser, greater), name) == getattr(_session(greater, lesser), name) == _GREATER[name]
    both = joined([_facts(lesser), _facts(greater)]), joined([_facts(greater), _facts(lesser)])
    assert {getattr(facts.rooms[_KEY].sessions["PA_1"], name) for facts in both} == {_GREATER[name]}


@pytest.mark.parametrize("name", ["bytes_in", "bytes_out"])
def test_of_two_counters_the_larger_stays(name: str) -> None:
    """R13: they are cumulative; what is told late or twice is not added."""
    told: list[dict[str, Any]] = [{name: 9}, {name: 5}, {}]
    log = [sampled(f"14:0{minute}:00", **data) for minute, data in enumerate(told)]
    assert getattr(_session(*log, *reversed(log)), name) == 9
    assert getattr(joined([_facts(log[1]), _facts(log[0])]).rooms[_KEY].sessions["PA_1"], name) == 9


def test_a_session_knows_every_server_that_reported_it() -> None:
    """R9: each one's restart concerns it; who only asked for it is none of them."""
    log = [connected("14:00:00"), sampled("14:01:00", source="sfu-2"), absent("14:02:00"), amended("14:03:00")]
    assert _session(*log).sources == {"sfu-1", "sfu-2"}
    assert joined([_facts(log[0]), _facts(log[1])]).rooms[_KEY].sessions["PA_1"].sources == {"sfu-1", "sfu-2"}


@pytest.mark.parametrize("epochs", [(1, 2), (2, 1)])
def test_the_amendment_of_the_higher_epoch_stays(epochs: tuple[int, int]) -> None:
    """R12: whatever the order, and however late it comes; joined too."""
    log = [amended("14:00:00", epoch=epoch) for epoch in epochs]
    for facts in (_facts(*log), joined([_facts(log[0]), _facts(log[1])])):
        amendment = facts.rooms[_KEY].sessions["PA_1"].amendment
        assert amendment is not None
        assert amendment.epoch == 2


def test_a_room_keeps_all_its_ends_and_its_newest_start() -> None:
    """R5, R9: an instance's own start where it is told, else the time of the event."""
    log = [
        of_room("room.ended", "14:00:00"),
        of_room("room.ended", "15:00:00"),
        of_room("room.started", "14:30:00"),
        of_room("room.started", "14:40:00", started_at="2026-09-21T14:20:00Z"),
    ]
    room = Room(frozenset({clock("14:00:00"), clock("15:00:00")}), clock("14:30:00"))
    assert _facts(*log).rooms == {_KEY: room}
    assert joined([_facts(*log[:1], *log[2:3]), _facts(*log[1:2], *log[3:])]).rooms == {_KEY: room}
    assert _facts(log[3]).rooms[_KEY].started_at_ms == clock("14:20:00")


def test_a_server_keeps_its_newest_restart() -> None:
    """R9: by the server's name, in whatever order they are told."""
    log = [event("server.restarted", time, source) for time, source in (("14:00:00", "a"), ("15:00:00", "b"))]
    newest = {"a": clock("14:00:00"), "b": clock("15:00:00")}
    earlier = event("server.restarted", "13:00:00", "b")
    assert _facts(*log, earlier).restarts_ms == joined([_facts(earlier), _facts(*log)]).restarts_ms == newest
    assert joined([_facts(*log), _facts(earlier)]).restarts_ms == newest


def test_facts_tell_whether_an_event_says_anything_of_a_session_a_room_or_a_server() -> None:
    """What is reported (R13 to R15) and jobs (R4) are not judged with them."""
    used = event("usage.recorded", "14:00:00", project="acme", meter="tts_characters", quantity=5)
    told = [connected("14:00:00"), of_room("room.ended", "14:00:00"), event("server.restarted", "14:00:00")]
    for document in told:
        assert Facts().observe(parsed(document)) is True
    for document in (used, of_room("job.ended", "14:00:00", job="AJ_1")):
        assert Facts().observe(parsed(document)) is False


def test_equal_sets_of_servers_are_one_object() -> None:
    """A million open sessions of a few servers share a few sets."""
    one, other = (_session(connected("14:00:00")) for _ in range(2))
    assert one.sources is other.sources is shared_set(frozenset({"sfu-1"}))


def test_every_session_is_listed_with_its_room_and_id() -> None:
    """R2: the same id in two rooms is two sessions."""
    log = [connected("14:00:00"), connected("14:00:00", "PA_2"), connected("14:00:00", room="RM_2")]
    listed = [(key, name) for key, name, _ in _facts(*log).sessions()]
    assert listed == [(_KEY, "PA_1"), (_KEY, "PA_2"), (("acme", "RM_2"), "PA_1")]
