"""Encoded images of every format that is decoded whole."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzz.harness import Harness
from fuzz.mutation import mutated_bytes
from lrsclip_rt import image_decoding
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.raster import open_scene
from lrsclip_rt.tiles import Window

__all__ = ["ImagesHarness", "encoded"]

_WRITERS: dict[str, dict[str, Any]] = {
    "JPEG": {},
    "PNG": {},
    "TIFF": {},
    "TIFF tiff_lzw": {"compression": "tiff_lzw"},
    "TIFF tiff_adobe_deflate": {"compression": "tiff_adobe_deflate"},
    "GIF": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
    "AVIF": {},
}
_MODES = ("RGB", "RGBA", "L", "P", "I;16", "CMYK", "1", "LA", "F")
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "AVIF": ".avif"}
_MOST_PIXELS = 1 << 20


def encoded(kind: str, mode: str = "RGB") -> bytes | None:
    """A small picture with EXIF data where the format has them; None where it does not know the mode."""
    stream = io.BytesIO()
    samples = np.random.default_rng(8).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    options = dict(_WRITERS[kind])
    if kind.partition(" ")[0] in ("JPEG", "PNG", "TIFF", "WEBP"):
        options["exif"] = exif
    try:
        Image.fromarray(samples).convert("L" if mode == "I;16" else mode).convert(mode).save(
            stream, kind.partition(" ")[0], **options
        )
    except (OSError, ValueError, KeyError):
        return None
    return stream.getvalue()


class ImagesHarness(Harness):
    """Decodes bytes, and the same as a file that is opened as a scene.

    The limit of pixels is lowered, so that a case that may be decoded is decoded soon.
    """

    name = "images"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        made = [encoded(kind, mode) for kind in _WRITERS for mode in _MODES]
        self.seeds = [data for data in made if data is not None]
        self.seeds.append(_animated("GIF"))
        self.seeds.append(_animated("PNG"))

    def mutate(self, data: bytes, rng: Random) -> bytes:
        """Bytes, of a PNG often with its checksums right."""
        if data.startswith(b"\x89PNG") and rng.randrange(2):
            return _other_png(data, rng)
        return mutated_bytes(data, rng)

    def feed(self, data: bytes) -> None:
        """Decode; the pixels must be there."""
        limit = image_decoding.MAX_IMAGE_PIXELS
        image_decoding.MAX_IMAGE_PIXELS = _MOST_PIXELS
        try:
            self._decode(data)
        finally:
            image_decoding.MAX_IMAGE_PIXELS = limit

    def _decode(self, data: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about damaged tags
            image = rgb_from_source(data)
            assert image.mode == "RGB"
            assert np.asarray(image).shape == (image.height, image.width, 3)
            suffix = _SUFFIXES.get(image_decoding.recognised_format(data[:32], "a").name.upper())
            if suffix is not None:
                path = self.folder / f"a{suffix}"
                path.write_bytes(data)
                with open_scene(path) as scene:
                    scene.read(Window(0, 0, 1, 1))


def _animated(kind: str) -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("P", (20, 20), colour) for colour in range(3)]
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def _other_png(data: bytes, rng: Random) -> bytes:
    """Change one chunk: its name, content or number."""
    chunks: list[tuple[bytes, bytes]] = []
    offset = 8
    while offset + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        chunks.append((data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    if not chunks:
        return mutated_bytes(data, rng)
    place = rng.randrange(len(chunks))
    kind, content = chunks[place]
    choice = rng.randrange(5)
    if choice == 0:
        chunks[place] = (
            rng.choice((b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"IDAT")),
            content,
        )
    elif choice == 1:
        chunks.insert(
            rng.randrange(len(chunks)),
            (b"zTXt", b"a\0\0" + zlib.compress(bytes(rng.choice((10, 1000, 10**7))))),
        )
    elif choice == 2 and kind == b"IDAT":
        chunks[place] = (kind, zlib.compress(rng.randbytes(rng.choice((1, 5000)))))
    elif choice == 3:
        chunks.insert(place, chunks[place])
    else:
        chunks[place] = (kind, mutated_bytes(content, rng))
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
