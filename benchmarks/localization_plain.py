"""Localization the plain way, as published: crop to files, read them again, add up and divide pixel by pixel.

The encoder is left out. Cropping and reading are timed on some windows, evenly spread, and the division on
some rows; both are scaled to all.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.embedder import Embedder
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.localization import Localization
from lrsclip_rt.localization.cubic import resize_cubic
from lrsclip_rt.localization.windows import SELO_INPUT_SIZE
from lrsclip_rt.pixels import pixels_from_image
from lrsclip_rt.raster import Scene
from lrsclip_rt.tiles import Window

__all__ = ["Plain", "plain_way"]

WINDOWS = 400
"""Windows that are cropped and read at most."""

ROWS = 64
"""Rows that are divided."""


@dataclass(frozen=True)
class Plain:
    """What the plain way takes without the encoder, for one text [s].

    Attributes:
        crop: Cropping, resizing and saving the windows.
        read: Reading and preprocessing the files.
        fuse: Adding up and dividing.
        worst: Largest difference of its map from ours on the rows that were divided.
    """

    crop: float
    read: float
    fuse: float
    worst: float

    @property
    def total(self) -> float:
        """All of it [s]."""
        return self.crop + self.read + self.fuse


def plain_way(model: Embedder, scene: Scene, found: Localization, text: NDArray[np.float32]) -> Plain:
    """Time it on the windows of a localization in selo mode, and hold its map against ours.

    Raises:
        SystemExit: If the maps differ.
    """
    assert found.cells is not None
    windows = found.embedding.windows
    chosen = np.linspace(0, len(windows) - 1, min(WINDOWS, len(windows))).astype(int)
    scale = len(windows) / len(chosen)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        files = [_saved(scene, windows[n], Path(folder) / f"{n}.jpg") for n in chosen]
        cropped = time.perf_counter()
        for file in files:
            pixels_from_image(rgb_from_source(file), model.spec.pixel_spec)
        read = time.perf_counter()
    total, count = np.zeros((scene.height, scene.width)), np.zeros((scene.height, scene.width))
    scores = found.embedding.scores(text)[:, 0]
    summing = time.perf_counter()
    for window, score in zip(windows, scores, strict=True):
        rows = slice(window.row_off, window.row_off + window.height)
        cols = slice(window.col_off, window.col_off + window.width)
        total[rows, cols] += score
        count[rows, cols] += 1
    summed = time.perf_counter()
    timed = min(ROWS, scene.height)
    means = _divided(total, count, timed)
    divided = time.perf_counter()
    ours = found.cells.at_pixels(0, np.arange(timed), np.arange(scene.width))
    worst = float(np.abs(means - ours).max())
    if worst > 1e-6:
        raise SystemExit(f"the maps of both ways differ by {worst:g}; expected the same")
    return Plain(
        crop=(cropped - start) * scale,
        read=(read - cropped) * scale,
        fuse=summed - summing + (divided - summed) * scene.height / timed,
        worst=worst,
    )


def _saved(scene: Scene, window: Window, path: Path) -> Path:
    pixels = resize_cubic(scene.read(window, fill=False), SELO_INPUT_SIZE, SELO_INPUT_SIZE)
    Image.fromarray(pixels).save(path, quality=95)
    return path


def _divided(total: NDArray[np.float64], count: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """The division as published: one pixel after the other."""
    means = np.zeros((rows, total.shape[1]))
    for row in range(rows):
        for col in range(total.shape[1]):
            means[row, col] = total[row, col] / count[row, col]
    return means
