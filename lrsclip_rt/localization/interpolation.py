"""Values of a fusion grid between the centres of its cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bilinear_at"]


def bilinear_at(
    grid: NDArray[np.float32],
    rows: NDArray[np.integer],
    cols: NDArray[np.integer],
    *,
    height: int,
    width: int,
) -> NDArray[np.float32]:
    """Read a grid over a scene at the centres of some of its pixels.

    Beyond the outermost centres the value stays; beside a cell without a value the nearest cell counts alone.

    Args:
        grid: (h, w) float32 over the scene; NaN where it shows nothing.
        rows: (r,) pixel rows.
        cols: (c,) pixel columns.
        height: Scene height [px].
        width: Scene width [px].

    Returns:
        (r, c) float32 at their crossings.

    Example:
        >>> bilinear_at(np.array([[0, 4]], dtype=np.float32), np.array([0]), np.arange(4), height=1, width=4)
        array([[0., 1., 3., 4.]], dtype=float32)
    """
    top, bottom, down = _neighbours(rows, height, grid.shape[0])
    left, right, across = _neighbours(cols, width, grid.shape[1])
    upper, lower = grid[top], grid[bottom]
    # A neighbour without weight must not matter, even where it is missing.
    sideways = [_mixed(line[:, left], line[:, right], across[None, :]) for line in (upper, lower)]
    mixed = _mixed(sideways[0], sideways[1], down[:, None])
    nearest = np.where(down < 0.5, top, bottom)[:, None], np.where(across < 0.5, left, right)[None, :]
    return np.where(np.isnan(mixed), grid[nearest], mixed)


def _neighbours(
    pixels: NDArray[np.integer], length: int, cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The cells whose centres lie around each pixel's, and the share of the second."""
    places = np.clip((pixels + 0.5) * (cells / length) - 0.5, 0.0, cells - 1.0)
    first = places.astype(np.intp)
    return first, np.minimum(first + 1, cells - 1), (places - first).astype(np.float32)


def _mixed(
    first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    return np.where(share == 0, first, first + share * (second - first))
