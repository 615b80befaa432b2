"""The tally is the usage: the same numbers as the core computes from all facts, at every moment."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.metering.session import Facts
from pipeline.metering.tally import Tally
from pipeline.metering.timeline import newest_restart_ms, timeline
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, hour_of
from pipeline.metering.usage import usage
from tests.metering.builders import METERS, Document, clock, connected, disconnected, facts_of, parsed
from tests.metering.strategies import logs, moments_ms, orphan_afters_ms

METER = "agent_session_minutes"
_EVERY_METER = [*METERS.values()]
Numbers = dict[tuple[str, str], int]


def _numbers(tally: Tally, from_ms: int) -> Numbers:
    return {
        (project, meter): count
        for project in ("acme", "globex")
        for meter in METERS
        if (count := tally.increments(project, meter, from_ms, 1 << 62))
    }


def _settled(tally: Tally, as_of_ms: int) -> Tally:
    while not tally.settle(as_of_ms, 1):
        pass
    return tally


@given(logs, st.lists(moments_ms, min_size=1, max_size=4), orphan_afters_ms, st.data())
def test_the_tally_is_the_usage_at_every_moment(
    log: list[Document],
    moments: list[int],
    orphan_after_ms: int,
    data: st.DataObject,
) -> None:
    """R1 to R9, R12 to R15: events come in between in any order, time goes on, hours before are sums from elsewhere."""
    events = [parsed(document) for document in log]
    tally = Tally(_EVERY_METER, None, orphan_after_ms)
    seen = 0
    for as_of_ms in sorted(moments):
        upto = data.draw(st.integers(seen, len(events)))
        for event in events[seen:upto]:
            tally.observe(event)
        tally.trust([*tally.doubtful])  # nobody knows more
        seen = upto
        facts = facts_of(events[:seen])
        cells = usage(facts, METERS, as_of_ms, orphan_after_ms)
        expected: Numbers = {}
        for (project, meter, _), cell in cells.items():
            expected[project, meter] = expected.get((project, meter), 0) + cell.increments
        assert _numbers(_settled(tally, as_of_ms), 0) == expected
        for kind in ("agent", "sip"):
            assert tally.open_sessions("acme", kind) == _open(facts, kind, as_of_ms, orphan_after_ms)


def _open(facts: Facts, kind: str, as_of_ms: int, orphan_after_ms: int) -> int:
    """Return acme's sessions of a kind that are open at a moment."""
    lines = [
        timeline(session, facts.rooms[key], newest_restart_ms(session, facts.restarts_ms), as_of_ms, orphan_after_ms)
        for key, _, session in facts.sessions()
        if key[0] == "acme" and session.kind == kind
    ]
    return sum(line is not None and line.started_at_ms < as_of_ms < line.ended_at_ms for line in lines)


def _tally(*documents: Document) -> Tally:
    tally = Tally([METERS[METER]], None, MS_PER_DAY)
    for document in documents:
        tally.observe(parsed(document))
    return tally


def test_an_open_session_grows_without_an_event() -> None:
    """R8: a minute counts when it begins."""
    tally = _tally(connected("14:00:00"))
    counts = []
    for moment in ("14:01:00", "14:01:00.001", "15:00:00"):
        _settled(tally, clock(moment))
        counts.append(tally.increments("acme", METER, clock("14:00:00"), clock("15:00:00")))
    assert counts == [1, 2, 60]


def test_time_alone_names_the_projects_that_change() -> None:
    """Nobody has to look at the others."""
    tally = _settled(
        _tally(
            connected("14:00:00"), connected("14:00:00", project="globex"), disconnected("14:00:10", project="globex")
        ),
        clock("14:00:30"),
    )
    tally.changed.clear()
    _settled(tally, clock("14:01:30"))
    assert tally.changed == {"acme"}


def test_rooms_that_are_past_leave_memory_and_their_hours_stay() -> None:
    """Memory holds what is alive; a session that is still open stays whole."""
    tally = _tally(connected("13:00:00"), disconnected("13:10:00"), connected("13:30:00", room="RM_2"))
    _settled(tally, clock("15:00:30"))
    tally.rebase(clock("14:00:00"), {("acme", METER, clock("13:00:00")): 40})
    _settled(tally, clock("15:00:30"))
    assert set(tally.facts.rooms) == {("acme", "RM_2")}
    assert tally.increments("acme", METER, clock("13:00:00"), clock("16:00:00")) == 40 + 60 + 1


def test_a_room_that_may_have_left_memory_is_asked_for_and_its_facts_joined() -> None:
    """R10: an old connect that is repeated does not open a session that has long ended."""
    tally = _tally()
    tally.rebase(clock("14:00:00"), {})
    tally.observe(parsed(connected("13:00:00")))
    assert tally.doubtful == {("acme", "RM_1")}
    tally.join(facts_of([parsed(connected("13:00:00")), parsed(disconnected("13:10:00"))]))
    _settled(tally, clock("15:00:00"))
    assert (tally.doubtful, tally.open_sessions("acme", "agent")) == (set(), 0)
    assert tally.increments("acme", METER, 0, hour_of(clock("15:00:00")) + MS_PER_HOUR) == 0


def test_projects_without_limits_take_no_memory() -> None:
    """They are not even known."""
    tally = Tally([METERS[METER]], frozenset({"globex"}), MS_PER_DAY)
    tally.observe(parsed(connected("14:00:00")))
    assert (tally.facts.rooms, tally.projects()) == ({}, set())
