"""The reference preprocessing: image to normalised pixels, equal to torchvision's to the last bit.

Resize of the shorter side (Pillow's antialiased bicubic), centre crop, division by 255, normalisation: what
``Resize(S, BICUBIC)``, ``CenterCrop(S)``, ``ToTensor()`` and ``Normalize(mean, std)`` give, without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import ImageError, InputError
from lrsclip_rt.resampling import resized_window

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "PixelSpec",
    "cropped_from_image",
    "pixels_from_array",
    "pixels_from_image",
    "resized_size",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Pillow resizes the whole image before the crop throws most of a long one away: 1 x 100,000 px would take
# 20 GB. From this ratio on only the window that survives is computed.
_LONG_RATIO = 8


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """Preprocessing of one model.

    Attributes:
        size: Edge ``S`` [px] of the model's input: the shorter side becomes ``S``, then the centre is cut.
        mean: Subtracted from R, G, B in ``[0, 1]``.
        std: Divides what is left.

    Raises:
        InputError: If ``size`` is not positive, or ``mean`` and ``std`` are not three usable numbers each.
    """

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size must be at least 1 px, got {self.size}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(isfinite(value) for value in values):
                raise InputError(f"{name} must be three finite numbers, got {values}")
        if not all(np.float32(value) > 0 for value in self.std):
            raise InputError(f"std must be positive, got {self.std}")


def resized_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after the resize, before the crop; the longer side is rounded down.

    Example:
        >>> resized_size(300, 5000, 224)
        (224, 3733)
    """
    long = int(size * max(height, width) / min(height, width))
    return (long, size) if height > width else (size, long)


def pixels_from_image(
    image: Image.Image, spec: PixelSpec, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Preprocess an RGB image, such as :func:`lrsclip_rt.images.rgb_from_source` gives.

    Args:
        image: The image.
        spec: The preprocessing.
        out: ``(3, S, S) float32`` to write to and return, such as a row of a batch.

    Returns:
        ``(3, S, S) float32``, C-contiguous.

    Raises:
        ImageError: If the image is not RGB or has no pixels.
    """
    if image.mode != "RGB":
        raise ImageError(
            f"the image has mode {image.mode}, expected RGB; pass it through rgb_from_source first"
        )
    width, height = image.size
    _check_size(height, width)
    if _is_long(height, width):
        return _normalised(_window_of_long(np.asarray(image), spec.size), spec, out)
    return _normalised(cropped_from_image(image, spec.size), spec, out)


def pixels_from_array(array: NDArray[np.uint8], spec: PixelSpec) -> NDArray[np.float32]:
    """Preprocess ``(H, W, 3) uint8`` RGB samples; the numbers are those of :func:`pixels_from_image`.

    Returns:
        ``(3, S, S) float32``, C-contiguous.

    Raises:
        ImageError: If the array has another shape or dtype.
    """
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ImageError(f"the array is {array.shape} {array.dtype}, expected (H, W, 3) uint8 in RGB order")
    height, width = array.shape[:2]
    _check_size(height, width)
    if _is_long(height, width):
        return _normalised(_window_of_long(array, spec.size), spec)
    from PIL import Image

    return _normalised(cropped_from_image(Image.fromarray(np.ascontiguousarray(array)), spec.size), spec)


def _window_of_long(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    height, width = resized_size(array.shape[0], array.shape[1], size)
    row_off, col_off = _crop_offset(height, size), _crop_offset(width, size)
    return resized_window(array, height, width, row_off=row_off, col_off=col_off, rows=size, cols=size)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"the image is {width} x {height} px, expected at least 1 x 1")


def _is_long(height: int, width: int) -> bool:
    return max(height, width) >= _LONG_RATIO * min(height, width)


def _crop_offset(length: int, size: int) -> int:
    """First row or column of a centre crop; Python's round-half-even, as in torchvision."""
    return round((length - size) / 2.0)


def cropped_from_image(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The first half of the preprocessing: an RGB image resized and cropped to ``(size, size, 3) uint8``."""
    from PIL import Image

    height, width = resized_size(image.height, image.width, size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = _crop_offset(height, size), _crop_offset(width, size)
    if (height, width) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def _normalised(
    pixels: NDArray[np.uint8], spec: PixelSpec, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """``(value / 255 - mean) / std`` in float32, each step rounded in torchvision's order."""
    if out is None:
        out = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
    for channel in range(3):
        plane = out[channel]
        plane[...] = pixels[:, :, channel]
        plane /= np.float32(255)
        plane -= np.float32(spec.mean[channel])
        plane /= np.float32(spec.std[channel])
    return out
