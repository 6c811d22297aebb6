"""From one score a window to one score a pixel: the mean of the windows that cover it.

The mean only changes where a window begins or ends. The edges of all windows cut the scene into a
small irregular grid of cells, some 10^2 a side even for 10^4 x 10^4 px, and inside a cell every pixel
is covered by the same windows. Summing on cells is therefore exact, and no loop visits a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

__all__ = ["CellMeans", "cell_means", "fusion_grid_shape"]

MAX_GRID_SIDE = 4096
"""Longest side of the fusion grid [cells]."""

FINEST_CELL = 8
"""Edge of a fusion cell [px] in scenes that are large enough not to need smaller ones."""


@dataclass(frozen=True, slots=True, eq=False)
class CellMeans:
    """Mean score of the covering windows on the irregular grid of cells.

    Attributes:
        row_edges: (R + 1,) int64, rows [px] where cells begin, then the scene's height.
        col_edges: (C + 1,) int64, columns [px], then the scene's width.
        means: (T, R, C) float64, one map a text; NaN where no window lies.
        cover: (R, C) int32, windows over each cell.
    """

    row_edges: NDArray[np.int64]
    col_edges: NDArray[np.int64]
    means: NDArray[np.float64]
    cover: NDArray[np.int32]

    @property
    def height(self) -> int:
        """Scene height [px]."""
        return int(self.row_edges[-1])

    @property
    def width(self) -> int:
        """Scene width [px]."""
        return int(self.col_edges[-1])

    def at_pixels(
        self, text: int, rows: NDArray[np.integer], cols: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Values of text number ``text`` at the crossings of pixel ``rows`` and ``cols``: (r, c) float64."""
        # Columns first, on the few rows of cells: what is left is copying whole rows.
        of_cells = self.means[text][:, _cell_of(self.col_edges, cols)]
        return np.asarray(of_cells[_cell_of(self.row_edges, rows)])

    def on_grid(self, text: int, height: int, width: int) -> NDArray[np.float32]:
        """Sample a map at the centres of a regular ``height x width`` grid over the scene: float32."""
        rows = _cell_of(self.row_edges, centre_pixels(self.height, height))
        cols = _cell_of(self.col_edges, centre_pixels(self.width, width))
        return np.asarray(self.means[text].astype(np.float32)[:, cols][rows])


def cell_means(
    windows: Sequence[Window], scores: NDArray[np.floating], *, height: int, width: int
) -> CellMeans:
    """Average the scores of the windows that cover each pixel.

    Sums run in float64 in the order of ``windows``, as a loop over pixels would, so both agree to the
    last bit.

    Args:
        windows: N windows inside the scene.
        scores: (N, T) score of each window for each text.
        height: Scene height [px].
        width: Scene width [px].

    Raises:
        InputError: If the lengths disagree, there is no window, or one leaves the scene.
    """
    if len(windows) == 0 or scores.ndim != 2 or len(scores) != len(windows):
        raise InputError(f"got {len(windows)} windows and scores {scores.shape}; expected (N, T), N >= 1")
    boxes = np.array([window.as_list() for window in windows], dtype=np.int64)
    first_cols, first_rows = boxes[:, 0], boxes[:, 1]
    end_cols, end_rows = first_cols + boxes[:, 2], first_rows + boxes[:, 3]
    if boxes.min() < 0 or end_cols.max() > width or end_rows.max() > height:
        raise InputError(f"a window leaves the scene of {height} x {width} px; expected all inside")
    row_edges = np.unique(np.concatenate([[0, height], first_rows, end_rows]))
    col_edges = np.unique(np.concatenate([[0, width], first_cols, end_cols]))
    covering = _covering(
        np.searchsorted(row_edges, first_rows),
        np.searchsorted(row_edges, end_rows),
        np.searchsorted(col_edges, first_cols),
        np.searchsorted(col_edges, end_cols),
        (len(row_edges) - 1, len(col_edges) - 1),
    )
    # One more score stands for "no window": adding zero changes no sum.
    padded = np.zeros((scores.shape[1], len(windows) + 1))
    padded[:, :-1] = scores.T
    sums = np.zeros((scores.shape[1], *covering.shape[1:]))
    for layer in covering:
        sums += padded[:, layer]
    cover = (covering < len(windows)).sum(axis=0, dtype=np.int32)
    with np.errstate(invalid="ignore"):
        means = sums / cover
    return CellMeans(row_edges, col_edges, means, cover)


def _covering(
    top: NDArray[np.intp],
    bottom: NDArray[np.intp],
    left: NDArray[np.intp],
    right: NDArray[np.intp],
    shape: tuple[int, int],
) -> NDArray[np.intp]:
    """The windows over each cell in their order: (most, R, C), filled up with the number of windows.

    Args:
        top: First row of cells of each window.
        bottom: The row after its last.
        left: First column.
        right: The column after its last.
        shape: R and C.
    """
    wide = right - left
    sizes = (bottom - top) * wide
    # Every pair of a window and a cell in it: windows in order, cells row by row.
    window = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(window)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    cell = (top[window] + within // wide[window]) * shape[1] + left[window] + within % wide[window]
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell, minlength=shape[0] * shape[1])
    layer = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    covering = np.full((int(counts.max()), shape[0] * shape[1]), len(sizes))
    covering[layer, cell[order]] = window[order]
    return covering.reshape(-1, *shape)


def fusion_grid_shape(height: int, width: int) -> tuple[int, int]:
    """Shape of the regular grid that heat maps lie on.

    Cells are about 8 px wide, smaller in scenes below 2048 px and larger where the long side would
    otherwise exceed 4096 cells. The grid covers the scene exactly: a cell is W / w by H / h pixels.

    Example:
        >>> fusion_grid_shape(18000, 36000)
        (2048, 4096)
        >>> fusion_grid_shape(1800, 1800), fusion_grid_shape(100, 60)
        ((258, 258), (100, 60))
    """
    longest = max(height, width)
    cell = max(1.0, float(min(FINEST_CELL, longest // 256)), longest / MAX_GRID_SIDE)
    return max(1, int(np.ceil(height / cell))), max(1, int(np.ceil(width / cell)))


def centre_pixels(length: int, cells: int) -> NDArray[np.int64]:
    """Pixel below the centre of each of ``cells`` equal parts of ``length`` pixels.

    Example:
        >>> centre_pixels(10, 3).tolist()
        [1, 5, 8]
    """
    return (2 * np.arange(cells, dtype=np.int64) + 1) * length // (2 * cells)


def _cell_of(edges: NDArray[np.int64], pixels: NDArray[np.integer]) -> NDArray[np.intp]:
    return np.searchsorted(edges, pixels, side="right") - 1
