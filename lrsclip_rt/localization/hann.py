"""From window scores to a heat map on a regular grid, windows weighing most in their middle.

Each cell becomes sum(w s) / sum(w) over the windows that cover it, where w is a Hann window along the rows
times one along the columns. A window covers the cells in whose centre pixel it has a part, as in
``fusion.CellMeans.on_grid``, and w is sampled at the middle of that pixel, so it is never 0: a scene that is
covered by windows has a value in every cell.

Factors of rows and columns are float32 and shared with the kernel in fuse.cu, which gathers the same
sums cell by cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.fusion import centre_pixels
from lrsclip_rt.tiles import Window

__all__ = ["SPAN_DTYPE", "TILE_CELLS", "GridSpans", "hann_means", "spans_by_tile", "spans_on_grid"]

TILE_CELLS = 16
"""Edge of a tile of the kernel [cells]."""

SPAN_DTYPE = np.dtype(
    [
        ("first_row", "<i4"),
        ("end_row", "<i4"),
        ("first_col", "<i4"),
        ("end_col", "<i4"),
        ("row_factors", "<i4"),
        ("col_factors", "<i4"),
    ]
)
"""``struct Span`` of fuse.cu."""


@dataclass(frozen=True, slots=True, eq=False)
class GridSpans:
    """Which cells of a grid N windows cover, and how much each weighs there.

    Attributes:
        rows: Rows [cells] of the grid.
        cols: Columns [cells] of the grid.
        spans: ``(N,)`` of ``SPAN_DTYPE``: covered cells, and where in ``factors`` those of the window begin.
        factors: ``(L,) float32``, of rows and of columns, in (0, 1].
    """

    rows: int
    cols: int
    spans: NDArray[np.void]
    factors: NDArray[np.float32]


def spans_on_grid(windows: Sequence[Window], *, height: int, width: int, rows: int, cols: int) -> GridSpans:
    """Place windows on a ``rows x cols`` grid over the scene.

    Args:
        windows: N windows inside the scene.
        height: Scene height [px].
        width: Scene width [px].
        rows: Rows of the grid [cells].
        cols: Columns of the grid [cells].

    Raises:
        InputError: If there is no window, one leaves the scene, or the grid has no cell.

    Example:
        >>> grid = spans_on_grid([Window(0, 0, 4, 4)], height=4, width=4, rows=2, cols=4)
        >>> grid.spans[0].tolist(), np.rint(100 * grid.factors).astype(int).tolist()
        ((0, 2, 0, 4, 0, 2), [85, 15, 15, 85, 85, 15])
    """
    if len(windows) == 0 or min(rows, cols) < 1:
        raise InputError(
            f"got {len(windows)} windows and a grid of {rows} x {cols} cells; expected some of each"
        )
    boxes = np.array([window.as_list() for window in windows], dtype=np.int64)
    right, bottom = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    if boxes.min() < 0 or right.max() > width or bottom.max() > height:
        raise InputError(f"a window leaves the scene of {height} x {width} px; expected all inside")
    spans = np.zeros(len(windows), SPAN_DTYPE)
    parts: list[NDArray[np.float32]] = []
    length = 0
    axes = (("row", centre_pixels(height, rows), 1), ("col", centre_pixels(width, cols), 0))
    for number, box in enumerate(boxes):
        for name, pixels, column in axes:
            offset, size = int(box[column]), int(box[column + 2])
            first, end = np.searchsorted(pixels, [offset, offset + size])
            spans[number][f"first_{name}"], spans[number][f"end_{name}"] = first, end
            spans[number][f"{name}_factors"] = length
            parts.append(_hann((pixels[first:end] - offset + 0.5) / size))
            length += len(parts[-1])
    return GridSpans(rows, cols, spans, np.concatenate(parts))


def hann_means(grid: GridSpans, scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Fuse scores: the reference for fuse.cu.

    Args:
        grid: N windows on a grid.
        scores: (N, T) score of each window for each text.

    Returns:
        (T, rows, cols) float64; NaN where no window lies. Sums run in the order of the windows.

    Raises:
        InputError: If the lengths disagree.
    """
    if scores.ndim != 2 or len(scores) != len(grid.spans):
        raise InputError(f"got {len(grid.spans)} windows and scores {scores.shape}; expected (N, T)")
    totals = np.zeros((scores.shape[1], grid.rows, grid.cols))
    weights = np.zeros((grid.rows, grid.cols))
    for span, score in zip(grid.spans.tolist(), scores.astype(np.float64), strict=True):
        top, bottom, left, right, row_factors, col_factors = span
        down = grid.factors[row_factors : row_factors + bottom - top].astype(np.float64)
        across = grid.factors[col_factors : col_factors + right - left].astype(np.float64)
        factor = np.outer(down, across)
        totals[:, top:bottom, left:right] += score[:, None, None] * factor
        weights[top:bottom, left:right] += factor
    with np.errstate(invalid="ignore"):
        return totals / weights


def spans_by_tile(grid: GridSpans) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Which windows reach each tile of 16 x 16 cells.

    Returns:
        ``(tiles + 1,)`` starts and the rising numbers of the windows of each tile, tiles row-major.
    """
    across, down = -(-grid.cols // TILE_CELLS), -(-grid.rows // TILE_CELLS)
    lists: list[list[int]] = [[] for _ in range(across * down)]
    for number, (top, bottom, left, right, _, _) in enumerate(grid.spans.tolist()):
        if bottom > top and right > left:
            for tile_row in range(top // TILE_CELLS, (bottom - 1) // TILE_CELLS + 1):
                for tile_col in range(left // TILE_CELLS, (right - 1) // TILE_CELLS + 1):
                    lists[tile_row * across + tile_col].append(number)
    starts = np.concatenate([[0], np.cumsum([len(numbers) for numbers in lists])]).astype(np.int32)
    flat = [number for numbers in lists for number in numbers]
    return starts, np.array(flat, np.int32)


def _hann(positions: NDArray[np.float64]) -> NDArray[np.float32]:
    """The window at ``positions`` of (0, 1)."""
    return (np.sin(np.pi * positions) ** 2).astype(np.float32)
