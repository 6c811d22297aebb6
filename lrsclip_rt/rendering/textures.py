"""Ground textures from value noise.

Everything here is integer arithmetic or single correctly rounded float32 operations (add, multiply,
square root), and the resizing is Pillow's fixed-point one, so that a seed gives the same picture everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "ASPHALT",
    "CANOPY",
    "CONCRETE",
    "GRASS",
    "SOIL",
    "Colour",
    "Dice",
    "Field",
    "canopy",
    "ground",
    "hillshade",
    "image_from_channels",
    "mixed",
    "noise",
    "octaves",
    "relief_noise",
    "ripples",
    "shade",
    "tinted",
]

Colour = tuple[int, int, int]
Field = NDArray[np.float32]
T = TypeVar("T")

GRASS: tuple[Colour, ...] = (
    (92, 108, 66),
    (108, 120, 74),
    (74, 98, 58),
    (118, 118, 84),
    (100, 94, 68),
    (84, 116, 62),
    (66, 84, 58),
)
SOIL: tuple[Colour, ...] = ((140, 112, 86), (170, 144, 110), (122, 98, 76), (150, 128, 104), (136, 96, 74))
CANOPY: tuple[Colour, ...] = (
    (38, 60, 36),
    (50, 74, 42),
    (34, 58, 46),
    (60, 68, 42),
    (44, 84, 44),
    (52, 60, 46),
)
ASPHALT: tuple[Colour, ...] = ((94, 94, 96), (112, 110, 108), (76, 77, 82), (128, 125, 120))
CONCRETE: tuple[Colour, ...] = ((172, 168, 158), (192, 188, 180), (156, 153, 148))


class Dice:
    """Random choices of one scene: a thin, typed face on a PCG64 generator."""

    def __init__(self, *entropy: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64(list(entropy)))

    def uniform(self, low: float, high: float) -> float:
        """A float in ``[low, high)``."""
        return low + (high - low) * float(self.rng.random())

    def integer(self, low: int, high: int) -> int:
        """An integer in ``[low, high]``, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return float(self.rng.random()) < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of ``items``."""
        return items[int(self.rng.integers(0, len(items)))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """``items`` in random order."""
        rest = list(items)
        return [rest.pop(int(self.rng.integers(0, len(rest)))) for _ in range(len(rest))]

    def vary(self, colour: Colour, spread: int = 12) -> Colour:
        """``colour`` with its brightness and, less, its hue moved at random."""
        level = self.integer(-spread, spread)
        hue = max(1, spread // 3)
        red, green, blue = (min(255, max(0, c + level + self.integer(-hue, hue))) for c in colour)
        return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """``colour`` times ``factor``, clipped."""
    red, green, blue = (min(255, max(0, round(c * factor))) for c in colour)
    return red, green, blue


def noise(dice: Dice, height: int, width: int, cell: float, cell_cols: float | None = None) -> Field:
    """Smooth noise in about ``[-1, 1]``.

    Args:
        dice: Source of randomness.
        height: Rows.
        width: Columns.
        cell: Distance of the random grid's nodes [px].
        cell_cols: Their distance along a row when it differs.

    Returns:
        ``(height, width) float32``.
    """
    rows, cols = height / max(1.0, cell), width / max(1.0, cell_cols or cell)
    grid = dice.rng.integers(0, 256, (int(rows) + 3, int(cols) + 3), dtype=np.uint8)
    box = (1.0, 1.0, 1.0 + cols, 1.0 + rows)
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC, box=box)
    level: Field = (np.asarray(smooth, dtype=np.float32) - np.float32(128)) * np.float32(1 / 128)
    return level


def _taps(length: int, cell: float) -> tuple[NDArray[np.intp], list[Field]]:
    """First node and the four cubic weights (Catmull-Rom) for every pixel of an axis."""
    place = np.arange(length, dtype=np.float32) * np.float32(1 / cell)
    node = np.floor(place)
    t = place - node
    t2, half = t * t, np.float32(0.5)
    t3 = t2 * t
    weights = [
        (t2 * 2 - t3 - t) * half,
        (t3 * 3 - t2 * 5 + 2) * half,
        (t2 * 4 - t3 * 3 + t) * half,
        (t3 - t2) * half,
    ]
    return node.astype(np.intp), weights


def relief_noise(dice: Dice, height: int, width: int, cell: float) -> Field:
    """Like ``noise``, but not in 256 steps, which would show as terraces once a surface is shaded."""
    row_node, row_weights = _taps(height, cell)
    col_node, col_weights = _taps(width, cell)
    grid = dice.rng.integers(-128, 129, (int(row_node[-1]) + 4, int(col_node[-1]) + 4), dtype=np.int16)
    nodes = grid.astype(np.float32) * np.float32(1 / 128)
    # take() keeps rows contiguous; an index array in the brackets would not.
    wide = np.take(nodes, col_node, axis=1) * col_weights[0]
    for k in range(1, 4):
        wide += np.take(nodes, col_node + k, axis=1) * col_weights[k]
    field: Field = np.take(wide, row_node, axis=0) * row_weights[0][:, None]
    for k in range(1, 4):
        field += np.take(wide, row_node + k, axis=0) * row_weights[k][:, None]
    return field


def octaves(dice: Dice, height: int, width: int, cell: float, levels: int = 3, gain: float = 0.55) -> Field:
    """Noise summed over ``levels`` scales, each half as coarse and ``gain`` as strong as the one before."""
    total: Field | None = None
    coarse: Field | None = None
    weight, norm = 1.0, 0.0
    # Scales of many pixels are summed on a grid four times coarser and enlarged once: as good, far cheaper.
    low_h, low_w = -(-height // 4) + 1, -(-width // 4) + 1
    for _ in range(levels):
        if cell >= 10:
            layer = noise(dice, low_h, low_w, cell / 4) * np.float32(weight)
            coarse = layer if coarse is None else coarse + layer
        else:
            layer = noise(dice, height, width, cell) * np.float32(weight)
            total = layer if total is None else total + layer
        norm += weight
        cell, weight = cell / 2, weight * gain
    scale = np.float32(1.3 / norm)
    if coarse is not None:
        packed = np.clip(coarse * scale * np.float32(80) + np.float32(128.5), 0, 255).astype(np.uint8)
        box = (0.0, 0.0, width / 4, height / 4)
        smooth = Image.fromarray(packed).resize((width, height), Image.Resampling.BICUBIC, box=box)
        enlarged: Field = (np.asarray(smooth, dtype=np.float32) - np.float32(128)) * np.float32(1 / 80)
        if total is None:
            return enlarged
        enlarged += total * scale
        return enlarged
    assert total is not None
    total *= scale
    return total


def image_from_channels(channels: Sequence[Field]) -> Image.Image:
    """Three ``(H, W)`` float fields, clipped and rounded, as a picture."""
    rgb = np.empty((*channels[0].shape, 3), dtype=np.uint8)
    for k, channel in enumerate(channels):
        rgb[:, :, k] = np.clip(channel + np.float32(0.5), 0, 255)
    return Image.fromarray(rgb)


def tinted(low: Colour, high: Colour, weight: Field, level: Field) -> list[Field]:
    """Colours between ``low`` (weight 0) and ``high`` (weight 1) times ``level``, a field per channel."""
    weight = np.clip(weight, 0, 1)
    return [(weight * np.float32(b - a) + np.float32(a)) * level for a, b in zip(low, high, strict=True)]


def mixed(first: Sequence[Field], second: Sequence[Field] | Colour, share: Field) -> list[Field]:
    """``first`` moved towards ``second`` by ``share`` in [0, 1], channel by channel."""
    return [
        a + (b - a) * share
        for a, b in zip(first, (np.asarray(s, dtype=np.float32) for s in second), strict=True)
    ]


def ground(
    dice: Dice, height: int, width: int, low: Colour, high: Colour, *, cell: float, grain: float = 0.12
) -> Image.Image:
    """Patchy ground: two colours mixed by coarse noise, roughened by fine noise."""
    patches = octaves(dice, height, width, cell, levels=3)
    rough = noise(dice, height, width, max(2.0, cell / 9)) + noise(dice, height, width, 1.6)
    level = rough * np.float32(grain * 0.6) + np.float32(1)
    return image_from_channels(tinted(low, high, patches * np.float32(0.8) + np.float32(0.5), level))


def hillshade(surface: Field, sun: tuple[float, float], strength: float) -> Field:
    """Brightness of a surface lit along ``sun`` (columns, rows): its slope towards the light, around 0."""
    slope = np.zeros_like(surface)
    slope[:, 1:] += (surface[:, 1:] - surface[:, :-1]) * np.float32(sun[0])
    slope[1:, :] += (surface[1:, :] - surface[:-1, :]) * np.float32(sun[1])
    lit: Field = np.clip(slope * np.float32(strength), -1, 1)
    return lit


def canopy(
    dice: Dice, height: int, width: int, colour: Colour, *, crown: float, sun: tuple[float, float]
) -> Image.Image:
    """Closed tree tops: bumps of about ``crown`` pixels, lit from one side and dark between."""
    bumps = noise(dice, height, width, crown * 0.55)
    fine = noise(dice, height, width, max(1.3, crown * 0.25))
    stand = octaves(dice, height, width, crown * 9, levels=2)
    light = hillshade(bumps + fine * np.float32(0.5), sun, 0.26 * crown)
    level = np.float32(1) + light * np.float32(0.38) + bumps * np.float32(0.42) + stand * np.float32(0.1)
    level = level + fine * np.float32(0.16)
    tone_high = (colour[0] + 16, colour[1] + 16, colour[2] + 4)
    return image_from_channels(
        tinted(
            shade(colour, 0.88),
            tone_high,
            stand * np.float32(0.7) + np.float32(0.4),
            np.clip(level, 0.3, 1.9),
        )
    )


def ripples(
    dice: Dice, height: int, width: int, colour: Colour, *, cell: float, contrast: float
) -> Image.Image:
    """Open water: a slow change of tone and a fine, stretched ripple."""
    slow = octaves(dice, height, width, cell, levels=2)
    fine = noise(dice, height, width, 2.0, 4.5)
    level = np.float32(1) + slow * np.float32(contrast) + fine * np.float32(contrast * 0.5)
    return image_from_channels([level * np.float32(c) for c in colour])
