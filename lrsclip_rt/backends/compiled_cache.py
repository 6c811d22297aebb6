"""Compiled graphs of OpenVINO in the user's cache, so that a second start compiles nothing.

OpenVINO's own cache believes what it finds: weights that were damaged on disk give other numbers without a
word. Here each file carries the SHA-256 of its content and appears in one step, whole or not at all. What is
missing, damaged or of another version is compiled again; a cache that cannot be written only costs time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lrsclip_rt.file_stamps import cache_folder

__all__ = ["compiled_cache_path", "read_compiled", "write_compiled"]

_MAGIC = b"lrsclip openvino 1\n"
_SUFFIX = ".compiled"
_MAX_BYTES = 1 << 30
"""A larger graph is not kept: reading it back costs about as much memory again as the model."""
_MAX_TOTAL_BYTES = 4 << 30
"""Beyond this the graphs that were not read for longest go first."""


def compiled_cache_path(parts: Sequence[str]) -> Path | None:
    """The file of a compiled graph.

    Args:
        parts: Everything that decides its content: graph, weights, settings, library, processor.

    Returns:
        A path that need not exist, or None where no cache folder is known.
    """
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    try:
        return cache_folder() / "openvino" / f"{key}{_SUFFIX}"
    except OSError:
        return None


def read_compiled(path: Path) -> bytes | None:
    """The compiled graph, or None where it is missing, damaged or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + hashlib.sha256().digest_size
    blob = content[start:]
    if not content.startswith(_MAGIC) or hashlib.sha256(blob).digest() != content[len(_MAGIC) : start]:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return blob


def write_compiled(path: Path, blob: bytes) -> None:
    """Keep a compiled graph where that is possible; what was not read for longest makes room."""
    if len(blob) > _MAX_BYTES:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".compiled-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(_MAGIC + hashlib.sha256(blob).digest())
                stream.write(blob)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _make_room(path)


def _make_room(newest: Path) -> None:
    """Delete the oldest files beyond the allowance; never ``newest``."""
    found = [(entry.stat(), entry) for entry in newest.parent.glob(f"*{_SUFFIX}")]
    total = sum(stat.st_size for stat, _ in found)
    for stat, entry in sorted(found, key=lambda item: item[0].st_mtime_ns):
        if total <= _MAX_TOTAL_BYTES:
            return
        if entry != newest:
            entry.unlink(missing_ok=True)
            total -= stat.st_size
