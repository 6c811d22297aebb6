"""Rows of PostgreSQL as tiles and vectors, and vectors as texts for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.records import NewTile, TileRecord
from lrsclip_rt.archive.scanning import row_scores
from lrsclip_rt.archive.wkb_reading import place_from_wkb
from lrsclip_rt.tiles import Window

__all__ = [
    "EPOCH",
    "RankedTiles",
    "text_from_halves",
    "tile_from_row",
    "time_us_from_moment",
    "vectors_from_wire",
]

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True, eq=False)
class RankedTiles:
    """Tiles of one ranking with their scores, best first, ties by id.

    Attributes:
        scores: ``(N,)`` float32, computed as a folder's archive computes them.
        tiles: The tiles.
        last: Distance and id of the row that the database put last; None without rows.
    """

    scores: NDArray[np.float32]
    tiles: tuple[TileRecord, ...]
    last: tuple[float, UUID] | None

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Any]], query_row: NDArray[np.float32]) -> RankedTiles:
        """Score the vectors of rows, which stand last in each, again."""
        vectors = vectors_from_wire([row[-1] for row in rows], len(query_row))
        scores = row_scores(vectors, query_row)
        tiles = [tile_from_row(row) for row in rows]
        order = sorted(range(len(tiles)), key=lambda index: (-float(scores[index]), tiles[index].id))
        last = (float(rows[-1][-2]), rows[-1][0]) if rows else None
        return cls(scores[order], tuple(tiles[index] for index in order), last)

    def __len__(self) -> int:
        return len(self.tiles)

    def __iter__(self) -> Iterator[tuple[float, TileRecord]]:
        return iter(zip(self.scores.tolist(), self.tiles, strict=True))


def tile_from_row(row: Sequence[Any]) -> TileRecord:
    """The tile of a row of ``TILE_COLUMNS``, ``nodata_fraction`` and the geometry's WKB."""
    identifier, source, level, *window = row[:7]
    corners, moment, nodata, wkb = row[7:11], row[11], row[12], row[13]
    bbox = None if corners[0] is None else (corners[0], corners[1], corners[2], corners[3])
    rings = () if wkb is None else place_from_wkb(bytes(wkb))[1]
    tile = NewTile(level, Window(*window), bbox, rings, time_us_from_moment(moment), nodata)
    return TileRecord(identifier.hex, -1, source, tile)


def time_us_from_moment(moment: datetime | None) -> int | None:
    """Microseconds since the epoch."""
    return None if moment is None else (moment - EPOCH) // timedelta(microseconds=1)


def vectors_from_wire(values: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """``(N, D)`` float32 from halfvec's wire format: two 16-bit numbers, then big-endian halves."""
    halves = np.frombuffer(b"".join(value[4:] for value in values), ">f2")
    return halves.reshape(len(values), dim).astype(np.float32)


def text_from_halves(half: NDArray[np.float16]) -> str:
    """Pgvector's text of a vector: every half to the last bit."""
    return "[" + ",".join(repr(float(value)) for value in half) + "]"
