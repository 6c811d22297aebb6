"""The pictures of one report: inside the page, and as PNG files beside it."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from lrsclip_rt.demonstration.pictures import data_uri
from lrsclip_rt.errors import InputError

__all__ = ["PictureBook", "file_slug"]


def file_slug(text: str, *, longest: int = 40) -> str:
    """Words to a part of a file name.

    Example:
        >>> file_slug("A harbour, with <many> ships!")
        'a-harbour-with-many-ships'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-") or "picture"


class PictureBook:
    """Saves pictures as PNG and gives their address for the page.

    Args:
        folder: Where the files go; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, image: Image.Image) -> str:
        """Save ``name.png`` and return the same picture as a ``data:`` address.

        Raises:
            InputError: If the file cannot be written.
        """
        self.save(name, image)
        return data_uri(image)

    def save(self, name: str, image: Image.Image) -> None:
        """Save ``name.png`` only.

        Raises:
            InputError: If the file cannot be written.
        """
        path = self.folder / f"{name}.png"
        try:
            image.save(path)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error}. Make room, or choose another -o") from error
