"""Whose webhooks are believed: LiveKit's own, by its official packages' word, and nobody else's."""

import json
import time
from base64 import b64encode
from datetime import timedelta
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from livekit.api import AccessToken, TokenVerifier, VideoGrants, WebhookReceiver

from pipeline.gateway.projects import LivekitKey, Project, Projects
from pipeline.gateway.signature import BadSignature, Reason, verify_livekit
from tests.gateway.signing import CALL, Forgery, base64url, body_digest, forgeries, mutations, sign_livekit, sign_parts

_NOW_S = 1_790_000_000
_SECRET = "acme-secret-0123456789abcdefghijklmnopqrstuv"  # noqa: S105 - signs nothing but these tests
_NEXT_SECRET = "acme-next-secret-0123456789abcdefghijklmnopq"  # noqa: S105 - signs nothing but these tests
_OTHER_SECRET = "other-secret-0123456789abcdefghijklmnopqrstu"  # noqa: S105 - signs nothing but these tests
_ACME = Project("acme", livekit=(LivekitKey("APIacme", _SECRET.encode()), LivekitKey("APInext", _NEXT_SECRET.encode())))
_OTHER = Project("other", livekit=(LivekitKey("APIother", _OTHER_SECRET.encode()),))
_PROJECTS = Projects([_ACME, _OTHER])
_FORGERIES = tuple(forgeries("APIacme", _SECRET, CALL[2], _NOW_S))


def _refusal(authorization: str | None, body: bytes, now_s: int = _NOW_S) -> Reason:
    with pytest.raises(BadSignature) as caught:
        verify_livekit(authorization, body, _PROJECTS, now_s)
    return caught.value.reason


@pytest.mark.parametrize("body", CALL, ids=[json.loads(body)["event"] for body in CALL])
def test_what_the_official_signer_signs_is_accepted(body: bytes) -> None:
    """LiveKit's own package signs each webhook of a call: the project of the key is the answer."""
    token = AccessToken("APIacme", _SECRET).with_ttl(timedelta(minutes=5)).with_sha256(body_digest(body))
    assert verify_livekit(token.to_jwt(), body, _PROJECTS, int(time.time())) is _ACME


@pytest.mark.parametrize("body", CALL, ids=[json.loads(body)["event"] for body in CALL])
def test_what_our_tests_sign_the_official_receiver_accepts(body: bytes) -> None:
    """The tests' signer is no invention: LiveKit's own receiver takes what it signs, and so do we."""
    now_s = int(time.time())
    authorization = sign_livekit("APIacme", _SECRET, body, now_s)
    event = WebhookReceiver(TokenVerifier("APIacme", _SECRET)).receive(body.decode(), authorization)
    assert event.event == json.loads(body)["event"]
    assert verify_livekit(authorization, body, _PROJECTS, now_s) is _ACME


@pytest.mark.parametrize("forgery", _FORGERIES, ids=[forgery.name for forgery in _FORGERIES])
def test_a_forgery_is_refused_with_its_reason(forgery: Forgery) -> None:
    """Each known way to forge a webhook ends in a reason of the closed list."""
    assert _refusal(forgery.authorization, forgery.body) is forgery.reason


def test_every_reason_has_a_forgery() -> None:
    """No reason stands in the list that nothing leads to."""
    assert {forgery.reason for forgery in _FORGERIES} == set(Reason)


def test_a_room_token_of_the_official_package_is_refused() -> None:
    """What every participant of a room holds is signed with the same secret, and opens nothing here."""
    token = AccessToken("APIacme", _SECRET).with_identity("user-18f2")
    token = token.with_grants(VideoGrants(room_join=True, room="support-4711"))
    assert _refusal(token.to_jwt(), CALL[0], int(time.time())) is Reason.NOT_A_WEBHOOK
    assert _refusal(token.with_sha256(body_digest(CALL[0])).to_jwt(), CALL[0], int(time.time())) is Reason.NOT_A_WEBHOOK


@pytest.mark.parametrize(("key", "secret"), [("APIacme", _SECRET), ("APInext", _NEXT_SECRET)])
def test_each_key_of_a_project_is_good_while_keys_are_exchanged(key: str, secret: str) -> None:
    """Rotation: the new key is added, the servers change over, the old key is removed; nothing is refused meanwhile."""
    assert verify_livekit(sign_livekit(key, secret, CALL[0], _NOW_S), CALL[0], _PROJECTS, _NOW_S) is _ACME


def test_a_key_that_was_removed_is_refused() -> None:
    """After a rotation the old key is unknown."""
    after = Projects([Project("acme", livekit=_ACME.livekit[1:])])
    with pytest.raises(BadSignature, match=Reason.UNKNOWN_KEY):
        verify_livekit(sign_livekit("APIacme", _SECRET, CALL[0], _NOW_S), CALL[0], after, _NOW_S)


def test_a_project_cannot_sign_for_another() -> None:
    """The key names the project, and only that key's secret signs for it."""
    assert _refusal(sign_livekit("APIacme", _OTHER_SECRET, CALL[0], _NOW_S), CALL[0]) is Reason.SIGNATURE
    assert _refusal(sign_livekit("APIacme", _NEXT_SECRET, CALL[0], _NOW_S), CALL[0]) is Reason.SIGNATURE


def test_without_projects_everything_is_refused() -> None:
    """No projects file is no open door."""
    with pytest.raises(BadSignature, match=Reason.UNKNOWN_KEY):
        verify_livekit(sign_livekit("APIacme", _SECRET, CALL[0], _NOW_S), CALL[0], Projects(), _NOW_S)


@pytest.mark.parametrize("leeway_s", [0, 1, 60])
def test_expiry_is_granted_the_leeway_and_not_a_second_more(leeway_s: int) -> None:
    """A token is good while now < exp + leeway, as it is to PyJWT."""
    authorization = sign_livekit("APIacme", _SECRET, CALL[0], _NOW_S - 300)
    assert verify_livekit(authorization, CALL[0], _PROJECTS, _NOW_S + leeway_s - 1, leeway_s) is _ACME
    with pytest.raises(BadSignature, match=Reason.EXPIRED):
        verify_livekit(authorization, CALL[0], _PROJECTS, _NOW_S + leeway_s, leeway_s)


@pytest.mark.parametrize("leeway_s", [0, 1, 60])
def test_a_server_ahead_of_us_is_granted_the_leeway_and_not_a_second_more(leeway_s: int) -> None:
    """A token is good from nbf - leeway on, as it is to PyJWT."""
    authorization = sign_livekit("APIacme", _SECRET, CALL[0], _NOW_S)
    assert verify_livekit(authorization, CALL[0], _PROJECTS, _NOW_S - leeway_s, leeway_s) is _ACME
    with pytest.raises(BadSignature, match=Reason.NOT_YET_VALID):
        verify_livekit(authorization, CALL[0], _PROJECTS, _NOW_S - leeway_s - 1, leeway_s)


def test_a_replay_is_good_for_the_six_minutes_of_its_token_only() -> None:
    """LiveKit re-sends a webhook unchanged for 15 s; after exp + leeway the same bytes are refused."""
    authorization = sign_livekit("APIacme", _SECRET, CALL[0], _NOW_S)
    assert all(verify_livekit(authorization, CALL[0], _PROJECTS, _NOW_S + 3 * n) is _ACME for n in range(100))
    assert _refusal(authorization, CALL[0], _NOW_S + 360) is Reason.EXPIRED


def test_a_token_without_nbf_is_good_until_it_expires() -> None:
    """Only exp is required of the times; some signers leave nbf out."""
    authorization = sign_livekit("APIacme", _SECRET, CALL[0], _NOW_S, nbf=None)
    assert verify_livekit(authorization, CALL[0], _PROJECTS, _NOW_S - 10_000) is _ACME


def test_typ_and_claims_we_do_not_know_do_not_matter() -> None:
    """A later LiveKit may say more; what it says is signed."""
    header = {"alg": "HS256", "typ": "at+jwt", "kid": "1"}
    authorization = sign_livekit("APIacme", _SECRET, CALL[0], _NOW_S, header=header, jti="1", sub="", iat=_NOW_S)
    assert verify_livekit(authorization, CALL[0], _PROJECTS, _NOW_S) is _ACME


def test_bodies_are_bytes_to_the_signature() -> None:
    """What is no text at all can be signed too; whether it is an event is decided after."""
    body = bytes(range(256))
    assert verify_livekit(sign_livekit("APIacme", _SECRET, body, _NOW_S), body, _PROJECTS, _NOW_S) is _ACME


def test_none_of_10_000_mutated_webhooks_is_accepted() -> None:
    """Any change of header or body, however small, is refused; the requests themselves are accepted."""
    requests = [(sign_livekit("APIacme", _SECRET, body, _NOW_S), body) for body in CALL]
    requests += [(sign_livekit("APIother", _OTHER_SECRET, body, _NOW_S), body) for body in CALL]
    assert all(verify_livekit(*request, _PROJECTS, _NOW_S) for request in requests)
    random = Random(3)  # noqa: S311 - the same mutations each time
    reasons = [_refusal(*request) for request in mutations(random, requests, 10_000)]
    assert len(reasons) == 10_000
    # Mutations that never get past the first check would prove little.
    assert {Reason.MALFORMED, Reason.ALGORITHM, Reason.SIGNATURE, Reason.UNKNOWN_KEY, Reason.BODY} <= set(reasons)


def test_a_refusal_says_nothing_of_the_request() -> None:
    """Neither message nor repr holds key, secret, token or body: they end in logs."""
    for forgery in _FORGERIES:
        with pytest.raises(BadSignature) as caught:
            verify_livekit(forgery.authorization, forgery.body, _PROJECTS, _NOW_S)
        assert caught.value.args == (forgery.reason.value,)
        # A cause would be shown with the JSON it choked on.
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "iss": _JSON | st.just("APIacme"),
        "exp": _JSON | st.just(_NOW_S),
        "nbf": _JSON | st.just(_NOW_S),
        "video": _JSON,
        "sha256": _JSON,
    },
)


@settings(max_examples=500, deadline=None)
@given(st.text() | st.from_regex(r"[A-Za-z0-9_.=-]*", fullmatch=True), st.binary())
@example("....", b"").via("empty parts")
@example("\udcff.a.b", b"").via("a byte that is not UTF-8, as servers decode headers")
def test_any_text_as_header_is_refused_and_nothing_else_happens(authorization: str, body: bytes) -> None:
    """Whatever arrives in the header, the answer is a reason and never another exception."""
    assert _refusal(authorization, body) in Reason


@settings(max_examples=500, deadline=None)
@given(_JSON | st.just({"alg": "HS256"}), _JSON | _CLAIMS, st.binary(max_size=40))
def test_any_json_as_header_and_claims_is_refused_and_nothing_else_happens(
    header: object, claims: object, signature: bytes
) -> None:
    """Tokens of the right shape with any content and a signature that was guessed."""
    parts = [base64url(json.dumps(part).encode()) for part in (header, claims)]
    assert _refusal(".".join([*parts, base64url(signature)]), b"{}") in Reason


@settings(max_examples=500, deadline=None)
@given(_CLAIMS)
def test_any_claims_of_the_right_key_without_the_bodys_digest_are_refused(claims: dict[str, object]) -> None:
    """The secret alone does not do it: a key's holder may have signed anything, and this body is not among it."""
    authorization = sign_parts(_SECRET, {"alg": "HS256"}, {**claims, "iss": "APIacme"})
    assert _refusal(authorization, CALL[0]) is not Reason.SIGNATURE


def test_the_key_and_secret_as_basic_credentials_are_refused() -> None:
    """A header that shows the secret itself is not a proof of holding it."""
    credentials = b64encode(f"APIacme:{_SECRET}".encode()).decode()
    assert _refusal(f"Basic {credentials}", CALL[0]) is Reason.MALFORMED
