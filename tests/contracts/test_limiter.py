"""What the limiter tells, from events on a real broker: each crossing once, and what leaves a limit again."""

import pytest

from pipeline.clickhouse import StoreUnavailable
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, hour_of
from tests.contracts.limit_stage import CONCURRENT, LIMITS, LimitStage
from tests.metering.builders import amended, connected, disconnected

_ALL = ["reached 50", "reached 80", "reached 100", "exceeded hard"]


async def test_a_crossing_is_published_and_the_standing_answers_from_memory(limit_stage: LimitStage) -> None:
    """Five of ten minutes."""
    await limit_stage.call("PA_1", 5)
    limiter = limit_stage.limiter()
    [crossing] = await limiter.run_once()
    assert (crossing.event, crossing.threshold, crossing.quantity) == ("reached", "50", 5 * MS_PER_MINUTE)
    [standing] = limiter.standings("acme")
    assert (standing.percent, standing.state) == (50, "under")
    await limit_stage.check()


async def test_each_threshold_is_told_once_by_whoever_runs_and_restarts(limit_stage: LimitStage) -> None:
    """What was said is read back; the quantity goes on growing."""
    limiter = limit_stage.limiter()
    for number in range(5):
        await limit_stage.call(f"PA_{number}", 3)
        await limiter.run_once()
        await limit_stage.limiter().run_once()
    assert await limit_stage.told() == _ALL
    await limit_stage.check()


async def test_an_open_session_crosses_by_the_clock_alone(limit_stage: LimitStage) -> None:
    """R8: nothing is sent any more, and minutes begin."""
    await limit_stage.send(connected(limit_stage.now_ms))
    limiter = limit_stage.limiter()
    told = []
    for minutes in (1, 3, 0):
        limit_stage.now_ms += minutes * MS_PER_MINUTE + 1
        told.append([crossing.threshold for crossing in await limiter.run_once()])
    assert told == [[], ["50"], []]


async def test_a_new_hour_leaves_what_the_old_one_reached(limit_stage: LimitStage) -> None:
    """And is told from the beginning."""
    await limit_stage.call("PA_1", 9)
    limiter = limit_stage.limiter()
    await limiter.run_once()
    limit_stage.now_ms += MS_PER_HOUR
    await limiter.run_once()
    await limit_stage.call("PA_2", 5)
    await limiter.run_once()
    assert await limit_stage.told() == ["reached 50", "reached 80", "back_under 50", "back_under 80", "reached 50"]
    await limit_stage.check()


async def test_an_hour_that_ended_while_nobody_ran_is_left_by_the_next(limit_stage: LimitStage) -> None:
    """Whoever starts reads back what was reached."""
    await limit_stage.call("PA_1", 5)
    await limit_stage.limiter().run_once()
    limit_stage.now_ms += MS_PER_HOUR
    await limit_stage.limiter().run_once()
    assert await limit_stage.told() == ["reached 50", "back_under 50"]


async def test_a_correction_that_shrinks_the_quantity_is_told_each_time(limit_stage: LimitStage) -> None:
    """R12: a session is voided, and the next one reaches the threshold again."""
    await limit_stage.call("PA_1", 5)
    limiter = limit_stage.limiter()
    await limiter.run_once()
    await limit_stage.send(amended(limit_stage.now_ms, room="RM_PA_1", void=True))
    await limiter.run_once()
    await limit_stage.call("PA_2", 6)
    await limiter.run_once()
    assert await limit_stage.told() == ["reached 50", "back_under 50", "reached 50"]
    await limit_stage.check()


async def test_sessions_at_one_moment_are_limited_by_kind_for_every_project(limit_stage: LimitStage) -> None:
    """Those open now: two are all that is allowed, a third exceeds, and its end is back under."""
    limit_stage.limits = CONCURRENT
    limiter = limit_stage.limiter()
    for name in ("PA_1", "PA_2", "PA_3"):
        await limit_stage.send(connected(limit_stage.now_ms - 1, session=name, project="globex"))
    await limit_stage.send(connected(limit_stage.now_ms - 1, session="PA_4", kind="sip", project="globex"))
    await limiter.run_once()
    await limit_stage.send(disconnected(limit_stage.now_ms, session="PA_3", project="globex"))
    await limiter.run_once()
    assert sorted(await limit_stage.told()) == sorted([*_ALL, "back_under hard"])
    assert [standing.quantity for standing in limiter.standings("globex")] == [2]


async def test_past_hours_come_from_the_store_and_their_corrections_too(limit_stage: LimitStage) -> None:
    """A day's limit: what the store has from hours before, and the events since."""
    limit_stage.limits = LIMITS.replace('"hour"', '"month"')
    began_ms = hour_of(limit_stage.now_ms) - 4 * MS_PER_HOUR
    limit_stage.stored("PA_old", began_ms, began_ms + 4 * MS_PER_MINUTE)
    limiter = limit_stage.limiter()
    await limiter.run_once()
    await limit_stage.call("PA_1", 1)
    [crossing] = await limiter.run_once()
    assert crossing.quantity == 5 * MS_PER_MINUTE


async def test_the_whole_topic_read_or_sent_again_tells_nothing_new(limit_stage: LimitStage) -> None:
    """R10: repeated events change no quantity; those of rooms that left memory neither."""
    limit_stage.limits = LIMITS + CONCURRENT
    began_ms = hour_of(limit_stage.now_ms) - 4 * MS_PER_HOUR
    limit_stage.stored("PA_old", began_ms, began_ms + 4 * MS_PER_MINUTE)
    limiter = limit_stage.limiter()
    await limit_stage.call("PA_1", 5)
    await limiter.run_once()
    await limit_stage.call("PA_1", 5)
    await limit_stage.send(connected(began_ms, session="PA_old", room="RM_PA_old"))
    for one in (limiter, limit_stage.limiter()):
        await one.run_once()
        assert [standing.quantity for standing in one.standings("acme")] == [0, 5 * MS_PER_MINUTE]
    assert await limit_stage.told() == ["reached 50"]


async def test_without_the_store_limits_are_evaluated_all_the_same(limit_stage: LimitStage) -> None:
    """R22: it says that it cannot ask of a room it does not know, goes on, and asks again."""
    limiter = limit_stage.limiter()
    await limiter.run_once()
    limit_stage.is_away = True
    await limit_stage.send(disconnected(limit_stage.now_ms, session="PA_old", room="RM_old"))
    await limit_stage.call("PA_1", 5)
    with pytest.raises(StoreUnavailable):
        await limiter.run_once()
    assert await limit_stage.told() == ["reached 50"]
