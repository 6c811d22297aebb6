"""The untagged collar: black or white filling around a rotated or clipped scene.

Many files carry no nodata value, no alpha and no mask, yet are black (or white) where nothing was
seen. Such pixels touch the raster's border. The collar's rough shape comes from a small overview;
inside it, and one overview cell around it, a pixel's own value decides, so the edge is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.components import label_components
from lrsclip_rt.tiles import Window

__all__ = ["Collar", "collar_from_overview", "has_clear_border"]

LOSSY_TOLERANCE = 8
"""How far from pure black or white a compressed collar strays, in 8-bit steps."""

MIN_SHARE = 0.01
"""Share of the overview that an area must fill to count as a collar: a shadow at the border is none."""

MIN_CELLS = 64
"""The same in overview cells, for small scenes."""

MAX_SHARE = 0.999
"""An overview that is collar altogether is a black scene, not a frame without a picture."""


@dataclass(frozen=True, slots=True)
class Collar:
    """Where the collar lies, roughly, and what its pixels look like.

    Attributes:
        black: (h, w) bool over the overview, widened by one cell; None without a black collar.
        white: The same for white.
        black_value: What black is stored as.
        white_value: What white is stored as.
        tolerance: Largest distance from these values, in raster units.
        height: Scene height [px].
        width: Scene width [px].
    """

    black: NDArray[np.bool_] | None
    white: NDArray[np.bool_] | None
    black_value: float
    white_value: float
    tolerance: float
    height: int
    width: int

    def touches(self, window: Window) -> bool:
        """Whether ``window`` may hold a collar pixel, told from the overview alone."""
        return any(
            self._part(area, window, window.height, window.width).any()
            for area in (self.black, self.white)
            if area is not None
        )

    def covers(self, bands: NDArray[Any], window: Window) -> NDArray[np.bool_]:
        """Collar pixels of (3, h, w) ``bands`` read from ``window`` at any resolution: (h, w) bool."""
        height, width = bands.shape[1:]
        covered = np.zeros((height, width), dtype=bool)
        if self.black is not None:
            covered |= self._part(self.black, window, height, width) & _is_close(
                bands, self.black_value, self.tolerance
            )
        if self.white is not None:
            covered |= self._part(self.white, window, height, width) & _is_close(
                bands, self.white_value, self.tolerance
            )
        return covered

    def _part(self, area: NDArray[np.bool_], window: Window, height: int, width: int) -> NDArray[np.bool_]:
        rows = window.row_off + (np.arange(height) + 0.5) * (window.height / height)
        cols = window.col_off + (np.arange(width) + 0.5) * (window.width / width)
        row_index = (rows * (area.shape[0] / self.height)).astype(np.intp)
        col_index = (cols * (area.shape[1] / self.width)).astype(np.intp)
        return area[np.ix_(row_index, col_index)]


def collar_from_overview(bands: NDArray[Any], *, height: int, width: int, lossy: bool) -> Collar | None:
    """Find the collar on an overview of the whole scene.

    Args:
        bands: (3, h, w) nearest-neighbour overview in the raster's own dtype.
        height: Scene height [px].
        width: Scene width [px].
        lossy: Whether the file's compression blurs pure black and white.

    Returns:
        The collar, or None where the border is not black or white.
    """
    tolerance = float(LOSSY_TOLERANCE) if lossy and bands.dtype == np.uint8 else 0.0
    black_value, white_value = _extremes(bands)
    black = _from_border(_is_close(bands, black_value, tolerance))
    white = _from_border(_is_close(bands, white_value, tolerance))
    share = sum(float(area.mean()) for area in (black, white) if area is not None)
    if (black is None and white is None) or share > MAX_SHARE:
        return None
    return Collar(_widened(black), _widened(white), black_value, white_value, tolerance, height, width)


def has_clear_border(bands: NDArray[np.uint8], known: NDArray[np.bool_], *, lossy: bool) -> bool:
    """Whether the known cells of an overview show already that ``collar_from_overview`` finds none.

    Args:
        bands: (3, h, w) overview of 8-bit colours; any value where it is not known.
        known: (h, w) bool.
        lossy: As there.
    """
    tolerance = float(LOSSY_TOLERANCE) if lossy else 0.0
    return all(_from_border(_is_close(bands, value, tolerance) | ~known) is None for value in (0.0, 255.0))


def _extremes(bands: NDArray[Any]) -> tuple[float, float]:
    """What filler is stored as: 0 and 255 in colours; in other types the overview's least value.

    Measured values vary, so a wide flat area of the least value at the border is filler there,
    whether it is 0, 1 or -9999.
    """
    if bands.dtype == np.uint8:
        return 0.0, 255.0
    finite = bands[np.isfinite(bands)]
    lowest = float(finite.min()) if finite.size else 0.0
    return lowest, float(np.iinfo(bands.dtype).max) if bands.dtype.kind in "iu" else float("inf")


def _is_close(bands: NDArray[Any], value: float, tolerance: float) -> NDArray[np.bool_]:
    """(h, w) bool where all three bands lie within ``tolerance`` of ``value``."""
    low, high = value - tolerance, value + tolerance
    if bands.dtype.kind in "iu":  # whole numbers within the type keep the comparison in it
        limits = np.iinfo(bands.dtype)
        low, high = max(limits.min, math.ceil(low)), min(limits.max, math.floor(high))
    near = bands[0] <= high
    for band in bands[1:]:
        near &= band <= high
    if low > 0 or bands.dtype.kind != "u":
        for band in bands:
            near &= band >= low
    return np.asarray(near)


def _from_border(candidates: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Areas of ``candidates`` that touch the border and are large enough."""
    labels, count = label_components(candidates)
    if count == 0:
        return None
    at_border = np.zeros(count + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        at_border[edge] = True
    cells = np.bincount(labels.ravel(), minlength=count + 1)
    keep = at_border & (cells >= max(MIN_CELLS, MIN_SHARE * labels.size))
    keep[0] = False
    return keep[labels] if keep.any() else None


def _widened(area: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Add one cell on every side."""
    if area is None:
        return None
    padded = np.pad(area, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])
