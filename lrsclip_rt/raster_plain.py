"""Plain images as scenes: decoded whole, upright, with their alpha as the map of valid pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lrsclip_rt.errors import RasterError
from lrsclip_rt.images import MAX_IMAGE_PIXELS, rgb_from_source
from lrsclip_rt.raster_pixels import ArrayPixels
from lrsclip_rt.raster_time import datetime_from_name, datetime_from_tiff_tag

__all__ = ["is_too_large", "plain_scene_parts"]

EXIF_IFD, DATETIME_ORIGINAL = 0x8769, 0x9003
LOSSY_FORMATS = frozenset({"JPEG", "WEBP", "AVIF"})


def plain_scene_parts(path: Path) -> tuple[ArrayPixels, str | None]:
    """Decode an image to its pixels and the time it was taken.

    Raises:
        RasterError: If the file does not exist.
        ImageError: If it cannot be decoded.
    """
    if not path.is_file():
        raise RasterError(f"{path} does not exist; give the path of a raster or image file")
    array = np.asarray(rgb_from_source(path), dtype=np.uint8)
    with _header(path) as image:
        taken = datetime_from_tiff_tag(str(image.getexif().get_ifd(EXIF_IFD).get(DATETIME_ORIGINAL, "")))
        lossy = image.format in LOSSY_FORMATS
        valid: NDArray[np.bool_] | None = None
        if image.has_transparency_data:
            upright = ImageOps.exif_transpose(image)
            valid = np.asarray(upright.convert("RGBA").getchannel("A")) > 0
    return ArrayPixels(array, valid, lossy=lossy), datetime_from_name(path.name) or taken


def is_too_large(path: Path) -> bool:
    """Whether an image has too many pixels to be decoded whole; GDAL then reads it in windows."""
    try:
        with _header(path) as image:
            return image.width * image.height > MAX_IMAGE_PIXELS
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False  # the decoder will say what is wrong


@contextmanager
def _header(path: Path) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            yield image
