"""Signs webhooks as LiveKit's server does, and forges them as others might: one helper for all tests of the gateway."""

import hmac
import json
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha1, sha256
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from pipeline.gateway.signature import Reason

#: The bodies of one real call, byte for byte as they are sent.
CALL: Final = tuple(
    (Path(__file__).parents[2] / "schemas" / "recordings" / "livekit-call.jsonl").read_bytes().splitlines()
)
_BASE64URL: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_ROOM_GRANT: Final = {"roomJoin": True, "room": "support-4711"}


class Forgery(NamedTuple):
    """A request that is not a server's, and the reason with which it has to be refused."""

    name: str
    authorization: str | None
    body: bytes
    reason: Reason


def base64url(data: bytes) -> str:
    """Return base64url without padding, as JWTs have it."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def body_digest(body: bytes) -> str:
    """Return the claim `sha256` of a body: standard base64, with padding, of its raw digest."""
    return b64encode(sha256(body).digest()).decode()


def sign_parts(secret: str, header: object, claims: object, algorithm: str = "sha256") -> str:
    """Return the JWT of any header and claims: bytes as they are, anything else as compact JSON."""
    parts = (
        part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
        for part in (header, claims)
    )
    signed = ".".join(base64url(part) for part in parts)
    return f"{signed}.{base64url(hmac.digest(secret.encode(), signed.encode(), algorithm))}"


def sign_livekit(key: str, secret: str, body: bytes, now_s: int, **overrides: Any) -> str:
    """Return the Authorization header with which LiveKit's server posts a body: claims in order of the alphabet, 5 min.

    An override replaces or adds a claim, or removes it when None; `header` replaces the JWT's header.
    """
    header = overrides.pop("header", {"alg": "HS256", "typ": "JWT"})
    claims = {"exp": now_s + 300, "iss": key, "nbf": now_s, "sha256": body_digest(body)} | overrides
    return sign_parts(secret, header, {name: value for name, value in claims.items() if value is not None})


def forgeries(key: str, secret: str, body: bytes, now_s: int) -> Iterator[Forgery]:
    """Yield every kind of forged webhook we know of, by name."""
    good = sign_livekit(key, secret, body, now_s)
    yield from _forged_headers(key, secret, body, now_s)
    yield from _forged_signatures(key, secret, body, now_s)
    yield from _forged_claims(key, secret, body, now_s)
    for name, other in _other_bodies(body):
        yield Forgery(name, good, other, Reason.BODY)


def _forged_headers(key: str, secret: str, body: bytes, now_s: int) -> Iterator[Forgery]:
    """Yield what is no compact JWT of the one algorithm."""
    good = sign_livekit(key, secret, body, now_s)
    header, claims, signature = good.split(".")
    for name, text in (
        ("no header", None),
        ("empty header", ""),
    ):
        yield Forgery(name, text, body, Reason.MISSING)
    for name, text in (
        ("bearer before it", f"Bearer {good}"),
        ("basic auth", "Basic " + b64encode(f"{key}:{secret}".encode()).decode()),
        ("the secret itself", secret),
        ("two parts", f"{header}.{claims}"),
        ("four parts", f"{good}.{signature}"),
        ("five parts, as encrypted tokens have", f"{good}..{signature}"),
        ("only dots", ".."),
        ("a space before", f" {good}"),
        ("a newline after", f"{good}\n"),
        ("padding", f"{good}="),
        ("padded header", f"{header}==.{claims}.{signature}"),
        ("standard base64", f"{header}.{claims}.{signature[:-4]}+/+/"),
        ("spare bits set in the signature", good[:-1] + chr(_next_in_alphabet(good[-1]))),
        ("a NUL inside", f"{header}.{claims}\0.{signature}"),
        ("a letter of another alphabet", f"{header}.{claims}.{signature[:-1]}\u0410"),
        ("a lone surrogate", f"{header}.{claims}.{signature[:-1]}\ud800"),
        ("header of 1 MB", sign_livekit(key, secret, body, now_s, jti="x" * 1_000_000)),
        ("header that is a list", sign_livekit(key, secret, body, now_s, header=["HS256"])),
        ("claims that are a list", sign_parts(secret, {"alg": "HS256"}, [key])),
        ("claims that are not JSON", sign_parts(secret, {"alg": "HS256"}, b"{'iss'")),
        ("claims that are not UTF-8", sign_parts(secret, {"alg": "HS256"}, b'{"iss":"\xff"}')),
        ("claims nested 2000 deep", sign_parts(secret, {"alg": "HS256"}, b"[" * 2000)),
    ):
        yield Forgery(name, text, body, Reason.MALFORMED)
    for algorithm in ("none", "None", "nOnE", "", "hs256", "HS256 ", "HS384", "RS256", "ES256", None, ["HS256"], 256):
        forged = sign_livekit(key, secret, body, now_s, header={"alg": algorithm, "typ": "JWT"})
        yield Forgery(f"algorithm {algorithm!r}", forged, body, Reason.ALGORITHM)
    unsigned = sign_livekit(key, secret, body, now_s, header={"alg": "none"}).rpartition(".")[0]
    yield Forgery("algorithm none and no signature", f"{unsigned}.", body, Reason.ALGORITHM)
    hs512 = sign_parts(secret, {"alg": "HS512"}, {"iss": key, "exp": now_s + 300}, "sha512")
    yield Forgery("algorithm HS512, rightly signed", hs512, body, Reason.ALGORITHM)
    yield Forgery("no algorithm", sign_livekit(key, secret, body, now_s, header={}), body, Reason.ALGORITHM)
    critical = sign_livekit(key, secret, body, now_s, header={"alg": "HS256", "crit": ["b64"], "b64": False})
    yield Forgery("critical extension", critical, body, Reason.ALGORITHM)


def _next_in_alphabet(letter: str) -> int:
    return _BASE64URL[_BASE64URL.index(letter.encode()) + 1]


def _forged_signatures(key: str, secret: str, body: bytes, now_s: int) -> Iterator[Forgery]:
    """Yield what was signed by somebody else, or changed after it was signed."""
    good = sign_livekit(key, secret, body, now_s)
    header, claims, signature = good.split(".")
    later = sign_livekit(key, secret, body, now_s + 1000).split(".")[1]
    plain = base64url(b'{"alg":"HS256"}')
    for name, text in (
        ("no signature", f"{header}.{claims}."),
        ("half a signature", f"{header}.{claims}.{signature[:20]}"),
        ("a signature twice", f"{header}.{claims}.{base64url(bytes(64))}"),
        ("a signature of zeros", f"{header}.{claims}.{base64url(bytes(32))}"),
        (
            "first letter of the signature changed",
            f"{header}.{claims}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        ),
        ("claims exchanged after signing", f"{header}.{later}.{signature}"),
        ("header exchanged after signing", f"{plain}.{claims}.{signature}"),
        ("another secret", sign_livekit(key, f"{secret}x", body, now_s)),
        ("an empty secret", sign_livekit(key, "", body, now_s)),
        ("the key as secret", sign_livekit(key, key, body, now_s)),
        ("the secret with a newline", sign_livekit(key, f"{secret}\n", body, now_s)),
        ("the secret in base64", sign_livekit(key, b64encode(secret.encode()).decode(), body, now_s)),
        ("HS512 behind a header of HS256", sign_parts(secret, {"alg": "HS256"}, {"iss": key}, "sha512")),
    ):
        yield Forgery(name, text, body, Reason.SIGNATURE)
    for name, issuer, signed_with in (
        ("an unknown key", "APInobody", secret),
        ("an unknown key, signed with zeros", "APInobody", "\0" * 32),
        ("an unknown key, signed with nothing", "APInobody", ""),
        ("the key in other letters", key.swapcase(), secret),
        ("the key with a space", f"{key} ", secret),
        ("an empty key", "", secret),
    ):
        forged = sign_livekit(issuer, signed_with, body, now_s)
        yield Forgery(name, forged, body, Reason.UNKNOWN_KEY)


def _forged_claims(key: str, secret: str, body: bytes, now_s: int) -> Iterator[Forgery]:
    """Yield what the right secret signed, and what is no webhook of this time and body all the same."""
    digest = sha256(body)
    kinds: tuple[tuple[Reason, dict[str, dict[str, Any]]], ...] = (
        (
            Reason.MALFORMED,
            {
                "no key": {"iss": None},
                "a number as key": {"iss": 7},
                "a list of keys": {"iss": [key]},
                "no expiry": {"exp": None},
                "expiry as text": {"exp": str(now_s + 300)},
                "expiry as float": {"exp": now_s + 300.5},
                "expiry beyond 64 bits": {"exp": 10**30},
                "expiry true": {"exp": True},
                "begin as text": {"nbf": "now"},
                "begin as float": {"nbf": now_s + 0.0},
            },
        ),
        (
            Reason.EXPIRED,
            {"expired": {"exp": now_s - 60}, "expired in 1970": {"exp": 0}, "negative expiry": {"exp": -1}},
        ),
        (Reason.NOT_YET_VALID, {"not yet valid": {"nbf": now_s + 61}, "valid from 2106 on": {"nbf": 2**32}}),
        (
            Reason.NOT_A_WEBHOOK,
            {
                "room token": {"sha256": None, "video": _ROOM_GRANT, "sub": "user-18f2", "exp": now_s + 21_600},
                "room token with the body's digest": {"video": _ROOM_GRANT, "sub": "user-18f2"},
                "server API token": {"sha256": None, "video": {"roomAdmin": True, "roomCreate": True}},
                "an empty grant": {"video": {}},
                "no digest": {"sha256": None},
                "digest false": {"sha256": False},
                "a list of digests": {"sha256": [body_digest(body)]},
                "digest under another name": {"sha256": None, "SHA256": body_digest(body)},
            },
        ),
        (
            Reason.BODY,
            {
                "an empty digest": {"sha256": ""},
                "digest in hex": {"sha256": digest.hexdigest()},
                "digest in base64url without padding": {"sha256": base64url(digest.digest())},
                "digest without padding": {"sha256": body_digest(body).rstrip("=")},
                "digest with a space": {"sha256": f"{body_digest(body)} "},
                "digest of nothing": {"sha256": body_digest(b"")},
                "digest beyond ASCII": {"sha256": "\u0410"},
                "SHA-1": {"sha256": b64encode(sha1(body, usedforsecurity=False).digest()).decode()},
            },
        ),
    )
    for reason, variants in kinds:
        for name, claims in variants.items():
            yield Forgery(name, sign_livekit(key, secret, body, now_s, **claims), body, reason)


def _other_bodies(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield bodies that say the same or nearly so, in other bytes than were signed."""
    document = json.loads(body)
    yield "no body", b""
    yield "another event's body", CALL[-1] if body != CALL[-1] else CALL[0]
    yield "body with a newline after", body + b"\n"
    yield "body with a space before", b" " + body
    yield "body after a byte order mark", b"\xef\xbb\xbf" + body
    yield "body cut short", body[:-1]
    yield "body with one bit flipped", body[:-2] + bytes([body[-2] ^ 1]) + body[-1:]
    yield "body written again", json.dumps(document).encode()
    yield "body in order of the alphabet", json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    yield "body in UTF-16", body.decode().encode("utf-16")


def mutations(random: Random, requests: list[tuple[str, bytes]], count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` requests that differ from every one of `requests`, by one to three random changes each."""
    known = set(requests)
    while count:
        authorization, body = random.choice(requests)
        for _ in range(random.randint(1, 3)):
            change = random.choice(_CHANGES)
            authorization, body = change(random, authorization, body, requests)
        if (authorization, body) not in known:
            count -= 1
            yield authorization, body


_Requests = list[tuple[str, bytes]]


def _change_a_letter(random: Random, authorization: str, body: bytes, _: _Requests) -> tuple[str, bytes]:
    at = random.randrange(len(authorization) + 1)
    letter = chr(random.choice([*_BASE64URL, *b".+/= \n\0"]))
    return authorization[:at] + letter + authorization[at + random.randint(0, 1) :], body


def _cut_the_header(random: Random, authorization: str, body: bytes, _: _Requests) -> tuple[str, bytes]:
    at = random.randrange(len(authorization) + 1)
    return authorization[:at] + authorization[at + random.randint(1, 60) :], body


def _change_a_decoded_bit(random: Random, authorization: str, body: bytes, _: _Requests) -> tuple[str, bytes]:
    """Change what a part says rather than how it is written: the claim, the algorithm, the signature."""
    parts = authorization.split(".")
    at = random.randrange(len(parts))
    data = _flipped(random, _lenient(parts[at]))
    return ".".join([*parts[:at], base64url(data), *parts[at + 1 :]]), body


def _mix_two_tokens(random: Random, authorization: str, body: bytes, requests: _Requests) -> tuple[str, bytes]:
    parts, others = authorization.split("."), random.choice(requests)[0].split(".")
    at = random.randrange(min(len(parts), len(others)))
    return ".".join([*parts[:at], others[at], *parts[at + 1 :]]), body


def _take_another_body(random: Random, authorization: str, _: bytes, requests: _Requests) -> tuple[str, bytes]:
    return authorization, random.choice(requests)[1]


def _change_a_bit_of_the_body(random: Random, authorization: str, body: bytes, _: _Requests) -> tuple[str, bytes]:
    return authorization, _flipped(random, body)


def _cut_or_stretch_the_body(random: Random, authorization: str, body: bytes, _: _Requests) -> tuple[str, bytes]:
    at = random.randrange(len(body) + 1)
    return authorization, body[:at] + random.randbytes(random.randint(0, 3)) + body[at + random.randint(0, 3) :]


def _sign_with_a_guess(random: Random, authorization: str, body: bytes, _: _Requests) -> tuple[str, bytes]:
    signed = authorization.rpartition(".")[0]
    guess = random.randbytes(random.choice([0, 1, 32]))
    return f"{signed}.{base64url(hmac.digest(guess, signed.encode(), 'sha256'))}", body


def _flipped(random: Random, data: bytes) -> bytes:
    if not data:
        return b"\0"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]


def _lenient(part: str) -> bytes:
    """Decode what can be decoded of a part that an earlier change may have damaged."""
    letters = bytes(letter for letter in part.encode() if letter in _BASE64URL)
    return urlsafe_b64decode(letters[: len(letters) - (len(letters) % 4 == 1)] + b"==")


_CHANGES: Final = (
    _change_a_letter,
    _cut_the_header,
    _change_a_decoded_bit,
    _mix_two_tokens,
    _take_another_body,
    _change_a_bit_of_the_body,
    _cut_or_stretch_the_body,
    _sign_with_a_guess,
)
