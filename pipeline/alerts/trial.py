"""Looking at the past without telling anybody: what would have been said, moment by moment."""

from collections.abc import Callable, Iterator

from pipeline.alerts.loop import Watch
from pipeline.metering.anomaly.alert import Alert, Story, changes
from pipeline.metering.anomaly.cost import cost
from pipeline.metering.anomaly.detect import STEP_MS, Detectors, due
from pipeline.metering.anomaly.readings import Readings


def moments(from_ms: int, to_ms: int) -> range:
    """Return the moments of the grid in [from_ms, to_ms]; of a single moment, the last one not after it."""
    last_ms = to_ms - to_ms % STEP_MS
    return range(min(last_ms, from_ms + -from_ms % STEP_MS), last_ms + 1, STEP_MS)


def trial(read: Callable[[int], Readings], watch: Watch, looked_at: range) -> Iterator[tuple[int, Alert | None]]:
    """Yield every revision with the number of the moment it was found as of; None where a moment changes nothing."""
    detectors = Detectors(watch.rules)
    said: dict[Story, Alert] = {}
    for number, as_of_ms in enumerate(looked_at, 1):
        yield number, None
        for alert in changes(detectors.find(read(as_of_ms)), {**said}, due(as_of_ms), as_of_ms):
            amount, currency = cost(alert.finding, watch.meters, watch.plans)
            said[alert.finding.story] = alert._replace(cost=amount, currency=currency)
            yield number, said[alert.finding.story]
