"""A confusion matrix as a picture: what each class was taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.colours import colour_table, coloured
from lrsclip_rt.localization.furniture import draw_header, font_for

__all__ = ["render_confusion"]

PAPER, INK, PALE, GRID = (24, 24, 28), (245, 245, 245), (170, 170, 178), (58, 58, 66)
EMPTY = (34, 34, 40)
"""Cells without an image."""

LONGEST_LABEL = 28
"""Letters of a class name before it is cut."""

BODY_PX = 1000
"""Edge that the cells aim at [px]; many classes get small cells, few large ones."""


def render_confusion(
    matrix: NDArray[np.integer], classes: Sequence[str], *, title: str, facts: str = ""
) -> Image.Image:
    """Draw a confusion matrix: rows are true classes, columns what the model said.

    Colour is the share of a row, so that classes of different size compare; the numbers are images.

    Args:
        matrix: (C, C) int, from ``confusion_matrix``.
        classes: The C names.
        title: The headline.
        facts: One smaller line below it.

    Raises:
        InputError: If the shapes disagree.
    """
    count = len(classes)
    if matrix.shape != (count, count) or count == 0:
        raise InputError(f"matrix {matrix.shape} and {count} classes must agree: expected ({count}, {count})")
    cell = int(np.clip(BODY_PX // count, 14, 96))
    size = int(np.clip(cell * 0.36, 10, 22))
    names = [name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 3] + "..." for name in classes]
    label = round(max(font_for(name, size).getlength(name) for name in names)) + size
    body = _body(matrix, cell)
    recall_width = 4 * size
    width = max(2 * size + label + body.width + recall_width, 560)
    header = draw_header(width, title, facts)
    top = header.height + label + 2 * size
    picture = Image.new("RGB", (width, top + body.height + 5 * size), PAPER)
    picture.paste(header, (0, 0))
    left = 2 * size + label
    picture.paste(body, (left, top))
    _draw_labels(picture, names, cell, size, (left, top))
    _draw_recalls(picture, matrix, cell, size, (left + body.width, top))
    _draw_legend(picture, size, left, top + body.height + 2 * size, body.width)
    return picture


def _body(matrix: NDArray[np.integer], cell: int) -> Image.Image:
    count = len(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    colours = coloured(share)
    colours[matrix == 0] = EMPTY
    image = Image.fromarray(np.repeat(np.repeat(colours, cell, axis=0), cell, axis=1))
    canvas = ImageDraw.Draw(image)
    for row, col in np.argwhere(matrix > 0).tolist():
        text = str(matrix[row, col])
        size = int(min(cell * 0.42, 1.5 * cell / len(text), 30))
        if size < 7:
            continue
        bright = colours[row, col].astype(int) @ np.array([299, 587, 114]) > 128_000
        place = ((col + 0.5) * cell, (row + 0.5) * cell)
        canvas.text(place, text, fill=PAPER if bright else INK, font=font_for(text, size), anchor="mm")
    for line in range(count + 1):
        at = min(line * cell, count * cell - 1)
        canvas.line((at, 0, at, count * cell), fill=GRID)
        canvas.line((0, at, count * cell, at), fill=GRID)
    for line in range(count):  # the diagonal is where the images should be
        canvas.rectangle((line * cell, line * cell, (line + 1) * cell, (line + 1) * cell), outline=PALE)
    return image


def _draw_labels(
    picture: Image.Image, names: Sequence[str], cell: int, size: int, corner: tuple[int, int]
) -> None:
    left, top = corner
    canvas = ImageDraw.Draw(picture)
    for number, name in enumerate(names):
        font = font_for(name, size)
        middle = (number + 0.5) * cell
        canvas.text((left - size // 2, top + middle), name, fill=INK, font=font, anchor="rm")
        upright = Image.new("RGB", (round(font.getlength(name)) + 2, 2 * size), PAPER)
        ImageDraw.Draw(upright).text((0, size), name, fill=INK, font=font, anchor="lm")
        turned = upright.rotate(90, expand=True)
        picture.paste(turned, (round(left + middle - size), top - size // 2 - turned.height))
    small = max(10, round(size * 0.8))
    canvas.text(
        (left - size // 2, top - size // 2), "true | said", fill=PALE, font=font_for("", small), anchor="rs"
    )


def _draw_recalls(
    picture: Image.Image, matrix: NDArray[np.integer], cell: int, size: int, corner: tuple[int, int]
) -> None:
    left, top = corner
    canvas = ImageDraw.Draw(picture)
    font = font_for("", size)
    for row, counts in enumerate(matrix):
        total = int(counts.sum())
        text = f"{100 * counts[row] / total:.0f} %" if total else "-"
        place = (left + 3.6 * size, top + (row + 0.5) * cell)
        canvas.text(place, text, fill=PALE, font=font, anchor="rm")


def _draw_legend(picture: Image.Image, size: int, left: int, top: int, width: int) -> None:
    length = min(width, 14 * size)
    ramp = colour_table()[np.linspace(0, 255, length).round().astype(int)]
    picture.paste(Image.fromarray(np.repeat(ramp[None], max(8, size // 2), axis=0)), (left, top))
    canvas = ImageDraw.Draw(picture)
    font = font_for("", max(10, round(size * 0.8)))
    below = top + size
    canvas.text((left, below), "0 %", fill=PALE, font=font)
    canvas.text((left + length, below), "100 % of the row", fill=PALE, font=font, anchor="ma")
