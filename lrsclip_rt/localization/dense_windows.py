"""Which windows the dense mode embeds, and which part of the scene each of their patches shows.

A window's edge is a whole number of patches times a whole number of pixels, and neighbouring windows share
whole patches. So patches of overlapping windows lie exactly on each other, and a scene of any size has one
regular lattice of patches; only windows that are moved back to end at the scene's edge add lines to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window, tile_grid

__all__ = ["DENSE_OVERLAP", "DENSE_SCALES", "PatchLattice", "dense_edges", "dense_windows", "patch_lattice"]

DENSE_SCALES = (256,)
"""About how wide the windows of the dense mode are [px], coarse to fine."""

DENSE_OVERLAP = 0.5
"""About which fraction of its patches a window shares with the next."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchLattice:
    """The distinct places that the patches of some windows show.

    Attributes:
        windows: M places inside the scene, row-major.
        place_of: (N, P) which of them patch p of window n shows.
        weights: (P,) float32 above 0, how much a patch counts by its place in its window: a Hann window
            along the rows times one along the columns, sampled at the middle of the patch.
    """

    windows: tuple[Window, ...]
    place_of: NDArray[np.intp]
    weights: NDArray[np.float32]


def dense_edges(
    height: int, width: int, grid: tuple[int, int], scales: Sequence[int] = DENSE_SCALES
) -> tuple[int, ...]:
    """Window edges [px] near ``scales`` that fit into the scene and hold whole patches of whole pixels.

    A scene that is smaller than every scale is looked at in squares of about its shorter side.

    Args:
        height: Scene height [px].
        width: Scene width [px].
        grid: Rows and columns of patches that a window has.
        scales: About what is wanted [px].

    Returns:
        Distinct edges, falling.

    Raises:
        InputError: If the scene has fewer pixels along a side than a window has patches.

    Example:
        >>> dense_edges(2000, 3000, (6, 6), (384, 256)), dense_edges(100, 93, (14, 14))
        ((384, 252), (84,))
    """
    shorter, patches = min(height, width), int(np.lcm(*grid))
    if shorter < patches:
        raise InputError(
            f"a scene of {height} x {width} px has fewer pixels than the model has patches, "
            f"{grid[0]} x {grid[1]}; use the fast mode"
        )
    fitting = [scale for scale in scales if scale <= shorter] or [shorter]
    return tuple(sorted({max(1, scale // patches) * patches for scale in fitting}, reverse=True))


def dense_windows(height: int, width: int, *, edge: int, grid: tuple[int, int]) -> list[Window]:
    """Cover a scene with windows of one edge that share about half of their patches, row-major.

    Example:
        >>> [window.col_off for window in dense_windows(252, 700, edge=252, grid=(6, 6))]
        [0, 126, 252, 378, 448]
    """
    patches = int(np.lcm(*grid))
    step = max(1, round(patches * (1.0 - DENSE_OVERLAP)))
    return tile_grid(height, width, size=edge, overlap=1.0 - step / patches)


def patch_lattice(windows: Sequence[Window], grid: tuple[int, int]) -> PatchLattice:
    """Find the places that the patches of windows of one size show, each once.

    Args:
        windows: N windows, one or more, whose edges hold whole patches.
        grid: Rows and columns of patches that a window has.

    Example:
        >>> lattice = patch_lattice([Window(0, 0, 4, 4), Window(2, 0, 4, 4)], (2, 2))
        >>> [place.as_list() for place in lattice.windows][:3], lattice.place_of.tolist()
        ([[0, 0, 2, 2], [2, 0, 2, 2], [4, 0, 2, 2]], [[0, 1, 3, 4], [1, 2, 4, 5]])
    """
    down, across = windows[0].height // grid[0], windows[0].width // grid[1]
    offsets = np.array([[window.row_off, window.col_off] for window in windows], np.int64)
    in_window = np.indices(grid).reshape(2, -1).T * [down, across]
    corners = (offsets[:, None] + in_window).reshape(-1, 2)
    places, place_of = np.unique(corners, axis=0, return_inverse=True)
    factors = [np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 2 for count in grid]
    return PatchLattice(
        windows=tuple(Window(col_off, row_off, across, down) for row_off, col_off in places.tolist()),
        place_of=place_of.reshape(len(windows), -1),
        weights=np.outer(*factors).reshape(-1).astype(np.float32),
    )
