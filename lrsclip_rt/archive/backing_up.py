"""A copy of an archive as it is at one moment, also while a writer writes."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.checked_blocks import checked_blocks
from lrsclip_rt.archive.records import SegmentRecord
from lrsclip_rt.archive.schema import DATABASE, MODEL, SEGMENTS, ArchiveInfo, connect_to_read, read_info
from lrsclip_rt.archive.segments import column_path, columns_of
from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError, OutputExistsError
from lrsclip_rt.folder_swap import put_in_place, reach_disk

__all__ = ["BackupReport", "backup_archive"]


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What was copied: living rows, and the bytes of their segments."""

    rows: int
    bytes: int


def backup_archive(
    archive: str | Path, target: str | Path, *, progress: Callable[[int], None] | None = None
) -> BackupReport:
    """Copy an archive's last commit, its text tower included; every checksum is verified on the way.

    The database is copied first and at once; the segments that it names only ever grow, so their committed
    rows are copied at leisure. The copy appears under its name when all of it is on the disk.

    Args:
        archive: The archive's folder.
        target: The new folder.
        progress: Called with the bytes of segments that were copied.

    Raises:
        ArchiveError: If it is no archive, or the disk refuses.
        ArchiveCorruptError: If a segment is short or differs from its checksums.
        OutputExistsError: If ``target`` exists.
    """
    folder, final = Path(archive), Path(target)
    if not (folder / DATABASE).is_file():
        raise ArchiveError(f"{folder} is no archive: it holds no {DATABASE}")
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise OutputExistsError(f"{final} exists. Choose another name for the copy")
    part = final.absolute().with_name(f".{final.name}.{secrets.token_hex(4)}.part")
    try:
        while True:
            report = _copy(folder, part, progress or (lambda _: None))
            if report is not None:
                break
            shutil.rmtree(part)
        put_in_place(part, final.absolute())
    except OSError as error:
        raise ArchiveError(f"{final} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def _copy(folder: Path, part: Path, progress: Callable[[int], None]) -> BackupReport | None:
    """One attempt; None where a compaction took away what the copied database names."""
    (part / SEGMENTS).mkdir(parents=True)
    _copy_database(folder, part)
    copied = sqlite3.connect(part / DATABASE)
    try:
        info = read_info(part, copied)
        records = Catalog(copied, part / DATABASE).segments()
        total = 0
        for record in records:
            try:
                total += _copy_segment(copied, folder, part, info, record, progress)
            except (ArchiveCorruptError, FileNotFoundError):
                if _is_segment(folder, record):
                    raise
                return None
    finally:
        copied.close()
    if (folder / MODEL).is_dir():
        shutil.copytree(folder / MODEL, part / MODEL)
    reach_disk(part)
    return BackupReport(sum(record.living for record in records), total)


def _copy_database(folder: Path, part: Path) -> None:
    source = connect_to_read(folder)
    target = sqlite3.connect(part / DATABASE)
    try:
        source.backup(target)
    except sqlite3.Error as error:
        raise ArchiveError(f"{folder / DATABASE} could not be copied to {part.parent}: {error}") from error
    finally:
        target.close()
        source.close()


def _copy_segment(
    copied: sqlite3.Connection,
    folder: Path,
    part: Path,
    info: ArchiveInfo,
    record: SegmentRecord,
    progress: Callable[[int], None],
) -> int:
    total = 0
    for column in columns_of(info.model.dim):
        column_path(part / SEGMENTS, record.number, column.name).touch()
    for block in checked_blocks(copied, folder / SEGMENTS, info, record):
        for name, content in block.content.items():
            with column_path(part / SEGMENTS, record.number, name).open("ab") as stream:
                stream.write(content)
            total += len(content)
            progress(len(content))
    return total


def _is_segment(folder: Path, record: SegmentRecord) -> bool:
    database = connect_to_read(folder)
    try:
        return any(s.number == record.number for s in Catalog(database, folder / DATABASE).segments())
    finally:
        database.close()
