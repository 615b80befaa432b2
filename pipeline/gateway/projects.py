"""Who is billed, and whose word is taken for it: projects by their keys, tokens and rules. Reads the projects file.

A request's project follows from the credential that came with it, never from its body. No secret appears in a repr,
an error or a log line.
"""

import hmac
import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pipeline.gateway.projects_file import Agents, Identity, InvalidProjects, JanusTable, ProjectTable, parse_projects

__all__ = ["InvalidProjects", "JanusSource", "LivekitKey", "Project", "Projects", "Viewer", "read_projects"]

_log: Final = logging.getLogger(__name__)

#: A longer room or opaque id is matched by no rule, so that a pattern's work is bounded.
MOST_MATCHED_CHARACTERS: Final = 256
#: Compared in place of a password that does not exist, so that an unknown user takes as long as a known one.
_NOBODY: Final = os.urandom(32)


@dataclass(frozen=True, slots=True)
class LivekitKey:
    """An API key of a LiveKit server and the secret it signs with."""

    key: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Project:
    """Who is billed, and what is done with its events; `agents` tells which AGENT participants are agent sessions."""

    name: str
    identity: Identity = "keep"
    agents: Agents = "all"
    requests_per_s: int = 500
    livekit_url: str = ""
    livekit: tuple[LivekitKey, ...] = ()
    identity_key: bytes = field(default=b"", repr=False)

    def identity_of(self, identity: str) -> str:
        """Return what is kept of a participant's identity: itself, 32 hex digits of a keyed hash, or nothing.

        The hash is HMAC-SHA256 over project, NUL, identity: one person is the same within a project, not across two.
        """
        if self.identity == "keep" or not identity:
            return identity
        if self.identity == "drop":
            return ""
        assert self.identity_key, "the file is refused where identity = 'hash' and no key is given"
        message = f"{self.name}\0{identity}".encode("utf-8", "surrogatepass")
        return hmac.digest(self.identity_key, message, "sha256").hex()[:32]


@dataclass(frozen=True, slots=True)
class JanusSource:
    """A Janus server by the user and password of its event handler, and the rule that tells its rooms' projects."""

    name: str
    user: str
    password: bytes = field(repr=False)
    project: str = ""
    project_from: Literal["", "room", "opaque_id"] = ""
    pattern: re.Pattern[str] | None = None
    projects: frozenset[str] = frozenset()

    def project_of(self, room: str, opaque_id: str) -> str | None:
        """Return the project of a room: the fixed one, or what the pattern finds at the start; None for none known."""
        if self.pattern is None:
            return self.project or None
        text = room if self.project_from == "room" else opaque_id
        found = self.pattern.match(text) if len(text) <= MOST_MATCHED_CHARACTERS else None
        name = found["project"] if found else None
        return name if name in self.projects else None


class Viewer(NamedTuple):
    """Who looks at the console: by name, and which project they may see; None means every one."""

    name: str
    project: str | None


class Projects:
    """The projects by each of their credentials; there may be none, and then every request is refused."""

    def __init__(
        self,
        projects: Iterable[Project] = (),
        tokens: Mapping[bytes, str] | None = None,
        janus: Iterable[JanusSource] = (),
        viewers: Mapping[bytes, Viewer] | None = None,
    ) -> None:
        """Take projects, their tokens as project names by SHA-256 digest, the Janus servers, and viewers by digest."""
        self._by_name = {project.name: project for project in projects}
        self._by_key = {key.key: (project, key.secret) for project in self._by_name.values() for key in project.livekit}
        self._by_token = {digest: self._by_name[name] for digest, name in (tokens or {}).items()}
        self._by_user = {source.user: source for source in janus}
        self._viewers = dict(viewers or {})

    def names(self) -> tuple[str, ...]:
        """Return the names of all projects, in order of the alphabet."""
        return tuple(sorted(self._by_name))

    def by_name(self, name: str) -> Project | None:
        """Return the project of that name."""
        return self._by_name.get(name)

    def by_livekit_key(self, key: str) -> tuple[Project, bytes] | None:
        """Return the project of a LiveKit API key, and the key's secret."""
        return self._by_key.get(key)

    def by_token(self, token: str) -> Project | None:
        """Return the project of a bearer token.

        Tokens are looked up by digest: how long that takes tells about digests, and from those no token follows.
        """
        return self._by_token.get(_digest(token)) if token else None

    def viewer(self, token: str) -> Viewer | None:
        """Return who looks at the console with that token, looked up as above; tokens of producers look at nothing."""
        return self._viewers.get(_digest(token)) if token else None

    def has_viewers(self) -> bool:
        """Tell whether anybody has a token for the console."""
        return bool(self._viewers)

    def by_janus(self, user: str, password: str) -> JanusSource | None:
        """Return the Janus server of a user and password, in the same time whether the user or the password is wrong.

        Digests are compared, so that the time does not depend on the password's length either.
        """
        source = self._by_user.get(user)
        given = _digest(password)
        expected = sha256(source.password if source else _NOBODY).digest()
        return source if hmac.compare_digest(given, expected) and source else None


def read_projects(path: Path | None, environ: Mapping[str, str]) -> Projects:
    """Read the projects file, and from `environ` the secrets it names there; without a path there are no projects.

    Raises InvalidProjects with every problem found, one a line. A file that other users may read is warned of.
    """
    if path is None:
        return Projects()
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & stat.S_IROTH:
                _log.warning("%s holds secrets and every user may read it; chmod o-r it", path)
            document = tomllib.load(stream)
    except OSError as error:
        raise InvalidProjects(f"{path}: cannot be read ({error.strerror}); mend ROOMMETER_PROJECTS_FILE") from error
    except ValueError as error:
        raise InvalidProjects(f"{path}: is not TOML: {error}") from None
    file = parse_projects(document, str(path), environ)
    if file.allow_weak_secrets:
        _log.warning("%s allows weak secrets: for trials only, since whoever guesses one writes the bill", path)
    identity_key = (file.identity_key or "").encode()
    tokens: dict[bytes, str] = {}
    viewers = {bytes.fromhex(operator.sha256): Viewer(operator.name, None) for operator in file.operators}
    for name, table in file.projects.items():
        for token in table.tokens:
            digest = bytes.fromhex(token.sha256)
            if token.use == "console":
                viewers[digest] = Viewer(name, name)
            else:
                tokens[digest] = name
    return Projects(
        [_project(name, table, identity_key) for name, table in file.projects.items()],
        tokens,
        [_janus_source(table, frozenset(file.projects)) for table in file.janus],
        viewers,
    )


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _project(name: str, table: ProjectTable, identity_key: bytes) -> Project:
    return Project(
        name=name,
        identity=table.identity,
        agents=table.agents,
        requests_per_s=table.requests_per_s,
        livekit_url=table.livekit_url,
        livekit=tuple(LivekitKey(key.key, key.secret.encode()) for key in table.livekit),
        identity_key=identity_key,
    )


def _janus_source(table: JanusTable, projects: frozenset[str]) -> JanusSource:
    return JanusSource(
        name=table.name,
        user=table.user,
        password=table.password.encode(),
        project=table.project,
        project_from=table.project_from,
        pattern=re.compile(table.pattern) if table.pattern else None,
        projects=projects,
    )
