"""What is known of counters, discrete usage and rented numbers: facts joined by max and set union (R10, R13 to R15).

A counter is a subject with reports, and of each hour the largest report is kept: the value at the end of any hour
follows from that, whatever the order. A session's bytes are a counter; so is a usage event, which normally reports
once. None of it is needed to judge a session, so a worker hands these facts on to the store and keeps nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pipeline.metering.events import Event, EventType
from pipeline.metering.units import MS_PER_HOUR, hour_of

CounterKey = tuple[str, str, str, int]
"""Project, room, session, and the hour of the reports in ms."""
DiscreteKey = tuple[str, str, str, str, int]
"""Project, source, id, meter, and the hour of the reports in ms."""
NumberKey = tuple[str, str]
"""Project and phone number."""

_NO_TIMES: Final[frozenset[int]] = frozenset()


class Transferred(NamedTuple):
    """The largest counters that a session reported in an hour, each for itself (R13). In bytes."""

    bytes_in: int = 0
    bytes_out: int = 0


class Recorded(NamedTuple):
    """The largest quantity that a usage event reported in an hour (R14), in base units, and whom to ascribe it to.

    Texts are joined by max, like those of a session; '' and 0 say nothing.
    """

    quantity: int = 0
    room: str = ""
    session: str = ""
    model: str = ""
    endpoint: str = ""
    team: str = ""
    key: str = ""
    status: str = ""
    latency_ms: int = 0


class Held(NamedTuple):
    """When a number was acquired and when it was released, in ms (R15)."""

    acquired_ms: frozenset[int] = _NO_TIMES
    released_ms: frozenset[int] = _NO_TIMES


_NOTHING_RECORDED: Final = Recorded()
_NOT_HELD: Final = Held()


@dataclass(slots=True)
class Quantities:
    """Facts of counters and discrete usage by the hour, and of numbers; every value only grows."""

    counters: dict[CounterKey, Transferred] = field(default_factory=dict)
    discrete: dict[DiscreteKey, Recorded] = field(default_factory=dict)
    numbers: dict[NumberKey, Held] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Tell whether anything is known."""
        return bool(self.counters or self.discrete or self.numbers)

    def observe(self, event: Event) -> None:
        """Join what an event reports; most report nothing."""
        if event.bytes_in is not None or event.bytes_out is not None:
            self.count(event)
        elif event.type is EventType.USAGE_RECORDED:
            subject = (event.project, event.source, event.id, event.meter, hour_of(event.time_ms))
            labels = event.attribution or ()
            self._record(subject, Recorded(event.quantity or 0, event.room, event.session, *labels))
        elif event.type is EventType.NUMBER_ACQUIRED:
            self._hold((event.project, event.number), Held(acquired_ms=frozenset({event.time_ms})))
        elif event.type is EventType.NUMBER_RELEASED:
            self._hold((event.project, event.number), Held(released_ms=frozenset({event.time_ms})))

    def count(self, event: Event) -> None:
        """Join the bytes that an event of a session reports."""
        time_ms = event.time_ms
        key = (event.project, event.room, event.session, time_ms - time_ms % MS_PER_HOUR)
        # As Transferred(...), without the call in between that a NamedTuple makes: this is the hot path.
        self._count(key, tuple.__new__(Transferred, (event.bytes_in or 0, event.bytes_out or 0)))

    def join(self, other: "Quantities") -> None:
        """Join other facts into these."""
        for counter, transferred in other.counters.items():
            self._count(counter, transferred)
        for subject, recorded in other.discrete.items():
            self._record(subject, recorded)
        for number, held in other.numbers.items():
            self._hold(number, held)

    def of_sessions(self) -> Iterator[tuple[tuple[str, str, str], dict[int, Transferred]]]:
        """Yield each session that reported bytes (project, room, session), with its reports by hour."""
        found: dict[tuple[str, str, str], dict[int, Transferred]] = {}
        for (*session, hour_ms), transferred in self.counters.items():
            project, room, name = session
            found.setdefault((project, room, name), {})[hour_ms] = transferred
        yield from found.items()

    def of_events(self) -> Iterator[tuple[str, str, dict[int, Recorded]]]:
        """Yield project, meter and reports by hour of each usage event.

        A usage event is named by (source, id) within its project, so that nobody's producer can change another's
        bill. Sent for two meters it counts once all the same (R14): for the meter of the greater name, in any order.
        """
        found: dict[tuple[str, str, str], dict[str, dict[int, Recorded]]] = {}
        for (project, source, name, meter, hour_ms), recorded in self.discrete.items():
            found.setdefault((project, source, name), {}).setdefault(meter, {})[hour_ms] = recorded
        for (project, _, _), meters in found.items():
            meter = max(meters)
            yield project, meter, meters[meter]

    def _count(self, key: CounterKey, transferred: Transferred) -> None:
        known = self.counters.setdefault(key, transferred)
        if known is not transferred:
            self.counters[key] = Transferred(
                max(known.bytes_in, transferred.bytes_in), max(known.bytes_out, transferred.bytes_out)
            )

    def _record(self, key: DiscreteKey, recorded: Recorded) -> None:
        known = self.discrete.get(key, _NOTHING_RECORDED)
        both: Iterator[tuple[Any, Any]] = zip(known, recorded, strict=True)
        self.discrete[key] = Recorded._make(max(pair) for pair in both)

    def _hold(self, key: NumberKey, held: Held) -> None:
        known = self.numbers.get(key, _NOT_HELD)
        self.numbers[key] = Held(known.acquired_ms | held.acquired_ms, known.released_ms | held.released_ms)
