"""Alerts: what was found, as a story that is raised once, updated, and resolved.

A story is a detector, a project, a meter and a subject. While one is open it is the same alert, whatever its onset
turns out to be later; its id comes from the story and from the onset as it was when it was raised. So whoever works it
out again, after a restart or beside another, tells the same alert; and nothing is raised for an onset at or before that
of the story's last alert, so a replay raises none twice. What was said last is all the memory there is.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Final, Literal, NamedTuple, get_args
from uuid import UUID, uuid5

from pipeline.metering.units import NOT_SEEN_MS

Detector = Literal[
    "connection_storm", "usage_rise", "usage_fall", "project_silent", "server_silent", "flapping", "long_session",
    "overlapping_twins", "rounding_loss", "clock_skew", "duplicates", "dead_letters", "reconciliation",
    "ends_without_starts", "frequent_amendments", "limit_hovering",
]  # fmt: skip
Severity = Literal["info", "warning", "critical"]
Status = Literal["open", "resolved"]

DETECTORS: Final[tuple[Detector, ...]] = get_args(Detector)
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
#: Quantities of findings are in thousandths of their unit.
THOUSAND: Final = 1_000
#: The name space of alerts' ids: fixed for ever, or the same alert would get a second id.
_NAMESPACE: Final = UUID("6e0f5b0a-6f5c-4a1c-9d53-4f1a2c8f8f11")

Story = tuple[Detector, str, str, str]
"""Detector, project, meter and subject; '' for what it is not about."""
Evidence = tuple[tuple[str, int | str], ...]
"""Names and values, sorted by name."""


class Finding(NamedTuple):
    """What a detector found: `observed` against `expected`, in thousandths of `unit`, since a moment in ms.

    `is_new` tells that it is enough to raise an alert; else it only keeps one open that is raised already.
    `increments` are those of the meter beyond the baseline since the onset.
    """

    detector: Detector
    project: str
    meter: str
    subject: str
    since_ms: int
    severity: Severity
    observed: int
    expected: int
    unit: str
    increments: int
    message: str
    look_at: str
    evidence: Evidence = ()
    is_new: bool = True

    @property
    def story(self) -> Story:
        """What it is about."""
        return (self.detector, self.project, self.meter, self.subject)


class Alert(NamedTuple):
    """One revision of an alert: the finding as it was told, as of a moment (ms), and its price, where there is one."""

    finding: Finding
    revision: int
    status: Status
    as_of_ms: int
    cost: str = "0"
    currency: str = ""
    muted: bool = False

    @property
    def id(self) -> str:
        """The id, from the story and the onset alone: the same in every revision."""
        return str(uuid5(_NAMESPACE, "\0".join((*self.finding.story, str(self.finding.since_ms)))))

    @property
    def key(self) -> str:
        """What names this revision."""
        return f"{self.id}.{self.revision}"

    @property
    def resolved_at_ms(self) -> int:
        """When it was over; NOT_SEEN_MS while it is open."""
        return self.as_of_ms if self.status == "resolved" else NOT_SEEN_MS


class Looked(NamedTuple):
    """That everything has been looked at as of a moment (ms), and all is said: whoever starts goes on from there."""

    as_of_ms: int


class Mute(NamedTuple):
    """That alerts are not sent to anybody until a moment (ms), decided by whom, when and why; '' is any."""

    project: str
    detector: str
    subject: str
    until_ms: int
    decided_at_ms: int
    actor: str
    reason: str

    def covers(self, finding: Finding, as_of_ms: int) -> bool:
        """Tell whether a finding is muted as of a moment."""
        named = ((self.project, finding.project), (self.detector, finding.detector), (self.subject, finding.subject))
        return as_of_ms < self.until_ms and all(muted in ("", found) for muted, found in named)


def changes(
    findings: Iterable[Finding],
    said: Mapping[Story, Alert],
    evaluated: Collection[Detector],
    as_of_ms: int,
) -> Iterator[Alert]:
    """Yield what is to be said: alerts that are new, that have become much worse, and that are over.

    `findings` have to be all that the detectors in `evaluated` found as of the moment.
    """
    found: set[Story] = set()
    for finding in findings:
        found.add(finding.story)
        previous = said.get(finding.story)
        if previous is not None and previous.status == "open":
            if _is_worse(finding, previous.finding):
                onset_ms = previous.finding.since_ms
                yield Alert(finding._replace(since_ms=onset_ms), previous.revision + 1, "open", as_of_ms)
        elif finding.is_new and (previous is None or finding.since_ms > previous.finding.since_ms):
            yield Alert(finding, 1, "open", as_of_ms)
    for story, previous in said.items():
        if previous.status == "open" and story[0] in evaluated and story not in found:
            yield previous._replace(revision=previous.revision + 1, status="resolved", as_of_ms=as_of_ms)


def follows(alert: Alert, previous: Alert | None) -> bool:
    """Tell whether an alert is the next of its story: what comes second in the log of decisions is not."""
    if previous is None:
        return alert.revision == 1
    if alert.as_of_ms <= previous.as_of_ms:
        return False
    if previous.status == "open":
        return alert.id == previous.id and alert.revision == previous.revision + 1
    return alert.revision == 1 and alert.finding.since_ms > previous.finding.since_ms


def _is_worse(finding: Finding, told: Finding) -> bool:
    """Tell whether there is news: a graver severity, or twice as far from what was expected, or twice the cost.

    So an alert of any size is told again only so often as it doubles.
    """
    return (
        SEVERITIES.index(finding.severity) > SEVERITIES.index(told.severity)
        or abs(finding.observed - finding.expected) >= 2 * max(1, abs(told.observed - told.expected))
        or finding.increments >= 2 * max(_LEAST_INCREMENTS, told.increments)
    )


#: Below this many increments a doubling of the cost is no news.
_LEAST_INCREMENTS: Final = 100


def decimal(thousandths: int) -> Decimal:
    """Return a quantity of a finding as an exact decimal of its unit, without an exponent or needless zeros."""
    whole, rest = divmod(abs(thousandths), THOUSAND)
    text = f"{whole}.{rest:03d}".rstrip("0").rstrip(".")
    return Decimal(f"-{text}" if thousandths < 0 else text)
