"""The file of targets: what it may say, and that no secret is in it or in what is said of it."""

from pathlib import Path
from typing import Final

import pytest

from pipeline.delivery.file import InvalidTargets, read_target
from pipeline.delivery.targets import OpenMeter, Stripe, Webhook
from tests.faults.billing import KEY, SECRET
from tests.metering.builders import METERS

_ENVIRON: Final = {"HOOK": SECRET, "STRIPE": KEY, "OM": "om_secret", "SHORT": "whsec_c2hvcnQ=", "EMPTY": ""}
_WEBHOOK: Final = '[webhook]\nurl = "https://billing.example/rollups/"\nsecret_env = "HOOK"\n'
_STRIPE: Final = """
[stripe]
key_env = "STRIPE"
customers = {acme = "cus_1"}
events = {agent_session_minutes = "agent_minutes"}
ignored_meters = ["webrtc_minutes"]
"""


def _read(folder: Path, text: str, name: str) -> object:
    (folder / "delivery.toml").write_text(text)
    return read_target(folder / "delivery.toml", name, _ENVIRON, METERS)


def test_a_webhook_is_read(tmp_path: Path) -> None:
    """Its secret is the bytes behind whsec_."""
    assert _read(tmp_path, _WEBHOOK, "webhook") == Webhook(
        "https://billing.example/rollups", bytes.fromhex("31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0")
    )


def test_stripe_is_read(tmp_path: Path) -> None:
    """With its own address where none is named."""
    assert _read(tmp_path, _STRIPE, "stripe") == Stripe(
        "https://api.stripe.com",
        KEY,
        {"acme": "cus_1"},
        {"agent_session_minutes": "agent_minutes"},
        frozenset({"webrtc_minutes"}),
        METERS,
    )


@pytest.mark.parametrize(("line", "token"), [("", ""), ('token_env = "OM"', "om_secret")])
def test_openmeter_is_read_with_or_without_a_token(line: str, token: str, tmp_path: Path) -> None:
    """One of one's own has none."""
    text = f'[openmeter]\nurl = "http://openmeter:8888"\n{line}'
    assert _read(tmp_path, text, "openmeter") == OpenMeter("http://openmeter:8888", token)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("x", "webhook", "is not TOML"),
        (_WEBHOOK, "stripe", r"has no \[stripe\]"),
        (_WEBHOOK + 'secret = "x"', "webhook", "webhook.secret: Extra inputs"),
        (_WEBHOOK.replace("HOOK", "NONE"), "webhook", "environment variable NONE has to hold the secret"),
        (_WEBHOOK.replace("HOOK", "EMPTY"), "webhook", "environment variable EMPTY has to hold the secret"),
        (_WEBHOOK.replace("HOOK", "SHORT"), "webhook", "24 to 64 random bytes"),
        (_WEBHOOK.replace("HOOK", "STRIPE"), "webhook", "24 to 64 random bytes"),
        (_WEBHOOK.replace("https://", "ftp://"), "webhook", "webhook.url: .* is not http"),
        (_WEBHOOK.replace("https://", "https://user:hunter2@"), "webhook", "without user and password"),
        (_STRIPE + 'url = "http://stripe.example"', "stripe", "is not https"),
        (_STRIPE.replace("agent_session", "agent_sesion"), "stripe", "agent_sesion_minutes: not in the table"),
    ],
)
def test_a_mistake_is_named_and_no_secret_shown(text: str, name: str, said: str, tmp_path: Path) -> None:
    """The file, the field, and what to do."""
    with pytest.raises(InvalidTargets, match=said) as caught:
        _read(tmp_path, text, name)
    assert not any(secret in str(caught.value) for secret in (SECRET, KEY, "c2hvcnQ", "hunter2"))
