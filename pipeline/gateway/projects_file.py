"""The projects file's format: its tables and fields, what they may hold, and how mistakes in it are reported.

Unknown fields are mistakes, since a typo must not pass in silence. No value is ever shown: it may be a secret.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from pipeline.server_url import server_url

#: A shorter secret can be guessed; LiveKit's own keys have 43 characters.
LEAST_SECRET_CHARACTERS: Final = 16

Identity = Literal["keep", "hash", "drop"]
Agents = Literal["all", "hosted"]


class InvalidProjects(ValueError):
    """The projects file cannot be used; the message names file, table and field, what to do, and no secret."""


class _Given(NamedTuple):
    """What validation needs to know beside the file's own fields."""

    environ: Mapping[str, str]
    weak: bool


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_KEY: Final = re.compile(r"[!-~]{1,128}")
_USER: Final = re.compile(r"[^:\x00-\x1f\x7f]{1,128}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def _checked(pattern: re.Pattern[str], advice: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(advice)
        return text

    return AfterValidator(check)


def _check_secret(secret: str, info: ValidationInfo[_Given]) -> str:
    if not secret or (len(secret) < LEAST_SECRET_CHARACTERS and not info.context.weak):
        raise ValueError(
            f"has fewer than {LEAST_SECRET_CHARACTERS} characters and can be guessed; take a longer one "
            "(`openssl rand -hex 32`), or for a server under trial put allow_weak_secrets = true at the top of the file"
        )
    if secret != secret.strip():
        raise ValueError("begins or ends with white space, which hardly belongs to it; remove that")
    return secret


def _check_pattern(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error.msg} at character {error.pos}") from None
    if "project" not in groups:
        raise ValueError("has no group of the name project; write (?P<project>[a-z0-9]+) where the project stands")
    return pattern


_Name = Annotated[str, _checked(_NAME, "is not a name of up to 128 letters, digits, `.`, `_` and `-`")]
_Secret = Annotated[str, AfterValidator(_check_secret)]
_Digest = Annotated[
    str, _checked(_DIGEST, "is not 64 lower-case hex digits; take `printf %s TOKEN | sha256sum`, not the token")
]


class _Table(BaseModel):
    """A table of the file: unknown fields are errors, types are exact, and no value is ever shown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _take_secrets_from_the_environment(cls, table: Any, info: ValidationInfo[_Given]) -> Any:
        """Put in place of `<field>_env` the value of the variable it names, as `<field>`."""
        if not isinstance(table, dict):
            return table
        for name in ("secret", "password", "identity_key"):
            variable = f"{name}_env"
            if variable not in table or name not in cls.model_fields:
                continue
            if name in table:
                raise ValueError(f"has {name} and {variable}; keep one of them")
            # The variable's name is not shown: where it is the secret itself by mistake, it must not get into a log.
            if not isinstance(table[variable], str) or not (value := info.context.environ.get(table[variable])):
                raise ValueError(f"{variable} names a variable that is not set; set it, or mend its name here")
            table = {key: item for key, item in table.items() if key != variable} | {name: value}
        return table


class LivekitKeyTable(_Table):
    """One of a project's LiveKit API keys, as in the server's own `keys`."""

    key: Annotated[str, _checked(_KEY, "is not an API key: up to 128 visible ASCII characters")]
    secret: _Secret


class TokenTable(_Table):
    """A bearer token by the hex SHA-256 digest of it: to send to `POST /v1/events`, or to look at the console."""

    sha256: _Digest
    use: Literal["events", "console"] = "events"


class OperatorTable(_Table):
    """`[[operators]]`: a token for the console that sees every project, by its digest, and whose it is."""

    name: _Name
    sha256: _Digest


class ProjectTable(_Table):
    """`[projects.NAME]`; the name is its key."""

    identity: Identity = "keep"
    agents: Agents = "all"
    requests_per_s: PositiveInt = 500
    livekit: list[LivekitKeyTable] = []
    tokens: list[TokenTable] = []
    livekit_url: Annotated[str, AfterValidator(server_url)] = ""


class JanusTable(_Table):
    """`[[janus]]`: the credentials a Janus server's event handler shows, and whose its rooms are."""

    name: _Name
    user: Annotated[str, _checked(_USER, "is not a user name of up to 128 characters without colon")]
    password: _Secret
    project: str = ""
    project_from: Literal["", "room", "opaque_id"] = ""
    pattern: Annotated[str, AfterValidator(_check_pattern)] = ""

    @model_validator(mode="after")
    def _has_one_rule(self) -> Self:
        if bool(self.project) == bool(self.pattern) or bool(self.project_from) != bool(self.pattern):
            raise ValueError("needs either project, or project_from with pattern")
        return self


class ProjectsFile(_Table):
    """The whole file."""

    allow_weak_secrets: bool = False
    identity_key: _Secret | None = None
    projects: dict[_Name, ProjectTable] = {}
    janus: list[JanusTable] = []
    operators: list[OperatorTable] = []

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse what names two projects at once, none, or needs a key that is not there."""
        for what, owners in (
            ("LiveKit key", [(key.key, name) for name, project in self.projects.items() for key in project.livekit]),
            (
                "token",
                [(token.sha256, name) for name, project in self.projects.items() for token in project.tokens]
                + [(operator.sha256, f"operators ({operator.name})") for operator in self.operators],
            ),
            ("Janus name", [(source.name, source.name) for source in self.janus]),
            ("Janus user", [(source.user, source.name) for source in self.janus]),
        ):
            first: dict[str, str] = {}
            for value, owner in owners:
                if value in first:
                    raise ValueError(f"a {what} stands in {first[value]} and in {owner}; it may stand once")
                first[value] = owner
        for source in self.janus:
            if source.project and source.project not in self.projects:
                raise ValueError(f"janus {source.name}: project is none of {sorted(self.projects)}; add it or mend it")
        hashing = [name for name, project in self.projects.items() if project.identity == "hash"]
        if hashing and self.identity_key is None:
            raise ValueError(f"identity_key is missing and {hashing[0]} has identity = 'hash'; `openssl rand -hex 32`")
        return self


def _where(location: tuple[int | str, ...]) -> str:
    """Return a place in the file as words: `projects.acme.livekit.0.secret: `."""
    return f"{'.'.join(str(part) for part in location)}: " if location else ""


def _advice(problem: Mapping[str, Any]) -> str:
    """Return what is wrong in our own words where pydantic's are about Python."""
    if problem["type"] == "extra_forbidden":
        return "is no field of this table; mend its spelling or remove it"
    if problem["type"] == "missing":
        return "is missing; give it (a secret or password also as <field>_env, the name of an environment variable)"
    return str(problem["msg"]).removeprefix("Value error, ")


def parse_projects(document: Mapping[str, Any], origin: str, environ: Mapping[str, str]) -> ProjectsFile:
    """Check what was read from a file of that name; raises InvalidProjects with every problem found, one a line."""
    given = _Given(environ, weak=document.get("allow_weak_secrets") is True)
    try:
        return ProjectsFile.model_validate(document, context=given)
    except ValidationError as error:
        problems = (f"{origin}: {_where(problem['loc'])}{_advice(problem)}" for problem in error.errors())
        raise InvalidProjects("\n".join(problems)) from None
