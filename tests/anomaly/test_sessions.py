"""Single sessions: from which length on one is far longer than others, and which twins are told of."""

import pytest

from pipeline.metering.anomaly.alert import Finding
from pipeline.metering.anomaly.readings import Connected, Lengths
from pipeline.metering.anomaly.rules import LengthRule, TwinRule
from pipeline.metering.anomaly.sessions import fence_ms, long_session, twins
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE
from tests.anomaly.builders import NOON_MS

_LONG = LengthRule(enabled=True, severity="warning", least_minutes=10, cold_minutes=90, sessions=50, fence_percent=320)
_TWINS = TwinRule(enabled=True, severity="critical", overlap_minutes=3)
_MINUTE, _TWO_MINUTES = MS_PER_MINUTE, 2 * MS_PER_MINUTE


@pytest.mark.parametrize(
    ("lengths", "minutes"),
    [
        (Lengths(50, _MINUTE, _TWO_MINUTES), 2 * 2**3 * 1.2),
        (Lengths(50, _TWO_MINUTES, 3 * _MINUTE), 3 * 1.5**3 * 1.1),
        (Lengths(50, _MINUTE, _MINUTE), 10),
        (Lengths(50, 0, 0), 10),
        (Lengths(49, _MINUTE, _TWO_MINUTES), 90),
        (None, 90),
    ],
)
def test_the_fence_is_tukeys_of_logarithms(lengths: Lengths | None, minutes: float) -> None:
    """Upper quartile times 3.2nd power of the quartiles' ratio, of the power's part linearly; ten minutes at least."""
    assert fence_ms(lengths, _LONG) == int(minutes * MS_PER_MINUTE)


def test_a_quartile_of_nothing_counts_as_a_millisecond() -> None:
    """Sessions may begin and end at one moment; nothing is divided by 0."""
    assert fence_ms(Lengths(50, 0, 100), _LONG) == 100**4 * 104 // 5


def _connected(minutes: float, ended_ms: int = NOON_MS, **changes: object) -> Connected:
    began_ms = ended_ms - int(minutes * MS_PER_MINUTE)
    usual = Connected("acme", "webrtc_minutes", "RM_1", "jo", "PA_1", began_ms, ended_ms, is_open=True)
    return usual._replace(**changes)  # type: ignore[arg-type] # some fields


@pytest.mark.parametrize(("over_ms", "increments"), [(0, 0), (1, 1), (MS_PER_MINUTE, 1), (MS_PER_MINUTE + 1, 2)])
def test_a_long_session_costs_the_minutes_begun_beyond_the_fence(over_ms: int, increments: int) -> None:
    """R1; it is far longer than others from the moment at which it reaches the fence."""
    session = _connected(90)._replace(ended_ms=NOON_MS + over_ms)
    found = long_session(session, None, _LONG)
    assert found == Finding(
        "long_session", "acme", "webrtc_minutes", "PA_1", NOON_MS, "warning", (90 * 60_000 + over_ms) // 60, 90_000,
        "minute", increments, found.message if found else "", "roommeter explain PA_1 --project acme",
        (("identity", "jo"), ("room", "RM_1")),
    )  # fmt: skip
    assert "PA_1 has been connected for 9" in found.message
    assert "beyond 90 is far longer" in found.message


def test_a_session_that_is_short_or_over_is_not_told() -> None:
    """Nobody can end it any more."""
    session = _connected(90)
    assert long_session(session._replace(began_ms=session.began_ms + 1), None, _LONG) is None
    assert long_session(session._replace(is_open=False), None, _LONG) is None


def _twins(*sessions: Connected, as_of_ms: int = NOON_MS) -> list[tuple[str, int, dict[str, int | str]]]:
    """Return subject, overlap in thousandths of a minute, and evidence of what is found."""
    return [(one.subject, one.observed, dict(one.evidence)) for one in twins(sessions, as_of_ms, lambda _: _TWINS)]


def test_twins_are_told_with_the_minutes_that_both_were_there() -> None:
    """Since the second came; all of it is billed twice, by the begun minute."""
    first, second = _connected(60), _connected(3.5, session="PA_2")
    [found] = twins([second, first], NOON_MS, lambda project: {"acme": _TWINS}[project])
    assert found == Finding(
        "overlapping_twins", "acme", "webrtc_minutes", "RM_1/jo", second.began_ms, "critical", 3_500, 0, "minute", 4,
        "acme: jo is in RM_1 twice at once, as PA_1 and PA_2, for 3 minutes", "roommeter explain PA_2 --project acme",
        (("first", "PA_1"), ("second", "PA_2")),
    )  # fmt: skip


def test_an_overlap_counts_from_what_a_reconnect_takes_on() -> None:
    """Three minutes are enough, a millisecond less is a reconnect; one that follows another overlaps with nothing."""
    second = _connected(3, session="PA_2")
    assert len(_twins(_connected(60), second)) == 1
    assert _twins(_connected(60), second._replace(began_ms=second.began_ms + 1)) == []
    assert _twins(_connected(60, second.began_ms), second) == []


def test_of_more_than_two_those_that_overlap_longest_are_named() -> None:
    """Also where neither of them came first."""
    first = _connected(4, NOON_MS - 20 * MS_PER_MINUTE, is_open=False)
    second, third = _connected(22, session="PA_2"), _connected(10, session="PA_3")
    assert _twins(third, first, second) == [("RM_1/jo", 10_000, {"first": "PA_2", "second": "PA_3"})]
    first = _connected(50, NOON_MS - 10 * MS_PER_MINUTE, is_open=False)
    second, third = _connected(30, session="PA_2"), _connected(5, session="PA_3")
    assert _twins(third, first, second) == [("RM_1/jo", 20_000, {"first": "PA_1", "second": "PA_2"})]


@pytest.mark.parametrize(("minutes", "is_told"), [(0, True), (60, True), (60.1, False)])
def test_twins_that_have_parted_are_told_for_an_hour(minutes: float, *, is_told: bool) -> None:
    """So that what ended meanwhile is seen, and resolved then."""
    parted, as_of_ms = _connected(10, session="PA_2", is_open=False), NOON_MS + int(minutes * MS_PER_MINUTE)
    assert bool(_twins(_connected(90)._replace(ended_ms=as_of_ms), parted, as_of_ms=as_of_ms)) == is_told


def test_each_room_and_project_has_its_own_twins() -> None:
    """One identity may be in two rooms."""
    pair = (_connected(60), _connected(10, session="PA_2"))
    other = tuple(one._replace(project="globex", room="RM_2") for one in pair)
    assert [subject for subject, _, _ in _twins(*pair, *other)] == ["RM_1/jo", "RM_2/jo"]
    assert _twins(pair[0], pair[1]._replace(room="RM_2")) == []
    assert _twins(pair[0], pair[1]._replace(project="globex")) == []
    assert _twins(pair[0], pair[1]._replace(began_ms=NOON_MS - MS_PER_HOUR, identity="al")) == []
