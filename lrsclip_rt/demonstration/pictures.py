"""Pictures of a demonstration: thumbnails, hits, heat maps with true outlines, contact sheets."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from lrsclip_rt.demonstration.results import FoundPlace, LocatedText, Ring
from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.localization.colours import colour_table, coloured
from lrsclip_rt.localization.furniture import font_for
from lrsclip_rt.raster import Scene, open_scene
from lrsclip_rt.tiles import Window

__all__ = ["OpenImages", "colour_ramp", "contact_sheet", "data_uri", "open_images", "overlay"]

CHIP_SIDE = 192
SCENE_SIDE = 760
FINE = 2
"""Lines are drawn this many times larger and reduced, which smooths them."""

PAPER, INK, PALE = (255, 255, 255), (28, 32, 36), (107, 112, 120)
RIGHT, WRONG, UNKNOWN = (31, 138, 91), (196, 84, 56), (200, 203, 208)
UNREADABLE = (214, 214, 218)


class OpenImages:
    """Images of a demonstration, each opened once. Made by ``open_images``."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._scenes: dict[Path, Scene] = {}

    def chip(self, path: Path, window: Window, *, longest: int = CHIP_SIDE) -> Image.Image:
        """A window, no side above ``longest`` px; grey where the file can no longer be read."""
        scale = min(1.0, longest / max(window.width, window.height))
        height, width = max(1, round(window.height * scale)), max(1, round(window.width * scale))
        try:
            return Image.fromarray(self._scene(path).read(window, out_height=height, out_width=width))
        except LrsclipError:
            return Image.new("RGB", (width, height), UNREADABLE)

    def whole(self, path: Path, *, longest: int = SCENE_SIDE) -> Image.Image:
        """A whole image, no side above ``longest`` px."""
        scene = self._scene(path)
        return self.chip(path, scene.extent, longest=longest)

    def _scene(self, path: Path) -> Scene:
        if path not in self._scenes:
            self._scenes[path] = self._stack.enter_context(open_scene(path))
        return self._scenes[path]


@contextmanager
def open_images() -> Iterator[OpenImages]:
    """Images that are closed at the end."""
    with ExitStack() as stack:
        yield OpenImages(stack)


def overlay(picture: Image.Image, located: LocatedText) -> Image.Image:
    """A heat map over its scene, with true outlines in white and the peak as a ring.

    Args:
        picture: The whole scene, of any size.
        located: What to draw.
    """
    heatmap = located.heatmap
    warm = _warmth(heatmap.normalised, picture.size, min(heatmap.scales, default=1) / heatmap.width)
    pixels = np.asarray(picture, dtype=np.float32)
    calm = 0.5 * pixels.mean(axis=2, keepdims=True) + 0.5 * pixels
    share = (0.16 + 0.54 * warm)[..., None]
    mixed = (1.0 - share) * calm + share * coloured(warm)
    image = Image.fromarray(np.rint(mixed).astype(np.uint8))
    large = image.resize((FINE * image.width, FINE * image.height), Image.Resampling.BICUBIC)
    scale = large.width / heatmap.width
    canvas = ImageDraw.Draw(large)
    for outline in located.outlines:
        _ring(canvas, outline, scale)
    if heatmap.peak is not None:
        _peak(canvas, heatmap.peak[0] * scale, heatmap.peak[1] * scale)
    return large.resize(image.size, Image.Resampling.LANCZOS)


def contact_sheet(
    title: str,
    chips: Sequence[Image.Image],
    places: Sequence[FoundPlace],
    *,
    example: Image.Image | None = None,
) -> Image.Image:
    """Hits side by side under the query, framed by whether they are right."""
    side, gap, top, below = CHIP_SIDE, 14, 46, 40
    pictures = ([] if example is None else [example]) + list(chips)
    width = max(2 * side, len(pictures) * (side + gap) + gap)
    sheet = Image.new("RGB", (width, top + side + below), PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((gap, 12), _fitting(title, 20, width - 2 * gap), fill=INK, font=font_for(title, 20))
    for index, chip in enumerate(pictures):
        left = gap + index * (side + gap)
        sheet.paste(_square(chip, side), (left, top))
        number = index if example is None else index - 1
        if number < 0:
            canvas.text((left, top + side + 8), "the example", fill=PALE, font=font_for("", 15))
            continue
        place = places[number]
        colour = UNKNOWN if place.right is None else RIGHT if place.right else WRONG
        canvas.rectangle((left, top, left + side - 1, top + side - 1), outline=colour, width=4)
        label = _fitting(f"{place.hit.rank}: {place.hit.score:.3f}, {place.title}", 15, side)
        canvas.text((left, top + side + 8), label, fill=PALE, font=font_for(label, 15))
    return sheet


def colour_ramp(width: int = 256, height: int = 12) -> Image.Image:
    """The colours of the heat maps, from low to high."""
    ramp = colour_table()[np.linspace(0, 255, width).round().astype(int)]
    return Image.fromarray(np.repeat(ramp[None], height, axis=0))


def data_uri(image: Image.Image, *, quality: int = 86) -> str:
    """A picture as a ``data:`` address, JPEG."""
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _warmth(values: NDArray[np.float32], size: tuple[int, int], smallest: float) -> NDArray[np.float32]:
    """Scores of [0, 1] at picture size, smoothed over an eighth of the smallest window: (h, w) float32.

    Args:
        values: On the fusion grid; NaN counts as 0.
        size: Of the picture: width, height [px].
        smallest: Edge of the smallest window as a share of the scene's width.
    """
    grid = Image.fromarray(np.nan_to_num(values, nan=0.0).astype(np.float32))
    image = grid.resize(size, Image.Resampling.BILINEAR)
    levels = Image.fromarray(np.rint(255 * np.asarray(image)).astype(np.uint8))
    blurred = levels.filter(ImageFilter.GaussianBlur(0.12 * smallest * size[0]))
    return np.asarray(blurred, dtype=np.float32) / 255.0


def _ring(canvas: ImageDraw.ImageDraw, outline: Ring, scale: float) -> None:
    points = [(col * scale, row * scale) for col, row in (*outline, outline[0])]
    canvas.line(points, fill=(20, 22, 26), width=5 * FINE, joint="curve")
    canvas.line(points, fill=(255, 255, 255), width=3 * FINE, joint="curve")


def _peak(canvas: ImageDraw.ImageDraw, col: float, row: float) -> None:
    for radius, colour, width in ((14, (20, 22, 26), 14), (12, (80, 240, 224), 7)):
        box = tuple(FINE * part for part in (-radius, -radius, radius, radius))
        canvas.ellipse((col + box[0], row + box[1], col + box[2], row + box[3]), outline=colour, width=width)
    canvas.ellipse((col - 3 * FINE, row - 3 * FINE, col + 3 * FINE, row + 3 * FINE), fill=(80, 240, 224))


def _square(image: Image.Image, side: int) -> Image.Image:
    """Scaled to cover a square and cut to it around the centre."""
    scale = side / min(image.size)
    width, height = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    large = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return large.crop((left, top, left + side, top + side))


def _fitting(text: str, size: int, width: float) -> str:
    """Text on one line, its end replaced by an ellipsis where it is too long."""
    line = " ".join(text.split())
    font = font_for(line, size)
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
