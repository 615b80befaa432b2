"""A producer that never gives up on brokers that are away (R22). With kafka.py the only importer of aiokafka."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from pipeline.brokers import client_options
from pipeline.kafka import AWAY
from pipeline.messages import EVERY_PARTITION, Headers

_log = logging.getLogger(__name__)

#: How long one request may take.
_TIMEOUT_MS: Final = 10_000
#: Small beside a session, large enough that a burst becomes one request.
_LINGER_MS: Final = 5
#: Above any topic's limit of ours, so that the topic's own limit decides.
_MAX_REQUEST_BYTES: Final = 16 * 1_048_576
#: How often the producer asks whether the brokers are there.
_CHECK_INTERVAL_S: Final = 1.0
#: An acknowledgement that takes longer than this is trouble worth saying.
_SLOW_ACK_S: Final = 5.0
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
#: How long leaving the producer waits for what is under way.
_CLOSE_TIMEOUT_S: Final = 2.0
#: The broker lost the producer's numbering (or gave it to another): a new producer sends again.
_FORGOTTEN: Final = (
    kafka_errors.OutOfOrderSequenceNumber,
    kafka_errors.UnknownProducerId,
    kafka_errors.InvalidProducerEpoch,
    kafka_errors.InvalidProducerIdMapping,
)


class SendRefused(ValueError):
    """A record that the brokers will never take: too large, forbidden, no such partition."""


class ProducerClosed(RuntimeError):
    """The producer ended before the record was acknowledged; it may or may not be in the log."""


class Ack(NamedTuple):
    """Where the brokers put a record; offset -1 where a retry found it there already."""

    partition: int
    offset: int


class _Pending(NamedTuple):
    """A record on its way, with who waits for it; kept until acknowledged, so that it can be sent again."""

    number: int
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None
    since_s: float
    future: asyncio.Future[Ack]


class Producer:
    """An idempotent producer that never gives up on brokers that are away (R22).

    Records of one key arrive in the order of the calls. `on_wait(reason)` is called when trouble starts or
    changes, `on_ok()` when the brokers answer (again). At most `max_in_flight` records are under way: further
    calls wait. After a broker forgot this producer, records can be in the log twice: readers merge (R10).
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        on_wait: Callable[[str], None] = lambda _reason: None,
        on_ok: Callable[[], None] = lambda: None,
        max_in_flight: int = 2_000,
    ) -> None:
        """Prepare; entering the context starts connecting, without waiting for it."""
        self._bootstrap = bootstrap
        self._on_wait = on_wait
        self._on_ok = on_ok
        self._room = asyncio.Semaphore(max_in_flight)
        self._count = 0
        self._pending: dict[int, _Pending] = {}
        self._unhanded: deque[_Pending] = deque()
        self._work = asyncio.Event()
        self._trouble: str | None = "not connected yet"
        self._refusal: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = True

    async def __aenter__(self) -> Self:
        """Start connecting in the background."""
        self._closed = False
        self._task = asyncio.create_task(self._run(), name="kafka-producer")
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Wait a bounded time for what is under way; whoever still waits then gets ProducerClosed."""
        assert self._task is not None
        try:
            if waiting := self._futures():
                await asyncio.wait(waiting, timeout=_CLOSE_TIMEOUT_S)
        finally:
            # More than once: what the library waits for while it connects can swallow a cancellation.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=0.1)
        if not self._task.cancelled():
            self._task.result()

    async def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> Ack:
        """Send a record and return when all replicas have it, however long that takes.

        Cancelling stops the waiting, not the sending. Raises SendRefused, ProducerClosed.
        """
        return await asyncio.shield((await self._admit(topic, key, value, headers, partition)).future)

    async def send_soon(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> None:
        """Send a record without waiting for its acknowledgement; waits only while too many are under way."""
        (await self._admit(topic, key, value, headers, partition)).future.add_done_callback(self._keep_refusal)

    async def flush(self) -> None:
        """Wait until all records sent before are acknowledged; raises the first refusal of `send_soon`."""
        if waiting := self._futures():
            await asyncio.wait(waiting)
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    def _futures(self) -> list[asyncio.Future[Ack]]:
        return [pending.future for pending in self._pending.values()]

    def _keep_refusal(self, future: asyncio.Future[Ack]) -> None:
        self._refusal = self._refusal or future.exception()

    async def _admit(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None
    ) -> _Pending:
        if key is None and value is None:
            raise SendRefused("a record needs a key or a value")
        await self._room.acquire()
        if self._closed:
            self._room.release()  # whoever waits behind has to hear it too
            raise ProducerClosed("the producer is not running")
        self._count += 1
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        # Whoever cancelled its waiting is not told; without this asyncio would complain about that.
        future.add_done_callback(lambda done: done.exception())
        pending = _Pending(self._count, topic, key, value, headers, partition, monotonic(), future)
        self._pending[pending.number] = pending
        self._unhanded.append(pending)
        self._work.set()
        return pending

    def _settle(self, pending: _Pending, outcome: Ack | BaseException) -> None:
        """Tell whoever waits for a record, once."""
        if self._pending.pop(pending.number, None) is None:
            return
        self._room.release()
        if isinstance(outcome, Ack):
            pending.future.set_result(outcome)
        else:
            pending.future.set_exception(outcome)

    async def _run(self) -> None:
        """Use one client of the library after another, for ever."""
        failures = 0
        try:
            while True:
                client = AIOKafkaProducer(
                    **client_options(self._bootstrap),
                    enable_idempotence=True,
                    linger_ms=_LINGER_MS,
                    request_timeout_ms=_TIMEOUT_MS,
                    max_request_size=_MAX_REQUEST_BYTES,
                )
                try:
                    await client.start()
                    failures = 0
                    await self._serve(client)
                except AWAY as error:
                    self._report(f"{type(error).__name__}: {error}")
                finally:
                    await _abandon(client)
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
        finally:
            self._closed = True
            for pending in list(self._pending.values()):
                self._settle(pending, ProducerClosed("the producer ended before the acknowledgement"))

    async def _serve(self, client: Any) -> None:
        """Send through one client, watching it; raises what makes a new client necessary."""
        broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._unhanded = deque(self._pending.values())
        handing = asyncio.create_task(self._hand_over(client, broken))
        ends: list[asyncio.Future[Any]] = [broken, handing]
        try:
            while not broken.done():
                self._report(await self._look_for_trouble(client))
                await asyncio.wait(ends, timeout=_CHECK_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
                if handing.done():
                    await handing
            raise broken.result()
        finally:
            handing.cancel()
            await asyncio.gather(handing, return_exceptions=True)

    async def _hand_over(self, client: Any, broken: asyncio.Future[BaseException]) -> None:
        """Give records to the client one at a time, in order: it keeps the order from there."""
        while True:
            while self._unhanded:
                pending = self._unhanded[0]
                try:
                    answer = await _give(client, pending)
                except (SendRefused, kafka_errors.BrokerResponseError) as error:
                    if not _is_permanent(error):
                        raise
                    self._settle(pending, _refused(pending, error))
                else:
                    answer.add_done_callback(partial(self._answered, pending, broken))
                self._unhanded.popleft()
            self._work.clear()
            await self._work.wait()

    def _answered(self, pending: _Pending, broken: asyncio.Future[BaseException], answer: asyncio.Future[Any]) -> None:
        """Take the client's answer for one record."""
        error = answer.exception()
        if error is None:
            self._settle(pending, Ack(answer.result().partition, answer.result().offset))
            return
        if _is_permanent(error):
            self._settle(pending, _refused(pending, error))
        # Even after a refusal: the client has numbered the refused record, so that its next number is wrong.
        if not broken.done():
            broken.set_result(error)

    async def _look_for_trouble(self, client: Any) -> str | None:
        """Return why records do not get through, None when they do."""
        update = client.client.force_metadata_update()
        await asyncio.wait({update}, timeout=2 * _CHECK_INTERVAL_S)
        if not (update.done() and update.result()):
            return f"no broker at {self._bootstrap} answers"
        oldest = next(iter(self._pending.values()), None)
        if oldest is not None and monotonic() - oldest.since_s > _SLOW_ACK_S:
            return f"topic {oldest.topic!r} is missing or gives no acknowledgement"
        return None

    def _report(self, trouble: str | None) -> None:
        """Call back when what there is to say has changed."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            self._on_ok()
        else:
            self._on_wait(trouble)


async def _give(client: Any, pending: _Pending) -> asyncio.Future[Any]:
    """Hand one record to the client; its answer comes later, the last copy's where there are several."""
    partitions = await client.partitions_for(pending.topic)
    headers = list(pending.headers)  # the library takes nothing else
    if pending.partition == EVERY_PARTITION:
        copies = [
            await client.send(pending.topic, pending.value, pending.key, partition, headers=headers)
            for partition in sorted(partitions)
        ]
        return asyncio.ensure_future(_last(copies))
    if pending.partition not in (None, *partitions):
        raise SendRefused(f"there is no partition {pending.partition}")
    answer: asyncio.Future[Any] = await client.send(
        pending.topic, pending.value, pending.key, pending.partition, headers=headers
    )
    return answer


async def _last(answers: list[asyncio.Future[Any]]) -> Any:
    return (await asyncio.gather(*answers))[-1]


def _is_permanent(error: BaseException) -> bool:
    """Tell whether sending the same record again cannot help."""
    if isinstance(error, kafka_errors.BrokerResponseError):
        return not error.retriable and not isinstance(error, _FORGOTTEN)
    return isinstance(error, SendRefused)


def _refused(pending: _Pending, error: BaseException) -> SendRefused:
    size_bytes = len(pending.key or b"") + len(pending.value or b"")
    return SendRefused(f"a record of {size_bytes} bytes for topic {pending.topic!r} was refused: {error}")


async def _abandon(client: Any) -> None:
    """Stop a client without waiting for brokers: what it still holds is sent by the next one, or given up."""
    # Its own stop() waits for acknowledgements without end; it has no public way to drop them.
    client._message_accumulator.fail_all(kafka_errors.KafkaError("abandoned"))  # noqa: SLF001
    # stop() can fail half way, over a batch that failed like this: then its connections are still to be closed.
    for stop in (client.stop, client.client.close):
        with contextlib.suppress(Exception):
            await asyncio.wait_for(stop(), _CLOSE_TIMEOUT_S)
