"""Storage for the records of the outbox."""

from __future__ import annotations

import os
import sqlite3
from typing import Iterable, Protocol, Union

from ._errors import OutboxRefused


class Storage(Protocol):
    """A store of texts by key. It is called from one thread; a failed call must raise, and is retried."""

    def load(self) -> Iterable[tuple[str, str]]:
        """Returns all records, as pairs of key and text."""

    def apply(self, put: Iterable[tuple[str, str]], remove: Iterable[str]) -> None:
        """Puts and removes records atomically; durable when it returns."""

    def close(self) -> None:
        """Releases all resources."""


class MemoryStorage:
    """Storage in memory only: nothing survives the process. The default."""

    def load(self) -> Iterable[tuple[str, str]]:
        """Returns no records."""
        return ()

    def apply(self, put: Iterable[tuple[str, str]], remove: Iterable[str]) -> None:
        """Does nothing: the outbox itself holds the entries."""

    def close(self) -> None:
        """Does nothing."""


def _keep_private(path: Union[str, os.PathLike[str]]) -> None:
    """Restricts the file to its owner: anyone who can read signed requests that have not run yet may execute them."""
    if os.name != "posix" or os.fspath(path) in ("", ":memory:"):
        return
    # SQLite creates its log and its index with the mode of the file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    for suffix in ("", "-wal", "-shm"):
        beside = os.fspath(path) + suffix
        try:
            mode = os.stat(beside).st_mode & 0o7777
            if mode & 0o077:
                os.chmod(beside, mode & ~0o077)
        except FileNotFoundError:
            pass


class FileStorage:
    """A SQLite file, open in one process at a time. With ``fsync`` records survive a power loss, without it only a
    crash of the process."""

    def __init__(self, path: Union[str, os.PathLike[str]], *, fsync: bool = True) -> None:
        _keep_private(path)
        # The outbox uses it from its own thread, not from the thread that opens it.
        self._db = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'OFF'}")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute("CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, record TEXT NOT NULL)")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" in str(error):
                message = "another process has this outbox; give each process a file of its own"
                raise OutboxRefused("outbox_in_use", message) from None
            raise

    def load(self) -> Iterable[tuple[str, str]]:
        """Returns all records, as pairs of key and text."""
        return list(self._db.execute("SELECT key, record FROM records"))

    def apply(self, put: Iterable[tuple[str, str]], remove: Iterable[str]) -> None:
        """Puts and removes records in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", put)
            self._db.executemany("DELETE FROM records WHERE key = ?", ((key,) for key in remove))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Closes the file, and releases it for other processes."""
        self._db.close()
