"""The rule of standing still: nothing done though something waits, for longer than it may take."""

from typing import Final

from pipeline.progress import Look, Progress, Work

_PATIENCE_MS: Final = 60_000


def _judged(*looks: tuple[int, Look]) -> list[bool]:
    """Return whether something stands still at each moment, in ms."""
    progress = Progress(_PATIENCE_MS)
    return [progress.judge(look, now_ms) is not None for now_ms, look in looks]


def _look(done: int, waiting: int, slack_ms: int = 0) -> Look:
    return Look({"partition 0": Work(done, waiting)}, slack_ms)


def test_nothing_done_for_longer_than_patience_while_something_waits_is_standing_still() -> None:
    """And not a moment sooner."""
    assert _judged((0, _look(5, 1)), (_PATIENCE_MS, _look(5, 1)), (_PATIENCE_MS + 1, _look(5, 9))) == [
        False,
        False,
        True,
    ]


def test_the_message_says_what_how_long_and_how_much() -> None:
    """Whoever reads /readyz at night needs no source."""
    progress = Progress(_PATIENCE_MS)
    progress.judge(_look(5, 1), 0)
    assert progress.judge(_look(5, 7), 61_500) == "partition 0: nothing done for 61 s, 7 wait"


def test_idle_work_never_stands_still() -> None:
    """Nothing waits: a night without calls is no fault."""
    assert _judged(*((hour * 3_600_000, _look(5, 0)) for hour in range(9))) == [False] * 9


def test_what_comes_after_a_long_idle_time_has_its_whole_patience() -> None:
    """The clock of standing still starts with the first record that waits."""
    assert _judged((0, _look(5, 0)), (900_000, _look(5, 0)), (910_000, _look(5, 3))) == [False] * 3


def test_slow_work_does_not_stand_still() -> None:
    """One record in each minute is progress, however much waits."""
    assert _judged(*((number * _PATIENCE_MS, _look(number, 10**6)) for number in range(9))) == [False] * 9


def test_what_is_in_hand_may_take_its_slack() -> None:
    """A long batch is no standstill, until it has had the time that it may take."""
    long = _look(5, 1, slack_ms=4 * _PATIENCE_MS)
    assert _judged((0, long), (5 * _PATIENCE_MS, long), (5 * _PATIENCE_MS + 1, long)) == [False, False, True]


def test_one_partition_alone_can_stand_still() -> None:
    """The others move: still its sessions are not metered."""
    progress = Progress(_PATIENCE_MS)
    for number in range(3):
        work = {"partition 0": Work(number, 5), "partition 1": Work(7, 1)}
        said = progress.judge(Look(work), number * _PATIENCE_MS)
    assert said == "partition 1: nothing done for 120 s, 1 wait"


def test_a_partition_that_was_given_up_is_forgotten() -> None:
    """Another worker has it; when it comes back it has its whole patience again."""
    gone = Look({})
    assert _judged((0, _look(5, 1)), (50_000, gone), (100_000, _look(5, 1))) == [False] * 3


def test_after_forgetting_everything_has_its_whole_patience_again() -> None:
    """R22: while the store was away that was said with its own reason; coming back is no standstill."""
    progress = Progress(_PATIENCE_MS)
    progress.judge(_look(5, 1), 0)
    progress.forget()
    assert progress.judge(_look(5, 1), 10 * _PATIENCE_MS) is None
