"""The alerter: looks at what is stored, minute by minute, and tells every change of every alert once.

What it looks at are stored facts as of moments on a grid, each once everything up to it has been processed; so whoever
looks, and whenever, finds the same. What was found becomes revisions of alerts by what was said before, and several
alerters tell each of them once (decisions.py). The log of decisions also says how far was looked: after a standstill,
what was missed is looked at moment by moment.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from pipeline.alerts import codec
from pipeline.alerts.codec import Decision
from pipeline.alerts.store import AlertStore
from pipeline.decisions import DecisionLog, Form
from pipeline.kafka import end_offsets
from pipeline.metering.anomaly.alert import SEVERITIES, Alert, Looked, Mute, Story, changes, follows
from pipeline.metering.anomaly.cost import cost
from pipeline.metering.anomaly.detect import STEP_MS, Detectors, due
from pipeline.metering.anomaly.readings import Readings
from pipeline.metering.anomaly.rules import Rules
from pipeline.metering.meters import Meters
from pipeline.metering.plans import Plans
from pipeline.metering.rollup import watermark_ms
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE, MS_PER_SECOND, format_time
from pipeline.metrics import Metrics
from pipeline.producer import Producer
from pipeline.settings import Settings
from pipeline.topics import topics

_log: Final = logging.getLogger(__name__)

#: How long events may be on their way before a moment is looked at.
SETTLE_MS: Final = 10 * MS_PER_SECOND
#: After a longer standstill, what was before is not looked at any more.
CATCH_UP_MS: Final = MS_PER_DAY
#: How far was looked is written at least so often.
_MARK_MS: Final = 10 * MS_PER_MINUTE
#: Stories that were resolved so long ago are forgotten; no onset that old can be found again.
_FORGET_MS: Final = 40 * MS_PER_DAY
#: Moments looked at in one run, so that what was found is told in between.
_STEPS: Final = 30


def _alert(decision: Decision) -> Alert:
    assert isinstance(decision, Alert), "nothing else is published"
    return decision


_FORM: Final = Form[Decision](
    encode_decision=codec.encode_decision,
    decode_decision=codec.decode_decision,
    encode=lambda decision: codec.encode_alert(_alert(decision)),
    key=lambda decision: _alert(decision).key,
    key_of=codec.alert_key,
    story=lambda decision: _alert(decision).finding.story,
    project=lambda decision: _alert(decision).finding.project,
)


class Alerter:
    """Looks and tells; `clock` returns ms since the epoch, on a clock near the broker's."""

    def __init__(
        self,
        settings: Settings,
        meters: Meters,
        rules: Rules,
        plans: Plans,
        read: Callable[[int], Readings],
        store: AlertStore,
        producer: Producer,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        """Keep the parts; nothing is read before the first run. `read` returns readings as of a moment, blocking."""
        self._settings = settings
        self._meters = meters
        self._plans = plans
        self._detectors = Detectors(rules)
        self._read = read
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._lifecycle = topics(settings).lifecycle.name
        names = topics(settings).alert_decisions.name, topics(settings).alerts.name
        self._decisions = DecisionLog(settings.kafka, *names, producer, clock, _FORM, self._accept)
        self._said: dict[Story, Alert] = {}
        #: Decided and not known to be stored.
        self._unstored: list[Alert] = []
        self._mutes: dict[tuple[str, str, str], Mute] = {}
        self._unstored_mutes: list[Mute] = []
        self._is_first = True
        self._is_stopping = False
        self._marked_ms = 0
        #: The moment up to which everything was looked at, in ms; 0 before the first.
        self.as_of_ms = 0
        started_ms = clock()
        metrics.alert_lag_seconds.set_function(lambda: (clock() - (self.as_of_ms or started_ms)) / MS_PER_SECOND)

    async def run_once(self) -> list[Alert]:
        """Look as of every moment that is due, and tell what has changed; return what was published.

        Raises KafkaAway, StoreUnavailable. It may be called again after any error: nothing is lost, or told twice.
        """
        await self._decisions.read()
        published = await self._tell()
        if self._is_first:
            earliest_ms = min((alert.finding.since_ms for alert in self._unstored), default=0)
            stored = await asyncio.to_thread(self._store.told, earliest_ms)
            self._unstored = [alert for alert in self._unstored if alert.key not in stored]
            self._is_first = False
        await self._keep()
        for as_of_ms in await self._moments():
            if not self._is_stopping:
                published += await self._look(as_of_ms)
        return published

    async def close(self) -> None:
        """Leave the brokers."""
        await self._decisions.close()

    def stop(self) -> None:
        """Let a run come to its end after the moment in hand."""
        self._is_stopping = True

    async def _moments(self) -> range:
        """Return the moments to look at, the earliest first."""
        now_ms = self._clock()  # before the ends are asked for: see watermark_ms
        ends = await end_offsets(self._settings.kafka, self._lifecycle)
        progress = await asyncio.to_thread(self._store.progress, self._lifecycle)
        reached_ms = watermark_ms(ends, progress, now_ms) - SETTLE_MS
        last_ms = reached_ms - reached_ms % STEP_MS
        if self.as_of_ms == 0:
            return range(last_ms, last_ms + 1, STEP_MS)
        first_ms = self.as_of_ms + STEP_MS
        if last_ms - first_ms > CATCH_UP_MS:
            _log.warning("not looked at: what was between %s and a day ago", format_time(first_ms))
            first_ms = last_ms - CATCH_UP_MS
        return range(first_ms, min(last_ms + 1, first_ms + _STEPS * STEP_MS), STEP_MS)

    async def _look(self, as_of_ms: int) -> list[Alert]:
        """Look as of one moment, and tell what has changed since the one before."""
        readings = await asyncio.to_thread(self._read, as_of_ms)
        found = await asyncio.to_thread(self._detectors.find, readings)
        proposals: list[Decision] = []
        for alert in changes(found, self._said, due(as_of_ms), as_of_ms):
            amount, currency = cost(alert.finding, self._meters, self._plans)
            is_muted = any(mute.covers(alert.finding, as_of_ms) for mute in self._mutes.values())
            proposals.append(alert._replace(cost=amount, currency=currency, muted=is_muted))
        if proposals or as_of_ms - self._marked_ms >= _MARK_MS:
            await self._decisions.propose([*proposals, Looked(as_of_ms)])
            await self._decisions.read()
        self.as_of_ms = max(self.as_of_ms, as_of_ms)
        published = await self._tell()
        await self._keep()
        return published

    def _accept(self, decision: Decision, _is_mine: bool, _time_ms: int) -> bool:  # noqa: FBT001 - decisions.Accept
        """Take a proposal of the log; tell whether it is the next revision of its story."""
        if isinstance(decision, Looked):
            self.as_of_ms = max(self.as_of_ms, decision.as_of_ms)
            self._marked_ms = max(self._marked_ms, decision.as_of_ms)
            self._forget(decision.as_of_ms)
            return False
        if isinstance(decision, Mute):
            self._mutes[decision[:3]] = decision
            self._unstored_mutes.append(decision)
            return False
        if not follows(decision, self._said.get(decision.finding.story)):
            return False
        self._said[decision.finding.story] = decision
        self._unstored.append(decision)
        return True

    async def _tell(self) -> list[Alert]:
        """Publish what is decided, and show how many alerts are open."""
        published = [_alert(decision) for decision in await self._decisions.publish()]
        for alert in published:
            change = "resolved" if alert.status == "resolved" else "raised" if alert.revision == 1 else "updated"
            self._metrics.alert_revisions.labels(alert.finding.detector, change).inc()
        if published or self._is_first:
            open_now = [alert.finding.severity for alert in self._said.values() if alert.status == "open"]
            for severity in SEVERITIES:
                self._metrics.alerts_open.labels(severity).set(open_now.count(severity))
        return published

    async def _keep(self) -> None:
        """Store what was decided, by whomever: stored twice it is the same."""
        if self._unstored:
            await asyncio.to_thread(self._store.insert, self._unstored)
            self._unstored = []
        if self._unstored_mutes:
            await asyncio.to_thread(self._store.insert_mutes, self._unstored_mutes)
            self._unstored_mutes = []

    def _forget(self, as_of_ms: int) -> None:
        for story, alert in [*self._said.items()]:
            if alert.status == "resolved" and alert.as_of_ms < as_of_ms - _FORGET_MS:
                del self._said[story]
