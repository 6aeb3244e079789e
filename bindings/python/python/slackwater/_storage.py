"""Where the outbox keeps its records."""

from __future__ import annotations

import os
import sqlite3
from typing import Iterable, Protocol, Union

from ._errors import OutboxRefused


class Storage(Protocol):
    """Anything that keeps texts by key. Called from one thread; what fails raises, and is tried again."""

    def load(self) -> Iterable[tuple[str, str]]:
        """All records."""

    def apply(self, put: Iterable[tuple[str, str]], remove: Iterable[str]) -> None:
        """Replaces and removes records: durable, and all or nothing, when it returns."""

    def close(self) -> None:
        """The end."""


class MemoryStorage:
    """Keeps nothing beyond the process: the default."""

    def load(self) -> Iterable[tuple[str, str]]:
        """Nothing."""
        return ()

    def apply(self, put: Iterable[tuple[str, str]], remove: Iterable[str]) -> None:
        """Nothing to do: the outbox itself remembers."""

    def close(self) -> None:
        """Nothing to do."""


def _keep_private(path: Union[str, os.PathLike[str]]) -> None:
    """Signed requests that have not run yet are for their owner only: whoever has them may execute them."""
    if os.name != "posix" or os.fspath(path) in ("", ":memory:"):
        return
    # SQLite gives its log and its index the mode of the file.
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
    """A file (SQLite) that one process at a time may have. With ``fsync`` records survive power loss, without it a crash
    of the process."""

    def __init__(self, path: Union[str, os.PathLike[str]], *, fsync: bool = True) -> None:
        _keep_private(path)
        # The outbox has a thread of its own, which is not the one that opens it.
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
        """All records."""
        return list(self._db.execute("SELECT key, record FROM records"))

    def apply(self, put: Iterable[tuple[str, str]], remove: Iterable[str]) -> None:
        """One transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", put)
            self._db.executemany("DELETE FROM records WHERE key = ?", ((key,) for key in remove))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Closes the file, and lets another process have it."""
        self._db.close()
