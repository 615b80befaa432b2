"""The store's schema as numbered SQL files: rendering, splitting, and which of them are still to be applied.

One set of files serves chDB, one server and a replicated cluster (one shard): `${database}`, `${on_cluster}`
and `${replicated}` are filled in. Every statement is idempotent (IF NOT EXISTS, OR REPLACE), so two processes
that migrate at once, and one that died half way, end in the same schema. A file that was applied is never
edited, a change is a new file; its checksum is kept to prove that.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Final

import pyarrow as pa

#: What a database or cluster may be called: a word, so that rendering cannot inject anything.
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_COMMENT_LINE: Final = re.compile(r"^\s*--.*\n", re.MULTILINE)
_END_OF_STATEMENT: Final = re.compile(r";\s*(?:\n|$)")
_CREATE_DATABASE: Final = "CREATE DATABASE IF NOT EXISTS ${database} ${on_cluster} ENGINE = Atomic"
_CREATE_VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS ${database}.schema_versions ${on_cluster}
(version String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (version, checksum)
"""


class InvalidSchema(ValueError):
    """The schema cannot be applied; the message says which file or name, and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the schema goes: a database, on the cluster of replicas that is named, if one is."""

    database: str
    cluster: str = ""

    def __post_init__(self) -> None:
        """Refuse names that are not plain words."""
        for name in filter(None, (self.database, self.cluster)):
            if not _WORD.fullmatch(name):
                raise InvalidSchema(f"{name!r} has to be a word of letters, digits and _, at most 64 characters")

    def render(self, template: str, **names: str) -> str:
        """Fill in the three names and those given, which have to be words; raises KeyError for any other."""
        for name in names.values():
            if not _WORD.fullmatch(name):
                raise InvalidSchema(f"{name!r} has to be a word of letters, digits and _, at most 64 characters")
        return Template(template).substitute(
            names,
            database=self.database,
            on_cluster=f"ON CLUSTER '{self.cluster}'" if self.cluster else "",
            replicated="Replicated" if self.cluster else "",
        )


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file: `version` is its name without .sql."""

    version: str
    script: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file as it is, before rendering."""
        return sha256(self.script.encode()).hexdigest()

    def statements(self, target: Target, **names: str) -> list[str]:
        """Return the rendered statements in order, without comments."""
        bare = _COMMENT_LINE.sub("", self.script)
        return [target.render(part, **names).strip() for part in _END_OF_STATEMENT.split(bare) if part.strip()]


def shipped_migrations() -> list[Migration]:
    """Return the migrations that ship with this package, in the order of their numbers."""
    return [Migration(path.stem, path.read_text("utf-8")) for path in sorted((_schemas() / "clickhouse").glob("*.sql"))]


def schema_text(file: str) -> str:
    """Return the text of a file below `schemas`."""
    return (_schemas() / file).read_text("utf-8")


def _schemas() -> Path:
    package = Path(__file__).parent
    installed = package / "_schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


def pending(files: Sequence[Migration], applied: Mapping[str, str]) -> list[Migration]:
    """Return what is not in `applied` (version to checksum) yet.

    Raises InvalidSchema when a file has changed since it was applied.
    """
    for migration in files:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise InvalidSchema(
                f"migration {migration.version} has changed since it was applied: restore the file, "
                "and put the change into a new one",
            )
    return [migration for migration in files if migration.version not in applied]


def create_database(target: Target) -> str:
    """Return the statement that creates the database; chDB's own `default` cannot replace views."""
    return target.render(_CREATE_DATABASE)


def create_versions(target: Target) -> str:
    """Return the statement that creates the table of applied versions."""
    return target.render(_CREATE_VERSIONS)


def applied_row(migration: Migration) -> pa.Table:
    """Return the row of `schema_versions` that says a migration was applied."""
    return pa.table({"version": [migration.version], "checksum": [migration.checksum]})
