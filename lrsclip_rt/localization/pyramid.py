"""Which windows the fast mode looks at: a grid over the whole scene, and finer windows where it matters.

The coarse windows lie side by side and cover the scene once. Of the next finer grid only those are embedded
that lie where the texts of the call score best so far, the texts taking turns, so that each gets its share
and a window wanted by several counts once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.windows import usable_steps
from lrsclip_rt.raster import Scene
from lrsclip_rt.tiles import Window, tile_grid

__all__ = [
    "FAST_SCALES",
    "FastOptions",
    "child_count",
    "chosen_children",
    "fast_scales",
    "pyramid_grids",
    "valid_shares",
]

FAST_SCALES = (256, 128)
"""Window edges of the fast mode [px], coarse to fine."""

REFINED_SHARE = 1 / 16
"""Part of the finer windows that is embedded for up to ``SHARED_TEXTS`` texts together, and as much more for
each further text."""

SHARED_TEXTS = 5


@dataclass(frozen=True, slots=True)
class FastOptions:
    """How the fast mode looks.

    Attributes:
        scales: Window edges [px], coarse to fine; those above the scene's shorter side are dropped.
        overlap: Shared fraction of neighbouring windows, in [0, 1).
        refine: Part of the finer windows that is embedded, in [0, 1]; None for a sixteenth for up to five
            texts and as much more for each further one.
        rotations: Embed each window in four rotations and average: four times the cost.
        gsd_m: Ground size [m] that a pixel of the model's input has in the finest windows, in place of
            ``scales``.

    Raises:
        InputError: If a value is outside its range.
    """

    scales: tuple[int, ...] = FAST_SCALES
    overlap: float = 0.0
    refine: float | None = None
    rotations: bool = False
    gsd_m: float | None = None

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 2 or list(self.scales) != sorted(set(self.scales))[::-1]:
            raise InputError(f"got the scales {self.scales}; expected falling edges of 2 px or more")
        if not 0.0 <= self.overlap < 1.0:
            raise InputError(f"overlap must be in [0, 1), got {self.overlap}")
        if self.refine is not None and not 0.0 <= self.refine <= 1.0:
            raise InputError(f"refine must be in [0, 1], got {self.refine}")
        if self.gsd_m is not None and not 0.0 < self.gsd_m < math.inf:
            raise InputError(f"the ground size of a model pixel must be above 0 m, got {self.gsd_m}")


def fast_scales(scene: Scene, options: FastOptions, *, image_size: int) -> tuple[int, ...]:
    """Window edges [px] for a scene, coarse to fine.

    A scene that is smaller than every edge is looked at in squares of its shorter side. With ``gsd_m`` the
    finest window shows ``image_size`` pixels of that ground size, and the coarse one twice as much.

    Args:
        scene: The scene.
        options: What is asked for.
        image_size: Edge of the model's input [px].

    Raises:
        InputError: If a ground size is asked for and that of the scene's pixels is unknown, or windows of it
            would be smaller than 2 px.
    """
    scales = options.scales
    if options.gsd_m is not None:
        if scene.gsd_m is None:
            raise InputError(
                f"{scene.name} has no known ground size of a pixel, so the model cannot be made to look at "
                f"{options.gsd_m:g} m; leave the ground size out, or give the scene a CRS"
            )
        finest = round(image_size * options.gsd_m / scene.gsd_m)
        if finest < 2:
            raise InputError(
                f"a ground size of {options.gsd_m:g} m makes windows of {finest} px in {scene.name} "
                f"({scene.gsd_m:g} m a pixel); give a larger one"
            )
        scales = (2 * finest, finest)
    shorter = min(scene.height, scene.width)
    return usable_steps(scene.height, scene.width, scales) or (shorter,)


def pyramid_grids(height: int, width: int, scales: Sequence[int], *, overlap: float) -> list[list[Window]]:
    """One grid a scale: the first is embedded whole, the others in part.

    Example:
        >>> [len(grid) for grid in pyramid_grids(1800, 1800, (256, 128), overlap=0.0)]
        [64, 225]
    """
    return [tile_grid(height, width, size=scale, overlap=overlap) for scale in scales]


def child_count(candidates: int, texts: int, *, refine: float | None) -> int:
    """How many of the finer windows are embedded.

    Example:
        >>> [child_count(320, texts, refine=None) for texts in (1, 5, 6, 30)]
        [20, 20, 40, 320]
        >>> child_count(320, 1, refine=0.5)
        160
    """
    share = REFINED_SHARE * max(1, texts - SHARED_TEXTS + 1) if refine is None else refine
    return int(candidates * min(1.0, share))


def chosen_children(ratings: NDArray[np.floating], count: int) -> list[int]:
    """The windows that texts want most, each text choosing its best in turn.

    Args:
        ratings: (T, N) how well each window fits each text; NaN comes last.
        count: Windows to choose.

    Returns:
        Their numbers, rising.

    Example:
        >>> chosen_children(np.array([[0.9, 0.8, 0.1, 0.2], [0.9, 0.1, 0.2, 0.7]]), 3)
        [0, 1, 3]
    """
    orders = np.argsort(-ratings, axis=1, kind="stable")
    chosen: dict[int, None] = {}
    for number in orders.T.reshape(-1).tolist():
        if len(chosen) >= count:
            break
        chosen[number] = None
    return sorted(chosen)


def valid_shares(
    windows: Sequence[Window], valid: NDArray[np.bool_] | None, *, height: int, width: int
) -> NDArray[np.float32]:
    """Part of each window that shows something, in [0, 1]: (N,) float32.

    Args:
        windows: N windows inside the scene.
        valid: (rows, cols) map over the scene, or None where all of it does.
        height: Scene height [px].
        width: Scene width [px].

    A cell counts for a window that reaches into it, so a window without any valid cell shows nothing.
    """
    if valid is None or not len(windows):
        return np.ones(len(windows), np.float32)
    rows, cols = valid.shape
    boxes = np.array([window.as_list() for window in windows], dtype=np.int64)
    left, top = boxes[:, 0] * cols // width, boxes[:, 1] * rows // height
    right = -(-(boxes[:, 0] + boxes[:, 2]) * cols // width)
    bottom = -(-(boxes[:, 1] + boxes[:, 3]) * rows // height)
    sums = np.zeros((rows + 1, cols + 1), np.int64)
    sums[1:, 1:] = valid.astype(np.int64).cumsum(axis=0).cumsum(axis=1)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    shares = inside / ((bottom - top) * (right - left))
    return np.asarray(shares, np.float32)
