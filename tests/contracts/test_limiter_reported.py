"""Limits of bytes, usage events and numbers (R13 to R15): told once, whatever is said again and whoever starts anew."""

from typing import Final

import pytest

from pipeline.metering.quantities import Held, Quantities, Recorded, Transferred
from pipeline.metering.units import MS_PER_HOUR, hour_of
from pipeline.rows import Batch
from tests.contracts.emitter_stage import Killed, Steps
from tests.contracts.limit_stage import LimitStage
from tests.metering.builders import Document, connected, event, sampled

#: Of each measure a limit of ten units a month, and what reaches eight of them.
_LIMIT: Final = '[[limit]]\nproject = "acme"\nmeter = "{meter}"\nper = "month"\nsoft = "{soft}"\n'


def _eight_of_ten(meter: str, now_ms: int) -> list[Document]:
    if meter == "data_transfer_gb":
        told = [1, 40_000_000, 79_999_999]
        return [connected(now_ms - 9), *(sampled(now_ms - 8 + i, bytes_in=count) for i, count in enumerate(told))]
    if meter == "number_rental":
        return [event("number.acquired", now_ms - 9, project="acme", number=f"+{i}") for i in range(8)]
    data = {"project": "acme", "meter": meter}
    quantities = [1_000, 2_500, 4_000] if meter == "stt_seconds" else [1, 3, 4]
    return [
        event("usage.recorded", now_ms - 9, quantity=quantity, **data) | {"id": str(i)}
        for i, quantity in enumerate(quantities)
    ]


_each_meter = pytest.mark.parametrize(
    ("meter", "soft"),
    [("data_transfer_gb", "0.1"), ("stt_seconds", "10"), ("llm_input_tokens", "10"), ("number_rental", "10")],
)


@_each_meter
async def test_a_crossing_is_told_once_whatever_is_said_again_and_whoever_starts(
    limit_stage: LimitStage, meter: str, soft: str
) -> None:
    """Said twice, then read by another limiter from the beginning, then said once more to both."""
    limit_stage.limits = _LIMIT.format(meter=meter, soft=soft)
    documents = _eight_of_ten(meter, limit_stage.now_ms)
    first = limit_stage.limiter()
    await first.run_once()
    await limit_stage.send(*documents, *documents)
    await first.run_once()
    second = limit_stage.limiter()
    await second.run_once()
    await limit_stage.send(*reversed(documents))
    for limiter in (first, second):
        await limiter.run_once()
        assert [standing.percent for standing in limiter.standings("acme")] == [80]
    assert await limit_stage.told() == ["reached 50", "reached 80"]
    await limit_stage.check()


@_each_meter
@pytest.mark.parametrize("step", [7, 9, 11])
async def test_a_killed_limiters_crossings_are_told_once_though_all_is_said_again(
    limit_stage: LimitStage, meter: str, soft: str, step: int
) -> None:
    """Killed while it decides and tells (tests/contracts/test_limiter_stopped.py: at every step, of minutes)."""
    limit_stage.limits = _LIMIT.format(meter=meter, soft=soft)
    documents = _eight_of_ten(meter, limit_stage.now_ms)
    await limit_stage.send(*documents)
    with pytest.raises(Killed):
        await limit_stage.limiter(Steps(step, Killed())).run_once()
    await limit_stage.send(*documents)
    limiter = limit_stage.limiter()
    await limiter.run_once()
    limit_stage.wait_out()
    await limiter.run_once()
    assert sorted(await limit_stage.told()) == ["reached 50", "reached 80"]
    await limit_stage.check()


async def test_what_is_stored_is_known_to_whoever_starts(limit_stage: LimitStage) -> None:
    """Hours before as sums; of this hour's usage events, bytes and numbers what they are, so that repetitions are."""
    parts = {"tts_characters": "10", "data_transfer_gb": "0.1", "number_rental": "10"}
    limit_stage.limits = "".join(_LIMIT.format(meter=meter, soft=soft) for meter, soft in parts.items())
    now_ms, hour_ms = limit_stage.now_ms, hour_of(limit_stage.now_ms)
    old_ms = hour_ms - 5 * MS_PER_HOUR
    limit_stage.stored("PA_1", old_ms, last_seen_ms=now_ms - 10)
    discrete = {("acme", "sfu-1", str(i), "tts_characters", at): Recorded(3) for i, at in enumerate((old_ms, hour_ms))}
    counters = {
        ("acme", "RM_PA_1", "PA_1", at): Transferred(count)
        for at, count in ((old_ms, 20_000_000), (hour_ms, 30_000_000))
    }
    numbers = {("acme", "+1"): Held(frozenset({old_ms}))}
    limit_stage.store.write(Batch(quantities=Quantities(counters, discrete, numbers)))
    limiter = limit_stage.limiter()
    await limiter.run_once()
    await limit_stage.use("1", "tts_characters", 4)
    await limit_stage.send(
        sampled(now_ms, "PA_1", room="RM_PA_1", bytes_in=50_000_000),
        event("number.acquired", old_ms, project="acme", number="+1"),
    )
    await limiter.run_once()
    assert [standing.percent for standing in limiter.standings("acme")] == [70, 50, 10]


async def test_absurd_usage_is_shown_as_the_most_there_is(limit_stage: LimitStage) -> None:
    """Two events of 2^63 - 1 are more than 64 bits hold; nobody else's limits stop for that."""
    limit_stage.limits = _LIMIT.format(meter="tts_characters", soft="10")
    for name in ("a", "b"):
        await limit_stage.use(name, "tts_characters", 2**63 - 1)
    limiter = limit_stage.limiter()
    await limiter.run_once()
    assert [standing.quantity for standing in limiter.standings("acme")] == [2**63 - 1]
