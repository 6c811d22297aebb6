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
        cells = np.ix_(_cell_of(self.row_edges, rows), _cell_of(self.col_edges, cols))
        return np.asarray(self.means[text][cells])

    def on_grid(self, text: int, height: int, width: int) -> NDArray[np.float32]:
        """Sample a map at the centres of a regular ``height x width`` grid over the scene: float32."""
        rows = centre_pixels(self.height, height)
        cols = centre_pixels(self.width, width)
        return self.at_pixels(text, rows, cols).astype(np.float32)


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
    spans = np.stack(
        [
            np.searchsorted(row_edges, first_rows),
            np.searchsorted(row_edges, end_rows),
            np.searchsorted(col_edges, first_cols),
            np.searchsorted(col_edges, end_cols),
        ],
        axis=1,
    )
    sums = np.zeros((scores.shape[1], len(row_edges) - 1, len(col_edges) - 1))
    cover = np.zeros(sums.shape[1:], dtype=np.int32)
    for (top, bottom, left, right), score in zip(spans.tolist(), scores.astype(np.float64), strict=True):
        sums[:, top:bottom, left:right] += score[:, None, None]
        cover[top:bottom, left:right] += 1
    with np.errstate(invalid="ignore"):
        means = sums / cover
    return CellMeans(row_edges, col_edges, means, cover)


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
