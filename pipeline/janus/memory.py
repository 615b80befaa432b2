"""The memory of Janus adapters on disk, so that a gateway killed in the middle of a call knows its rooms afterwards.

One SQLite file in WAL mode: a process killed at any point leaves whole batches, and with synchronous=FULL so
does a power cut. `note` is quick and belongs right after a batch was read; `flush` waits for the disk, so call
it in a thread, before the batch is answered. Flushes may overlap: one writes what several have noted.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Self

_SCHEMA = """
CREATE TABLE IF NOT EXISTS remembered (
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    seq INTEGER PRIMARY KEY AUTOINCREMENT  -- the order of the last changes
) STRICT
"""
_PUT = "INSERT OR REPLACE INTO remembered (key, value) VALUES (?, ?)"
_REMOVE = "DELETE FROM remembered WHERE key = ?"
_ALL = "SELECT key, value FROM remembered ORDER BY seq"


class MemoryUnavailable(Exception):
    """The disk is full or failing: what was noted is written by the next flush that succeeds. Try again."""


class JanusMemory:
    """What adapters remember, in one file, which one process at a time has open."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, readable by its owner alone; raises MemoryUnavailable where that fails."""
        self._noted: dict[str, bytes | None] = {}
        self._noting = Lock()
        self._writing = Lock()
        try:
            path.touch(mode=0o600)
            self._file = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise MemoryUnavailable(f"{path}: {error}; no other gateway may use this file") from error

    def __enter__(self) -> Self:
        """Return the memory, to be closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def entries(self) -> list[tuple[str, bytes]]:
        """Return all that is kept, oldest change first: what `JanusAdapter.restore` takes."""
        with self._writing:
            return list(self._file.execute(_ALL))

    def note(self, changes: Mapping[str, bytes | None]) -> None:
        """Take over what an adapter returned as changed; None removes an entry. Not on disk before a flush."""
        with self._noting:
            self._noted.update(changes)

    def flush(self) -> None:
        """Return when everything noted before is on disk; raises MemoryUnavailable, and the next flush tries again."""
        with self._writing:
            with self._noting:
                noted, self._noted = self._noted, {}
            try:
                if noted:
                    self._write(noted)
            except sqlite3.Error as error:
                with self._noting:
                    self._noted = noted | self._noted
                raise MemoryUnavailable(f"the memory of Janus sessions cannot be written: {error}") from error

    def close(self) -> None:
        """Close the file; what was noted and not flushed is lost, as its batch was never answered."""
        with self._writing:
            self._file.close()

    def _write(self, noted: Mapping[str, bytes | None]) -> None:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            self._file.executemany(_PUT, [(key, value) for key, value in noted.items() if value is not None])
            self._file.executemany(_REMOVE, [(key,) for key, value in noted.items() if value is None])
            self._file.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                self._file.execute("ROLLBACK")
            raise
