"""Put a finished folder in place of another: on the disk first, then by one rename."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from lrsclip_rt.errors import OutputExistsError

__all__ = ["put_in_place", "reach_disk", "refuse_target"]


def refuse_target(path: Path, marker: str, *, overwrite: bool) -> None:
    """Refuse to replace what may not be replaced; an empty folder is free.

    Args:
        path: Where a folder shall stand.
        marker: The file by which a folder of ours is known; no other folder is ever replaced.
        overwrite: A folder of ours may be replaced.

    Raises:
        OutputExistsError: If ``path`` may not be replaced.
    """
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        if not any(path.iterdir()):
            return
        if overwrite and (path / marker).is_file():
            return
        if overwrite:
            raise OutputExistsError(
                f"{path} is a folder without {marker}, so it is not replaced. Choose another name"
            )
    elif overwrite:
        raise OutputExistsError(f"{path} is a file or a link, so it is not replaced. Choose another name")
    raise OutputExistsError(f"{path} exists. Choose another name, or pass --overwrite")


def reach_disk(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to the disk."""
    for path in [*sorted(folder.rglob("*")), folder]:
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; what was there goes only once the new one stands."""
    if not target.exists():
        folder.rename(target)
    elif not any(target.iterdir()):
        target.rmdir()
        folder.rename(target)
    elif _exchanged(folder, target):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        aside = folder.with_suffix(".old")
        target.rename(aside)
        try:
            folder.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    _fsync(target.parent)


def _exchanged(folder: Path, target: Path) -> bool:
    """Swap two folders in one step (renameat2, Linux); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    at_fdcwd, exchange = -100, 2
    arguments = (at_fdcwd, os.fsencode(folder), at_fdcwd, os.fsencode(target), exchange)
    return bool(renameat2(*arguments) == 0)
