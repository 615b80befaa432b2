"""A producer of typed events: bounded in what is under way, and silent about nothing that has no acknowledgement."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from pipeline import producer as kafka_producer
from pipeline.messages import Message, lifecycle_message
from pipeline.metering.events import InvalidEvent, Reason
from pipeline.producer import ProducerClosed, SendRefused
from roommeter import events
from roommeter.events import Event

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")

#: The largest event that a pipeline takes unless it is told otherwise, in bytes of JSON.
MAX_EVENT_BYTES: Final = 262_144


class NotAcknowledged(ConnectionError):
    """Events were sent, but no broker has said that it has them; they may or may not be in the log.

    `events` are those, in their order: keep them, and send them again. What arrived already counts once.
    """

    def __init__(self, lost: tuple[Event, ...], sent: int, reason: str) -> None:
        """Say how many of how many, and why."""
        super().__init__(f"{len(lost)} of {sent} events are not acknowledged: {reason}")
        self.events = lost


def _sends(make: Callable[_P, Event]) -> Callable[Concatenate["Producer", _P], Coroutine[Any, Any, None]]:
    """Return the method that makes an event of one type, from the same fields, and sends it."""

    async def send(self: "Producer", /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        await self.send(make(*args, **kwargs))

    send.__doc__ = make.__doc__
    return send


class Producer:
    """Sends events to Kafka, acknowledged by all replicas (acks=all), in the order of the calls for each room.

    `kafka` is host:port,host:port. Brokers that are away are waited for, at any time: calls go on until
    `max_under_way` events have no acknowledgement, then they wait. Leaving the context waits at most
    `close_timeout_s` for acknowledgements (and some seconds more to close what is broken), then raises
    NotAcknowledged; when an error is on its way out already, a note is added to that instead.
    A producer can be entered once, and used by any number of tasks.
    """

    def __init__(
        self,
        kafka: str,
        *,
        source: str,
        project: str = "",
        topic: str = "lifecycle",
        max_under_way: int = 2_000,
        close_timeout_s: float = 30.0,
    ) -> None:
        """Prepare; `source` names this server, `project` who is billed where an event does not say."""
        self._source = source
        self._project = project
        self._topic = topic
        self._close_timeout_s = close_timeout_s
        self._room = asyncio.Semaphore(max_under_way)
        self._under_way: set[asyncio.Task[None]] = set()
        self._lost: list[tuple[int, Event, str]] = []
        self._sent = 0
        self._is_open = False
        #: Why events do not get through at the moment; None while they do.
        self.trouble: str | None = f"no broker at {kafka} has answered yet"
        self._kafka = kafka_producer.Producer(kafka, on_wait=self._wait, on_ok=self._go_on, max_in_flight=max_under_way)

    async def __aenter__(self) -> Self:
        """Start connecting, without waiting for it."""
        await self._kafka.__aenter__()
        self._is_open = True
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Wait for the acknowledgements. Raises NotAcknowledged."""
        self._is_open = False
        try:
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=self._close_timeout_s)
        except asyncio.CancelledError as cancelled:
            await self._end(cancelled)
            raise
        await self._end(error)

    async def _end(self, error: BaseException | None) -> None:
        """Stop sending, and say what is lost: beside the error that is on its way out, if there is one."""
        reason = self.trouble
        await self._kafka.__aexit__()
        while self._under_way:
            await asyncio.wait(self._under_way)
        lost = self._take_lost(reason)
        if lost is None:
            return
        if error is None:
            raise lost
        _log.error("%s", lost)
        error.add_note(str(lost))

    async def send(self, event: Event) -> None:
        """Accept an event for sending; waits only while too many are under way. Raises InvalidEvent, ProducerClosed.

        Cancelled while it waits, the event is not sent.
        """
        message = self._message(event)
        await self._room.acquire()
        if not self._is_open:
            self._room.release()
            raise ProducerClosed("a producer sends inside of its `with` only")
        self._sent += 1
        task = asyncio.create_task(self._deliver(self._sent, event, message))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def flush(self) -> None:
        """Wait until everything sent before is acknowledged; raises NotAcknowledged with what was refused."""
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        if lost := self._take_lost(None):
            raise lost

    def sync(self) -> "SyncProducer":
        """Return the face of this producer for programs without asyncio: `with ....sync() as producer`."""
        return SyncProducer(self)

    room_started = _sends(events.RoomStarted)
    room_ended = _sends(events.RoomEnded)
    connected = _sends(events.SessionConnected)
    disconnected = _sends(events.SessionDisconnected)
    aborted = _sends(events.SessionAborted)
    sampled = _sends(events.SessionSampled)
    absent = _sends(events.SessionAbsent)
    job_dispatched = _sends(events.JobDispatched)
    job_ended = _sends(events.JobEnded)
    server_restarted = _sends(events.ServerRestarted)
    used = _sends(events.UsageRecorded)
    number_acquired = _sends(events.NumberAcquired)
    number_released = _sends(events.NumberReleased)

    def _message(self, event: Event) -> Message:
        message = lifecycle_message(self._topic, event.document(project=self._project, source=self._source))
        if len(message.value) > MAX_EVENT_BYTES:
            raise InvalidEvent(Reason.TOO_LARGE, f"{len(message.value)} bytes, at most {MAX_EVENT_BYTES} are allowed")
        return message

    async def _deliver(self, number: int, event: Event, message: Message) -> None:
        """Send one event to its end: acknowledged, or among the lost."""
        try:
            await self._kafka.send(*message)
        except (SendRefused, ProducerClosed) as error:
            self._lost.append((number, event, str(error)))
        finally:
            self._room.release()

    def _take_lost(self, reason: str | None) -> NotAcknowledged | None:
        lost, self._lost = sorted(self._lost, key=lambda entry: entry[0]), []
        if not lost:
            return None
        return NotAcknowledged(tuple(event for _, event, _ in lost), self._sent, reason or lost[0][2])

    def _wait(self, reason: str) -> None:
        self.trouble = reason
        _log.warning("Events wait: %s", reason)

    def _go_on(self) -> None:
        self.trouble = None


class SyncProducer:
    """A producer for programs without asyncio, for any number of threads; made by `Producer.sync()`.

    Its calls are those of the Producer, with the same promises; its event loop runs in a thread of its own.
    """

    def __init__(self, producer: Producer) -> None:
        """Prepare; entering the context starts the thread."""
        self._producer = producer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="roommeter", daemon=True)

    def __enter__(self) -> Self:
        """Start connecting, without waiting for it."""
        self._thread.start()
        self._run(self._producer.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the acknowledgements. Raises NotAcknowledged."""
        try:
            self._run(self._producer.__aexit__(kind, error, traceback))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def send(self, event: Event) -> None:
        """Accept an event for sending; waits only while too many are under way. Raises InvalidEvent, ProducerClosed."""
        self._run(self._producer.send(event))

    def flush(self) -> None:
        """Wait until everything sent before is acknowledged; raises NotAcknowledged with what was refused."""
        self._run(self._producer.flush())

    def _run(self, call: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()
