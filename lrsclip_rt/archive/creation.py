"""A new archive: the folder, the copy of the text tower, and the database in one transaction."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.archive.records import ModelRecord
from lrsclip_rt.archive.schema import (
    DATABASE,
    FORMAT_VERSION,
    LOCK_FILE,
    MODEL,
    SEGMENTS,
    connect_to_write,
    create_tables,
    is_created,
)
from lrsclip_rt.archive.segments import sync_folder
from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError

if TYPE_CHECKING:
    from lrsclip_rt.bundle import Bundle

__all__ = ["BLOCK_ROWS", "SEGMENT_ROWS", "check_folder", "create_archive"]

SEGMENT_ROWS = 131_072
"""Most rows of a segment: 128 MiB of vectors at D = 512."""

BLOCK_ROWS = 4_096
"""Rows behind one checksum."""


def check_folder(folder: Path) -> bool:
    """Whether ``folder`` holds an archive; makes the folder where there is none.

    Raises:
        ArchiveError: If it is something else, or cannot be made.
        ArchiveCorruptError: If it holds vectors but lost its database.
    """
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise ArchiveError(f"{folder} cannot be an archive folder ({error.strerror})") from error
    if is_created(folder):
        return True
    foreign = [name for name in names if not _is_leftover(name)]
    if foreign:
        raise ArchiveError(
            f"{folder} is no archive but holds {foreign[0]}; choose an empty or a new folder for an archive"
        )
    segments = folder / SEGMENTS
    if segments.is_dir() and any(segments.iterdir()):
        raise ArchiveCorruptError(
            f"{folder / DATABASE} is missing, but {segments} holds vectors. Restore it from a copy, "
            "or remove the folder and index again"
        )
    return False


def create_archive(
    folder: Path,
    model: ModelRecord,
    *,
    bundle: Bundle | None,
    segment_rows: int = SEGMENT_ROWS,
    block_rows: int = BLOCK_ROWS,
) -> None:
    """Fill a folder that ``check_folder`` found empty; the caller holds the writer lock.

    What an interrupted creation left is replaced. The database comes last and in one transaction, so
    an archive either is there or is not.

    Args:
        folder: The folder.
        model: Whose vectors it will hold.
        bundle: The bundle whose text tower is copied to ``model/``; None keeps no copy.
        segment_rows: Most rows of a segment.
        block_rows: Rows behind one checksum.

    Raises:
        ArchiveError: If the disk refuses.
    """
    if segment_rows < 1 or block_rows < 1:
        raise ArchiveError(f"segment_rows and block_rows must be positive, got {segment_rows}, {block_rows}")
    try:
        (folder / SEGMENTS).mkdir(exist_ok=True)
        for leftover in folder.iterdir():
            if leftover.name == MODEL or leftover.name.startswith(f".{MODEL}."):
                shutil.rmtree(leftover)
        if bundle is not None:
            _copy_text_tower(bundle, folder / MODEL)
        _create_database(folder, model, segment_rows, block_rows)
        sync_folder(folder)
    except (OSError, sqlite3.Error) as error:
        raise ArchiveError(f"{folder} cannot be created: {error}") from error


def _create_database(folder: Path, model: ModelRecord, segment_rows: int, block_rows: int) -> None:
    info = {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model_identity": model.identity,
        "model_name": model.name,
        "dim": model.dim,
        "bundle_path": model.bundle_path or "",
        "segment_rows": segment_rows,
        "block_rows": block_rows,
    }
    connection = connect_to_write(folder)
    try:
        connection.execute("BEGIN IMMEDIATE")
        create_tables(connection)
        connection.executemany("INSERT INTO info VALUES (?, ?)", [(key, str(info[key])) for key in info])
        connection.execute("COMMIT")
    finally:
        connection.close()


def _copy_text_tower(bundle: Bundle, target: Path) -> None:
    """Copy the text graphs of the default precision, and of fp32, which runs everywhere."""
    from lrsclip_rt.bundle_writer import text_tower_copy

    precisions = [bundle.default_precision]
    if "fp32" in bundle.precisions and "fp32" not in precisions:
        precisions.append("fp32")
    text_tower_copy(bundle, target, precisions=precisions)


def _is_leftover(name: str) -> bool:
    """Whether an interrupted creation may have left ``name``."""
    own = name in (SEGMENTS, MODEL, LOCK_FILE) or name.startswith(f".{MODEL}.")
    return own or name in (DATABASE, *(f"{DATABASE}{suffix}" for suffix in ("-wal", "-shm", "-journal")))
