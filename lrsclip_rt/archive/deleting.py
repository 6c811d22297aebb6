"""Deleting: the rows of a source become dead, everything that is said about it goes.

Dead rows stay in the segment files, so that no other row moves; ``deletions`` names them as runs. Ids come
from content, so the same file can be indexed again and gets the same ids at new rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from lrsclip_rt.archive.store import Archive

__all__ = ["delete_sources", "runs_from_mask", "sources_to_delete"]


def sources_to_delete(
    archive: Archive,
    *,
    patterns: Sequence[str] = (),
    ids: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> list[int]:
    """Numbers of the sources that are meant: by path or tile, of these those with the metadata.

    Args:
        archive: The archive.
        patterns: Paths, whole, relative to their root or to the working folder, or shell patterns of these.
        ids: Tile ids or their beginnings; the whole source of the tile is meant.
        metadata: Keys and values that a source must have; alone, every source that has them is meant.

    Raises:
        InputError: If nothing is asked for, a pattern or an id is not there, or no source is left.
    """
    if not (patterns or ids or metadata):
        raise InputError("say what to delete: a source, a tile id or metadata")
    chosen: set[int] = set()
    for pattern in patterns:
        found = archive.catalog.sources_by_path([pattern])
        if not found:
            raise InputError(f"no source of {archive.path} lies at {pattern}; nothing was deleted")
        chosen |= found
    chosen |= {archive.tile(identifier).source for identifier in ids}
    if metadata:
        having = archive.catalog.sources_by_metadata(metadata)
        chosen = chosen & having if patterns or ids else having
    if not chosen:
        raise InputError(f"no source of {archive.path} has all that was asked for; nothing was deleted")
    return sorted(chosen)


def delete_sources(database: sqlite3.Connection, numbers: Iterable[int]) -> int:
    """Delete sources in the open transaction of the one writer.

    Returns:
        How many rows are dead now that were not.

    Raises:
        InputError: If there is no source of a number.
    """
    chosen = sorted(set(numbers))
    for number in chosen:
        if database.execute("SELECT 1 FROM sources WHERE source = ?", (number,)).fetchone() is None:
            raise InputError(f"the archive has no source number {number}")
    dead: dict[int, list[int]] = {}
    for number in chosen:
        _delete_boxes(database, number)
        for segment, row in database.execute("SELECT segment, row FROM tiles WHERE source = ?", (number,)):
            dead.setdefault(segment, []).append(row)
        for table in ("tiles", "grids", "metadata", "locations", "sources"):
            database.execute(f"DELETE FROM {table} WHERE source = ?", (number,))
    if chosen:
        database.execute(
            "INSERT INTO info VALUES ('last_source', ?) ON CONFLICT (key)"
            " DO UPDATE SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))",
            (str(chosen[-1]),),
        )
    for segment, rows in dead.items():
        _mark_dead(database, segment, rows)
    return sum(len(rows) for rows in dead.values())


def runs_from_mask(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs of True in ``(N,)`` bool, as ``(first, count)``.

    Example:
        >>> runs_from_mask(np.array([True, False, True, True]))
        [(0, 1), (2, 2)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(first, stop - first) for first, stop in edges.reshape(-1, 2).tolist()]


def _mark_dead(database: sqlite3.Connection, segment: int, rows: list[int]) -> None:
    """Add rows to the runs of a segment, which stay few because neighbours are joined."""
    query = "SELECT first_row, rows FROM deletions WHERE segment = ?"
    runs = database.execute(query, (segment,)).fetchall()
    mask = np.zeros(1 + max([*rows, *(first + count - 1 for first, count in runs)]), bool)
    mask[rows] = True
    for first, count in runs:
        mask[first : first + count] = True
    database.execute("DELETE FROM deletions WHERE segment = ?", (segment,))
    database.executemany(
        "INSERT INTO deletions VALUES (?, ?, ?)", [(segment, *run) for run in runs_from_mask(mask)]
    )


def _delete_boxes(database: sqlite3.Connection, source: int) -> None:
    """An R*Tree finds boxes by place, not by tile: ask for the source's whole extent, then pick its own."""
    query = (
        "SELECT min(CASE WHEN west > east THEN -180 ELSE west END), min(south),"
        " max(CASE WHEN west > east THEN 180 ELSE east END), max(north) FROM tiles WHERE source = ?"
    )
    west, south, east, north = database.execute(query, (source,)).fetchone()
    if west is None:
        return
    tiles = {row[0] for row in database.execute("SELECT tile FROM tiles WHERE source = ?", (source,))}
    touching = database.execute(
        "SELECT box, tile FROM tile_boxes"
        " WHERE min_lon <= ? AND max_lon >= ? AND min_lat <= ? AND max_lat >= ?",
        (east, west, north, south),
    ).fetchall()
    own = [(box,) for box, tile in touching if tile in tiles]
    database.executemany("DELETE FROM tile_boxes WHERE box = ?", own)
