"""What becomes of a body whose sender is known: messages for Kafka, and an answer for each event in it. Pure.

Every event of a body is accepted, ignored (nobody defined its type, or there is nothing to meter), a dead letter, or
refused (it is about somebody else's project); the four add up to what was sent. Whatever cannot be understood becomes
a dead letter, never an error: its sender is known and will not send it again, so refusing it would lose it (R21).
A webhook that is several canonical events is taken whole or not at all.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from pipeline.deadletters.letter import gateway_headers
from pipeline.gateway.projects import Project
from pipeline.gateway.redact import CANONICAL, JANUS, LITELLM, LIVEKIT, Allowed, redact, redact_text
from pipeline.livekit import webhooks as livekit
from pipeline.livekit.protocol import unknown_fields
from pipeline.llm import litellm as llm_litellm
from pipeline.messages import Message, lifecycle_message
from pipeline.metering.events import MAX_NAME_LENGTH, MAX_QUANTITY, Event, EventType, InvalidEvent, Reason, parse_event

#: A string, even one that does not end: without the optional quote each of its own quotes would be tried in turn.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))
_AS_BRACES: Final = bytes.maketrans(b"[]", b"{}")
#: Sources that our own adapters write: whoever is called like them may not restart their servers.
_OUR_SOURCES: Final = ("livekit/", "janus/")
#: Fields of canonical events that stay here: anything may stand in them, and no meter reads them.
_FREE: Final = frozenset({"attributes", "name"})
_ENVELOPE: Final = ("specversion", "id", "source", "type", "time")

Document = dict[str, Any]
Convert = Callable[[Mapping[str, Any]], list[Document]]
"""An adapter: what a server sent as canonical events; raises InvalidEvent."""


class Disposition(StrEnum):
    """What became of one event of a request."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    DEAD_LETTER = "dead_letter"
    REFUSED = "refused"


class Answer(NamedTuple):
    """What the sender is told about one event; `id` is '' where it has none that can be shown."""

    id: str
    disposition: Disposition
    reason: str = ""
    detail: str = ""


class TooManyEvents(ValueError):
    """More events at once than are taken."""


@dataclass(slots=True)
class Intake:
    """What one body became: messages to be made durable before the answers are given.

    `unknown_fields` counts those that a LiveKit newer than what is known here has.
    """

    messages: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    unknown_fields: int = 0

    def count(self, disposition: Disposition) -> int:
        """Return how many events of the body ended so."""
        return sum(answer.disposition is disposition for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Border:
    """Takes bodies. What it needs to know is fixed.

    `lifecycle` and `dead_letters` are names of topics, `fields` the data fields of each type of event by name. A dead
    letter keeps at most `max_letter_bytes`, a body is at most `max_depth` levels deep, a list has at most `max_events`.
    """

    lifecycle: str
    dead_letters: str
    meters: Container[str]
    fields: Mapping[str, frozenset[str]]
    max_letter_bytes: int
    max_depth: int
    max_events: int

    def from_livekit(self, body: bytes, project: Project, time_ms: int) -> Intake:
        """Take a LiveKit webhook of a project; `time_ms` is now."""
        taking = _Taking(self, "webhooks/livekit", LIVEKIT, time_ms)
        for webhook in taking.decoded(body, project.name, _one):
            taking.convert(webhook, project.name, lambda said: livekit.canonical(said, project.name, policy=project))
            if isinstance(webhook, dict):
                taking.intake.unknown_fields = unknown_fields(webhook)
        return taking.intake

    def from_janus(self, body: bytes, project: str, convert: Convert, time_ms: int) -> Intake:
        """Take events of a Janus server, one or a list; `project` is '' where only the room tells.

        `convert` is the server's adapter, which has a memory: it sees every event, in the order sent. Raises
        TooManyEvents.
        """
        taking = _Taking(self, "webhooks/janus", JANUS, time_ms)
        for event in taking.decoded(body, project, lambda said: self._bounded(said if type(said) is list else [said])):
            taking.convert(event, project, convert)
        return taking.intake

    def from_litellm(self, body: bytes, project: Project, time_ms: int) -> Intake:
        """Take logs of a LiteLLM proxy of a project, one or a list. Raises TooManyEvents."""
        taking = _Taking(self, "webhooks/litellm", LITELLM, time_ms)
        for log in taking.decoded(
            body, project.name, lambda said: self._bounded(said if type(said) is list else [said])
        ):
            taking.convert(log, project.name, lambda said: llm_litellm.canonical(said, project.name))
        return taking.intake

    def from_event(self, body: bytes, project: Project, time_ms: int) -> Intake:
        """Take one CloudEvent in structured mode, posted for a project."""
        return self._posted(body, project, time_ms, _one)

    def from_events(self, body: bytes, project: Project, time_ms: int) -> Intake:
        """Take CloudEvents in batch mode, posted for a project. Raises TooManyEvents."""
        return self._posted(body, project, time_ms, self._batch)

    def from_data(self, attributes: Document, body: bytes, project: Project, time_ms: int) -> Intake:
        """Take one CloudEvent in binary mode, its attributes and its data, posted for a project."""
        return self._posted(body or b"null", project, time_ms, lambda data: [{**attributes, "data": data}])

    def _posted(
        self, body: bytes, project: Project, time_ms: int, split: Callable[[object], Sequence[object]]
    ) -> Intake:
        taking = _Taking(self, "v1/events", CANONICAL, time_ms)
        for document in taking.decoded(body, project.name, split):
            taking.post(document, project)
        return taking.intake

    def _batch(self, document: object) -> list[object]:
        if not isinstance(document, list):
            raise InvalidEvent(Reason.WRONG_FIELD, "a batch is a JSON array of events")
        return self._bounded(document)

    def _bounded(self, documents: list[object]) -> list[object]:
        if len(documents) > self.max_events:
            raise TooManyEvents(f"{len(documents)} events, at most {self.max_events} are taken at once")
        return documents


class _Taking:
    """One body being taken."""

    def __init__(self, border: Border, origin: str, allowed: Allowed, time_ms: int) -> None:
        self.intake = Intake()
        self._border = border
        self._origin = origin
        self._allowed = allowed
        self._time_ms = time_ms
        self._whole: bytes | None = None

    def decoded(self, body: bytes, project: str, split: Callable[[object], Sequence[object]]) -> Sequence[object]:
        """Return what a body holds, decoded; nothing where it can only be a dead letter as a whole."""
        try:
            document = _decoded(body, self._border.max_depth)
        except InvalidEvent as error:
            self._bury(project, error, body, redact_text(body, self._allowed))
            return ()
        try:
            parts = split(document)
        except InvalidEvent as error:
            self._bury(project, error, body, redact(document, self._allowed))
            return ()
        self._whole = body if len(parts) == 1 and parts[0] is document else None
        return parts

    def _original(self, part: object) -> bytes:
        """Return the bytes of a part: as they came where it is the whole body."""
        return orjson.dumps(part) if self._whole is None else self._whole

    def convert(self, said: object, project: str, convert: Convert) -> None:
        """Take what a server said: all canonical events that it becomes, or none."""
        try:
            documents = convert(_object(said))
            for document in documents:
                parse_event(document, self._border.meters)
        except InvalidEvent as error:
            self._bury(project, error, self._original(said), redact(said, self._allowed), _id(said))
            return
        self.intake.messages.extend(lifecycle_message(self._border.lifecycle, document) for document in documents)
        self.intake.answers.append(Answer(_id(said), Disposition.ACCEPTED if documents else Disposition.IGNORED))

    def post(self, document: object, project: Project) -> None:
        """Take one posted event: of its poster's project alone, and no more of it than its type has."""
        owned = _of_project(document, project.name)
        if owned is None:
            self._refuse(document, "project", "data.project is not the project of this token")
            return
        try:
            event = parse_event(owned, self._border.meters)
        except InvalidEvent as error:
            self._bury(project.name, error, self._original(document), redact(document, self._allowed), _id(document))
            return
        if event is None:
            self.intake.answers.append(Answer(_id(document), Disposition.IGNORED))
        elif event.type is EventType.SESSION_AMENDED:
            self._refuse(document, "source", "amending is the operator's, with `roommeter amend` (R12)")
        elif not _may_say(event, project.name):
            self._refuse(document, "source", f"the source of a restart has to begin with {project.name}/")
        else:
            known = _known(owned, self._border.fields[event.type], project)
            self.intake.messages.append(lifecycle_message(self._border.lifecycle, known))
            self.intake.answers.append(Answer(event.id, Disposition.ACCEPTED))

    def _refuse(self, document: object, reason: str, detail: str) -> None:
        self.intake.answers.append(Answer(_id(document), Disposition.REFUSED, reason, detail))

    def _bury(self, project: str, error: InvalidEvent, original: bytes, kept: bytes, name: str = "") -> None:
        """Make a dead letter; `original` is what it is told apart by, `kept` what of it goes to Kafka."""
        headers = gateway_headers(self._origin, project, self._time_ms, error, original)
        value = kept[: self._border.max_letter_bytes]
        self.intake.messages.append(Message(self._border.dead_letters, None, value, headers))
        self.intake.answers.append(Answer(name, Disposition.DEAD_LETTER, error.reason, error.detail))


def is_deeper(body: bytes, levels: int) -> bool:
    """Tell whether brackets outside of strings nest deeper than so many levels, before anything recurses into them.

    Only for JSON is the answer right. Taking away every innermost pair makes what is left one level less deep.
    """
    if body.count(b"{") + body.count(b"[") <= levels:
        return False
    brackets = _STRING.sub(b"", body).translate(_AS_BRACES, _NOT_BRACKETS)
    for _ in range(levels):
        brackets = brackets.replace(b"{}", b"")
    return bool(brackets)


def _decoded(body: bytes, levels: int) -> Any:
    """Return what a body is in JSON; raises InvalidEvent."""
    is_deep = is_deeper(body, levels)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(Reason.NOT_JSON, str(error)) from error
    if is_deep:
        raise InvalidEvent(Reason.TOO_LARGE, f"more than {levels} levels deep")
    return document


def _object(document: object) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise InvalidEvent(Reason.NOT_AN_OBJECT, "a JSON object is expected")
    return document


def _one(document: object) -> list[object]:
    return [document]


def _id(document: object) -> str:
    name = document.get("id") if isinstance(document, dict) else None
    return name if isinstance(name, str) and name.isprintable() and len(name) <= MAX_NAME_LENGTH else ""


def _of_project(document: object, project: str) -> object | None:
    """Return an event with the project of its poster where it names none; None where it names another."""
    if not isinstance(document, dict):
        return document
    data = document.get("data")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        return document
    named = data.get("project")
    if named is None or named == "":
        return {**document, "data": {**data, "project": project}}
    return None if isinstance(named, str) and named != project else document


def _may_say(event: Event, project: str) -> bool:
    """Tell whether a project may post an event: a restart names no project but ends sessions by their source (R9).

    Whoever posts it must own every session that can have this source, or it would end those of other projects.
    """
    if event.type is not EventType.SERVER_RESTARTED:
        return True
    return event.source.startswith(f"{project}/") and not event.source.startswith(_OUR_SOURCES)


def _known(document: Any, names: frozenset[str], project: Project) -> Document:
    """Return an event with the fields of its type alone, and the identity as the project wants it."""
    data = {
        name: value
        for name, value in (document.get("data") or {}).items()
        if name in names and name not in _FREE and _is_plain(value)
    }
    identity, subject = data.get("identity"), document.get("subject")
    if identity:
        data["identity"] = project.identity_of(identity)
        subject = data["identity"] if subject == identity else subject
    known: Document = {name: document[name] for name in _ENVELOPE}
    if isinstance(subject, str) and subject and _is_plain(subject):
        known["subject"] = subject
    return {**known, "data": data} if data else known


def _is_plain(value: object) -> bool:
    """Tell whether a field that the core does not check is one number or one short text, as all of them are."""
    if isinstance(value, str):
        return len(value) <= MAX_NAME_LENGTH and value.isprintable()
    return isinstance(value, int) and -MAX_QUANTITY <= value <= MAX_QUANTITY
