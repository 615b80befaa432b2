"""Messages on their way to Kafka, durable from the moment they are accepted: acknowledged, or in the spool (R22).

There is one road at a time, for all messages. While the brokers answer it leads straight to them. From the first
sign that they do not (the producer says so, or an acknowledgement takes too long) it leads into the spool, and
it stays so until a background task has handed everything in the spool to the producer: what waits is never
overtaken, whatever its key. What was under way when the road changed is sent twice, which joins make harmless
(R10). Memory does not grow while the brokers are away: only the producer's bounded window is held twice.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final, Self

from pipeline.gateway.spool import Entry, Spooled, SpoolFull, SpoolUnavailable
from pipeline.gateway.spoolthread import SpoolThread
from pipeline.messages import Message
from pipeline.metrics import Metrics
from pipeline.producer import Ack, Producer, SendRefused
from pipeline.settings import Settings

_log = logging.getLogger(__name__)

#: What is read from the spool, sent, and deleted together.
_BATCH_MESSAGES: Final = 500
_BATCH_BYTES: Final = 4 * 1_048_576
#: Between attempts on a disk that fails.
_RETRY_S: Final = 1.0
#: When a source that was refused should come again; so long a disk that failed is taken for failing.
_RETRY_AFTER_S: Final = 5
#: How long leaving waits for the spool to become empty, while the brokers answer.
_CLOSE_TIMEOUT_S: Final = 2.0

#: A message that goes into the spool; with the reason where brokers refused it.
_Left = tuple[Message, str | None]


class OutboxFull(Exception):
    """Nothing can be accepted now: the brokers are away, and the spool is full or its disk fails."""

    def __init__(self, reason: str, retry_after_s: int = _RETRY_AFTER_S) -> None:
        """Say why, and when trying again is worth it."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Outbox:
    """Takes messages and sees to it that they reach the brokers, in the order of calls that do not overlap.

    What the brokers will never take (too large for its topic, forbidden) is accepted like the rest and kept in
    the spool, apart, with a metric and a line in the log; it is tried again at the next start. So no source hears
    that all is well with what is lost, and none is made to repeat what can only fail again. `on_ok()` is called
    when messages can be accepted, with brokers or without them, and `on_wait(reason)` when they cannot.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], int],
        *,
        on_wait: Callable[[str], None] = lambda _reason: None,
        on_ok: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `clock` tells ms since the epoch. The spool lies in the settings' `data_dir`."""
        self._limit_bytes = settings.spool_bytes
        self._ack_timeout_s = settings.ack_timeout_ms / 1000
        self._metrics = metrics
        self._clock = clock
        self._on_wait = on_wait
        self._on_ok = on_ok
        directory = settings.data_dir / "spool"
        self._disk = SpoolThread(directory, settings.spool_bytes, lambda _path: metrics.spool_damaged.inc())
        self._producer = Producer(settings.kafka, on_wait=self._distrust, on_ok=self._trust)
        self._stack = AsyncExitStack()
        #: Whether the brokers answered last.
        self._is_trusted = False
        #: The place in the spool up to which the producer has everything.
        self._handed = 0
        self._flights: dict[_Flight, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: Closed for the moment in which the road changes back to the brokers.
        self._gate = asyncio.Event()
        #: Set when there may be something to read in the spool.
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._calls = 0
        self._quiet = asyncio.Event()
        self._is_closed = True
        self._refusal: str | None = None
        self._said: str | None = "not yet"

    async def __aenter__(self) -> Self:
        """Open the spool and start sending, first what is in it. Raises SpoolInUse, SpoolUnavailable."""
        await self._stack.enter_async_context(self._disk)
        spool = self._disk.spool
        if spool.waiting:
            _log.info("%d accepted messages wait in the spool", spool.waiting)
        self._metrics.spool_bytes.set_function(lambda: spool.size_bytes)
        self._metrics.spool_limit_bytes.set(self._limit_bytes)
        self._metrics.spool_messages.set_function(lambda: spool.waiting)
        self._metrics.spool_refused.set_function(lambda: spool.refused)
        self._metrics.spool_age_seconds.set_function(
            lambda: 0 if spool.oldest_ms is None else (self._clock() - spool.oldest_ms) / 1000
        )
        await self._stack.enter_async_context(self._producer)
        self._draining = asyncio.create_task(self._drain(), name="outbox")
        self._is_closed = False
        self._gate.set()
        self._say()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop; what is not acknowledged is in the spool and waits for the next start. Raises what `ended` does."""
        self._is_closed = True
        if self._is_trusted:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), _CLOSE_TIMEOUT_S)
        self._divert()
        while self._calls:
            self._quiet.clear()
            await self._quiet.wait()
        self._draining.cancel()
        await asyncio.wait({self._draining})
        await self._stack.aclose()
        if not self._draining.cancelled():
            self._draining.result()

    async def accept(self, messages: Sequence[Message]) -> None:
        """Return when all messages are durable: after `ack_timeout_ms` and a write to the disk at the latest.

        Raises OutboxFull; some of them may be sent all the same. Cancelling stops the waiting, not the sending.
        """
        self._calls += 1
        try:
            while not self._gate.is_set():
                await self._gate.wait()
            if self._is_closed:
                raise OutboxFull("stopping")
            left: list[_Left] = [(message, None) for message in messages]
            if left and self._is_direct():
                left = await self._fly(messages)
            if left:
                await self._keep(left)
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()

    async def ended(self) -> None:
        """Wait until sending has ended by itself, which it never should, and raise why."""
        await asyncio.wait({self._draining})
        self._draining.result()

    def _is_direct(self) -> bool:
        """Tell whether the road leads to the brokers: they answer, and nothing in the spool would be overtaken."""
        return self._is_trusted and not self._disk.is_writing and self._handed >= self._disk.spool.last_seq

    async def _fly(self, messages: Sequence[Message]) -> list[_Left]:
        """Send to the brokers; return what has to go into the spool, as a rule nothing."""
        loop = asyncio.get_running_loop()
        flight = _Flight(loop.time() + self._ack_timeout_s)
        flight.launch(self._producer, messages)
        self._flights[flight] = None
        if self._timer is None:
            self._timer = loop.call_at(flight.deadline_s, self._look_at_the_oldest)
        try:
            return await flight.left
        finally:
            del self._flights[flight]

    def _look_at_the_oldest(self) -> None:
        """Distrust the brokers when the oldest flight is late: one timer for all."""
        self._timer = None
        oldest = next(iter(self._flights), None)
        if oldest is None:
            return
        loop = asyncio.get_running_loop()
        if oldest.deadline_s <= loop.time():
            self._distrust(f"no acknowledgement within {self._ack_timeout_s} s")
        else:
            self._timer = loop.call_at(oldest.deadline_s, self._look_at_the_oldest)

    def _trust(self) -> None:
        """Take note that the brokers answer."""
        if not self._is_trusted:
            self._is_trusted = True
            _log.info("the brokers answer; %d accepted messages wait in the spool", self._disk.spool.waiting)
        self._say()

    def _distrust(self, reason: str) -> None:
        """Take note that they do not: everything under way goes into the spool, now."""
        if self._is_trusted:
            self._is_trusted = False
            _log.warning("messages go into the spool: %s", reason)
        self._divert()
        self._say()

    def _divert(self) -> None:
        for flight in self._flights:
            flight.land()

    async def _keep(self, left: Sequence[_Left]) -> None:
        """Put messages into the spool. Raises OutboxFull."""
        accepted_at_ms = self._clock()
        self._empty.clear()
        try:
            await self._disk.keep([Entry(message, accepted_at_ms, refused) for message, refused in left])
        except (SpoolFull, SpoolUnavailable) as error:
            self._refuse(error)
            raise OutboxFull(str(error)) from error
        finally:
            self._wake.set()
        self._metrics.spooled.inc(len(left))
        for reason in filter(None, (refused for _, refused in left)):
            _log.error("kept in the spool, apart: %s", reason)
        self._refusal = None
        self._say()

    def _refuse(self, error: SpoolFull | SpoolUnavailable) -> None:
        """Take note that nothing can be accepted."""
        self._refusal = str(error)
        self._say()
        if isinstance(error, SpoolUnavailable):
            # Nobody may come to try again while we are not ready; a full spool we see getting empty.
            asyncio.get_running_loop().call_later(_RETRY_AFTER_S, self._hope)

    def _hope(self) -> None:
        self._refusal = None
        self._say()

    def _say(self) -> None:
        """Call back when what there is to say has changed."""
        trouble = None if self._is_trusted else self._refusal
        if trouble == self._said:
            return
        self._said = trouble
        if trouble is None:
            self._on_ok()
        else:
            self._on_wait(trouble)

    async def _drain(self) -> None:
        """Send what is in the spool, in order, for ever."""
        while True:
            try:
                records, acks = await self._hand_over()
            except SpoolUnavailable as error:
                _log.error("%s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            if records:
                await self._finish(records, await acks)
                continue
            if not self._disk.spool.waiting:
                self._empty.set()
            await self._wake.wait()
            self._wake.clear()

    async def _hand_over(self) -> tuple[list[Spooled], asyncio.Future[list[Ack | BaseException]]]:
        """Give the producer the next messages; when they are the last, the road leads to the brokers again."""
        try:
            newest = self._disk.spool.last_seq
            records = await self._read(self._handed)
            if self._is_trusted and 0 < len(records) < _BATCH_MESSAGES:
                # Under a steady load there would always be one more: so those who come now wait for this moment.
                self._gate.clear()
                await self._disk.written()
                records += await self._read(records[-1].seq)
            sends = [asyncio.create_task(_send(self._producer, record.message)) for record in records]
            acks = asyncio.gather(*sends, return_exceptions=True)
            # One turn of the loop, and the producer has them all in its order, before any that come later.
            await asyncio.sleep(0)
            # Where nothing was read, nothing waits up to the newest: it was refused, or lost with a damaged file.
            self._handed = records[-1].seq if records else max(newest, self._handed)
            return records, acks
        finally:
            self._gate.set()

    async def _read(self, after: int) -> list[Spooled]:
        return await self._disk.read(after, _BATCH_MESSAGES, _BATCH_BYTES)

    async def _finish(self, records: Sequence[Spooled], acks: Sequence[Ack | BaseException]) -> None:
        """Delete what the brokers have, and keep apart what they refuse."""
        refused = []
        for record, ack in zip(records, acks, strict=True):
            if isinstance(ack, SendRefused):
                refused.append((record.seq, str(ack)))
                _log.error("kept in the spool, apart: %s", ack)
            elif isinstance(ack, BaseException):
                raise ack
        self._trust()
        while True:
            try:
                await self._disk.settle(records[-1].seq, refused)
            except SpoolUnavailable as error:
                _log.error("%s", error)
                await asyncio.sleep(_RETRY_S)
            else:
                break
        self._metrics.spool_drained.inc(len(records) - len(refused))
        self._hope()


async def _send(producer: Producer, message: Message) -> Ack:
    return await producer.send(*message)


class _Flight:
    """The messages of one call on their way to the brokers; `left` becomes what has to go into the spool."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.left: asyncio.Future[list[_Left]] = asyncio.get_running_loop().create_future()
        self._sends: dict[asyncio.Task[Ack], Message] = {}
        self._refused: list[_Left] = []

    def launch(self, producer: Producer, messages: Sequence[Message]) -> None:
        """Start sending."""
        self._sends = {asyncio.create_task(_send(producer, message)): message for message in messages}
        for send in self._sends:
            send.add_done_callback(self._landed)

    def land(self) -> None:
        """Wait no longer for what is still under way."""
        if not self.left.done():
            self.left.set_result([*self._refused, *((message, None) for message in self._sends.values())])
        for send in self._sends:
            send.cancel()

    def _landed(self, send: asyncio.Task[Ack]) -> None:
        if send.cancelled():
            return
        error = send.exception()
        if isinstance(error, SendRefused):
            self._refused.append((self._sends[send], str(error)))
        if error is None or isinstance(error, SendRefused):
            del self._sends[send]
        if error is not None and not isinstance(error, SendRefused):
            self.land()  # the producer has ended: the spool takes what it can, until we are started again
        elif not self._sends:
            self.land()
