"""Encoded images to decoded ones, by signature, with the size checked before any pixel is.

Pillow's own ``Image.open`` tries every format it knows, among them ones that start other programs, and
warns or fails on large images by a global setting. Here a short list of formats is recognised by its first
bytes, and the one limit is :data:`MAX_IMAGE_PIXELS`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import import_module
from io import SEEK_SET
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

__all__ = [
    "FORMATS",
    "MAX_IMAGE_PIXELS",
    "DeepImage",
    "check_pixels",
    "image_from_stream",
    "one_line",
    "orientation",
    "recognised_format",
    "shown_name",
]

MAX_IMAGE_PIXELS = 1 << 28
"""Largest image that is decoded whole [px]: 1 GiB in Pillow's 4 bytes a pixel."""

_BITS, _PLANAR_CONFIGURATION, _ORIENTATION = 258, 284, 274  # TIFF and EXIF tags


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    signature: re.Pattern[bytes]
    module: str
    reader: str

    def open(self, stream: IO[bytes]) -> ImageFile.ImageFile:
        """Read the header only."""
        stream.seek(0, SEEK_SET)
        reader = getattr(import_module(f"PIL.{self.module}"), self.reader)
        image: ImageFile.ImageFile = reader(stream)
        return image


def _format(name: str, signature: bytes, module: str) -> _Format:
    reader = module.replace("ImagePlugin", "ImageFile")
    return _Format(name, re.compile(signature, re.DOTALL), module, reader)


# The plain JPEG reader gives the first picture of multi-picture files too, which is the one wanted.
_FORMATS = (
    _format("JPEG", rb"\xff\xd8\xff", "JpegImagePlugin"),
    _format("PNG", rb"\x89PNG\r\n\x1a\n", "PngImagePlugin"),
    _format("TIFF", rb"II[*+]\0|MM\0[*+]", "TiffImagePlugin"),
    _format("WebP", rb"RIFF....WEBP", "WebPImagePlugin"),
    _format("GIF", rb"GIF8[79]a", "GifImagePlugin"),
    _format("BMP", rb"BM", "BmpImagePlugin"),
    _format("PPM", rb"P[1-6]\s", "PpmImagePlugin"),
    _format("JPEG 2000", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", "Jpeg2KImagePlugin"),
    _format("AVIF", rb"....ftypavi[fs]", "AvifImagePlugin"),
)
FORMATS = tuple(kind.name for kind in _FORMATS)


@dataclass(frozen=True, slots=True, eq=False)
class DeepImage:
    """An image of 16-bit colours, which Pillow itself would cut to their upper 8 bits.

    Attributes:
        bands: ``(3, H, W) uint16``.
        valid: ``(H, W) bool``, where the alpha is not 0.
        orientation: EXIF orientation, 1 to 8, still to be applied.
    """

    bands: NDArray[np.uint16]
    valid: NDArray[np.bool_]
    orientation: int


def image_from_stream(stream: IO[bytes], name: str) -> Image.Image | DeepImage:
    """Decode the first picture of a seekable stream.

    Args:
        stream: The encoded image; stays open.
        name: What messages call it.

    Returns:
        A loaded image of any Pillow mode, or its samples where those have 16 bits and a colour.

    Raises:
        ImageError: If it is empty, of no known format, too large, damaged or cut short.
    """
    kind = recognised_format(stream.read(32), name)
    try:
        image = kind.open(stream)
        check_pixels(image.height, image.width, name)
        raw = _raw_mode(image)
        _refuse_deep_planes(image, name)
        if ";16" in raw and image.mode in ("RGB", "RGBA"):
            return _deep_image(kind, stream, image, raw, name)
        _load(image)
        return image
    except ImageError:
        raise
    except ModuleNotFoundError as error:
        raise ImageError(f"{name} is {kind.name}, which this Pillow cannot read; update Pillow") from error
    except MemoryError as error:
        raise ImageError(
            f"{name} does not fit into memory as {kind.name}; free memory, or cut it into tiles"
        ) from error
    # Damaged files make Pillow's readers raise nearly every builtin exception there is.
    except Exception as error:
        hint = "fetch it again, or open it as a scene if it is a raster of many bands"
        if kind.name != "TIFF":
            hint = "it is damaged or cut short: fetch it again"
        raise ImageError(f"{name} cannot be decoded as {kind.name} ({one_line(error)}); {hint}") from error


def check_pixels(height: int, width: int, name: str) -> None:
    """Refuse images that are empty or too large to decode whole.

    Raises:
        ImageError: If there are no pixels, or more than :data:`MAX_IMAGE_PIXELS`.
    """
    if height < 1 or width < 1:
        raise ImageError(f"{name} is {width} x {height} px, expected at least 1 x 1")
    if height * width > MAX_IMAGE_PIXELS:
        raise ImageError(
            f"{name} is {width} x {height} px, more than the {MAX_IMAGE_PIXELS} px that are decoded whole; "
            "cut it into tiles, or open it as a scene, which is read in windows"
        )


def one_line(error: BaseException) -> str:
    """A foreign error as one short line.

    Example:
        >>> one_line(KeyError("a"))
        "KeyError: 'a'"
    """
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown_name(path: object) -> str:
    r"""A path for a message: line breaks, control characters and undecodable bytes are escaped.

    Example:
        >>> shown_name("two\nlines.jpg")
        'two\\nlines.jpg'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def recognised_format(head: bytes, name: str) -> _Format:
    """The format that the first bytes of a file belong to.

    Raises:
        ImageError: If it is none of ours.
    """
    for kind in _FORMATS:
        if kind.signature.match(head):
            return kind
    if not head:
        raise ImageError(f"{name} is empty (0 bytes); fetch it again or leave it out")
    raise ImageError(
        f"{name} is no image of a known format (it starts with {head[:8]!r}); "
        f"expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    )


def _refuse_deep_planes(image: ImageFile.ImageFile, name: str) -> None:
    """Refuse TIFF files of separate 16-bit planes: Pillow reads them as 8-bit ones, without an error."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANAR_CONFIGURATION) == 2 and len(image.getbands()) > 1 and max(tags.get(_BITS, (8,))) > 8:
        raise ImageError(
            f"{name} has samples of more than 8 bits in separate planes, which cannot be decoded here; "
            "save it with interleaved samples, or open it as a scene"
        )


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the samples lie in the file, such as ``RGB;16B``."""
    if not image.tile:
        return ""
    args: Any = image.tile[0][3]
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def _deep_image(
    kind: _Format, stream: IO[bytes], image: ImageFile.ImageFile, raw: str, name: str
) -> DeepImage:
    """Decode 16-bit colours: once to their upper bytes and, with the byte order swapped, to their lower."""
    base, _, order = raw.partition(";16")
    if base not in ("RGB", "RGBA", "RGBX", "LA"):
        raise ImageError(
            f"{name} has 16-bit samples of layout {raw}, which cannot be decoded here; "
            "save it as RGB, or open it as a scene"
        )
    if base == "LA":
        # Two 16-bit samples are four bytes, so Pillow hands them over whole as one 8-bit RGBA pixel.
        packed = _loaded(image, "RGBA").astype(np.uint16)
        grey = packed[..., 0] << 8 | packed[..., 1]
        valid = (packed[..., 2] | packed[..., 3]) > 0
        return DeepImage(np.broadcast_to(grey, (3, *grey.shape)), valid, orientation(image))
    big_endian = order == "B" or (order == "N" and sys.byteorder == "big")
    upper = _loaded(image, raw)
    lower = _loaded(kind.open(stream), f"{base};16{'L' if big_endian else 'B'}")
    samples = upper.astype(np.uint16) << 8 | lower
    valid = samples[..., 3] > 0 if samples.shape[2] == 4 else np.ones(samples.shape[:2], dtype=np.bool_)
    return DeepImage(samples[..., :3].transpose(2, 0, 1), valid, orientation(image))


def _load(image: ImageFile.ImageFile) -> None:
    """Decode, past the limit that Pillow's TIFF reader has when it allocates: memory that is there passes."""
    from PIL import _imaging

    stored_size = getattr(image, "_tile_size", None)
    if stored_size is not None:
        image.im = _imaging.new(image.mode, stored_size)
    image.load()


def _loaded(image: ImageFile.ImageFile, raw: str) -> NDArray[np.uint8]:
    tiles: list[Any] = []
    for tile in image.tile:
        args: Any = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
        fields = (tile[0], tile[1], tile[2], args)
        # A named tuple since Pillow 11.1, a plain one before.
        tiles.append(type(tile)(*fields) if hasattr(tile, "_fields") else fields)
    image.tile = tiles
    _load(image)
    return np.asarray(image)


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 (upright) to 8; damaged EXIF data count as upright."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # see image_from_stream
        return 1
    return value if value in range(1, 9) else 1
