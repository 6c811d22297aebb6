"""Write a grey PNG strip by strip, so that a map larger than memory has a file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_grey_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
UP = b"\x02"
"""Filter type: each byte less the one above; maps change little from row to row."""


def write_grey_png(path: Path, strips: Iterable[NDArray[np.uint8]], *, height: int, width: int) -> None:
    """Write (n, W) uint8 strips, top to bottom, as one 8-bit grey PNG.

    Args:
        path: File to write; replaced if it exists.
        strips: Together ``height`` rows of ``width`` pixels.
        height: Rows [px].
        width: Columns [px].
    """
    with path.open("wb") as stream:
        stream.write(SIGNATURE)
        stream.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)))
        packer = zlib.compressobj(6)
        above = np.zeros((1, width), dtype=np.uint8)
        rows = 0
        for strip in strips:
            assert strip.shape[1] == width, "every strip is as wide as the map"
            differences = strip - np.concatenate([above, strip[:-1]])  # modulo 256, as PNG has it
            packed = packer.compress(b"".join(UP + row.tobytes() for row in differences))
            if packed:
                stream.write(_chunk(b"IDAT", packed))
            above = strip[-1:]
            rows += len(strip)
        assert rows == height, "the strips cover the map"
        stream.write(_chunk(b"IDAT", packer.flush()))
        stream.write(_chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
