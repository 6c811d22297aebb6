"""Answers held against the truth of rendered scenes, by counting pixels of the true outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.rendering import RenderedScene
from lrsclip_rt.tiles import Window

__all__ = [
    "LEAST_OBJECT_SHARE",
    "LEAST_TILE_SHARE",
    "outline_mask",
    "outlines_of",
    "point_inside",
    "shown_classes",
]

LEAST_TILE_SHARE = 0.2
"""A tile shows a class that covers this share of it ..."""

LEAST_OBJECT_SHARE = 0.5
"""... or of which it holds this share."""

ALSO_SHOWS = {"bridge": ("river",)}
"""What is drawn as part of another class: every bridge crosses a river."""

Ring = tuple[tuple[float, float], ...]


def outline_mask(outline: Sequence[tuple[float, float]], window: Window) -> NDArray[np.bool_]:
    """Pixels of ``window`` inside an outline of (col, row) scene pixels: (h, w) bool."""
    from PIL import Image, ImageDraw

    mask = Image.new("1", (window.width, window.height))
    # A pixel's centre lies at + 0.5, and Pillow draws to centres.
    points = [(col - window.col_off - 0.5, row - window.row_off - 0.5) for col, row in outline]
    ImageDraw.Draw(mask).polygon(points, fill=1)
    return np.asarray(mask, dtype=bool)


def shown_classes(truth: RenderedScene, window: Window) -> tuple[str, ...]:
    """Classes that a window really shows, the one that covers most of it first.

    A class counts where it covers at least a fifth of the window, or half of its object lies inside.
    """
    height, width = truth.pixels.shape[:2]
    found: list[tuple[int, str]] = []
    for thing in truth.objects:
        inside = int(outline_mask(thing.polygon, window).sum())
        if inside == 0:
            continue
        whole = int(outline_mask(thing.polygon, Window(0, 0, width, height)).sum())
        if inside >= LEAST_TILE_SHARE * window.width * window.height or inside >= LEAST_OBJECT_SHARE * whole:
            found += [(inside, name) for name in (thing.name, *ALSO_SHOWS.get(thing.name, ()))]
    ordered = sorted(found, key=lambda entry: -entry[0])
    return tuple(dict.fromkeys(name for _, name in ordered))


def outlines_of(truth: RenderedScene, name: str) -> tuple[Ring, ...]:
    """Outlines where a class is really shown, also as part of another one."""
    return tuple(o.polygon for o in truth.objects if name in (o.name, *ALSO_SHOWS.get(o.name, ())))


def point_inside(point: tuple[float, float], outline: Sequence[tuple[float, float]]) -> bool:
    """Whether (col, row) lies inside a ring, by how often a ray to the right crosses it.

    Example:
        >>> square = ((0, 0), (4, 0), (4, 4), (0, 4))
        >>> point_inside((1, 3), square), point_inside((5, 3), square)
        (True, False)
    """
    col, row = point
    inside = False
    for (col_a, row_a), (col_b, row_b) in zip(outline, [*outline[1:], outline[0]], strict=True):
        if (row_a > row) != (row_b > row):
            crossing = col_a + (row - row_a) * (col_b - col_a) / (row_b - row_a)
            inside ^= col < crossing
    return inside
