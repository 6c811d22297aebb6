"""One writer at a time: an advisory lock that the kernel drops when its owner dies."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from lrsclip_rt.archive.schema import LOCK_FILE
from lrsclip_rt.errors import ArchiveError, ArchiveLockedError

__all__ = ["WriterLock"]


class WriterLock:
    """Holds ``writer.lock`` of an archive folder from construction to ``close``.

    The file says who holds it (JSON: pid, host, started). It stays behind, empty; only the lock counts.

    Raises:
        ArchiveLockedError: If another writer holds it; names that writer.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl

        path = folder / LOCK_FILE
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ArchiveError(
                f"{path} cannot be written ({error.strerror}); an archive needs a writable folder"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(os.pread(self._descriptor, 4096, 0))
            os.close(self._descriptor)
            raise ArchiveLockedError(
                f"{folder} is being written by {owner}. Wait for it to end, or stop it"
            ) from error
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(content).encode() + b"\n", 0)
        except OSError:
            # A full disk must not keep a writer from mending the archive; the lock holds without a name.
            pass

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the next writer in."""
        if self._descriptor < 0:
            return
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = -1


def _owner(content: bytes) -> str:
    try:
        record = json.loads(content)
        return f"process {record['pid']} on {record['host']} since {record['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
