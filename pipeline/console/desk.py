"""What all pages share: the store, the meters, the files of limits and plans, and the health of the pipeline."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import Metric

from pipeline.console.asking import Asking
from pipeline.console.questions import Moment
from pipeline.limits.page import Answer
from pipeline.metering.limits import Limits
from pipeline.metering.meters import Meters
from pipeline.settings import Settings

#: How old answers may be that cost little, much, and most; in seconds.
SOON: Final = 3.0
LATER: Final = 25.0
RARELY: Final = 60.0


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts; `clock` returns ms since the epoch, `standings` how limits stand where somebody watches them."""

    asking: Asking
    settings: Settings
    meters: Meters
    limits: Limits | None
    read_health: Callable[[], Awaitable[Sequence[Metric]]]
    standings: Callable[[str], Answer | None]
    clock: Callable[[], int]

    def now(self) -> Moment:
        """Return the moment that a page is as of."""
        return Moment(self.clock(), self.settings.orphan_after_ms)
