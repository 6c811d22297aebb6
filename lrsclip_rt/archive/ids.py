"""Names that are equal everywhere: a tile's id depends on content and geometry, never on a machine."""

from __future__ import annotations

import hashlib
import re

from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

__all__ = ["WHOLE_IMAGE", "level_of", "tile_id"]

WHOLE_IMAGE = 0
"""The level of a row that stands for a whole image rather than for one tile of a grid."""

_HEX64 = re.compile(r"[0-9a-f]{64}")


def tile_id(content_sha256: str, level: int, window: Window) -> str:
    """The id of a tile: 32 hex digits.

    The first 32 hex digits of the SHA-256 of this ASCII text, without spaces or a line end::

        <sha256 of the source's bytes, 64 lower-case hex digits>/<level>/<col_off>,<row_off>,<width>,<height>

    All numbers are decimal without leading zeros. The level is the nominal tile edge [px] (also where the
    window was clipped by a smaller scene), and 0 for a whole image, so it does not depend on
    which other levels were made or in which order.

    Args:
        content_sha256: SHA-256 of the source file's bytes.
        level: Nominal tile edge [px]; ``WHOLE_IMAGE`` for a whole image.
        window: Full-resolution source pixels.

    Raises:
        InputError: If the hash is not 64 lower-case hex digits, or a number is negative.

    Example:
        >>> tile_id("00" * 32, 256, Window(192, 0, 256, 256))
        '3baa3d66dae797b1585e3558e7f2bb89'
    """
    if not _HEX64.fullmatch(content_sha256):
        raise InputError(f"a content hash is 64 lower-case hex digits, got {content_sha256!r}")
    if level < 0 or window.col_off < 0 or window.row_off < 0:
        raise InputError(f"level and offsets must not be negative, got level {level}, {window}")
    text = f"{content_sha256}/{level}/{window.col_off},{window.row_off},{window.width},{window.height}"
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def level_of(tile_px: int | None) -> int:
    """The level number of a grid of ``tile_px`` tiles; None stands for the whole image.

    Example:
        >>> level_of(256), level_of(None)
        (256, 0)
    """
    return WHOLE_IMAGE if tile_px is None else tile_px
