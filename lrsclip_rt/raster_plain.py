"""Plain images as scenes: decoded whole, upright, with their alpha as the map of valid pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lrsclip_rt.errors import ImageError, RasterError
from lrsclip_rt.image_decoding import one_line, recognised_format, shown_name
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
    decoded = rgb_from_source(path)
    array = np.asarray(decoded, dtype=np.uint8)
    try:
        with _header(path) as image:
            # A PNG's EXIF data may follow its pixels: asked of the header, they cost another decoding. A
            # picture that was stretched has lost them.
            known = decoded if image.format == "PNG" and not image.mode.startswith("I") else image
            taken, lossy = _taken(known), image.format in LOSSY_FORMATS
            valid: NDArray[np.bool_] | None = None
            if image.has_transparency_data:
                upright = ImageOps.exif_transpose(image)
                valid = np.asarray(upright.convert("RGBA").getchannel("A")) > 0
    except ImageError:
        raise
    # Damaged files make Pillow's readers raise nearly every builtin exception there is.
    except Exception as error:
        raise ImageError(
            f"{shown_name(path)} has an alpha or EXIF data that cannot be read ({one_line(error)}); it is "
            "damaged: fetch it again, or save it without"
        ) from error
    if valid is not None and valid.shape != array.shape[:2]:
        raise ImageError(
            f"{shown_name(path)} is {array.shape[1]} x {array.shape[0]} px and its alpha "
            f"{valid.shape[1]} x {valid.shape[0]} px; it is damaged: fetch it again"
        )
    return ArrayPixels(array, valid, lossy=lossy), datetime_from_name(path.name) or taken


def _taken(image: Image.Image) -> str | None:
    """When the EXIF data say that it was taken; damaged ones say nothing."""
    try:
        return datetime_from_tiff_tag(str(image.getexif().get_ifd(EXIF_IFD).get(DATETIME_ORIGINAL, "")))
    except Exception:  # as above
        return None


def is_too_large(path: Path) -> bool:
    """Whether an image has too many pixels to be decoded whole; GDAL then reads it in windows."""
    try:
        with _header(path) as image:
            return image.width * image.height > MAX_IMAGE_PIXELS
    except Exception:  # as above; the decoder will say what is wrong
        return False


@contextmanager
def _header(path: Path) -> Iterator[Image.Image]:
    # Not Image.open, which knows a limit of its own and formats that start other programs.
    with warnings.catch_warnings(), path.open("rb") as stream:
        warnings.simplefilter("ignore", UserWarning)  # about damaged tags
        yield recognised_format(stream.read(32), shown_name(path)).open(stream)
