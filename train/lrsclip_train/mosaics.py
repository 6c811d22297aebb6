"""Long image-text pairs out of short ones: mosaics with a description of every cell.

RSICD's joined captions are short (median 18 tokens), so a mosaic of several images with their
captions in reading order is the cheapest honest source of 100-220-token text: every sentence is
true of its part of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["LAYOUTS", "Mosaic", "describe_mosaic", "make_mosaic"]

LAYOUTS: tuple[tuple[int, int], ...] = ((2, 2), (2, 3), (3, 2), (3, 3), (3, 4), (4, 3))
"""(rows, cols) of the mosaics that training uses; more cells than 12 would pass 248 tokens."""

_ROW_NAMES = {2: ("upper", "lower"), 3: ("upper", "middle", "lower"), 4: ("top", "second", "third", "bottom")}
_COL_NAMES = {
    2: ("left", "right"),
    3: ("left", "centre", "right"),
    4: ("far left", "left", "right", "far right"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """A mosaic and what it is made of.

    Attributes:
        pixels: (rows * cell, cols * cell, 3) uint8.
        members: Index of the image in each cell, row-major.
        text: One sentence for each cell, in reading order.
    """

    pixels: NDArray[np.uint8]
    members: tuple[int, ...]
    text: str


def describe_mosaic(captions: Sequence[str], rows: int, cols: int) -> str:
    """Say what each cell shows, in reading order.

    Example:
        >>> text = describe_mosaic(["a pond .", "Many planes.", "a farm", "a bridge"], 2, 2)
        >>> text[:49]
        'In the upper left, a pond. In the upper right, ma'
    """
    sentences = []
    for index, caption in enumerate(captions):
        row, col = divmod(index, cols)
        body = caption.strip().rstrip(". ")
        body = body[:1].lower() + body[1:]
        sentences.append(f"In the {_ROW_NAMES[rows][row]} {_COL_NAMES[cols][col]}, {body}.")
    return " ".join(sentences)


def make_mosaic(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    members: Sequence[int],
    rows: int,
    cols: int,
    *,
    cell: int,
) -> Mosaic:
    """Lay ``rows * cols`` RGB images out on a grid of ``cell`` pixel squares."""
    canvas = Image.new("RGB", (cols * cell, rows * cell))
    for index, image in enumerate(images):
        row, col = divmod(index, cols)
        canvas.paste(image.resize((cell, cell), Image.Resampling.BICUBIC), (col * cell, row * cell))
    return Mosaic(np.asarray(canvas), tuple(members), describe_mosaic(captions, rows, cols))
