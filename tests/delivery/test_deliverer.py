"""Delivery at least once: from a real topic to a billing system that fails as real ones do; each id there once."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.codec import encode_rollup
from pipeline.delivery.deliverer import Counts, Deliverer, Rules, deliver_rollups, group_of, posting, read_rollup
from pipeline.delivery.delivery import Target, TargetAway, TargetHalted, Trying
from pipeline.delivery.targets import OpenMeter, Stripe, Webhook
from pipeline.embedded import now_ms
from pipeline.kafka import Begin, GroupReader, OffsetsLost, Record, read_topic
from pipeline.messages import Message
from pipeline.metering.rollup import Rollup
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, hour_of
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics
from pipeline.watch import delivery_probe
from tests.brokers import TestBroker
from tests.faults.billing import KEY, SECRET, Billing, Fault, billing
from tests.lane import declare
from tests.metering.builders import METERS, ROOT

_HOUR_MS: Final = hour_of(now_ms()) - 5 * MS_PER_HOUR
_PATIENCE_S: Final = 180


@pytest.fixture
async def settings(broker: TestBroker, topic_prefix: str) -> Settings:
    """An installation of its own."""
    return await declare(broker.bootstrap, topic_prefix, partitions=3)


@pytest.fixture
async def fake() -> AsyncIterator[Billing]:
    """The billing system; whatever a test does, no request to it was wrong."""
    async with billing() as served:
        yield served
    assert served.wrong == []


def _stripe(fake: Billing, **changes: Any) -> Stripe:
    stripe = Stripe(fake.url, KEY, {"acme": "cus_acme"}, {"webrtc_minutes": "webrtc"}, frozenset(), METERS)
    return replace(stripe, **changes)


def _target(fake: Billing, name: str) -> Target:
    targets: dict[str, Target] = {
        "webhook": Webhook(f"{fake.url}/rollups", bytes.fromhex("31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0")),
        "stripe": _stripe(fake),
        "openmeter": OpenMeter(fake.url),
    }
    return targets[name]


def _rollups(count: int, project: str = "acme") -> list[Rollup]:
    return [
        Rollup(project, "webrtc_minutes", _HOUR_MS, revision, revision, 0, 1, 1, _HOUR_MS, _HOUR_MS)
        for revision in range(1, count + 1)
    ]


async def _emit(settings: Settings, rollups: list[Rollup]) -> set[str]:
    """Publish rollups as the emitter does; return their ids."""
    async with Producer(settings.kafka) as producer:
        for one in rollups:
            key = f"{one.project}/{one.meter}".encode()
            await producer.send_soon(topics(settings).rollups.name, key, encode_rollup(one, METERS))
        await producer.flush()
    return {one.id for one in rollups}


class _Pauses(list[float]):
    """Pauses that take no time, and are noted."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def _deliver(
    settings: Settings,
    target: Target,
    again: str | None = None,
    clock: Callable[[], int] = now_ms,
    pauses: _Pauses | None = None,
    begin: Begin | None = "earliest",
    **rules: Any,
) -> Counts:
    """Deliver once; return what became of the rollups."""
    counts = Counts()
    bounded = Rules(**{"attempts": 5} | rules)
    paused = _Pauses() if pauses is None else pauses
    await deliver_rollups(settings, target, clock, counts, bounded, begin, again, paused)
    return counts


async def _kept(settings: Settings) -> list[Record]:
    return [record async for record in read_topic(settings.kafka, topics(settings).refused.name)]


def _said(record: Record, name: str) -> str:
    return dict(record.headers)[name].decode()


async def test_what_became_of_rollups_and_how_many_wait_are_metrics(settings: Settings, fake: Billing) -> None:
    """An operator sees a delivery that falls behind, by target, before the customer's bill does."""
    counts = Counts()
    look = delivery_probe(settings, counts.metrics, "webhook", group_of(settings, "webhook"))
    await _emit(settings, _rollups(3))
    value = partial(counts.metrics.registry.get_sample_value, labels={"target": "webhook"})
    await look()
    assert value("roommeter_delivery_lag_records") == 3
    await deliver_rollups(settings, _target(fake, "webhook"), now_ms, counts, Rules(attempts=2), "earliest")
    assert [one.waiting for one in (await look()).work.values()] == [0, 0, 0]
    assert value("roommeter_delivery_lag_records") == 0
    outcomes = {"target": "webhook", "outcome": "delivered"}
    assert counts.metrics.registry.get_sample_value("roommeter_deliveries_total", outcomes) == 3


@pytest.mark.parametrize("name", ["webhook", "stripe", "openmeter"])
async def test_every_rollup_is_delivered_and_none_again_by_the_next_run(
    name: str, settings: Settings, fake: Billing
) -> None:
    """Each once, under its id; the group's offsets say where the next run begins."""
    ids = await _emit(settings, _rollups(7))
    assert await _deliver(settings, _target(fake, name)) == Counts(delivered=7)
    assert await _deliver(settings, _target(fake, name)) == Counts()
    assert fake.asked == dict.fromkeys(ids, 1)


async def test_targets_do_not_know_of_each_other(settings: Settings, fake: Billing) -> None:
    """Each has its own group."""
    await _emit(settings, _rollups(2))
    await _deliver(settings, _target(fake, "webhook"))
    assert await _deliver(settings, _target(fake, "openmeter")) == Counts(delivered=2)


async def test_a_first_run_has_to_say_where_it_begins(settings: Settings, fake: Billing) -> None:
    """Or else offsets that the brokers forgot would bill everything again."""
    await _emit(settings, _rollups(2))
    webhook = _target(fake, "webhook")
    with pytest.raises(OffsetsLost, match=r"has no offset in .* say where to begin"):
        await _deliver(settings, webhook, begin=None)
    assert await _deliver(settings, webhook, begin="latest") == Counts()
    await _emit(settings, _rollups(3)[2:])
    assert await _deliver(settings, webhook, begin=None) == Counts(delivered=1)


async def test_what_comes_to_an_idle_partition_later_is_delivered(settings: Settings, fake: Billing) -> None:
    """The first run leaves an offset in each partition, also where nothing was yet."""
    assert await _deliver(settings, _target(fake, "webhook"), begin=None) == Counts()
    await _emit(settings, [one for name in "abcdef" for one in _rollups(1, name)])
    assert await _deliver(settings, _target(fake, "webhook"), begin=None) == Counts(delivered=6)


async def test_the_rollups_of_a_project_and_meter_come_in_order(settings: Settings, fake: Billing) -> None:
    """One request at a time for each, as Stripe asks."""
    await _emit(settings, _rollups(20))
    await _deliver(settings, _stripe(fake))
    assert list(fake.taken) == [one.id for one in _rollups(20)]
    assert fake.most_at_once == 1


async def test_rate_limits_and_outages_are_waited_out(settings: Settings, fake: Billing) -> None:
    """As long as the target says, at least; nothing is refused for them."""
    ids = await _emit(settings, _rollups(3))
    fake.faults += [Fault(429, {"Retry-After": "40"}), Fault(503), Fault(500, is_taken=True)]
    pauses = _Pauses()
    assert await _deliver(settings, _stripe(fake), pauses=pauses) == Counts(delivered=3)
    assert fake.taken.keys() == ids
    assert pauses[0] == 40
    assert 0.9 < pauses[1] < 2.1


async def test_an_outage_without_end_ends_a_bounded_run_and_skips_nothing(settings: Settings, fake: Billing) -> None:
    """The next run begins with the rollup that was not delivered."""
    ids = await _emit(settings, _rollups(3))
    fake.faults += [Fault(503)] * 5
    with pytest.raises(TargetAway, match="HTTP 503, 5 times; nothing was skipped"):
        await _deliver(settings, _target(fake, "webhook"))
    assert await _deliver(settings, _target(fake, "webhook")) == Counts(delivered=3)
    assert fake.taken.keys() == ids


async def test_nobody_there_is_an_outage(settings: Settings) -> None:
    """No connection, no answer: asked again."""
    await _emit(settings, _rollups(1))
    pauses = _Pauses()
    with pytest.raises(TargetAway, match="ClientConnector"):
        await _deliver(settings, OpenMeter("http://127.0.0.1:1"), pauses=pauses)
    assert len(pauses) == 4


async def test_wrong_credentials_stop_and_refuse_nothing(settings: Settings, fake: Billing) -> None:
    """Mended, the next run delivers all."""
    await _emit(settings, _rollups(3))
    with pytest.raises(TargetHalted, match="HTTP 401: mend its key"):
        await _deliver(settings, _stripe(fake, key="rk_wrong"))
    assert await _kept(settings) == []
    assert await _deliver(settings, _stripe(fake)) == Counts(delivered=3)


async def test_a_refused_rollup_is_kept_and_stops_nothing_behind_it(settings: Settings, fake: Billing) -> None:
    """With its bytes, its place, the target and the reason; no bill lacks it in silence."""
    refused, good = _rollups(1, "nobody")[0], _rollups(2)
    await _emit(settings, [refused, *good])
    assert await _deliver(settings, _stripe(fake)) == Counts(delivered=2, refused=1)
    [kept] = await _kept(settings)
    assert (kept.key, kept.value) == (b"nobody/webrtc_minutes", encode_rollup(refused, METERS))
    assert (_said(kept, "target"), _said(kept, "state")) == ("stripe", "refused")
    assert _said(kept, "reason") == "'nobody' is not in [stripe.customers]"


async def test_what_is_no_rollup_is_refused(settings: Settings, fake: Billing) -> None:
    """Whoever wrote it there."""
    async with Producer(settings.kafka) as producer:
        await producer.send(topics(settings).rollups.name, b"acme/x", b"[7]")
    assert await _deliver(settings, _target(fake, "webhook")) == Counts(refused=1)


async def test_refused_rollups_are_delivered_once_the_cause_is_mended(settings: Settings, fake: Billing) -> None:
    """Only this target's; those still refused are kept again; a second run finds nothing."""
    ids = await _emit(settings, [*_rollups(2, "late"), *_rollups(1, "nobody")])
    stripe = _stripe(fake)
    await _deliver(settings, stripe)
    assert await _deliver(settings, _target(fake, "openmeter"), "refused") == Counts()
    mended = _stripe(fake, customers={"late": "cus_acme"})
    assert await _deliver(settings, mended, "refused") == Counts(delivered=2, refused=1)
    assert await _deliver(settings, mended, "refused") == Counts(refused=1)
    assert fake.taken.keys() == ids - {_rollups(1, "nobody")[0].id}


async def test_when_everything_is_refused_delivery_stops(settings: Settings, fake: Billing) -> None:
    """A wrong file of targets must not bury all rollups."""
    await _emit(settings, _rollups(9, "nobody"))
    with pytest.raises(TargetHalted, match="4 refusals in a row"):
        await _deliver(settings, _stripe(fake), refusals_in_a_row=3)
    assert len(await _kept(settings)) == 3


async def test_a_repetition_that_stripe_may_have_forgotten_is_set_aside(settings: Settings, fake: Billing) -> None:
    """Sent by a run that was killed more than a day ago: it could be billed twice, so somebody has to look."""
    ids = await _emit(settings, _rollups(3))
    stripe, name = _stripe(fake), topics(settings).rollups.name
    [partition] = {record.partition async for record in read_topic(settings.kafka, name)}
    async with GroupReader(settings.kafka, name, f"{settings.topic_prefix}deliver-stripe", "earliest") as reader:
        await reader.commit(partition, 0, Trying(2, now_ms() - MS_PER_DAY).note())
    assert await _deliver(settings, stripe) == Counts(delivered=1, doubtful=2)
    assert await _deliver(settings, stripe, "refused") == Counts()
    assert await _deliver(settings, stripe, "doubtful") == Counts(delivered=2)
    assert fake.taken.keys() == ids


async def test_a_deliverer_that_slept_sends_nothing_that_another_has_answered_for(
    settings: Settings, fake: Billing
) -> None:
    """However long ago that was; and it does not put the group back."""
    await _emit(settings, _rollups(3))
    name, group = topics(settings).rollups.name, f"{settings.topic_prefix}deliver-stripe"
    counts = Counts()
    async with GroupReader(settings.kafka, name, group, "earliest") as reader, posting(now_ms) as post:
        assert await _deliver(settings, _stripe(fake)) == Counts(delivered=3)
        sleeper = Deliverer(_stripe(fake), reader, post, _unused, name, now_ms, Rules(), counts, read_rollup)
        await sleeper.run(await reader.end_offsets(), lambda _record: True)
        [partition] = {record.partition async for record in read_topic(settings.kafka, name)}
        await reader.commit(partition, 0)
    assert counts == Counts()
    assert await _deliver(settings, _stripe(fake), begin=None) == Counts()
    assert set(fake.asked.values()) == {1}


async def _unused(_message: Message) -> None:
    raise AssertionError("nothing of this may be refused")


async def test_an_orderly_end_leaves_no_doubt(settings: Settings, fake: Billing) -> None:
    """What was answered, or never sent, is not set aside however late the next run comes."""
    await _emit(settings, _rollups(3))
    stripe = _stripe(fake)
    with pytest.raises(TargetHalted):
        await _deliver(settings, _stripe(fake, key="rk_wrong"))
    assert await _deliver(settings, stripe, clock=lambda: now_ms() + 2 * MS_PER_DAY) == Counts(delivered=3)


@pytest.mark.parametrize("name", ["webhook", "stripe"])
async def test_killed_between_delivery_and_commit_each_id_is_there_once(
    name: str, settings: Settings, fake: Billing, tmp_path: Path
) -> None:
    """SIGKILL as the target has the fourth rollup and nobody knows: the next run sends it again, under its id."""
    ids = await _emit(settings, _rollups(6))
    (tmp_path / "delivery.toml").write_text(
        f'[webhook]\nurl = "{fake.url}/rollups"\nsecret_env = "HOOK"\n'
        f'[stripe]\nurl = "{fake.url}"\nkey_env = "STRIPE"\n'
        'customers = {acme = "cus_acme"}\nevents = {webrtc_minutes = "webrtc"}\n'
    )
    environ = {"ROOMMETER_KAFKA": settings.kafka, "ROOMMETER_TOPIC_PREFIX": settings.topic_prefix}
    command = [sys.executable, "-m", "pipeline", "deliver", "--to", name, "--once", "--begin", "earliest"]
    process = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time
        [*command, "--targets", str(tmp_path / "delivery.toml")],
        cwd=ROOT,
        env=os.environ | environ | {"HOOK": SECRET, "STRIPE": KEY},
    )
    fake.faults += [None, None, None, Fault(is_taken=True, kills=process.pid)]
    await _until_killed(process)
    assert list(fake.taken) == [one.id for one in _rollups(4)]
    assert await _deliver(settings, _target(fake, name)) == Counts(delivered=6)
    assert set(fake.taken) == ids
    assert fake.asked[_rollups(4)[-1].id] == 2


async def _until_killed(process: subprocess.Popen[bytes]) -> None:
    assert await asyncio.to_thread(process.wait, _PATIENCE_S) == -signal.SIGKILL
