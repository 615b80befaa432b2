"""LiveKit's protocol by name: the values of its enums, and the fields of its webhooks.

As of livekit-protocol 1.1.29; a test holds every table against that package, so that a newer one shows what is new.
"""

from collections.abc import Mapping
from typing import Final

from pipeline.livekit.wire import Fields, snake, value


def _numbered(*names: str) -> dict[int, str]:
    return {number: name for number, name in enumerate(names) if name}


def _named(names: str) -> frozenset[str]:
    """Return names in both spellings that a sender may use."""
    return frozenset(names.split()) | frozenset(map(snake, names.split()))


KIND: Final = _numbered("STANDARD", "INGRESS", "EGRESS", "SIP", "AGENT", "", "", "CONNECTOR", "BRIDGE")
KIND_DETAIL: Final = _numbered(
    "CLOUD_AGENT", "FORWARDED", "CONNECTOR_WHATSAPP", "CONNECTOR_TWILIO", "BRIDGE_RTSP", "SIMULATION"
)
DISCONNECT_REASON: Final = _numbered(
    *("UNKNOWN_REASON", "CLIENT_INITIATED", "DUPLICATE_IDENTITY", "SERVER_SHUTDOWN", "PARTICIPANT_REMOVED"),
    *("ROOM_DELETED", "STATE_MISMATCH", "JOIN_FAILURE", "MIGRATION", "SIGNAL_CLOSE", "ROOM_CLOSED"),
    *("USER_UNAVAILABLE", "USER_REJECTED", "SIP_TRUNK_FAILURE", "CONNECTION_TIMEOUT", "MEDIA_FAILURE", "AGENT_ERROR"),
)
ROOM_END_REASON: Final = _numbered(
    *("ROOM_END_UNKNOWN", "ROOM_END_API_DELETE", "ROOM_END_IDLE_TIMEOUT", "ROOM_END_SERVER_SHUTDOWN"),
    *("ROOM_END_SUPERSEDED", "ROOM_END_OPEN_FAILED"),
)
EGRESS_STATUS: Final = _numbered(
    *("EGRESS_STARTING", "EGRESS_ACTIVE", "EGRESS_ENDING", "EGRESS_COMPLETE", "EGRESS_FAILED", "EGRESS_ABORTED"),
    "EGRESS_LIMIT_REACHED",
)
INGRESS_STATUS: Final = _numbered(
    *("ENDPOINT_INACTIVE", "ENDPOINT_BUFFERING", "ENDPOINT_PUBLISHING", "ENDPOINT_ERROR", "ENDPOINT_COMPLETE"),
)
JOB_STATUS: Final = _numbered("JS_PENDING", "JS_RUNNING", "JS_SUCCESS", "JS_FAILED", "JS_CANCELLED")

#: The fields of a webhook, by the part of it that they are in.
FIELDS: Final = {
    "": _named("event room participant egressInfo ingressInfo track job id createdAt numDropped roomEndReason"),
    "room": _named(
        "sid name emptyTimeout departureTimeout maxParticipants creationTime creationTimeMs turnPassword "
        "enabledCodecs metadata numParticipants numPublishers activeRecording version"
    ),
    "participant": _named(
        "sid identity state tracks metadata joinedAt joinedAtMs name version permission region isPublisher "
        "kind attributes disconnectReason kindDetails dataTracks clientProtocol capabilities"
    ),
    "egressInfo": _named(
        "egressId roomId roomName sourceType status startedAt endedAt updatedAt egress replay roomComposite "
        "web participant trackComposite track streamResults fileResults segmentResults imageResults error "
        "errorCode details manifestLocation backupStorageUsed retryCount stream file segments"
    ),
    "ingressInfo": _named(
        "ingressId name streamKey url inputType bypassTranscoding enableTranscoding audio video roomName "
        "participantIdentity participantName participantMetadata reusable state enabled"
    ),
    "job": _named(
        "id dispatchId type room participant namespace metadata agentName state enableRecording deployment "
        "attributes enableRedaction"
    ),
}


def unknown_fields(payload: Fields) -> int:
    """Return how many fields of a webhook and of its parts the protocol does not name, for counting (R21).

    They are ignored; that there are any says that the server is newer than what is known here. Never raises.
    """
    parts = ((names, value(payload, part) if part else payload) for part, names in FIELDS.items())
    return sum(name not in names for names, fields in parts if isinstance(fields, Mapping) for name in fields)
