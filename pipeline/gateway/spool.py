"""A queue of messages on disk: what one process has accepted and the brokers do not have yet.

SQLite keeps it, in one file. Two of its settings carry the promise. In WAL mode a transaction is appended
to a log, so that a commit costs one fsync; with synchronous=FULL that fsync comes before the commit returns
(NORMAL, the usual choice with WAL, would leave it to the next checkpoint, and a power cut would take back
what was acknowledged). A process killed at any point leaves whole transactions only.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.messages import Message

_log = logging.getLogger(__name__)

_FILE: Final = "spool.sqlite3"
#: What a row takes beside its columns' bytes, with room to spare: the file stays below the limit.
_ROW_BYTES: Final = 64
#: A larger file gives its disk space back when the last message leaves it.
_KEPT_FILE_BYTES: Final = 16 * 1_048_576
#: For a predecessor that is about to end.
_LOCK_TIMEOUT_S: Final = 1.0
#: The value stands last, so that adding up sizes reads no page of it.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY,           -- the order of acceptance
    size_bytes INTEGER NOT NULL,
    accepted_at_ms INTEGER NOT NULL,
    refused TEXT,                      -- why the brokers do not take it; NULL while it waits for them
    topic TEXT NOT NULL,
    partition INTEGER,
    key BLOB,
    headers TEXT NOT NULL,             -- JSON: [name, value's bytes as latin-1] of each
    value BLOB NOT NULL
);
"""


class SpoolFull(Exception):
    """What was to be added does not fit below the limit; nothing of it was added."""


class SpoolUnavailable(Exception):
    """The disk is full or failing, or the file was damaged; nothing was changed. Trying again may help."""


class SpoolInUse(RuntimeError):
    """Another process has the spool open: two would send its messages in turns, out of order."""


class Entry(NamedTuple):
    """A message to be kept; `refused` says why the brokers do not take it, None for one that waits for them."""

    message: Message
    accepted_at_ms: int
    refused: str | None = None


class Spooled(NamedTuple):
    """A message that waits, with its place in the order."""

    seq: int
    message: Message


def size_bytes(message: Message) -> int:
    """Return what a message counts against the limit, in bytes."""
    headers = sum(len(name) + len(value) for name, value in message.headers)
    return _ROW_BYTES + len(message.topic) + len(message.key or b"") + len(message.value) + headers


class Spool:
    """The queue, for one thread at a time; its figures may be read from any.

    A refused message stays, but no longer waits, and waits again from the next opening on: once the topic's
    limit or permission is mended, a restart delivers it. A damaged file is set aside beside the spool as
    `….damaged-1` (SQLite's own `.recover` reads what is left of it), logged, reported to `on_damage`, and an
    empty one takes its place: better that than refusing all that is yet to come.
    """

    def __init__(
        self, directory: Path, limit_bytes: int, on_damage: Callable[[Path], None] = lambda _path: None
    ) -> None:
        """Open the spool of a directory, made where it is missing. Raises SpoolInUse, SpoolUnavailable."""
        self._path = directory / _FILE
        self._on_damage = on_damage
        self.limit_bytes = limit_bytes
        #: All that is kept: what waits and what was refused.
        self.size_bytes = 0
        #: How many messages wait for the brokers, and how many these will not take.
        self.waiting = 0
        self.refused = 0
        #: When the oldest that waits was accepted, in ms since the epoch; None while none does.
        self.oldest_ms: int | None = None
        #: The place of the newest message, ever.
        self.last_seq = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolUnavailable(f"the spool cannot be opened: {error}") from error
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                self._db.close()
                raise self._told(error) from error
            self._set_aside(error)

    @property
    def free_bytes(self) -> int:
        """How much more fits."""
        return self.limit_bytes - self.size_bytes

    def append(self, entries: Sequence[Entry]) -> None:
        """Add messages behind all others; on return they are on the disk. Raises SpoolFull, SpoolUnavailable."""
        added_bytes = sum(size_bytes(entry.message) for entry in entries)
        if added_bytes > self.free_bytes:
            raise SpoolFull(f"{added_bytes} bytes more than {self.size_bytes} exceed the limit of {self.limit_bytes}")
        rows = [_row(seq, entry) for seq, entry in enumerate(entries, self.last_seq + 1)]
        with self._transaction():
            self._db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.last_seq += len(entries)
        self.size_bytes += added_bytes
        refused = sum(entry.refused is not None for entry in entries)
        self.refused += refused
        self.waiting += len(entries) - refused
        if self.oldest_ms is None:
            self.oldest_ms = next((entry.accepted_at_ms for entry in entries if entry.refused is None), None)

    def read(self, after: int, most: int, most_bytes: int) -> list[Spooled]:
        """Return the next messages behind a place, in order: up to `most`, and one where it alone is too large.

        Raises SpoolUnavailable.
        """
        found: list[Spooled] = []
        read_bytes = 0
        with self._translated():
            rows = self._db.execute(
                "SELECT seq, size_bytes, topic, partition, key, headers, value FROM messages "
                "WHERE seq > ? AND refused IS NULL ORDER BY seq LIMIT ?",
                (after, most),
            )
            for seq, row_bytes, topic, partition, key, headers, value in rows:
                read_bytes += row_bytes
                if found and read_bytes > most_bytes:
                    break
                found.append(Spooled(seq, Message(topic, key, value, _headers(headers), partition)))
        return found

    def settle(self, last: int, refused: Sequence[tuple[int, str]] = ()) -> None:
        """Forget what waits up to a place, but keep those refused (by place, with the reason) apart.

        Raises SpoolUnavailable.
        """
        with self._transaction():
            self._db.executemany("UPDATE messages SET refused = ?2 WHERE seq = ?1", refused)
            [(settled, freed_bytes)] = self._db.execute(
                "SELECT count(*), coalesce(sum(size_bytes), 0) FROM messages WHERE seq <= ? AND refused IS NULL",
                (last,),
            )
            self._db.execute("DELETE FROM messages WHERE seq <= ? AND refused IS NULL", (last,))
            oldest_ms = self._oldest_ms()
        self.size_bytes -= freed_bytes
        self.waiting -= settled + len(refused)
        self.refused += len(refused)
        self.oldest_ms = oldest_ms
        if not self.size_bytes and self._path.stat().st_size > _KEPT_FILE_BYTES:
            # Only disk space is at stake: what was settled is settled.
            with suppress(sqlite3.Error):
                self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file; another process may have it then."""
        self._db.close()

    def _open(self) -> None:
        """Open the file, or begin one, and let what was refused wait again."""
        self._db = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        # The lock is taken by the first statement that reads, and kept until the file is closed.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        [(finding,)] = self._db.execute("PRAGMA quick_check(1)")
        if finding != "ok":
            raise _Damage(finding)
        self._db.executescript(_SCHEMA)
        self._db.execute("UPDATE messages SET refused = NULL WHERE refused IS NOT NULL")
        [(self.waiting, self.size_bytes, last_seq)] = self._db.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(max(seq), 0) FROM messages"
        )
        self.refused = 0
        self.last_seq = max(self.last_seq, last_seq)
        self.oldest_ms = self._oldest_ms()

    def _oldest_ms(self) -> int | None:
        oldest = self._db.execute("SELECT accepted_at_ms FROM messages WHERE refused IS NULL ORDER BY seq LIMIT 1")
        return next((accepted_at_ms for (accepted_at_ms,) in oldest), None)

    def _set_aside(self, damage: sqlite3.DatabaseError) -> None:
        """Rename the file and begin another. Raises SpoolUnavailable."""
        with suppress(sqlite3.Error):
            self._db.close()
        aside = next(
            path for number in count(1) if not (path := self._path.with_name(f"{_FILE}.damaged-{number}")).exists()
        )
        _log.error("The spool is damaged (%s) and set aside as %s: accepted messages are in it", damage, aside)
        try:
            # SQLite's log first: if we are killed between the two, the next start finds the damage again.
            for end in ("-wal", ""):
                with suppress(FileNotFoundError):
                    self._path.with_name(_FILE + end).rename(f"{aside}{end}")
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise SpoolUnavailable(f"the spool is damaged ({damage}) and cannot be replaced: {error}") from error
        self._on_damage(aside)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Change all or nothing; on the disk on return."""
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Say what went wrong in our words, and set a damaged file aside."""
        try:
            yield
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.DatabaseError) and _is_damage(error):
                self._set_aside(error)
            raise self._told(error) from error

    def _told(self, error: sqlite3.Error) -> SpoolInUse | SpoolUnavailable:
        if _code(error) == sqlite3.SQLITE_BUSY:
            return SpoolInUse(f"{self._path} is in use: each gateway needs a data directory of its own")
        return SpoolUnavailable(f"the spool {self._path} does not work: {error}")


class _Damage(sqlite3.DatabaseError):
    """What SQLite's own check found."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary code; the more detailed one has it in its low byte."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _row(seq: int, entry: Entry) -> tuple[object, ...]:
    message = entry.message
    headers = json.dumps([[name, value.decode("latin-1")] for name, value in message.headers])
    place = (message.topic, message.partition, message.key)
    return (seq, size_bytes(message), entry.accepted_at_ms, entry.refused, *place, headers, message.value)


def _headers(text: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode("latin-1")) for name, value in json.loads(text))
