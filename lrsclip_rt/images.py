"""Whatever a caller calls an image, as an upright 8-bit RGB image.

- EXIF orientation is applied. Of animated and multi-page files the first picture is taken.
- Palette, 1-bit, grey, CMYK, YCbCr and the like become RGB by Pillow's ``convert("RGB")``; colour profiles
  are not applied. That is what the pipelines do that CLIP models were trained and measured with.
- Alpha is dropped, not composited, for the same reason: a transparent pixel shows the colour stored in it.
- Samples of more than 8 bits are stretched: in each band the 2 % value of the picture becomes 0, the 98 %
  value 255. Transparent and not finite samples do not count, and the latter become 0.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import ImageError
from lrsclip_rt.image_decoding import (
    MAX_IMAGE_PIXELS,
    DeepImage,
    check_pixels,
    image_from_stream,
    one_line,
    orientation,
    shown_name,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_IMAGE_PIXELS",
    "ImageSource",
    "StreamSource",
    "iter_image_paths",
    "rgb_from_source",
]

ImageSource: TypeAlias = Union[str, "os.PathLike[str]", bytes, "Image.Image", NDArray[np.uint8]]
"""A path, an encoded image, a Pillow image, or ``(H, W, 3)``, ``(H, W, 4)`` or ``(H, W)`` uint8 samples."""

StreamSource: TypeAlias = ImageSource | Callable[[], NDArray[np.uint8]]
"""An image, or a function that makes one where it is needed, in a thread of the decoding pool."""

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .j2k .jp2 .jpe .jpeg .jpg .jfif .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
"""File name endings, in lower case, that a walk through folders takes."""

_SAMPLED_PIXELS = 1 << 22
_STRETCHED_ROWS = 512


def rgb_from_source(source: ImageSource) -> Image.Image:
    """Decode an image to RGB, upright, as this module's first lines say.

    Args:
        source: The image. A Pillow image that is RGB and upright already is returned itself. Grey arrays
            become RGB, a fourth band of an array is dropped.

    Returns:
        A loaded image of mode RGB.

    Raises:
        ImageError: If it cannot be read or decoded; the message names the file.

    Example:
        >>> rgb_from_source(np.zeros((20, 30), np.uint8)).size
        (30, 20)
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _rgb_from_opened(source)
    if isinstance(source, np.ndarray):
        return _rgb_from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _rgb_from_decoded(image_from_stream(BytesIO(source), "image bytes"), "image bytes")
    if isinstance(source, (str, os.PathLike)):
        return _rgb_from_path(Path(source))
    raise ImageError(
        f"cannot take a {type(source).__name__} for an image; "
        "expected a path, the bytes of an image file, a PIL image or a uint8 array"
    )


def iter_image_paths(sources: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """List image files: files as given, folders walked through.

    A file that is named is always listed, whatever its name and even if it does not exist, so that its
    failure is seen. In folders, names with an image's ending are taken, sorted by name, a folder's files
    before its subfolders; hidden names and links to folders are left out. A folder that may not be
    listed appears itself, to fail like a file.
    """
    for source in sources:
        path = Path(source)
        if path.is_dir():
            yield from _walked(path)
        else:
            yield path


def _walked(folder: Path) -> Iterator[Path]:
    closed: list[Path] = []

    def remember(error: OSError) -> None:
        closed.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=remember):
        yield from closed
        closed.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                yield Path(parent, name)
    yield from closed


def _rgb_from_path(path: Path) -> Image.Image:
    name = shown_name(path)
    try:
        # Asked before opening: a pipe would wait for ever, a device may never end.
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name} is a folder; name the image files in it")
        if not stat.S_ISREG(mode):
            raise ImageError(f"{name} is not a regular file; save its content to one")
        with path.open("rb") as stream:
            return _rgb_from_decoded(image_from_stream(stream, name), name)
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name} cannot be read ({one_line(error)}); check the path and its rights"
        ) from error


def _rgb_from_array(array: NDArray[np.uint8]) -> Image.Image:
    from PIL import Image

    if array.dtype != np.uint8:
        raise ImageError(f"the image array has dtype {array.dtype}, expected uint8; scale it to 0..255 first")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        hint = "move the bands last" if array.ndim == 3 and array.shape[0] in (3, 4) else "reshape it"
        raise ImageError(
            f"the image array has shape {array.shape}, expected (H, W, 3), (H, W, 4) or (H, W); {hint}"
        )
    check_pixels(array.shape[0], array.shape[1], "the image array")
    samples = array[..., :3] if array.ndim == 3 else array
    return Image.fromarray(np.ascontiguousarray(samples)).convert("RGB")


def _rgb_from_opened(image: Image.Image) -> Image.Image:
    name = shown_name(getattr(image, "filename", "")) or "the PIL image"
    check_pixels(image.height, image.width, name)
    try:
        image.load()
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise ImageError(f"{name} cannot be decoded ({one_line(error)}); fetch it again") from error
    return _rgb_from_decoded(image, name)


def _rgb_from_decoded(image: Image.Image | DeepImage, name: str) -> Image.Image:
    if isinstance(image, DeepImage):
        return _turned(_stretched(image.bands, image.valid), image.orientation)
    turn = orientation(image)
    try:
        return _turned(_rgb_from_mode(image, name), turn)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name} has mode {image.mode}, which cannot be converted ({one_line(error)}); save it as RGB"
        ) from error


def _rgb_from_mode(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _rgb_from_deep_grey(image, name)
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB gives the same colours, with a warning
    return image.convert("RGB")


def _rgb_from_deep_grey(image: Image.Image, name: str) -> Image.Image:
    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        samples = samples.astype(np.uint16)  # to the byte order of this machine
    valid = np.isfinite(samples)
    if not valid.any():
        raise ImageError(f"{name} holds no finite sample; there is nothing to stretch, leave it out")
    return _stretched(np.broadcast_to(samples, (3, *samples.shape)), valid)


def _stretched(bands: NDArray[np.generic], valid: NDArray[np.bool_]) -> Image.Image:
    """Stretch ``(3, H, W)`` samples to 8 bits, by limits of at most some millions of them."""
    from PIL import Image

    from lrsclip_rt.raster_stretch import stretch_from_sample

    step = max(1, round((valid.size / _SAMPLED_PIXELS) ** 0.5))
    stretch = stretch_from_sample(bands[:, ::step, ::step], valid[::step, ::step])
    rgb = np.empty((*valid.shape, 3), dtype=np.uint8)
    for top in range(0, len(rgb), _STRETCHED_ROWS):
        rows = slice(top, top + _STRETCHED_ROWS)
        rgb[rows] = stretch.apply(bands[:, rows]).transpose(1, 2, 0)
    return Image.fromarray(rgb)


def _turned(image: Image.Image, turn: int) -> Image.Image:
    if turn == 1:
        return image
    from PIL.Image import Transpose

    method = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }[turn]
    upright = image.transpose(method)
    upright.info.clear()  # the orientation among it, or the next reader would turn the image again
    return upright
