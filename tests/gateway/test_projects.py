"""The projects file: what it may say, how its mistakes are reported, and whose credentials open what."""

import hmac
import logging
import traceback
from dataclasses import FrozenInstanceError
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.gateway.projects import InvalidProjects, LivekitKey, Project, Projects, read_projects

_SECRET = "planted-secret-of-acme-0123456789"  # noqa: S105 - opens nothing but these tests
_PASSWORD = "planted-password-of-janus"  # noqa: S105
_TOKEN = "planted-token-of-acme"  # noqa: S105
_DIGEST = sha256(_TOKEN.encode()).hexdigest()
_FILE = f"""
identity_key = "planted-identity-key"

[projects.acme]
identity = "hash"
agents = "hosted"
requests_per_s = 50
livekit = [{{key = "APIacme", secret = "{_SECRET}"}}, {{key = "APInext", secret_env = "ACME_NEXT"}}]
tokens = [{{sha256 = "{_DIGEST}"}}]
livekit_url = "https://livekit.acme.example/"

[projects.other]

[[janus]]
name = "eu-1"
user = "janus"
password_env = "JANUS_PASSWORD"
project = "acme"

[[janus]]
name = "eu-2"
user = "janus-2"
password = "{_PASSWORD}2"
project_from = "room"
pattern = "(?P<project>[a-z]+)[-/]"
"""
_ENVIRON = {"ACME_NEXT": f"{_SECRET}-next", "JANUS_PASSWORD": _PASSWORD}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the projects file, which its owner alone may read."""
    path = tmp_path / "projects.toml"
    path.touch(mode=0o600)
    return path


def _read(path: Path, text: str) -> Projects:
    path.write_text(text)
    return read_projects(path, _ENVIRON)


def _problem(path: Path, text: str) -> str:
    with pytest.raises(InvalidProjects) as caught:
        _read(path, text)
    return str(caught.value)


def test_everything_a_project_may_say_is_read(path: Path) -> None:
    """A project's settings, its LiveKit keys from the file and from the environment."""
    assert _read(path, _FILE).by_name("acme") == Project(
        name="acme",
        identity="hash",
        agents="hosted",
        requests_per_s=50,
        livekit_url="https://livekit.acme.example",
        livekit=(LivekitKey("APIacme", _SECRET.encode()), LivekitKey("APInext", f"{_SECRET}-next".encode())),
        identity_key=b"planted-identity-key",
    )


def test_a_project_has_to_say_nothing(path: Path) -> None:
    """The defaults: identities kept, every agent metered, 500 requests a second, no key and no token."""
    project = _read(path, _FILE).by_name("other")
    assert project is not None
    assert (project.identity, project.agents, project.requests_per_s, project.livekit) == ("keep", "all", 500, ())


@pytest.mark.parametrize("text", ["", "[projects]"])
def test_a_file_may_hold_no_projects(path: Path, text: str) -> None:
    """Then every credential is unknown."""
    projects = _read(path, text)
    assert (projects.names(), projects.by_token(_TOKEN), projects.by_janus("janus", "")) == ((), None, None)


def test_without_a_file_there_are_no_projects() -> None:
    """The setting is optional; what it opens stays shut without it."""
    projects = read_projects(None, {})
    assert (projects.names(), projects.by_livekit_key("APIacme"), projects.by_name("acme")) == ((), None, None)


def test_names_are_in_order_of_the_alphabet(path: Path) -> None:
    """Whatever the order in the file."""
    assert _read(path, "[projects.b]\n[projects.a]\n").names() == ("a", "b")


@pytest.mark.parametrize(
    ("key", "secret"), [("APIacme", _SECRET), ("APInext", f"{_SECRET}-next")], ids=["first", "second"]
)
def test_a_livekit_key_names_its_project_and_secret(path: Path, key: str, secret: str) -> None:
    """Several keys belong to one project, for rotation."""
    projects = _read(path, _FILE)
    assert projects.by_livekit_key(key) == (projects.by_name("acme"), secret.encode())


def test_a_token_names_its_project_and_stands_in_the_file_as_its_digest_only(path: Path) -> None:
    """Who reads the file cannot send with it."""
    projects = _read(path, _FILE)
    assert projects.by_token(_TOKEN) is projects.by_name("acme")
    for wrong in (_DIGEST, f"{_TOKEN} ", _TOKEN.upper(), "", "\ud800", "\N{CYRILLIC SMALL LETTER A}"):
        assert projects.by_token(wrong) is None


def test_the_token_of_nothing_is_no_token(path: Path) -> None:
    """The digest of an empty file is a mistake that must not open the door to requests without a token."""
    assert _read(path, _FILE.replace(_DIGEST, sha256(b"").hexdigest())).by_token("") is None


def test_a_janus_server_is_known_by_user_and_password_together(path: Path) -> None:
    """Either of them wrong, and also the password of another server, is nobody."""
    projects = _read(path, _FILE)
    source = projects.by_janus("janus", _PASSWORD)
    assert source is not None
    assert source.name == "eu-1"
    for user, password in (("janus", f"{_PASSWORD}2"), ("janus", ""), ("", ""), ("nobody", _PASSWORD), ("\ud800",) * 2):
        assert projects.by_janus(user, password) is None


def test_a_janus_server_of_one_project_gives_every_room_to_it(path: Path) -> None:
    """The fixed rule looks at neither room nor opaque id."""
    source = _read(path, _FILE).by_janus("janus", _PASSWORD)
    assert source is not None
    assert source.project_of("1234", "other-1") == "acme"


@pytest.mark.parametrize(
    ("room", "project"),
    [
        ("acme-4711", "acme"),
        ("other/1", "other"),
        ("nobody-1", None),
        ("acme", None),
        ("1-acme-1", None),
        ("", None),
        ("acme-" + "x" * 251, "acme"),
        ("acme-" + "x" * 252, None),
    ],
)
def test_a_pattern_finds_the_project_at_the_start_of_the_room(path: Path, room: str, project: str | None) -> None:
    """It names a known project or none; a text of more than 256 characters is not searched."""
    source = _read(path, _FILE).by_janus("janus-2", f"{_PASSWORD}2")
    assert source is not None
    assert source.project_of(room, "acme-in-the-opaque-id") == project


def test_a_pattern_may_look_at_the_opaque_id(path: Path) -> None:
    """Janus rooms are numbers as a rule; clients put their project into the opaque id."""
    source = _read(path, _FILE.replace('"room"', '"opaque_id"')).by_janus("janus-2", f"{_PASSWORD}2")
    assert source is not None
    assert (source.project_of("other-1", "acme-1"), source.project_of("acme-1", "")) == ("acme", None)


def test_an_optional_group_that_matched_nothing_names_no_project(path: Path) -> None:
    """A pattern can match without its group."""
    source = _read(path, _FILE.replace("[a-z]+)[-/]", "[a-z]+)?")).by_janus("janus-2", f"{_PASSWORD}2")
    assert source is not None
    assert source.project_of("1234", "") is None


def test_identity_is_kept_hashed_or_dropped() -> None:
    """Hashed: HMAC-SHA256 over project, NUL and identity, 32 hex digits; nobody stays nobody."""
    key = b"planted-identity-key"
    hashed = Project("acme", identity="hash", identity_key=key)
    assert hashed.identity_of("ada") == hmac.new(key, b"acme\0ada", "sha256").hexdigest()[:32]
    assert (Project("acme").identity_of("ada"), Project("acme", identity="drop").identity_of("ada")) == ("ada", "")
    assert (hashed.identity_of(""), len(hashed.identity_of("\ud800"))) == ("", 32)


def test_a_hashed_identity_is_another_in_each_project() -> None:
    """Two customers cannot find out that they serve the same person."""
    acme, other = (Project(name, identity="hash", identity_key=b"x" * 16) for name in ("acme", "other"))
    assert acme.identity_of("ada") != other.identity_of("ada")


_MISTAKES = {
    "a misspelt field of a project": ("[projects.a]\nidentty = 'hash'", "projects.a.identty: is no field"),
    "a misspelt table": ("[project.a]", "project: is no field"),
    "a misspelt field of a key": (
        f"[projects.a]\nlivekit = [{{key = 'K', secret = '{_SECRET}', env = 'X'}}]",
        "projects.a.livekit.0.env: is no field",
    ),
    "an identity that is none": ("[projects.a]\nidentity = 'mask'", "projects.a.identity: Input should be 'keep'"),
    "agents that are none": ("[projects.a]\nagents = 'cloud'", "projects.a.agents: Input should be 'all' or 'hosted'"),
    "a rate as text": ("[projects.a]\nrequests_per_s = '5'", "projects.a.requests_per_s: Input should be a valid int"),
    "a rate of nothing": ("[projects.a]\nrequests_per_s = 0", "projects.a.requests_per_s: Input should be greater"),
    "a name with a slash": ("[projects.'a/b']", "projects.a/b.[key]: is not a name"),
    "an empty name": ("[projects.'']", "is not a name"),
    "no secret": ("[projects.a]\nlivekit = [{key = 'K'}]", "projects.a.livekit.0.secret: is missing"),
    "no key": (f"[projects.a]\nlivekit = [{{secret = '{_SECRET}'}}]", "projects.a.livekit.0.key: is missing"),
    "a key with a space": (
        f"[projects.a]\nlivekit = [{{key = 'K ', secret = '{_SECRET}'}}]",
        "projects.a.livekit.0.key: is not an API key",
    ),
    "a secret that is not text": ("[projects.a]\nlivekit = [{key = 'K', secret = 1}]", "0.secret: Input should be"),
    "a short secret": (
        "[projects.a]\nlivekit = [{key = 'devkey', secret = 'secret'}]",
        "projects.a.livekit.0.secret: has fewer than 16 characters",
    ),
    "a short password": (
        "[projects.a]\n[[janus]]\nname = 'j'\nuser = 'u'\npassword = 'planted'\nproject = 'a'",
        "janus.0.password: has fewer than 16 characters",
    ),
    "a short identity key": ("identity_key = 'planted'", "identity_key: has fewer than 16 characters"),
    "a variable that is not set": (
        f"[projects.a]\nlivekit = [{{key = 'K', secret_env = '{_SECRET}'}}]",
        "projects.a.livekit.0: secret_env names a variable that is not set",
    ),
    "a secret and a variable": (
        f"[projects.a]\nlivekit = [{{key = 'K', secret = '{_SECRET}', secret_env = 'ACME_NEXT'}}]",
        "projects.a.livekit.0: has secret and secret_env",
    ),
    "a token in place of its digest": (
        f"[projects.a]\ntokens = [{{sha256 = '{_TOKEN}'}}]",
        "projects.a.tokens.0.sha256: is not 64 lower-case hex digits",
    ),
    "one key in two projects": (
        "\n".join(f"[projects.{name}]\nlivekit = [{{key = 'K', secret = '{_SECRET}'}}]" for name in ("a", "b")),
        "a LiveKit key stands in a and in b",
    ),
    "one token in two projects": (
        f"[projects.a]\ntokens = [{{sha256 = '{_DIGEST}'}}]\n[projects.b]\ntokens = [{{sha256 = '{_DIGEST}'}}]",
        "a token stands in a and in b",
    ),
    "hash without a key": ("[projects.a]\nidentity = 'hash'", "identity_key is missing and a has identity = 'hash'"),
    "a websocket address": ("[projects.a]\nlivekit_url = 'wss://x'", "projects.a.livekit_url: is not http(s)://"),
    "an address with a password": (
        f"[projects.a]\nlivekit_url = 'https://u:{_PASSWORD}@x'",
        "projects.a.livekit_url: is not http(s)://",
    ),
    "an address that is none": ("[projects.a]\nlivekit_url = 'http://[::1'", "projects.a.livekit_url: "),
    "an address with a port that is none": (
        "[projects.a]\nlivekit_url = 'http://x:planted'",
        "projects.a.livekit_url: is",
    ),
    "an address that hides a slash": (
        f"[projects.a]\nlivekit_url = 'https://u:{_PASSWORD}@\u2100.example'",
        "projects.a.livekit_url: is not http(s)://",
    ),
    "a secret with a newline": (
        f'[projects.a]\nlivekit = [{{key = "K", secret = "{_SECRET}\\n"}}]',
        "projects.a.livekit.0.secret: begins or ends with white space",
    ),
    "projects that are a list": ("projects = []", "projects: Input should be a valid dictionary"),
    "what is not TOML": (f"secret = {_SECRET}", "is not TOML"),
}
_JANUS = f"[projects.a]\n[[janus]]\nname = 'j'\nuser = 'u'\npassword = '{_PASSWORD}'\n"
_MISTAKES |= {
    "no rule": (_JANUS, "janus.0: needs either project, or project_from with pattern"),
    "two rules": (f"{_JANUS}project = 'a'\nproject_from = 'room'\npattern = '(?P<project>a)'", "janus.0: needs either"),
    "half a rule": (f"{_JANUS}pattern = '(?P<project>a)'", "janus.0: needs either"),
    "half a rule beside a project": (f"{_JANUS}project = 'a'\nproject_from = 'room'", "janus.0: needs either"),
    "a rule on something else": (f"{_JANUS}project_from = 'user'", "janus.0.project_from: Input should be"),
    "a project nobody knows": (f"{_JANUS}project = 'b'", "janus j: project is none of ['a']"),
    "no regular expression": (f"{_JANUS}project_from = 'room'\npattern = '('", "janus.0.pattern: is not a regular"),
    "a pattern without the group": (
        f"{_JANUS}project_from = 'room'\npattern = '(.+)'",
        "janus.0.pattern: has no group",
    ),
    "a user with a colon": (f"{_JANUS}project = 'a'".replace("'u'", "'u:v'"), "janus.0.user: is not a user name"),
    "one user for two servers": (
        f"{_JANUS}project = 'a'\n[[janus]]\nname = 'k'\nuser = 'u'\npassword = '{_PASSWORD}'\nproject = 'a'",
        "a Janus user stands in j and in k",
    ),
    "one name for two servers": (
        f"{_JANUS}project = 'a'\n[[janus]]\nname = 'j'\nuser = 'v'\npassword = '{_PASSWORD}'\nproject = 'a'",
        "a Janus name stands in j and in j",
    ),
}


@pytest.mark.parametrize("mistake", _MISTAKES)
def test_a_mistake_is_reported_by_file_table_and_field_and_without_any_secret(path: Path, mistake: str) -> None:
    """The message starts with the file, says where and what to do, and shows no value, not even in its traceback."""
    text, expected = _MISTAKES[mistake]
    path.write_text(text)
    with pytest.raises(InvalidProjects) as caught:
        read_projects(path, _ENVIRON)
    assert expected in str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_every_mistake_is_reported_at_once(path: Path) -> None:
    """One a line, so that a file is mended in one go."""
    assert len(_problem(path, "[projects.a]\nidentty = 'x'\nagents = 'x'\nrequests_per_s = -1").splitlines()) == 3


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A wrong path must not look like a gateway without projects."""
    with pytest.raises(
        InvalidProjects, match=r"cannot be read \(No such file or directory\); mend ROOMMETER_PROJECTS_FILE"
    ):
        read_projects(tmp_path / "nothing.toml", {})


def test_bytes_that_are_no_text_are_an_error(path: Path) -> None:
    """TOML is UTF-8."""
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidProjects, match="is not TOML"):
        read_projects(path, {})


def test_the_development_key_of_livekit_is_good_where_weak_secrets_are_allowed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`livekit-server --dev` signs with devkey and secret; the file has to say so, and the log does."""
    text = "allow_weak_secrets = true\n[projects.a]\nlivekit = [{key = 'devkey', secret = 'secret'}]"
    found = _read(path, text).by_livekit_key("devkey")
    assert found is not None
    assert found[1] == b"secret"
    assert "allows weak secrets" in caplog.text


def test_an_empty_secret_is_no_secret_even_where_weak_ones_are_allowed(path: Path) -> None:
    """Everybody can sign with nothing."""
    text = "allow_weak_secrets = true\n[projects.a]\nlivekit = [{key = 'devkey', secret = ''}]"
    assert "projects.a.livekit.0.secret: " in _problem(path, text)


@pytest.mark.parametrize(("mode", "warnings"), [(0o644, 1), (0o604, 1), (0o640, 0), (0o600, 0)])
def test_a_file_that_every_user_may_read_is_warned_of(
    path: Path, caplog: pytest.LogCaptureFixture, mode: int, warnings: int
) -> None:
    """The owner and its group are the operator's choice; everybody is a mistake."""
    path.chmod(mode)
    _read(path, _FILE)
    assert caplog.text.count("every user may read it") == warnings


def test_no_secret_shows_in_a_repr_or_in_the_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is read ends in debuggers and log lines; secrets, passwords and keys do not."""
    caplog.set_level(logging.DEBUG)
    projects = _read(path, _FILE)
    shown = [repr(projects), repr(projects.by_name("acme")), str(projects.by_name("acme"))]
    shown += [repr(projects.by_janus("janus", _PASSWORD)), caplog.text]
    assert not any("planted" in text for text in shown)


def test_what_is_read_cannot_be_changed() -> None:
    """Projects are shared by all requests."""
    project = Project("acme")
    with pytest.raises(FrozenInstanceError):
        project.name = "other"  # type: ignore[misc]
