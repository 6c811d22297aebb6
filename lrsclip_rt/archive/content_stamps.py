"""Which content a file version had, so that a file that did not change is not read again to be skipped.

A file version is path, size, modification time, inode change time, inode and device. The change time is set
by the system at every write and cannot be set back by a program, and a file that changed within the last two
seconds is not remembered, for it might change again within one tick of its clock. So the same version means
the same bytes.

The stamps lie in the user's cache, apart from any archive. Where they cannot be read or written they only
cost time: the file is hashed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from lrsclip_rt.archive.guarding import DAMAGE

__all__ = ["ContentStamps", "stamps_path"]

SETTLED_NS = 2_000_000_000
"""Age of a change before its file is remembered [ns]."""

PENDING = 1_000
"""Stamps that are written together."""

_TABLE = """
CREATE TABLE IF NOT EXISTS stamps (
    path BLOB PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode TEXT NOT NULL,
    device TEXT NOT NULL,
    sha256 TEXT NOT NULL
) WITHOUT ROWID
"""
_Version = tuple[int, int, int, str, str]


def stamps_path() -> Path | None:
    """Where the stamps of this user lie; None where no cache folder is known."""
    from lrsclip_rt.file_stamps import cache_folder

    try:
        return cache_folder() / "content-stamps.sqlite"
    except OSError:
        return None


class ContentStamps:
    """Hashes of file versions; a context manager, used by one thread.

    Args:
        path: The database, made where there is none; None remembers nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._database: sqlite3.Connection | None = None
        self._pending: list[tuple[bytes, int, int, int, str, str, str]] = []
        if path is None:
            return
        with contextlib.suppress(OSError, *DAMAGE):
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
            self._database = database
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_TABLE)

    def __enter__(self) -> ContentStamps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sha256_and_size(
        self, path: Path, hashed: Callable[[Path], tuple[str, int]], *, rehash: bool = False
    ) -> tuple[str, int]:
        """The hash and size [bytes] of a file, by ``hashed`` where this version of it is not known.

        Args:
            path: An ordinary file whose hash depends on nothing but its bytes.
            hashed: Reads the file.
            rehash: Read it in any case.

        Raises:
            Exception: What ``hashed`` raises.
        """
        before = _version(path)
        if before is None or self._database is None:
            return hashed(path)
        known = None if rehash else self._known(path, before)
        if known is not None:
            return known, before[0]
        sha256, size_bytes = hashed(path)
        settled = time.time_ns() - max(before[1], before[2]) > SETTLED_NS
        if settled and before == _version(path) and size_bytes == before[0]:
            self._pending.append((os.fsencode(path), *before, sha256))
            if len(self._pending) >= PENDING:
                self._write()
        return sha256, size_bytes

    def close(self) -> None:
        """Write what is pending and close the database."""
        if self._database is None:
            return
        self._write()
        with contextlib.suppress(*DAMAGE):
            self._database.close()
        self._database = None

    def _known(self, path: Path, version: _Version) -> str | None:
        assert self._database is not None
        query = "SELECT size_bytes, mtime_ns, ctime_ns, inode, device, sha256 FROM stamps WHERE path = ?"
        try:
            found = self._database.execute(query, (os.fsencode(path),)).fetchone()
        except DAMAGE:
            return None
        same = found is not None and found[:5] == version and isinstance(found[5], str)
        return found[5] if same else None

    def _write(self) -> None:
        assert self._database is not None
        with contextlib.suppress(*DAMAGE), self._database:  # commits, or rolls back
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT OR REPLACE INTO stamps VALUES (?, ?, ?, ?, ?, ?, ?)", self._pending
            )
        self._pending = []


def _version(path: Path) -> _Version | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    # Inode and device may fill 64 bits, one more than SQLite's integers hold.
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, str(stat.st_ino), str(stat.st_dev)
