"""Bodies as servers and programs send them, with secrets planted in them, and what chance makes of such bodies."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson

from tests.gateway.signing import CALL

#: Texts of people and servers that may not be found in anything the gateway sends or logs.
SECRETS: Final = (
    *(b"planted-password", b"planted-stream-key", b"planted-name", b"planted-metadata", b"planted-attribute"),
    *(b"15105550100", b"planted-url", b"planted-token", b"planted-display"),
)
_PLANTED: Final = {
    "turnPassword": "planted-password",
    "streamKey": "planted-stream-key",
    "metadata": "planted-metadata",
    "url": "planted-url",
    "display": "planted-display",
}
_ODD: Final[tuple[object, ...]] = (
    *(
        None,
        True,
        0,
        -1,
        2**63,
        1.5,
        "",
        "\0",
        "x" * 300,
        "2026-09-21T14:00:01Z",
        "1789999200",
        [],
        [[]],
        {},
        {"a": []},
    ),
)
JANUS: Final[list[dict[str, Any]]] = orjson.loads(
    (Path(__file__).parents[2] / "schemas" / "recordings" / "janus-capture.json").read_bytes()
)


def event(session: str = "PA_1", **data: Any) -> dict[str, Any]:
    """Return a canonical event of acme."""
    return {
        "specversion": "1.0",
        "id": f"EV_{session}",
        "source": "acme/eu-1",
        "type": "session.connected",
        "time": "2026-09-21T14:00:01.087Z",
        "subject": session,
        "data": {"project": "acme", "room": "RM_1", "session": session, "kind": "participant", **data},
    }


def planted_webhooks() -> list[bytes]:
    """Return the webhooks of a call, with a secret wherever LiveKit may have one."""
    return [orjson.dumps(_planted(orjson.loads(body))) for body in CALL]


def planted_janus() -> list[bytes]:
    """Return the events of a Janus server, one a body, with a secret wherever it may have one."""
    return [orjson.dumps(_planted(document)) for document in JANUS]


def planted_events() -> list[bytes]:
    """Return CloudEvents with fields nobody defined, and with free ones."""
    attributes = {"note": "planted-attribute", "phone": "+15105550100"}
    return [
        orjson.dumps(
            {**document, "token": "planted-token", "data": {**document["data"], "turnPassword": "planted-password"}}
        )
        for document in (
            event(attributes=attributes, displayName="planted-name"),
            event(region="eu") | {"type": "session.disconnected"},
            event(bytes_in=5, bytes_out=7) | {"type": "session.sampled"},
            event(name="planted-name") | {"type": "room.started"},
            event(reason="idle") | {"type": "room.ended"},
            event(meter="llm_input_tokens", quantity=12, attributes=attributes) | {"type": "usage.recorded"},
            event(job="AJ_1") | {"type": "job.dispatched"},
        )
    ]


def _planted(value: Any) -> Any:
    if isinstance(value, list):
        return [_planted(element) for element in value]
    if not isinstance(value, dict):
        return value
    planted = {name: _PLANTED.get(name, _planted(inner)) for name, inner in value.items()}
    if "sid" in planted or "ingressId" in planted:
        planted |= {"name": "planted-name", "metadata": "planted-metadata"}
    if "attributes" in planted:
        planted["attributes"] |= {
            "note": "planted-attribute",
            "sip.phoneNumber": "+15105550100",
            "id": "planted-attribute",
        }
    return planted


def mutated(random: Random, bodies: list[bytes]) -> Iterator[bytes]:
    """Yield for ever what is left of bodies after one to four random changes: of bytes, or of JSON."""
    while True:
        body = random.choice(bodies)
        for _ in range(random.randint(1, 4)):
            body = random.choice(_CHANGES)(random, body)
        yield body


def _flip(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) or 1)
    return body[:at] + random.randbytes(1) + body[at + 1 :]


def _cut(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) or 1)
    return body[:at] + body[at + random.randint(1, 6) :]


def _insert(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) or 1)
    return (
        body[:at]
        + random.choice([b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"0", b"-", b"\xff", b"[" * 40])
        + body[at:]
    )


def _end(random: Random, body: bytes) -> bytes:
    return body[: random.randrange(len(body) or 1)]


def _replace(random: Random, body: bytes) -> bytes:
    """Put something odd in place of a random value, or take its field away."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    holder, place = {"": document}, ""
    found: list[tuple[Any, Any]] = [(holder, place)]
    _collect(document, found)
    parent, key = random.choice(found)
    if random.random() < 0.2 and isinstance(parent, dict) and parent is not holder:
        del parent[key]
    else:
        parent[key] = random.choice(_ODD)
    return orjson.dumps(holder[""])


def _collect(value: Any, found: list[tuple[Any, Any]]) -> None:
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in places:
        found.append((value, key))
        _collect(inner, found)


_CHANGES: Final = (_flip, _cut, _insert, _end, _replace, _replace, _replace, _replace)
