"""Any number type to 8 bits, with one pair of limits a band for the whole raster.

Limits taken tile by tile would give neighbouring tiles different contrast, so they are taken once,
from a decimated read of the whole raster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PERCENTILES", "Stretch", "stretch_from_sample"]

PERCENTILES = (2.0, 98.0)
"""Share of the valid pixels below the dark and the bright limit [%]."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Linear map of each band: ``low`` becomes 0, ``high`` becomes 255, the rest is clipped.

    Attributes:
        low: Dark limit of each of the three bands, in raster units.
        high: Bright limit of each of the three bands, in raster units.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def apply(self, bands: NDArray[Any]) -> NDArray[np.uint8]:
        """Map (3, h, w) of any dtype to (3, h, w) uint8; values that are not numbers become 0.

        Example:
            >>> Stretch((0, 0, 0), (1000, 1000, 1000)).apply(np.array([[[0, 500, 2000]]] * 3))[0].tolist()
            [[0, 128, 255]]
        """
        out = np.empty(bands.shape, dtype=np.uint8)
        for index, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if bands.dtype in (np.uint8, np.uint16):
                out[index] = _eight_bit(np.arange(np.iinfo(bands.dtype).max + 1), low, high)[bands[index]]
            else:
                out[index] = _eight_bit(bands[index], low, high)
        return out


def _eight_bit(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    span = high - low if high > low else 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values.astype(np.float64) - low) * (255.0 / span)
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    return np.floor(np.clip(scaled, 0.0, 255.0) + 0.5).astype(np.uint8)


def stretch_from_sample(bands: NDArray[Any], valid: NDArray[np.bool_]) -> Stretch:
    """Take the 2 % and 98 % values of each band over the valid pixels.

    Args:
        bands: (3, h, w) sample of the whole raster.
        valid: (h, w) bool.

    Returns:
        The limits; (0, 1) where no pixel is valid.
    """
    limits = []
    for band in bands:
        values = band[valid & np.isfinite(band)]
        limits.append(np.percentile(values, PERCENTILES) if values.size else np.array([0.0, 1.0]))
    low, high = zip(*((float(pair[0]), float(pair[1])) for pair in limits), strict=True)
    return Stretch((low[0], low[1], low[2]), (high[0], high[1], high[2]))
