"""Controls around secrets and signatures that no result shows: what takes how long, and what stays hidden."""

import ast
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from livekit.api import AccessToken

from pipeline.gateway import projects as projects_module
from pipeline.gateway.projects import JanusSource, LivekitKey, Project, Projects, read_projects
from pipeline.gateway.signature import BadSignature, verify_livekit
from tests.gateway.signing import CALL, body_digest, forgeries, sign_livekit

_ROOT = Path(__file__).parents[2]
_NOW_S = 1_790_000_000
_SECRET = "planted-secret-of-acme-0123456789"  # noqa: S105 - opens nothing but these tests
_PASSWORD = "planted-password-of-janus"  # noqa: S105
_PROJECTS = Projects(
    [Project("acme", livekit=(LivekitKey("APIacme", _SECRET.encode()),))],
    {sha256(b"planted-token").digest(): "acme"},
    [JanusSource("eu-1", "janus", _PASSWORD.encode(), project="acme")],
)
#: Names that secrets, and digests made with or from them, have in the code.
_GUARDED = {"digest", "expected", "given", "mac", "password", "secret", "signature"}


def _hasty_comparisons(source: str) -> Iterator[str]:
    """Yield every == and != of something guarded: they stop at the first byte that differs, which can be measured."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops):
            names = {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}
            names |= {leaf.attr for leaf in ast.walk(node) if isinstance(leaf, ast.Attribute)}
            if names & _GUARDED:
                yield ast.unparse(node)


@pytest.mark.parametrize("module", ["projects", "signature"])
def test_secrets_and_their_digests_are_compared_in_constant_time(module: str) -> None:
    """Only hmac.compare_digest compares them."""
    source = (_ROOT / "pipeline" / "gateway" / f"{module}.py").read_text()
    assert list(_hasty_comparisons(source)) == []
    assert "hmac.compare_digest" in source


@pytest.mark.parametrize("planted", ["x = mac == made", "if source.password != given: pass", "b64(digest) == claim"])
def test_a_hasty_comparison_is_found(planted: str) -> None:
    """The check above finds what is planted."""
    assert len(list(_hasty_comparisons(planted))) == 1


def _path_of(call: Callable[[], Any]) -> list[str]:
    """Return the names of all functions that a call runs through, refused or not."""
    path: list[str] = []

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event in ("call", "c_call"):
            path.append(frame.f_code.co_qualname if event == "call" else function.__qualname__)

    sys.setprofile(note)
    try:
        call()
    except BadSignature:
        pass
    finally:
        sys.setprofile(None)
    return path


def test_an_unknown_key_is_refused_on_the_same_path_as_a_wrong_signature() -> None:
    """Keys cannot be probed by time: the same functions run, the HMAC among them."""
    unknown, wrong = (
        _path_of(lambda key=key, secret=secret: _refused(key, secret))  # type: ignore[misc]
        for key, secret in (("APIacmf", _SECRET), ("APIacme", _SECRET[::-1]))
    )
    assert unknown == wrong
    assert "compare_digest" in wrong


def _refused(key: str, secret: str) -> None:
    verify_livekit(sign_livekit(key, secret, CALL[0], _NOW_S), CALL[0], _PROJECTS, _NOW_S)


def test_an_unknown_janus_user_is_refused_on_the_same_path_as_a_wrong_password() -> None:
    """Users cannot be probed by time either."""
    unknown = _path_of(lambda: _PROJECTS.by_janus("janos", _PASSWORD))
    wrong = _path_of(lambda: _PROJECTS.by_janus("janus", _PASSWORD[::-1]))
    assert unknown == wrong
    assert "compare_digest" in wrong


def test_every_field_that_holds_a_secret_is_hidden() -> None:
    """Secrets are the fields of type bytes; a new one without repr=False is found here."""
    secrets = [
        field
        for thing in vars(projects_module).values()
        if isinstance(thing, type) and dataclasses.is_dataclass(thing)
        for field in dataclasses.fields(thing)
        if field.type is bytes
    ]
    assert len(secrets) == 3
    assert not any(field.repr for field in secrets)


def test_from_file_to_verdict_no_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with planted secrets, an official webhook, every forgery, wrong passwords: the log holds none of them."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "projects.toml"
    path.write_text(
        f'[projects.acme]\nlivekit = [{{key = "APIacme", secret = "{_SECRET}"}}]\n'
        f'[[janus]]\nname = "eu-1"\nuser = "janus"\npassword = "{_PASSWORD}"\nproject = "acme"\n'
    )
    path.chmod(0o644)
    projects = read_projects(path, {})
    token = AccessToken("APIacme", _SECRET).with_ttl(timedelta(minutes=5)).with_sha256(body_digest(CALL[0]))
    assert verify_livekit(token.to_jwt(), CALL[0], projects, int(time.time())).name == "acme"
    for forgery in forgeries("APIacme", _SECRET, CALL[0], _NOW_S):
        with pytest.raises(BadSignature):
            verify_livekit(forgery.authorization, forgery.body, projects, _NOW_S)
    assert projects.by_janus("janus", f"{_PASSWORD}x") is None
    assert "every user may read it" in caplog.text  # the log was listened to
    assert "planted" not in caplog.text


def test_a_project_follows_from_the_key_and_never_from_the_body() -> None:
    """A body that names another project is signed with its sender's key, and is its sender's."""
    body = b'{"event":"room_started","project":"other","room":{"sid":"RM_1","name":"other/room"}}'
    project = verify_livekit(sign_livekit("APIacme", _SECRET, body, _NOW_S), body, _PROJECTS, _NOW_S)
    assert project.name == "acme"
