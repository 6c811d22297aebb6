"""The windows of the fast mode to embeddings, coarse to fine.

Pixels are cut from full-width strips, each source row decoded once a level, and go to the model's own
preprocessing. Places where the scene shows nothing are skipped; where a window shows something in part, the
rest is filled with the scene's mean colour and the window counts by its valid share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.localization.fusion import centre_pixels, fusion_grid_shape
from lrsclip_rt.localization.hann_fusion import HannFusion, hann_fusion
from lrsclip_rt.localization.pyramid import (
    FastOptions,
    child_count,
    chosen_children,
    fast_scales,
    pyramid_grids,
    valid_shares,
)
from lrsclip_rt.localization.scene_embedding import (
    DeviceModel,
    Progress,
    SceneEmbedding,
    SceneModel,
)
from lrsclip_rt.localization.strips import windows_from_strips
from lrsclip_rt.raster import Scene
from lrsclip_rt.tiles import Window

__all__ = ["embed_pyramid", "pyramid_fusion"]

REACH = 1.5
"""Width of a window's Hann weight in widths of the window, where windows do not overlap."""

TURNS = 4
"""Rotations that are averaged where asked for, a quarter turn each."""


def embed_pyramid(
    model: SceneModel,
    scene: Scene,
    text_rows: NDArray[np.float32],
    *,
    options: FastOptions | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> SceneEmbedding:
    """Embed the whole scene coarsely and the places that fit the texts best finely.

    Args:
        model: The model.
        scene: The scene.
        text_rows: (T, D) float32 unit rows; they decide where to look closer.
        options: How to look.
        batch_size: Windows a run of the model.
        progress: Called with (windows done, windows in all).

    Returns:
        The embedding; without windows where the scene shows nothing at all.

    Raises:
        RasterError: If the scene is damaged.
        InputError: If the options do not fit the scene.
    """
    options = FastOptions() if options is None else options
    scales = fast_scales(scene, options, image_size=model.spec.image_size)
    valid = scene.valid_map(*fusion_grid_shape(scene.height, scene.width))
    grids = pyramid_grids(scene.height, scene.width, scales, overlap=options.overlap)
    grids = [_showing(grid, valid, scene) for grid in grids]
    counts = [len(grids[0])] + [
        child_count(len(grid), len(text_rows), refine=options.refine) for grid in grids[1:]
    ]
    found = SceneEmbedding(
        (),
        np.empty((0, text_rows.shape[1]), np.float32),
        scene.height,
        scene.width,
        "fast",
        scales,
        np.empty(0, np.float32),
        options.overlap,
    )
    for level, (grid, count) in enumerate(zip(grids, counts, strict=True)):
        wanted = grid if level == 0 else _best(grid, count, found, text_rows)
        rows = _embedded(model, scene, wanted, found, options.rotations, batch_size, progress, sum(counts))
        shares = valid_shares(wanted, valid, height=scene.height, width=scene.width)
        found = _extended(found, wanted, rows, shares)
    return found


def pyramid_fusion(embedding: SceneEmbedding, rows: int, cols: int) -> HannFusion:
    """Fuse windows of several sizes on a grid: one counts by its valid share over its area.

    So the windows of every size weigh alike where they cover a place alike, and a fine window outweighs the
    coarse one that it lies in.
    """
    sides = np.array([window.width * window.height for window in embedding.windows], np.float64)
    weights = sides.max(initial=1.0) / np.maximum(sides, 1.0)
    if embedding.valid is not None:
        weights = weights * embedding.valid
    return hann_fusion(
        embedding.windows,
        height=embedding.height,
        width=embedding.width,
        rows=rows,
        cols=cols,
        weights=weights,
        reach=max(1.0, REACH * (1.0 - embedding.overlap)),
    )


def _showing(grid: Sequence[Window], valid: NDArray[np.bool_] | None, scene: Scene) -> list[Window]:
    shares = valid_shares(grid, valid, height=scene.height, width=scene.width)
    return [window for window, share in zip(grid, shares, strict=True) if share > 0]


def _best(
    grid: Sequence[Window], count: int, found: SceneEmbedding, text_rows: NDArray[np.float32]
) -> list[Window]:
    """The windows of a finer grid in whose middle the maps so far are highest."""
    if count == 0 or count >= len(grid):
        return list(grid[:count])
    rows, cols = fusion_grid_shape(found.height, found.width)
    fusion = pyramid_fusion(found, rows, cols)
    boxes = np.array([window.as_list() for window in grid], dtype=np.int64)
    at_col = _cells_under(boxes[:, 0] + boxes[:, 2] // 2, found.width, cols)
    at_row = _cells_under(boxes[:, 1] + boxes[:, 3] // 2, found.height, rows)
    scores = found.scores(text_rows)
    ratings = np.stack([fusion.fuse(scores[:, text])[at_row, at_col] for text in range(scores.shape[1])])
    return [grid[number] for number in chosen_children(ratings, count)]


def _cells_under(pixels: NDArray[np.int64], length: int, cells: int) -> NDArray[np.intp]:
    """Cell of a grid whose centre pixel is the nearest at or behind each pixel."""
    return np.minimum(np.searchsorted(centre_pixels(length, cells), pixels), cells - 1)


def _embedded(
    model: SceneModel,
    scene: Scene,
    windows: Sequence[Window],
    before: SceneEmbedding,
    rotations: bool,
    batch_size: int,
    progress: Progress | None,
    total: int,
) -> NDArray[np.float32]:
    if not rotations and isinstance(model, DeviceModel) and model.on_gpu:
        # Rows of the scene go up once, and windows are cut and resized where they lie.
        told = None if progress is None else lambda done, _: progress(len(before) + done, total)
        return model.embed_windows(scene, windows, fill=True, progress=told)
    turns = TURNS if rotations else 1
    sums = np.zeros((len(windows), before.embeddings.shape[1]), np.float32)
    done = 0
    for batch in model.stream_images(_inputs(scene, windows, turns), batch_size=batch_size):
        for _, error in batch.failures:
            raise error
        np.add.at(sums, batch.keys, batch.embeddings)
        done += len(batch.keys)
        if progress is not None:
            progress(len(before) + done // turns, total)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True) if turns > 1 else sums


def _inputs(scene: Scene, windows: Sequence[Window], turns: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for index, pixels in windows_from_strips(scene, windows, fill=True):
        for turn in range(turns):
            yield index, np.rot90(pixels, turn)  # a view: copied where the images are decoded


def _extended(
    found: SceneEmbedding, windows: Sequence[Window], rows: NDArray[np.float32], shares: NDArray[np.float32]
) -> SceneEmbedding:
    assert found.valid is not None
    return SceneEmbedding(
        (*found.windows, *windows),
        np.concatenate([found.embeddings, rows]),
        found.height,
        found.width,
        found.mode,
        found.scales,
        np.concatenate([found.valid, shares]),
        found.overlap,
    )
