"""Localization the plain way, as published, and the same map by ours, both without the encoders.

The published program does all of this anew for every text: read the scene, crop every window, resize it and
save it as a JPEG, read the files again and preprocess them, take a cosine a window, read the scene once more,
add each score to every pixel of its window, divide pixel by pixel in a loop, quantise, and blur with OpenCV's
median of 251. Cropping and reading are timed on some windows, evenly spread, and the division on some rows;
both are scaled to all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.localization_models import LimitedModel
from lrsclip_rt.embedder import Embedder
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.localization.cubic import resize_cubic
from lrsclip_rt.localization.fusion import cell_means
from lrsclip_rt.localization.scene_embedding import embed_scene
from lrsclip_rt.localization.selo_map import MEDIAN_SIDE, selo_map
from lrsclip_rt.localization.windows import SELO_INPUT_SIZE, selo_windows
from lrsclip_rt.pixels import pixels_from_image
from lrsclip_rt.raster import open_scene
from lrsclip_rt.tiles import Window

__all__ = ["Plain", "map_beside_plain"]

WINDOWS = 400
"""Windows that are cropped and read at most."""

ROWS = 64
"""Rows that are divided."""


@dataclass(frozen=True)
class Plain:
    """What the plain way takes without the encoder, for one text [s].

    Attributes:
        scene: Reading the scene, twice.
        crop: Cropping, resizing and saving the windows.
        read: Reading and preprocessing the files.
        score: Cosines.
        fuse: Adding up and dividing.
        finish: Quantising and the median.
    """

    scene: float
    crop: float
    read: float
    score: float
    fuse: float
    finish: float

    @property
    def total(self) -> float:
        """All of it [s]."""
        return self.scene + self.crop + self.read + self.score + self.fuse + self.finish


def map_beside_plain(model: Embedder, path: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Time the published map of each text both ways, and hold the maps against each other.

    Returns:
        ``map_s`` of ours for all texts [s], the parts of ``plain`` for one text, and ``ratio`` for all texts
        and ``ratio_one_text``.

    Raises:
        SystemExit: If the maps differ in a single pixel.
    """
    left_out = LimitedModel(model, 0)
    rows = left_out.embed_texts(texts)
    ours, scores, seconds = _ours(left_out, path, rows)
    alone = _ours(left_out, path, rows[:1])[2]
    plain, theirs = _plain(model, path, scores[:, 0], rows[0])
    if different := int((theirs != ours).sum()):
        raise SystemExit(f"the maps of both ways differ in {different} pixels; expected the same")
    return {
        "map_s": seconds,
        "plain": asdict(plain) | {"total": plain.total},
        "ratio": plain.total * len(texts) / seconds,
        "ratio_one_text": plain.total / alone,
    }


def _ours(
    model: LimitedModel, path: Path, rows: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], float]:
    """The first text's map, the scores of all, and the time from an unopened file to the maps of all."""
    start = time.perf_counter()
    with open_scene(path) as scene:
        embedding = embed_scene(model, scene)
        scores = embedding.scores(rows)
        cells = cell_means(embedding.windows, scores, height=scene.height, width=scene.width)
    maps = [selo_map(cells, text) for text in range(len(rows))]
    return maps[0], scores, time.perf_counter() - start


def _plain(
    model: Embedder, path: Path, scores: NDArray[np.float32], text: NDArray[np.float32]
) -> tuple[Plain, NDArray[np.uint8]]:
    import cv2

    with open_scene(path) as scene, tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for _ in range(2):
            scene.read(scene.extent)
        opened = time.perf_counter()
        windows = selo_windows(scene.height, scene.width)
        chosen = np.linspace(0, len(windows) - 1, min(WINDOWS, len(windows))).astype(int)
        scale = len(windows) / len(chosen)
        pixels = scene.read(scene.extent)
        cropping = time.perf_counter()
        files = [_saved(pixels, windows[n], Path(folder) / f"{n}.jpg") for n in chosen]
        cropped = time.perf_counter()
        for file in files:
            pixels_from_image(rgb_from_source(file), model.spec.pixel_spec)
        read = time.perf_counter()
        height, width = scene.height, scene.width
    vectors = np.random.default_rng(0).normal(size=(len(windows), len(text))).astype(np.float32)
    scoring = time.perf_counter()
    for vector in vectors:
        float(np.mean(np.multiply(vector / np.linalg.norm(vector), text / np.linalg.norm(text))))
    scored = time.perf_counter()
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for window, score in zip(windows, scores.astype(np.float64), strict=True):
        part = (
            slice(window.row_off, window.row_off + window.height),
            slice(window.col_off, window.col_off + window.width),
        )
        total[part] += score
        count[part] += 1
    summed = time.perf_counter()
    timed = min(ROWS, height)
    _divided(total, count, timed)
    divided = time.perf_counter()
    total /= count
    finishing = time.perf_counter()
    total -= total.min()
    total /= total.max()
    total *= 255
    blurred = cv2.medianBlur(total.astype(np.uint8), MEDIAN_SIDE)
    finished = time.perf_counter()
    plain = Plain(
        scene=opened - start,
        crop=(cropped - cropping) * scale,
        read=(read - cropped) * scale,
        score=scored - scoring,
        fuse=summed - scored + (divided - summed) * height / timed,
        finish=finished - finishing,
    )
    return plain, np.asarray(blurred)


def _saved(pixels: NDArray[np.uint8], window: Window, path: Path) -> Path:
    rows = slice(window.row_off, window.row_off + window.height)
    cut = pixels[rows, window.col_off : window.col_off + window.width]
    Image.fromarray(resize_cubic(np.ascontiguousarray(cut), SELO_INPUT_SIZE, SELO_INPUT_SIZE)).save(
        path, quality=95
    )
    return path


def _divided(total: NDArray[np.float64], count: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """The division as published: one pixel after the other."""
    means = np.zeros((rows, total.shape[1]))
    for row in range(rows):
        for col in range(total.shape[1]):
            means[row, col] = total[row, col] / count[row, col]
    return means
