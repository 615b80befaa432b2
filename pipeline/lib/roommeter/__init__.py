"""roommeter for Python: a producer of typed events for Kafka, and what was metered, for notebooks.

    import roommeter

    async with roommeter.Producer("127.0.0.1:9092", project="acme", source="my-sfu/eu-1") as producer:
        await producer.connected(room="standup", session="c-17", kind="participant")
        await producer.disconnected(room="standup", session="c-17", reason="left")

Every event is checked when it is made, by the rules of the pipeline: what is wrong raises InvalidEvent, and
does not end as a dead letter. A call returns when the event is accepted for sending, and waits while too many
are under way; leaving the context waits for the brokers' acknowledgements, and raises NotAcknowledged with the
events that have none. Sending an event again changes no bill: the same event has the same id.

`session` names one connection, never a person: somebody who connects again is a new session (R2). `at` is a
datetime with a time zone or whole milliseconds since the epoch; left out, it is now.

What was metered comes back as Arrow, pandas or polars:

    with roommeter.connect("http://127.0.0.1:8130") as store:
        frame = store.usage("2026-09-01", "2026-10-01", project="acme").to_pandas()
"""

from pipeline.metering.events import InvalidEvent, Reason
from pipeline.producer import ProducerClosed
from roommeter.events import (
    Event,
    JobDispatched,
    JobEnded,
    NumberAcquired,
    NumberReleased,
    RoomEnded,
    RoomStarted,
    ServerRestarted,
    SessionAborted,
    SessionAbsent,
    SessionConnected,
    SessionDisconnected,
    SessionSampled,
    UsageRecorded,
)
from roommeter.producer import NotAcknowledged, Producer, SyncProducer
from roommeter.reading import Answer, Connection, connect

__all__ = [
    "Answer",
    "Connection",
    "Event",
    "InvalidEvent",
    "JobDispatched",
    "JobEnded",
    "NotAcknowledged",
    "NumberAcquired",
    "NumberReleased",
    "Producer",
    "ProducerClosed",
    "Reason",
    "RoomEnded",
    "RoomStarted",
    "ServerRestarted",
    "SessionAborted",
    "SessionAbsent",
    "SessionConnected",
    "SessionDisconnected",
    "SessionSampled",
    "SyncProducer",
    "UsageRecorded",
    "connect",
]
