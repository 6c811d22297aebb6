"""One training pair: an image that is read when asked for, and its texts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.errors import ImageError, InputError
from lrsclip_rt.image_decoding import one_line, shown_name

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["StoredImage", "TrainingPair"]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Where an encoded image lies: a file, or a part of one.

    Attributes:
        path: The file.
        offset: Its first byte.
        size: Its length [bytes], None for the whole file.
        version: Size [bytes] and modification time [ns] that the file had when the place was noted; None
            where it does not matter.
    """

    path: Path
    offset: int = 0
    size: int | None = None
    version: tuple[int, int] | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            ImageError: If a whole file cannot be read: one image is lost.
            InputError: If a file of many images cannot be read or has changed since.
        """
        name = shown_name(self.path)
        if self.size is None and not self.path.is_file():
            raise ImageError(f"{name} does not exist or is no regular file; check the path")
        try:
            with self.path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if self.version is not None and self.version != (status.st_size, status.st_mtime_ns):
                    raise InputError(f"{name} has changed since it was indexed; start again to index it anew")
                stream.seek(self.offset)
                content = stream.read(-1 if self.size is None else self.size)
        except OSError as error:
            message = f"{name} cannot be read ({one_line(error)}); check the path and its rights"
            raise (ImageError if self.size is None else InputError)(message) from error
        if self.size is not None and len(content) != self.size:
            raise InputError(f"{name} ends before byte {self.offset + self.size}; fetch it again")
        return content

    def rgb(self) -> Image.Image:
        """The decoded image, upright and RGB.

        Raises:
            ImageError: If it cannot be read or decoded.
            InputError: As :meth:`read`.
        """
        from lrsclip_rt.images import rgb_from_source

        return rgb_from_source(self.path if self.size is None else self.read())


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """An image and its texts.

    Attributes:
        key: Unique name within its source.
        shorts: Short captions, none empty.
        long: Long caption, or empty.
        category: Class name, or empty.
        image: Where the encoded image lies, None where a source makes its images.
        as_is: Its texts say where things lie, so a crop or a turn would make them untrue.
    """

    key: str
    shorts: tuple[str, ...]
    long: str = ""
    category: str = ""
    image: StoredImage | None = None
    as_is: bool = False
