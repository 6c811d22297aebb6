"""SHA-256 of files, remembered per file version so that large weights are hashed once.

A stamp lives in the user's cache and says: the file at this path with this size, times and inode had this
hash. A file that changed has other values and is hashed again. A cache that cannot be read or
written only costs time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

__all__ = ["cache_folder", "sha256_of_file", "sha256_with_stamp"]

_BLOCK_BYTES = 1 << 20
_SETTLED_NS = 2_000_000_000
"""A file younger than this may change once more within one tick of its clock: it is not stamped yet."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/lrsclip-rt`` or ``~/.cache/lrsclip-rt``; it need not exist.

    Raises:
        OSError: If neither is known (no home folder).
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named and Path(named).is_absolute():
        return Path(named) / "lrsclip-rt"
    try:
        return Path.home() / ".cache" / "lrsclip-rt"
    except RuntimeError as error:
        raise OSError("no home folder for the cache") from error


def sha256_of_file(path: Path) -> str:
    """The file's SHA-256 as 64 hex digits, read in blocks.

    Raises:
        OSError: If it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_with_stamp(path: Path) -> str:
    """Like ``sha256_of_file``, but from its stamp where this version of the file was hashed before.

    Raises:
        OSError: If the file itself cannot be read.
    """
    resolved = path.resolve()
    before = _version(resolved)
    stamp = _stamp_path(resolved)
    if stamp is not None:
        known = _read_stamp(stamp, before)
        if known is not None:
            return known
    sha256 = sha256_of_file(resolved)
    settled = time.time_ns() - max(int(before["mtime_ns"]), int(before["ctime_ns"])) > _SETTLED_NS
    if stamp is not None and settled and before == _version(resolved):
        _write_stamp(stamp, {**before, "sha256": sha256})
    return sha256


def _version(path: Path) -> dict[str, str | int]:
    stat = path.stat()
    return {
        "path": str(path),
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        # mtime can be set back by tools that keep times (cp -p, tar); ctime cannot.
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "device": stat.st_dev,
    }


def _stamp_path(path: Path) -> Path | None:
    key = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    try:
        return cache_folder() / "stamps" / f"{key}.json"
    except OSError:
        return None


def _read_stamp(stamp: Path, version: dict[str, str | int]) -> str | None:
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    sha256 = record.pop("sha256", None)
    return sha256 if isinstance(sha256, str) and record == version else None


def _write_stamp(stamp: Path, record: dict[str, str | int]) -> None:
    with contextlib.suppress(OSError, UnicodeError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".stamp-", dir=stamp.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(record, stream)
            Path(name).replace(stamp)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
