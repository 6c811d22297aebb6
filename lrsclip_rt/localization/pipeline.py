"""A scene and some texts to heat maps: embed windows once, score, fuse, find regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.asking import Asked, ask
from lrsclip_rt.localization.box_filter import box_sums, odd_cells, smoothing_px
from lrsclip_rt.localization.dense_embedding import embed_dense, refuse_without_patches
from lrsclip_rt.localization.fast_embedding import embed_pyramid, pyramid_fusion
from lrsclip_rt.localization.fusion import CellMeans, cell_means, fusion_grid_shape
from lrsclip_rt.localization.heatmap import Heatmap
from lrsclip_rt.localization.interpolation import bilinear_at
from lrsclip_rt.localization.presence import Presence, presence_of
from lrsclip_rt.localization.pyramid import FastOptions
from lrsclip_rt.localization.regions import regions_from_scores
from lrsclip_rt.localization.scene_embedding import Progress, SceneEmbedding, SceneModel, embed_scene
from lrsclip_rt.localization.statistics import peak_cell, score_statistics
from lrsclip_rt.localization.windows import SELO_STEPS
from lrsclip_rt.raster import Scene, open_scene, scene_from_array
from lrsclip_rt.raster_georeference import Affine6

__all__ = [
    "MODES",
    "Localization",
    "SceneSource",
    "described_map",
    "localize",
    "localize_embedding",
    "localize_scene",
]

MODES = ("fast", "selo", "dense")
"""How windows are chosen: "fast" looks coarsely at the scene and finely where the texts fit best, "selo" is
the published protocol at 256, 512 and 768 px, "dense" scores the patches of one size of windows."""

SceneSource = str | Path | Scene | NDArray[np.uint8]
"""A raster or image file, an open scene, or an (H, W, 3) uint8 array."""


@dataclass(frozen=True, slots=True, eq=False)
class Localization:
    """Everything that came out of one call, for writing maps at source resolution.

    Attributes:
        embedding: The windows and their embeddings; further texts need nothing else.
        cells: In selo mode, the mean score of every pixel, exactly, on the irregular grid of window edges.
        heatmaps: One a text.
    """

    embedding: SceneEmbedding
    cells: CellMeans | None
    heatmaps: tuple[Heatmap, ...]

    def __len__(self) -> int:
        return len(self.heatmaps)

    def __getitem__(self, index: int) -> Heatmap:
        return self.heatmaps[index]

    def at_pixels(
        self, text: int, rows: NDArray[np.integer], cols: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """The map of text number ``text`` at the crossings of pixel ``rows`` and ``cols``: (r, c) float32.

        Exact in selo mode; elsewhere between the centres of the fusion grid in proportion.
        """
        if self.cells is not None:
            return self.cells.at_pixels(text, rows, cols).astype(np.float32)
        heatmap = self.heatmaps[text]
        return bilinear_at(heatmap.scores, rows, cols, height=heatmap.height, width=heatmap.width)

    def __repr__(self) -> str:
        return f"Localization({len(self)} texts, {self.embedding!r})"


def localize(
    model: SceneModel,
    scene: SceneSource,
    texts: str | Sequence[str],
    *,
    mode: str = "fast",
    fast: FastOptions | None = None,
    steps: Sequence[int] = SELO_STEPS,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> tuple[Heatmap, ...]:
    """Find where in a scene each text fits.

    Args:
        model: From ``lrsclip_rt.load``.
        scene: A raster or image file, an open ``Scene``, or an (H, W, 3) uint8 array.
        texts: One text or several; windows are embedded once for all of them.
        mode: "fast", coarse to fine, "selo", the published protocol, or "dense", patches of windows.
        fast: How the fast mode looks; its defaults by default.
        steps: Window edges [px] of the selo mode; those above the scene's shorter side are dropped.
        batch_size: Windows a run of the model.
        progress: Called with (windows done, windows in all).

    Returns:
        One heat map a text, in order.

    Raises:
        InputError: If there is no text, one is blank, or the mode is unknown.
        RasterError: If the scene cannot be read.
        DependencyError: If rasterio is needed and not installed.
        BundleError: If the dense mode is asked for and the bundle has no dense graph.
        ParityError: If that graph fell below its gate.
    """
    with opened(scene) as source:
        return localize_scene(
            model,
            source,
            texts,
            mode=mode,
            fast=fast,
            steps=steps,
            batch_size=batch_size,
            progress=progress,
        ).heatmaps


def localize_scene(
    model: SceneModel,
    scene: Scene,
    texts: str | Sequence[str],
    *,
    mode: str = "fast",
    fast: FastOptions | None = None,
    steps: Sequence[int] = SELO_STEPS,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Localization:
    """As ``localize`` on an open scene, keeping what full-size maps need."""
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    # Texts first: a blank one should not cost the embedding of a scene.
    queries = _query_list(texts)
    if mode == "dense":
        refuse_without_patches(model)
    asked = ask(model, queries, templates=mode != "selo")
    if mode == "selo":
        embedding = embed_scene(model, scene, steps=steps, batch_size=batch_size, progress=progress)
    elif mode == "dense":
        embedding = embed_dense(model, scene, batch_size=batch_size, progress=progress)
    else:
        embedding = embed_pyramid(
            model, scene, asked.rows, options=fast, batch_size=batch_size, progress=progress
        )
    return localize_embedding(embedding, scene, queries, asked)


def localize_embedding(
    embedding: SceneEmbedding, scene: Scene, texts: Sequence[str], asked: Asked
) -> Localization:
    """Score texts on windows that are already embedded.

    Args:
        embedding: Of the same scene.
        scene: Gives georeference and missing pixels.
        texts: T queries.
        asked: Their T embeddings, from ``ask``.

    Raises:
        InputError: If the shapes disagree.
    """
    if len(texts) != len(asked.rows):
        raise InputError(f"got {len(texts)} texts and {len(asked.rows)} embeddings; expected as many")
    scores = embedding.scores(asked.rows)
    background = embedding.scores(asked.background)
    grid = fusion_grid_shape(scene.height, scene.width)
    valid = scene.valid_map(*grid)
    cells: CellMeans | None = None
    if embedding.mode == "selo":
        cells = cell_means(embedding.windows, scores, height=scene.height, width=scene.width)
    else:
        fusion = pyramid_fusion(embedding, *grid)
    heatmaps = []
    for index, text in enumerate(texts):
        fused = fusion.fuse(scores[:, index]) if cells is None else cells.on_grid(index, *grid)
        presence = presence_of(scores[:, index], background, logit_scale=asked.logit_scale)
        heatmaps.append(described_map(text, fused, valid, embedding, scene, presence, asked.model_id))
    return Localization(embedding, cells, tuple(heatmaps))


@contextmanager
def opened(scene: SceneSource) -> Iterator[Scene]:
    """Open a path or wrap an array; a scene that is open already stays open."""
    if isinstance(scene, Scene):
        yield scene
        return
    with scene_from_array(scene) if isinstance(scene, np.ndarray) else open_scene(scene) as source:
        yield source


def described_map(
    text: str,
    scores: NDArray[np.float32],
    valid: NDArray[np.bool_] | None,
    embedding: SceneEmbedding,
    scene: Scene,
    presence: Presence | None,
    model_id: str | None,
) -> Heatmap:
    """Find peak and regions of a map; cells where the scene shows nothing lose their value.

    Args:
        text: The query.
        scores: (h, w) float32 on the fusion grid, taken over.
        valid: (h, w) bool, or None where every cell shows something.
        embedding: Whose mode and scales are recorded.
        scene: Gives the georeference.
        presence: Whether the scene shows the text.
        model_id: Identity of the model.
    """
    if valid is not None:
        scores[~valid] = np.nan
    statistics = score_statistics(scores)
    smooth = peak_map(scores, statistics.middle, embedding)
    scores.flags.writeable = False
    return Heatmap(
        text=text,
        mode=embedding.mode,
        scales=embedding.scales,
        scores=scores,
        transform=grid_transform(scene, *scores.shape),
        crs=scene.crs,
        height=scene.height,
        width=scene.width,
        score_range=(statistics.low, statistics.high),
        z=statistics.z(statistics.high),
        peak=_peak_px(smooth, scene),
        regions=regions_from_scores(scores, statistics, scene, smooth=smooth),
        presence=presence,
        source=scene.name,
        datetime=scene.datetime,
        gsd_m=scene.gsd_m,
        placed=scene.lonlat(0.0, 0.0) is not None,
        model_id=model_id,
    )


def peak_map(scores: NDArray[np.float32], middle: float, embedding: SceneEmbedding) -> NDArray[np.float32]:
    """The map summed over half the smallest window, as height over its middle; missing cells stay missing.

    Missing cells and those outside the scene count as the middle, so that the highest place of a plateau
    at the edge is the plateau's own middle rather than the edge.
    """
    reach = smoothing_px(embedding.scales)
    rows = odd_cells(reach, scores.shape[0], embedding.height)
    cols = odd_cells(reach, scores.shape[1], embedding.width)
    known = np.isfinite(scores)
    height = np.where(known, scores.astype(np.float64) - middle, 0.0)
    padded = np.pad(height, ((rows, rows), (cols, cols)))
    sums = box_sums(padded, rows, cols)[rows:-rows, cols:-cols]
    return np.where(known, sums, np.nan).astype(np.float32)


def _peak_px(smooth: NDArray[np.float32], scene: Scene) -> tuple[float, float] | None:
    cell = peak_cell(smooth)
    if cell is None:
        return None
    return cell[0] * scene.width / smooth.shape[1], cell[1] * scene.height / smooth.shape[0]


def grid_transform(scene: Scene, rows: int, cols: int) -> Affine6:
    """Transform of a ``rows x cols`` grid that covers the scene exactly; to pixels without a CRS."""
    per_col, per_row = scene.width / cols, scene.height / rows
    a, b, c, d, e, f = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    if scene.crs is not None and scene.transform is not None:
        a, b, c, d, e, f = scene.transform
    return a * per_col, b * per_row, c, d * per_col, e * per_row, f


def _query_list(texts: str | Sequence[str]) -> list[str]:
    queries = [texts] if isinstance(texts, str) else list(texts)
    if not queries:
        raise InputError("got no text; give at least one")
    return queries
