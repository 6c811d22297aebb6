"""Tiles in the database: which there are, and where their rows lie."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import boxes_of, wkb_from_rings
from lrsclip_rt.archive.records import NewTile
from lrsclip_rt.errors import InputError

__all__ = ["TileNames", "checked_rows", "known_ids"]

UNIT_TOLERANCE = 1e-2
"""How far the length of a row may be from 1: vectors of a model are unit rows up to rounding."""


def known_ids(database: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Which of ``ids`` there are."""
    known: set[str] = set()
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        marks = ",".join("?" * len(part))
        known.update(row[0] for row in database.execute(f"SELECT id FROM tiles WHERE id IN ({marks})", part))
    return known


def checked_rows(vectors: NDArray[np.floating], count: int, dim: int) -> NDArray[np.float32]:
    """Vectors as ``(count, dim)`` float32 unit rows.

    Raises:
        InputError: If they are not.
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.shape != (count, dim):
        raise InputError(f"vectors {rows.shape} must be ({count}, {dim}): one row a tile, D of the archive")
    lengths = np.sqrt(np.square(rows).sum(axis=1))
    if count and not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
        worst = int(np.argmax(np.where(np.isfinite(lengths), np.abs(lengths - 1), np.inf)))
        raise InputError(f"row {worst} has length {lengths[worst]:.4g}; an archive holds unit rows")
    return rows


class TileNames:
    """Names rows: the tiles of a writer, numbered on behind those that there are."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        (self._next,) = database.execute("SELECT coalesce(max(tile), 0) + 1 FROM tiles").fetchone()

    def insert(
        self,
        sources: Sequence[int],
        ids: Sequence[str],
        tiles: Sequence[NewTile],
        segment: int,
        first_row: int,
    ) -> None:
        """Name the rows of ``segment`` from ``first_row`` on."""
        records, boxes = [], []
        for index, (source, identifier, tile) in enumerate(zip(sources, ids, tiles, strict=True)):
            number = self._next + index
            place = tile.bbox or (None,) * 4
            footprint = wkb_from_rings(tile.footprint) if tile.footprint else None
            name = (
                number,
                identifier,
                source,
                tile.level,
                *tile.window.as_list(),
                segment,
                first_row + index,
            )
            records.append((*name, *place, footprint, tile.time_us, tile.nodata_fraction))
            for west, south, east, north in boxes_of(tile.bbox) if tile.bbox else ():
                boxes.append((west, east, south, north, number))
        marks = ",".join("?" * 17)
        self._database.executemany(f"INSERT INTO tiles VALUES ({marks})", records)
        self._database.executemany(
            "INSERT INTO tile_boxes (min_lon, max_lon, min_lat, max_lat, tile) VALUES (?, ?, ?, ?, ?)", boxes
        )
        self._next += len(tiles)
