"""One hit a place: overlapping tiles of a source answer once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lrsclip_rt.archive.records import TileRecord
from lrsclip_rt.tiles import Window

__all__ = ["SAME_PLACE", "Place", "overlap_share", "places_from_ranking"]

SAME_PLACE = 0.3
"""Two windows of a source are one place where their overlap exceeds this share of the smaller."""


@dataclass(slots=True)
class Place:
    """The best tile of a place, its position in the ranking, and how many tiles were merged into it."""

    position: int
    tile: TileRecord
    count: int = 1


def overlap_share(a: Window, b: Window) -> float:
    """Common area over the smaller window's area.

    Example:
        >>> overlap_share(Window(0, 0, 100, 100), Window(50, 0, 100, 100))
        0.5
    """
    width = min(a.col_off + a.width, b.col_off + b.width) - max(a.col_off, b.col_off)
    height = min(a.row_off + a.height, b.row_off + b.height) - max(a.row_off, b.row_off)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min(a.width * a.height, b.width * b.height)


def places_from_ranking(
    tiles: Iterable[tuple[int, TileRecord]], k: int, *, merge: bool = True
) -> tuple[list[Place], bool]:
    """Walk down a ranking until ``k`` places are complete.

    A tile joins the best place that it overlaps. The walk ends before the tile that would open place
    ``k + 1``, so counts do not depend on how far the ranking reaches.

    Args:
        tiles: Position in the ranking and tile, best first.
        k: Places wanted.
        merge: False makes every tile a place of its own.

    Returns:
        The places, and whether the walk ended by itself rather than at the ranking's end.
    """
    places: list[Place] = []
    by_source: dict[int, list[Place]] = {}
    for position, record in tiles:
        neighbours = by_source.setdefault(record.source, [])
        same = None
        if merge:
            window = record.tile.window
            same = next(
                (p for p in neighbours if overlap_share(p.tile.tile.window, window) > SAME_PLACE), None
            )
        if same is not None:
            same.count += 1
            continue
        if len(places) == k:
            return places, True
        places.append(Place(position, record))
        neighbours.append(places[-1])
    return places, False
