"""What is on a lifecycle topic, metered as a worker meters it: the shortest way from records to minutes."""

from collections import Counter
from typing import Final, NamedTuple

from pipeline.kafka import create_topics, read_topic
from pipeline.metering.session import Facts
from pipeline.metering.units import MS_PER_DAY
from pipeline.metering.usage import usage
from pipeline.settings import Settings
from pipeline.topics import topics
from pipeline.tracker import Policy, Tracker
from tests.brokers import TestBroker
from tests.metering.builders import METERS, joined

PARTITIONS: Final = 8
#: As the settings are when nobody configures anything.
POLICY: Final = Policy(262_144, 60 * MS_PER_DAY, 300_000, 6 * 3_600_000)


class Line(NamedTuple):
    """A record as the tracker reads it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Metered(NamedTuple):
    """Increments by meter, what became of the records by disposition, and the records themselves."""

    minutes: dict[str, int]
    dispositions: Counter[str]
    records: list[Line]


async def declare(broker: TestBroker, prefix: str) -> str:
    """Create the lifecycle topic of one test as `roommeter up` would; return its name."""
    topic = topics(Settings(kafka=broker.bootstrap, topic_prefix=prefix, partitions=PARTITIONS)).lifecycle
    await create_topics(broker.bootstrap, [topic])
    return topic.name


def meter(records: list[Line], as_of_ms: int) -> Metered:
    """Track records and bill all projects as of a moment."""
    tracker = Tracker(METERS, POLICY)
    changes = tracker.apply(records)
    dispositions = Counter(event.disposition for event in changes.events)
    facts = joined([*tracker.partitions.values(), Facts(quantities=changes.quantities)])
    minutes: Counter[str] = Counter()
    for (_, name, _), cell in usage(facts, METERS, as_of_ms).items():
        minutes[name] += cell.increments
    return Metered(dict(minutes), dispositions, records)


async def metered(broker: TestBroker, topic: str, as_of_ms: int) -> Metered:
    """Read a lifecycle topic to its end and bill it."""
    found = [
        Line(topic, record.partition, record.offset, record.timestamp_ms, record.key, record.value)
        async for record in read_topic(broker.bootstrap, topic)
    ]
    return meter(found, as_of_ms)
