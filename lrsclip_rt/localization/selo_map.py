"""The uint8 map of the published protocol at source resolution: normalise, quantise, median of 251.

OpenCV's ``medianBlur`` works on pixels. Before the blur the map is constant on the cells of
``CellMeans``, and that makes an exact median cheap without OpenCV: the number of pixels of a level in
the square around (r, c) is (rows of the square in cell i) x (columns in cell j), summed over the few
cells that the square meets. For a tile of squares and all levels at once this is two small matrix
products.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.localization.fusion import CellMeans

__all__ = ["MEDIAN_SIDE", "selo_map", "selo_map_strips"]

MEDIAN_SIDE = 251
"""Edge of the median's square [px], odd."""

TILE = 128
"""Edge of the tiles computed at once [px]: larger ones meet more levels, smaller ones repeat work."""


def selo_map(cells: CellMeans, text: int, *, median_side: int = MEDIAN_SIDE) -> NDArray[np.uint8]:
    """The whole map: (H, W) uint8. ``selo_map_strips`` needs less memory."""
    return np.concatenate(list(selo_map_strips(cells, text, median_side=median_side)))


def selo_map_strips(
    cells: CellMeans, text: int, *, median_side: int = MEDIAN_SIDE
) -> Iterator[NDArray[np.uint8]]:
    """Yield the map from top to bottom in strips of (128 or fewer, W) uint8.

    The minimum is subtracted, the rest divided by its maximum (a constant map is all zeros), 255 times
    that is cut to whole numbers, and the median over ``median_side`` squared pixels is taken, the border
    replicated.
    """
    codes = quantised_cells(cells, text)
    half = median_side // 2
    columns = [
        (slice(left, left + TILE), *_overlaps(cells.col_edges, left, min(left + TILE, cells.width), half))
        for left in range(0, cells.width, TILE)
    ]
    make = partial(_strip, cells, codes, columns, median_side)
    workers = available_cpus()
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="lrsclip-median") as pool:
        for top in range(0, cells.height, TILE):
            waiting.append(pool.submit(make, top))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _strip(
    cells: CellMeans,
    codes: NDArray[np.uint8],
    columns: Sequence[tuple[slice, slice, NDArray[np.float32]]],
    median_side: int,
    top: int,
) -> NDArray[np.uint8]:
    bottom = min(top + TILE, cells.height)
    row_part, row_weight = _overlaps(cells.row_edges, top, bottom, median_side // 2)
    strip = np.empty((bottom - top, cells.width), dtype=np.uint8)
    for pixels, col_part, col_weight in columns:
        strip[:, pixels] = _medians(codes[row_part, col_part], row_weight, col_weight, median_side)
    return strip


def quantised_cells(cells: CellMeans, text: int) -> NDArray[np.uint8]:
    """The map before the median, one value a cell: (R, C) uint8."""
    means = cells.means[text]
    shifted = means - means.min()
    highest = shifted.max()
    if not highest > 0.0:
        return np.zeros(means.shape, dtype=np.uint8)
    return np.asarray(255.0 * (shifted / highest)).astype(np.uint8)


def _overlaps(
    edges: NDArray[np.int64], start: int, stop: int, half: int
) -> tuple[slice, NDArray[np.float32]]:
    """How many pixels of each cell the squares around ``start .. stop`` hold along one axis.

    Returns:
        The cells that any of them meets, and (stop - start, cells) float32 counts. Pixels beyond the
        border count for the outermost cell, which is what replicating the border means.
    """
    low = np.arange(start, stop)[:, None] - half
    high = low + 2 * half + 1
    bounds = edges.copy()
    bounds[0], bounds[-1] = min(bounds[0], low[0, 0]), max(bounds[-1], high[-1, 0])
    first = int(np.searchsorted(bounds, low[0, 0], side="right")) - 1
    last = int(np.searchsorted(bounds, high[-1, 0], side="left"))
    begins, ends = bounds[first:last][None, :], bounds[first + 1 : last + 1][None, :]
    counts = np.minimum(high, ends) - np.maximum(low, begins)
    return slice(first, last), np.maximum(counts, 0).astype(np.float32)


def _medians(
    local: NDArray[np.uint8], row_weight: NDArray[np.float32], col_weight: NDArray[np.float32], side: int
) -> NDArray[np.uint8]:
    """Median of the values in each square: (rows, cols) of the tile."""
    present = np.unique(local)
    if len(present) == 1:
        return np.full((len(row_weight), len(col_weight)), present[0])
    # Value by value: pixels of the square at or below it. Whole numbers below 2^24, exact in float32.
    at_most = (local <= present[:-1, None, None]).astype(np.float32)
    counts = row_weight @ at_most @ col_weight.T
    below = counts < np.float32((side * side + 1) // 2)
    # At most 255 of them: they are added up as bytes, in a tenth of the time.
    return np.asarray(present[np.add.reduce(below.view(np.uint8), axis=0, dtype=np.uint8)])
