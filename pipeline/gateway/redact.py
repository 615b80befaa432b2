"""What may be kept of a body that cannot be an event: names and values by an allow-list, everything else masked. Pure.

A dead letter has to explain itself and to be replayable, and must not carry what a person said about himself: names,
metadata, attributes, phone numbers, passwords, stream keys. So nothing passes because it looks harmless; it passes
because its place in the body is listed here.

A masked value is null, as if it were absent, and a listed one that is unfit is false, which no field may be. So a
replayed dead letter can never become an event about something that the sender did not say.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import orjson

from pipeline.livekit.wire import snake
from pipeline.metering.events import MAX_NAME_LENGTH

Allowed: TypeAlias = "Mapping[str, Allowed] | bool"
"""What of a value may be kept: True the scalar, False nothing but that it was there, a mapping its listed fields.

Elements of a list obey what stands for the list.
"""

#: In place of how many fields an object had that are not listed.
_OTHERS: Final = "?"
_NOT_STRUCTURE: Final = re.compile(rb'[^\s{}\[\]:,"]+')
_LITERALS: Final = frozenset({b"true", b"false", b"null"})


def _kept(*names: str) -> dict[str, bool]:
    return dict.fromkeys(names, True)


def _masked(*names: str) -> dict[str, bool]:
    return dict.fromkeys(names, False)


_TIMES: Final = _kept("startedAt", "endedAt", "updatedAt", "createdAt")
_ROOM: Final[Allowed] = {
    **_kept("sid", "creationTime", "creationTimeMs", "numParticipants", "numPublishers", "activeRecording"),
    **_masked("name", "metadata", "turnPassword", "enabledCodecs"),
}
_ATTRIBUTES: Final[Allowed] = {
    **_kept("sip.ruleID", "sip.callID", "sip.trunkID", "sip.callStatus", "lk.agent_name", "lk.agent.name"),
    **_masked("sip.phoneNumber", "sip.trunkPhoneNumber"),
}
_RESULT: Final[Allowed] = {**_TIMES, **_kept("duration", "size", "status"), **_masked("filename", "location", "url")}
_WEBHOOK: Final[Allowed] = {
    **_kept("event", "id", "createdAt", "numDropped", "roomEndReason"),
    "room": _ROOM,
    "participant": {
        **_kept("sid", "state", "joinedAt", "joinedAtMs", "version", "region", "kind", "kindDetails"),
        **_kept("disconnectReason", "isPublisher", "clientProtocol"),
        **_masked("identity", "name", "metadata", "permission", "tracks"),
        "attributes": _ATTRIBUTES,
    },
    "track": {**_kept("sid", "type", "source", "mimeType"), **_masked("name", "stream")},
    "egressInfo": {
        **_TIMES,
        **_kept("egressId", "roomId", "status", "sourceType", "errorCode"),
        **_masked("roomName", "error", "details"),
        **dict.fromkeys(("fileResults", "streamResults", "segmentResults", "imageResults"), _RESULT),
    },
    "ingressInfo": {
        **_kept("ingressId", "inputType", "reusable"),
        **_masked("name", "streamKey", "url", "roomName", "participantIdentity", "participantName"),
        "state": {**_TIMES, **_kept("status", "roomId", "resourceId"), **_masked("error")},
    },
    "job": {
        **_kept("id", "type", "dispatchId", "agentName"),
        **_masked("metadata", "participant"),
        "room": _ROOM,
        "state": {**_TIMES, **_kept("status", "workerId"), **_masked("participantIdentity", "error")},
    },
}


def _in_both_spellings(allowed: Allowed) -> Allowed:
    """Return the same with every name in snake_case as well: LiveKit's senders may write either."""
    if not isinstance(allowed, Mapping):
        return allowed
    return {spelling: _in_both_spellings(inner) for name, inner in allowed.items() for spelling in (name, snake(name))}


#: A LiveKit webhook: what the adapter reads, and what explains it.
LIVEKIT: Final[Allowed] = _in_both_spellings(_WEBHOOK)
#: An event of a Janus server.
JANUS: Final[Allowed] = {
    **_kept("emitter", "type", "subtype", "timestamp", "session_id", "handle_id"),
    **_masked("opaque_id"),
    "event": {
        **_kept("name", "plugin", "connection", "reason", "status", "media", "mid", "mindex", "receiving"),
        **_kept("bytes-received", "bytes-sent", "packets-received", "packets-sent"),
        "data": {**_kept("event", "room", "id"), **_masked("display", "private_id", "opaque_id", "reason")},
    },
}
#: A log of a LiteLLM proxy: what the adapter reads, but for what can be a person's.
LITELLM: Final[Allowed] = {
    **_kept("id", "call_type", "status", "custom_llm_provider", "model", "cache_hit", "startTime", "endTime"),
    **_kept("prompt_tokens", "completion_tokens", "total_tokens"),
    **_masked("messages", "response", "api_base", "end_user", "requester_ip_address", "error_str"),
    "metadata": {**_kept("user_api_key_team_id"), **_masked("user_api_key_hash", "user_api_key_user_id")},
}
#: A canonical event: what may reach the lifecycle topic, but for what can be a person's.
CANONICAL: Final[Allowed] = {
    **_kept("specversion", "id", "source", "type", "time", "datacontenttype", "dataschema"),
    **_masked("subject", "data_base64"),
    "data": {
        **_kept("project", "room", "session", "kind", "job", "agent", "number", "region", "reason", "status"),
        **_kept("connected_at", "started_at", "bytes_in", "bytes_out", "reported_duration_ms"),
        **_kept("meter", "quantity", "model", "latency_ms"),
        **_masked("identity", "name", "attributes", "endpoint", "team", "key"),
    },
}


def redact(document: object, allowed: Allowed) -> bytes:
    """Return JSON of what is allowed of a decoded document; `document` is at most as deep as JSON may be here."""
    return orjson.dumps(_redacted(document, allowed))


def redact_text(body: bytes, allowed: Allowed) -> bytes:
    """Return what is left of a body that is not JSON: its punctuation, and the words that `allowed` lists.

    Where strings begin and end cannot be told in such a body, so every other word is masked, numbers too.
    """
    words = _LITERALS | frozenset(name.encode() for name in _names(allowed))
    return _NOT_STRUCTURE.sub(lambda found: found[0] if found[0] in words else b"*", body)


def _redacted(value: Any, allowed: Allowed) -> Any:
    if isinstance(value, list):
        return [_redacted(element, allowed) for element in value]
    if isinstance(allowed, Mapping):
        return _fields(value, allowed) if isinstance(value, dict) else None
    if not allowed or value is None:
        return None
    return value if _is_fit(value) else False


def _fields(fields: dict[str, Any], allowed: Mapping[str, Allowed]) -> dict[str, Any]:
    """Return the listed fields, and how many others there were."""
    known = {name: _redacted(value, allowed[name]) for name, value in fields.items() if name in allowed}
    others = len(fields) - len(known)
    return {**known, _OTHERS: others} if others else known


def _is_fit(value: object) -> bool:
    """Tell whether a value can be what its name says: a number, or a text no longer than an identifier."""
    if isinstance(value, str):
        return len(value) <= MAX_NAME_LENGTH and value.isprintable()
    return isinstance(value, int | float)


def _names(allowed: Allowed) -> Iterator[str]:
    if isinstance(allowed, Mapping):
        for name, inner in allowed.items():
            yield name
            yield from _names(inner)
