"""Replaying dead letters: what today's code makes of them, and sending again those that it takes (R21).

What would die again is not sent: it stays as it is, for the next fix. What was sent is marked as replayed once
the brokers have it; killed in between, the next replay sends it again, which joins into the same facts (R10).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from pipeline import codec
from pipeline.deadletters.log import WORKER, Letter, marks
from pipeline.gateway.intake import Border, Disposition
from pipeline.gateway.projects import Projects
from pipeline.messages import Message
from pipeline.metering.events import InvalidEvent, check_window
from pipeline.metering.meters import Meters, discrete_meters
from pipeline.producer import Producer, SendRefused

#: How many letters are sent before their marks are: bounds memory.
_CHUNK_LETTERS: Final = 200

Revive = Callable[[Letter, int], list[Message]]
"""Today's gateway: takes a letter of a gateway and the time, returns what it would send. Raises CannotRevive."""


class CannotRevive(LookupError):
    """This body cannot go through the gateway's adapter here; the message says why."""


class Outcome(StrEnum):
    """What became, or would become, of a letter."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    STILL_DEAD = "still dead"
    REPLAYED_BEFORE = "replayed before"
    NOT_REVIVED = "cannot be replayed"
    REFUSED = "refused by the brokers"


class Verdict(NamedTuple):
    """What today's code makes of a letter: the messages to send, or why there are none."""

    outcome: Outcome
    reason: str = ""
    detail: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Judge:
    """Today's code and settings: the worker's check of an event, and the gateway that revives bodies."""

    lifecycle: str
    dead_letters: str
    meters: Meters
    max_event_bytes: int
    correction_window_ms: int
    future_skew_ms: int
    revive: Revive

    def judge(self, letter: Letter, now_ms: int) -> Verdict:
        """Tell what would become of a letter that is sent now; never raises for what it contains."""
        try:
            return self._of_worker(letter, now_ms) if letter.origin == WORKER else self._of_gateway(letter, now_ms)
        except InvalidEvent as error:
            return Verdict(Outcome.STILL_DEAD, error.reason.value, error.detail)
        except CannotRevive as error:
            return Verdict(Outcome.NOT_REVIVED, detail=str(error))

    def _of_worker(self, letter: Letter, now_ms: int) -> Verdict:
        is_event = self._check(letter.value, now_ms)
        assert letter.value is not None, "a record without a value is no event"
        # Without a key, its partition was chosen in some other way that has to hold again.
        partition = letter.document["partition"] if letter.key is None else None
        message = Message(self.lifecycle, letter.key, letter.value, partition=partition)
        return Verdict(Outcome.ACCEPTED if is_event else Outcome.IGNORED, messages=(message,))

    def _of_gateway(self, letter: Letter, now_ms: int) -> Verdict:
        """Ask the gateway; where it takes a part of a body, the rest is sent too, as new dead letters."""
        messages = tuple(self.revive(letter, now_ms))
        events = [message for message in messages if message.topic == self.lifecycle]
        for message in events:
            self._check(message.value, now_ms)
        if events:
            return Verdict(Outcome.ACCEPTED, messages=messages)
        for message in messages:
            said = {name: raw.decode() for name, raw in message.headers}
            return Verdict(Outcome.STILL_DEAD, said["reason"], said["detail"])
        return Verdict(Outcome.IGNORED)

    def _check(self, value: bytes | None, now_ms: int) -> bool:
        """Tell whether the worker would take a record as an event, or ignore it. Raises InvalidEvent."""
        event = codec.decode_event(value, discrete_meters(self.meters), self.max_event_bytes)
        if event is not None:
            check_window(event, now_ms, self.correction_window_ms, self.future_skew_ms)
        return event is not None


def revive_with(border: Border, projects: Projects) -> Revive:
    """Return the gateway's way with a body, for what a body alone tells; its project has to be known today."""

    def revive(letter: Letter, now_ms: int) -> list[Message]:
        take = {
            "webhooks/livekit": border.from_livekit,
            "v1/events": border.from_event,
            "webhooks/litellm": border.from_litellm,
        }.get(letter.origin)
        if take is None:
            # A Janus event speaks of handles; what they are is in the memory of the gateway that took it.
            raise CannotRevive(f"what came to {letter.origin} means something only to the gateway that took it")
        project = projects.by_name(letter.document["project"])
        if project is None:
            raise CannotRevive(f"project {letter.document['project']!r} is not in the projects file")
        intake = take(letter.value or b"", project, now_ms)
        for answer in intake.answers:
            if answer.disposition is Disposition.REFUSED:
                raise CannotRevive(f"the gateway refuses it: {answer.detail}")
        return intake.messages

    return revive


class Sender:
    """Sends what letters became, and then the marks that say so; in order of the calls."""

    def __init__(self, producer: Producer, dead_letters: str, told: Callable[[Letter, Verdict], None]) -> None:
        """Send to Kafka; `told` hears what became of each letter."""
        self._producer = producer
        self._dead_letters = dead_letters
        self._told = told
        self._chunk: list[tuple[Letter, Verdict]] = []

    async def send(self, letter: Letter, verdict: Verdict) -> None:
        """Take a letter and send it, at the latest with `flush`."""
        self._chunk.append((letter, verdict))
        if len(self._chunk) >= _CHUNK_LETTERS:
            await self.flush()

    async def flush(self) -> None:
        """Send what is left. A letter that the brokers will never take stays unmarked and stops no other."""
        chunk, self._chunk = self._chunk, []
        errors = await asyncio.gather(*(self._try_to_send(verdict.messages) for _, verdict in chunk))
        sent = [letter for (letter, _), error in zip(chunk, errors, strict=True) if error is None]
        await asyncio.gather(*(self._producer.send(*mark) for mark in marks(self._dead_letters, sent)))
        for (letter, verdict), error in zip(chunk, errors, strict=True):
            self._told(letter, verdict if error is None else Verdict(Outcome.REFUSED, detail=str(error)))

    async def _try_to_send(self, messages: tuple[Message, ...]) -> SendRefused | None:
        try:
            await asyncio.gather(*(self._producer.send(*message) for message in messages))
        except SendRefused as error:
            return error
        return None


async def judge_all(
    letters: AsyncIterator[Letter], judge: Callable[[Letter], Verdict], told: Callable[[Letter, Verdict], None]
) -> None:
    """Tell of each letter what would become of it, and send nothing."""
    async for letter in letters:
        told(letter, judge(letter))


async def replay_all(
    letters: AsyncIterator[Letter],
    judge: Callable[[Letter], Verdict],
    producer: Producer,
    dead_letters: str,
    told: Callable[[Letter, Verdict], None],
) -> None:
    """Send the letters that today's code takes and mark them; tell of each what became of it."""
    sender = Sender(producer, dead_letters, told)
    async for letter in letters:
        verdict = judge(letter)
        if verdict.outcome in (Outcome.ACCEPTED, Outcome.IGNORED):
            await sender.send(letter, verdict)
        else:
            told(letter, verdict)
    await sender.flush()
