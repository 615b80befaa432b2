"""How the pipeline does, from the metrics of its processes and from what the store has. Pure, but for reading URLs."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

import aiohttp
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pipeline.console import words
from pipeline.console.questions import Progress
from pipeline.metering.units import MS_PER_MINUTE, MS_PER_SECOND

#: Older than this, the watermark of a pipeline that works stands still.
_MOST_WATERMARK_AGE_MS: Final = 10 * MS_PER_MINUTE
_MOST_OVERDUE_S: Final = 60
_READ_TIMEOUT_S: Final = 3
_MOST_BYTES: Final = 4_194_304


class Sign(NamedTuple):
    """One thing that is looked at: what it shows, whether that is good (None: open), and a time in ms or None."""

    name: str
    text: str
    is_good: bool | None
    meaning: str
    time_ms: int | None = None


class Unreadable(Exception):
    """A page of metrics cannot be read; the message says which and why."""


async def read_metrics(urls: Sequence[str]) -> list[Metric]:
    """Return the metrics of processes by the addresses of their pages. Raises Unreadable."""
    timeout = aiohttp.ClientTimeout(total=_READ_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        texts = await asyncio.gather(*(_read(session, url) for url in urls))
    try:
        return [family for text in texts for family in text_string_to_metric_families(text)]
    except ValueError as error:
        raise Unreadable(f"{', '.join(urls)}: not metrics: {error}") from error


async def _read(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await response.content.read(_MOST_BYTES)
            if response.status != 200:  # noqa: PLR2004 - HTTP's own number
                raise Unreadable(f"{url}: answered {response.status}")
            return body.decode("utf-8", "replace")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unreadable(f"{url}: cannot be read: {error or type(error).__name__}") from error


def signs(metrics: Iterable[Metric], progress: Progress, now_ms: int) -> list[Sign]:
    """Return what there is to see of the pipeline, in the order of its parts."""
    values = _Values(metrics)
    return [
        *_readiness(values),
        _watermark(values, progress, now_ms),
        *_lag(values),
        *_emission(values),
        *_drift(values),
        Sign(
            "Hours held back",
            words.number(progress.held),
            progress.held == 0,
            "hours of projects whose emission waits because the audit found a difference in them",
        ),
        Sign(
            "Dead letters, 24 h",
            words.number(progress.dead_letters),
            None if progress.dead_letters else True,
            "inputs that could not be events, kept whole: roommeter dead-letters list",
        ),
        Sign(
            "Newest record",
            words.duration(now_ms - progress.broker_time_ms) + " ago" if progress.broker_time_ms else "none yet",
            None,
            "how long ago the newest record that is stored was written to the broker",
            progress.broker_time_ms or None,
        ),
    ]


def verdict(found: Sequence[Sign]) -> Literal["good", "bad", "unknown"]:
    """Return whether something looks wrong, nothing does, or nobody was asked: without metrics much is not seen."""
    if any(sign.is_good is False for sign in found):
        return "bad"
    return "good" if any(sign.name == "Ready" for sign in found) else "unknown"


class _Values:
    """Samples by name, the labels' values behind it; where several processes have one, the largest."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._found: dict[tuple[str, ...], float] = {}
        for family in metrics:
            for sample in family.samples:
                key = (sample.name, *sample.labels.values())
                self._found[key] = max(sample.value, self._found.get(key, sample.value))

    def one(self, name: str) -> float | None:
        """Return a sample without labels, None where no process has it."""
        return self._found.get((f"roommeter_{name}",))

    def by_label(self, name: str) -> Iterator[tuple[str, float]]:
        """Yield the samples of a metric with one label."""
        for (found, *labels), value in self._found.items():
            if found == f"roommeter_{name}" and labels:
                yield labels[0], value


def _readiness(values: _Values) -> Iterator[Sign]:
    conditions = dict(values.by_label("ready"))
    if conditions:
        unmet = sorted(name for name, value in conditions.items() if not value)
        text = f"waiting for {', '.join(unmet)}" if unmet else "all parts"
        yield Sign("Ready", text, not unmet, "what each part needs in order to go on: /readyz says why it waits")


def _watermark(values: _Values, progress: Progress, now_ms: int) -> Sign:
    """By the emitter's metric where one is read; the store knows only what emitted rollups say of it."""
    told_s = values.one("watermark_seconds")
    at_ms = progress.watermark_ms if told_s is None else int(told_s * MS_PER_SECOND)
    meaning = "the broker time up to which every partition has been processed"
    if not at_ms:
        return Sign("Watermark", "not yet", None, meaning)
    age_ms = max(0, now_ms - at_ms)
    good = None if told_s is None else age_ms <= _MOST_WATERMARK_AGE_MS
    return Sign("Watermark", f"{words.duration(age_ms - age_ms % MS_PER_SECOND)} behind", good, meaning, at_ms)


def _lag(values: _Values) -> Iterator[Sign]:
    """Of all partitions together: what stands still shows in the watermark and in readiness."""
    lags = [value for _, value in values.by_label("consumer_lag_records")]
    if lags:
        text = f"{words.number(int(sum(lags)))} records"
        yield Sign("Lag", text, None if sum(lags) else True, "records of the lifecycle topic that wait to be processed")


def _emission(values: _Values) -> Iterator[Sign]:
    lag_s = values.one("emission_lag_seconds")
    if lag_s is not None:
        text = "none overdue" if lag_s <= 0 else f"{words.duration(int(lag_s) * MS_PER_SECOND)} overdue"
        meaning = "how long the oldest complete hour has been waiting for its first emission"
        yield Sign("Emission", text, lag_s <= _MOST_OVERDUE_S, meaning)


def _drift(values: _Values) -> Iterator[Sign]:
    """Of each law by itself: one that does not hold is named."""
    laws = dict(values.by_label("conservation_diff"))
    audited_s = values.one("audit_last_success_seconds")
    if not laws or audited_s is None:
        return
    meaning = "what the last audit found to differ between log, facts and rollups; it has to be 0"
    if not audited_s:
        yield Sign("Audit drift", "no audit yet", None, meaning)
        return
    broken = {law: int(value) for law, value in laws.items() if value}
    text = ", ".join(f"{law} {words.number(value)}" for law, value in sorted(broken.items())) or "0"
    yield Sign("Audit drift", text, not broken, meaning, int(audited_s * MS_PER_SECOND))
