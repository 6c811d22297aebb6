"""Segments and codes of an archive: column files, codes.json, codebook and codes."""

from __future__ import annotations

import json
import sqlite3
import zlib
from pathlib import Path
from random import Random
from typing import Any

import archive_makers as makers
import numpy as np

from fuzz.harness import FilesHarness, packed
from fuzz.mutation import mutated_json
from lrsclip_rt.archive import Archive, ArchiveWriter, Location, NewTile, Where
from lrsclip_rt.archive.checked_blocks import checked_blocks
from lrsclip_rt.archive.codes.building import build_codes
from lrsclip_rt.archive.codes.files import CODES, Codes
from lrsclip_rt.archive.schema import DATABASE, SEGMENTS, connect_to_read
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.tiles import Window

__all__ = ["SegmentsHarness", "ask", "fold", "small_archive"]

ROWS = 1_000
"""So many are searched by codes."""
_MANIFEST = f"{CODES}/codes.json"
_QUERIES = makers.unit_rows(3, 9)
_SEARCHES = (
    (None, False),
    (None, True),
    (Where(bbox=(0.0, -1.0, 3.0, 1.0), start="1960-01-01", end="2030-01-01"), False),
    (Where(bbox=(170.0, -90.0, -170.0, 90.0)), False),
)


def small_archive(folder: Path, rows: int) -> Path:
    """Two segments of one source each."""
    with ArchiveWriter(folder, makers.MODEL, makers.FP32, segment_rows=rows // 2, block_rows=50) as writer:
        for number in range(2):
            source = writer.add_source(makers.content(number, width=rows // 2, height=1))
            writer.add_location(source, Location("/data/scenes", f"{number:03d}.tif", 5))
            writer.add_metadata(source, {"eo:cloud_cover": str(10 * number), "platform": "landsat-8"})
            tiles = []
            for column in range(rows // 2):
                west = number + column / 1000
                box = (west, 0.0, west + 0.001, 0.001)
                tiles.append(
                    NewTile(1, Window(column, 0, 1, 1), box, (makers.square(box),), 10**6 * column, 0.0)
                )
            writer.append(source, tiles, makers.unit_rows(rows // 2, number))
            writer.finish_grid(source, level=1, overlap=0.0, windows=rows // 2, skipped=0)
            writer.commit()
    return folder


class SegmentsHarness(FilesHarness):
    """Opens an archive whose column and code files are not what its sound database says, and searches it."""

    name = "archive segments and codes"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        small_archive(self.root, ROWS)
        build_codes(self.root, texts=makers.unit_rows(50, 77))
        fold(self.root)
        self._reach()
        paths = sorted((self.root / SEGMENTS).iterdir()) + sorted((self.root / CODES).iterdir())
        self.sound = {str(path.relative_to(self.root)): path.read_bytes() for path in paths}
        manifest = list(self.sound).index(_MANIFEST)
        self.seeds = [b"", packed({manifest: self.sound[_MANIFEST]})]

    def mutate_file(self, name: str, content: bytes, rng: Random) -> bytes:
        """codes.json as JSON, the others number by number."""
        if name == _MANIFEST:
            return mutated_json(content, rng)
        if rng.randrange(3) and len(content) >= 8:
            return _with_odd_number(content, rng)
        return super().mutate_file(name, content, rng)

    def feed(self, data: bytes) -> None:
        """Open, search exactly and by codes, verify, and read as a copy is read."""
        changed = self.put(data)
        manifest = changed.get(_MANIFEST)
        if manifest is None and changed:
            manifest = self.sound[_MANIFEST]
        # A quarter keeps its checksum, which is then wrong; the others are what a forger would write.
        if manifest is not None and zlib.crc32(data) % 4:
            self.write(_MANIFEST, _resealed(manifest, changed))
            self._changed.add(_MANIFEST)
        ask(self.root)

    def _reach(self) -> None:
        """Random rows are none that codes are good for: say that they were."""
        path = self.root / _MANIFEST
        record = json.loads(path.read_text())
        recall = {"10": 1.0, "100": 1.0}
        record["calibration"] |= {
            "candidates": {"10": 40, "100": 110},
            "text_recall": recall,
            "image_recall": recall,
        }
        path.write_bytes(_resealed(json.dumps(record).encode(), {}))
        with Archive.open(self.root) as archive:
            assert isinstance(archive.codes, Codes)


def ask(folder: Path) -> None:
    """Everything that readers do with an archive.

    Raises:
        LrsclipError: The first that one of them raised, after all had their turn.
    """
    refused: list[LrsclipError] = []
    for use in (_search, verify_archive, _read_blocks):
        try:
            use(folder)
        except LrsclipError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _search(folder: Path) -> None:
    with Archive.open(folder) as archive:
        for where, exact in _SEARCHES:
            for hits in archive.search(_QUERIES, k=5, where=where, exact=exact):
                for hit in hits:
                    repr(hit)
        assert len(archive.sample) <= len(archive)
        for source in (1, 2, 99) if len(archive) <= 100 else ():
            try:
                tiles = archive.tiles_of_source(source)[:20]
                archive.vectors(tiles)
                archive.content(source)
                archive.locations(source)
                archive.catalog.path_text(source)
            except LrsclipError:
                continue


def _read_blocks(folder: Path) -> None:
    with Archive.open(folder) as archive:
        records, info = archive.segments, archive.info
    database = connect_to_read(folder)
    try:
        for record in records:
            for _ in checked_blocks(database, folder / SEGMENTS, info, record):
                pass
    finally:
        database.close()


def fold(folder: Path) -> None:
    """One file of the database, without a log beside it."""
    database = sqlite3.connect(folder / DATABASE, isolation_level=None)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _with_odd_number(content: bytes, rng: Random) -> bytes:
    """An aligned element that nobody wrote: infinite, not a number, huge or negative."""
    width = rng.choice((1, 2, 4, 8))
    kind = {1: "|i1", 2: "<f2", 4: rng.choice(("<f4", "<i4")), 8: rng.choice(("<f8", "<i8"))}[width]
    values = np.frombuffer(content[: len(content) // width * width], kind).copy()
    if values.dtype.kind == "f":
        odd: tuple[Any, ...] = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-7, 6e4, 179.9, -180.0)
    else:
        limits = np.iinfo(values.dtype)
        odd = (limits.min, limits.max, 0, -1, 1, 100)
    start = rng.randrange(len(values))
    values[start : start + rng.choice((1, 1, 4, len(values)))] = rng.choice(odd)
    changed: bytes = values.tobytes()
    return changed + content[len(content) // width * width :]


def _resealed(manifest: bytes, changed: dict[str, bytes]) -> bytes:
    """codes.json with the checksums of the files that were changed, and its own."""
    try:
        record = json.loads(manifest)
        record.pop("crc32", None)
        for file in [record["codebook"], *record["pieces"]]:
            content = changed.get(f"{CODES}/{file['name']}")
            if content is not None:
                file |= {"bytes": len(content), "crc32": zlib.crc32(content)}
        record["crc32"] = zlib.crc32(json.dumps(record, sort_keys=True).encode())
        return json.dumps(record).encode("utf-8", "surrogatepass")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return manifest
