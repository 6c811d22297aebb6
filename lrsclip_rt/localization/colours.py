"""A colour map for heat maps: dark violet over rose and orange to cream, its lightness even.

Equal steps of the value are equal steps of OKLab lightness, so a grey print keeps the order and no
false edges appear. The hues are interpolated between a few anchors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["colour_table", "coloured"]

ANCHORS = (
    (14, 8, 40),
    (62, 22, 112),
    (136, 34, 128),
    (206, 62, 98),
    (244, 122, 62),
    (252, 190, 92),
    (253, 248, 196),
)
"""sRGB of the hues from low to high; their lightness is replaced by an even one."""

# OKLab (B. Ottosson, 2020): linear sRGB -> cone responses -> lightness and two colour axes.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@lru_cache(maxsize=1)
def colour_table() -> NDArray[np.uint8]:
    """(256, 3) uint8 sRGB, dark to light."""
    anchors = _oklab(np.array(ANCHORS, dtype=np.float64) / 255.0)
    lightness = np.linspace(anchors[0, 0], anchors[-1, 0], 256)
    axes = [np.interp(lightness, anchors[:, 0], anchors[:, axis]) for axis in (1, 2)]
    table = np.rint(255.0 * _srgb(np.column_stack([lightness, *axes]))).astype(np.uint8)
    table.flags.writeable = False
    return table


def coloured(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour (h, w) values of [0, 1]: (h, w, 3) uint8; NaN counts as 0."""
    steps = np.rint(255.0 * np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0)).astype(np.intp)
    return np.asarray(colour_table()[steps])


def _oklab(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _CONES.T) @ _LAB.T)


def _srgb(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.clip((lab @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_CONES).T, 0.0, 1.0)
    return np.asarray(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))
