"""What several tellers of the same story have in common: one of them says each thing, once, whoever is killed.

What makes them agree is the order of one Kafka partition: a teller proposes what is to be said to the log of decisions
and reads it back; the first proposal of each is the decision. Whoever proposed it publishes it, and others do when it
is not published in time. The log is also all the memory there is of what was said.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, NamedTuple, TypeVar
from uuid import uuid4

from pipeline.follower import Follower
from pipeline.metering.units import MS_PER_SECOND
from pipeline.producer import Producer

#: How long the proposer of a decision has to publish it before others do.
PATIENCE_MS: Final = 10 * MS_PER_SECOND

T = TypeVar("T")


class Form(NamedTuple, Generic[T]):
    """How decisions are written, and what names them: for ever by `key`, their story by `story`."""

    encode_decision: Callable[[str, T], bytes]
    decode_decision: Callable[[bytes], tuple[str, T]]
    encode: Callable[[T], bytes]
    key: Callable[[T], str]
    key_of: Callable[[bytes], str]
    story: Callable[[T], Hashable]
    project: Callable[[T], str]


class _Decided(NamedTuple, Generic[T]):
    """A decision that is not known to be published, and when this teller read of it."""

    decision: T
    is_mine: bool
    read_at_ms: int


Accept = Callable[[T, bool, int], bool]
"""Takes a proposal, whether it is one's own, and the broker's time of it in ms; tells whether it is the decision."""


class DecisionLog(Generic[T]):
    """One teller's view of the log, and what it has still to publish; `clock` returns ms since the epoch."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        published: str,
        producer: Producer,
        clock: Callable[[], int],
        form: Form[T],
        accept: Accept[T],
    ) -> None:
        """Keep the parts; `accept` is asked about every proposal, in the order of the log."""
        self._topic = topic
        self._published_topic = published
        self._producer = producer
        self._clock = clock
        self._form = form
        self._accept = accept
        self._name = uuid4().hex
        self._log = Follower(bootstrap, topic)
        self._published = Follower(bootstrap, published)
        self._unpublished: dict[str, _Decided[T]] = {}

    async def read(self) -> None:
        """Take what the log has decided since the last time."""
        for record in await self._log.poll_to_end():
            teller, proposal = self._form.decode_decision(record.value or b"")
            is_mine = teller == self._name
            if self._accept(proposal, is_mine, record.timestamp_ms):
                self._unpublished[self._form.key(proposal)] = _Decided(proposal, is_mine, self._clock())

    async def propose(self, proposals: Iterable[T]) -> None:
        """Put proposals into the log, and wait until it has them."""
        for proposal in proposals:
            await self._producer.send_soon(self._topic, None, self._form.encode_decision(self._name, proposal))
        await self._producer.flush()

    async def publish(self) -> list[T]:
        """Publish own decisions, and those of others that are not published in time; return what was published."""
        now_ms = self._clock()
        story = self._form.story
        waiting = {story(one.decision) for one in self._unpublished.values() if not one.is_mine}
        if any(
            now_ms - one.read_at_ms >= PATIENCE_MS // 2 or (one.is_mine and story(one.decision) in waiting)
            for one in self._unpublished.values()
        ):
            for record in await self._published.poll_to_end():
                self._unpublished.pop(self._form.key_of(record.value or b""), None)
        due: list[T] = []
        held = set()
        for decision, is_mine, read_at_ms in self._unpublished.values():
            # In the order of its story, whoever tells what.
            if story(decision) not in held and (is_mine or now_ms - read_at_ms >= PATIENCE_MS):
                due.append(decision)
            else:
                held.add(story(decision))
        for decision in due:
            key = self._form.project(decision).encode()
            await self._producer.send_soon(self._published_topic, key, self._form.encode(decision))
            del self._unpublished[self._form.key(decision)]  # the producer has it, and does not give up
        await self._producer.flush()
        return due

    async def close(self) -> None:
        """Leave the brokers."""
        for follower in (self._log, self._published):
            await follower.close()
