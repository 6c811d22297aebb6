"""The Hann fusion of ``hann.hann_means`` as small matrix products, strip by strip.

Windows of one size lie on few distinct rows and columns, and their weight is a factor of the row times one
of the column. With S the scores of one size as a table of window rows by window columns (0 where no window
lies), the weighted sum over all windows is the product A^T S B of the tables of factors. A strip of the grid
meets only a few window rows, so a further text costs milliseconds, whatever the scene's size.

``reach`` stretches the Hann window beyond the window that was embedded. Windows side by side sum to a
constant weight at a reach of 2, and the map then runs smoothly from one middle to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.fusion import centre_pixels
from lrsclip_rt.tiles import Window

__all__ = ["HannFusion", "hann_fusion"]

STRIP_ROWS = 64
"""Rows of the grid that are summed at once [cells]."""


@dataclass(frozen=True, slots=True, eq=False)
class SizeGroup:
    """The windows of one size.

    Attributes:
        members: (n,) numbers of its windows.
        row_of: (n,) which row of ``row_factors`` each lies in.
        col_of: (n,) which row of ``col_factors``.
        row_spans: (R, 2) first and end row of the grid [cells] that each row of windows covers.
        row_factors: (R, rows) float32 Hann weights along the rows, 0 outside the windows.
        col_factors: (C, cols) float32.
    """

    members: NDArray[np.intp]
    row_of: NDArray[np.intp]
    col_of: NDArray[np.intp]
    row_spans: NDArray[np.intp]
    row_factors: NDArray[np.float32]
    col_factors: NDArray[np.float32]

    def add(self, values: NDArray[np.float32], top: int, total: NDArray[np.float32]) -> None:
        """Add ``values`` of all windows, weighted, to the strip ``total`` that begins at row ``top``."""
        bottom = top + len(total)
        touched = np.flatnonzero((self.row_spans[:, 0] < bottom) & (self.row_spans[:, 1] > top))
        if not len(touched):
            return
        first, end = int(touched[0]), int(touched[-1]) + 1
        table = np.zeros((end - first, len(self.col_factors)), np.float32)
        here = (self.row_of >= first) & (self.row_of < end)
        # Windows may lie on each other.
        np.add.at(table, (self.row_of[here] - first, self.col_of[here]), values[self.members[here]])
        total += self.row_factors[first:end, top:bottom].T @ (table @ self.col_factors)


@dataclass(frozen=True, slots=True, eq=False)
class HannFusion:
    """N windows on a grid, ready to fuse any number of texts.

    Attributes:
        groups: The windows by size.
        weights: (N,) float32 factor of each window beside its Hann weight.
        cover: (rows, cols) float32 sum of all weights; 0 where no window lies.
    """

    groups: tuple[SizeGroup, ...]
    weights: NDArray[np.float32]
    cover: NDArray[np.float32]

    def fuse(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """Mean score of the windows over each cell: (rows, cols) float32, NaN where no window lies.

        Args:
            scores: (N,) of one text.

        Raises:
            InputError: If the length differs.
        """
        if scores.shape != self.weights.shape:
            raise InputError(f"got {len(self.weights)} windows and scores {scores.shape}; expected (N,)")
        # Rounding grows with the values, so they are summed around their mean.
        middle = np.float32(scores.mean()) if len(scores) else np.float32(0.0)
        fused = _weighted_sums(self.groups, (scores.astype(np.float32) - middle) * self.weights, self.cover)
        with np.errstate(invalid="ignore", divide="ignore"):
            fused /= self.cover
        fused += middle
        fused[self.cover == 0] = np.nan
        return fused


def hann_fusion(
    windows: Sequence[Window],
    *,
    height: int,
    width: int,
    rows: int,
    cols: int,
    weights: NDArray[np.floating] | None = None,
    reach: float = 1.0,
) -> HannFusion:
    """Place windows on a ``rows x cols`` grid over the scene.

    Args:
        windows: N windows inside the scene; none gives a map without values.
        height: Scene height [px].
        width: Scene width [px].
        rows: Rows of the grid [cells].
        cols: Columns of the grid [cells].
        weights: (N,) above 0, how much each window counts; all alike by default.
        reach: Width of the Hann window in widths of the window, 1 or more.

    Raises:
        InputError: If a window leaves the scene, the grid has no cell, the weights do not fit, or the reach
            is below 1.
    """
    if min(rows, cols) < 1 or not reach >= 1.0:
        raise InputError(
            f"got a grid of {rows} x {cols} cells and reach {reach:g}; expected a cell or more, and 1 or more"
        )
    own = np.ones(len(windows), np.float32) if weights is None else np.asarray(weights, np.float32)
    if own.shape != (len(windows),) or not (own > 0).all():
        raise InputError(f"got {len(windows)} windows and weights {own.shape}; expected (N,) above 0")
    boxes = np.array([window.as_list() for window in windows], dtype=np.int64).reshape(-1, 4)
    right, bottom = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    if len(boxes) and (boxes.min() < 0 or right.max() > width or bottom.max() > height):
        raise InputError(f"a window leaves the scene of {height} x {width} px; expected all inside")
    sizes, group_of = np.unique(boxes[:, 2:], axis=0, return_inverse=True)
    pixels = centre_pixels(height, rows), centre_pixels(width, cols)
    groups = tuple(
        _size_group(np.flatnonzero(group_of.reshape(-1) == number), boxes, *pixels, reach)
        for number in range(len(sizes))
    )
    cover = _weighted_sums(groups, own, np.empty((rows, cols), np.float32))
    cover[cover < np.finfo(np.float32).tiny] = 0.0
    return HannFusion(groups, own, cover)


def _size_group(
    members: NDArray[np.intp],
    boxes: NDArray[np.int64],
    row_pixels: NDArray[np.int64],
    col_pixels: NDArray[np.int64],
    reach: float,
) -> SizeGroup:
    col_offs, col_of = np.unique(boxes[members, 0], return_inverse=True)
    row_offs, row_of = np.unique(boxes[members, 1], return_inverse=True)
    width, height = int(boxes[members[0], 2]), int(boxes[members[0], 3])
    beyond = 0.5 * height * (reach - 1.0)
    first = np.searchsorted(row_pixels, row_offs - beyond)
    end = np.searchsorted(row_pixels, row_offs + height + beyond)
    return SizeGroup(
        members=members,
        row_of=row_of.reshape(-1),
        col_of=col_of.reshape(-1),
        row_spans=np.stack([first, end], axis=1),
        row_factors=_factors(row_offs, height, row_pixels, reach),
        col_factors=_factors(col_offs, width, col_pixels, reach),
    )


def _factors(
    offsets: NDArray[np.int64], size: int, pixels: NDArray[np.int64], reach: float
) -> NDArray[np.float32]:
    """(len(offsets), cells) weights of windows along one axis, sampled at the middle of each cell's pixel."""
    from_middle = pixels[None, :] + 0.5 - (offsets[:, None] + 0.5 * size)
    positions = from_middle / (size * reach)
    inside = np.abs(positions) < 0.5
    return np.where(inside, np.cos(np.pi * positions) ** 2, 0.0).astype(np.float32)


def _weighted_sums(
    groups: Sequence[SizeGroup], values: NDArray[np.float32], like: NDArray[np.float32]
) -> NDArray[np.float32]:
    total = np.zeros_like(like)
    for top in range(0, len(total), STRIP_ROWS):
        for group in groups:
            group.add(values, top, total[top : top + STRIP_ROWS])
    return total
