"""Where the pixels of a scene come from: one small protocol, and the source that holds an array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.tiles import Window

__all__ = ["ArrayPixels", "Block", "PixelSource", "centres"]


@dataclass(frozen=True, slots=True)
class Block:
    """Three bands as stored, before any stretch, and which pixels the file declares valid.

    Attributes:
        bands: (3, h, w) in the raster's own dtype (palettes are expanded to uint8), in any memory order.
        valid: (h, w) bool, or None where every pixel is valid.
    """

    bands: NDArray[Any]
    valid: NDArray[np.bool_] | None


class PixelSource(Protocol):
    """What a scene needs of its pixels."""

    @property
    def height(self) -> int:
        """Rows [px]."""

    @property
    def width(self) -> int:
        """Columns [px]."""

    @property
    def tagged(self) -> bool:
        """Whether the file says itself which pixels are valid (nodata value, alpha or mask)."""

    @property
    def lossy(self) -> bool:
        """Whether black may be stored as almost black (JPEG and its like)."""

    def read(self, window: Window, height: int, width: int, *, smooth: bool = True) -> Block:
        """Read ``window`` as ``height x width`` pixels; ``smooth`` averages where it shrinks."""

    def close(self) -> None:
        """Release the file."""


class ArrayPixels:
    """An (H, W, 3) uint8 array in memory, with an optional (H, W) bool map of its valid pixels."""

    def __init__(
        self, array: NDArray[np.uint8], valid: NDArray[np.bool_] | None = None, *, lossy: bool = False
    ) -> None:
        self._array = array
        self._valid = valid
        self.lossy = lossy
        self.tagged = valid is not None
        self.height, self.width = int(array.shape[0]), int(array.shape[1])

    def read(self, window: Window, height: int, width: int, *, smooth: bool = True) -> Block:
        """Read ``window`` as ``height x width`` pixels."""
        rows = slice(window.row_off, window.row_off + window.height)
        cols = slice(window.col_off, window.col_off + window.width)
        part = self._array[rows, cols]
        valid = None if self._valid is None else self._valid[rows, cols]
        if (height, width) != part.shape[:2]:
            nearest = np.ix_(centres(part.shape[0], height), centres(part.shape[1], width))
            valid = None if valid is None else valid[nearest]
            part = _resized(part, height, width) if smooth else part[nearest]
        return Block(np.array(part, order="C").transpose(2, 0, 1), valid)  # a copy: readers may write to it

    def close(self) -> None:
        """Nothing to release."""


def centres(length: int, samples: int) -> NDArray[np.intp]:
    """Index of the pixel under the centre of each of ``samples`` equal parts."""
    return ((np.arange(samples) + 0.5) * length / samples).astype(np.intp)


def _resized(part: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    shrinks = height <= part.shape[0] and width <= part.shape[1]
    resample = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    image = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(image.resize((width, height), resample), dtype=np.uint8)
