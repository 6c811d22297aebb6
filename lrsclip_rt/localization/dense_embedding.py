"""The windows of the dense mode to embeddings of places, finer than a window and without one more encode.

One run of the bundle's ``dense`` graph gives an embedding of every patch of a window. A place of the scene is
seen by the patches of several windows; they are averaged, those from the middle of a window counting more.
The cosine of a text with that average is the average of its cosines, so texts are scored as in the fast mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError, ParityError
from lrsclip_rt.localization.dense_windows import (
    DENSE_SCALES,
    PatchLattice,
    dense_edges,
    dense_windows,
    patch_lattice,
)
from lrsclip_rt.localization.fusion import fusion_grid_shape
from lrsclip_rt.localization.pyramid import valid_shares
from lrsclip_rt.localization.scene_embedding import Progress, SceneEmbedding, SceneModel
from lrsclip_rt.localization.strips import windows_from_strips
from lrsclip_rt.raster import Scene
from lrsclip_rt.tiles import Window

__all__ = ["DenseModel", "embed_dense", "refuse_without_patches"]


@runtime_checkable
class DenseModel(Protocol):
    """A model that embeds every patch of an image; ``Embedder`` does."""

    precision: str

    def dense_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 3, S, S) float32, normalised -> (N, P, D) float32, unit rows."""


def refuse_without_patches(model: SceneModel) -> DenseModel:
    """Say early that a model has no patch embeddings that can be used.

    Raises:
        InputError: If the model does not embed patches.
        BundleError: If the bundle has no dense graph at the model's precision.
        ParityError: If that graph fell below its gate.
    """
    if not isinstance(model, DenseModel):
        raise InputError(f"{model!r} embeds no patches; the dense mode needs a model of lrsclip_rt.load")
    bundle, precision = model.bundle, model.precision
    bundle.graph_path("dense", precision)
    report = bundle.record(precision).parity
    if report is not None and report.dense_passed is False:
        assert report.dense is not None
        raise ParityError(
            f"the patch embeddings of {bundle.path} at {precision} fell below their gate (cosine with fp32 "
            f"{report.dense.mean:.4f} in the mean, expected {report.gate.mean:g}). Use another precision, "
            "for example --precision fp32, or the fast mode"
        )
    return model


def embed_dense(
    model: SceneModel,
    scene: Scene,
    *,
    scales: Sequence[int] = DENSE_SCALES,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> SceneEmbedding:
    """Embed the patches of overlapping windows all over the scene.

    Memory grows with the number of places: an embedding each, 4 D bytes.

    Args:
        model: The model.
        scene: The scene.
        scales: About how wide windows are [px].
        batch_size: Windows that are prepared at once.
        progress: Called with (windows done, windows in all).

    Returns:
        An embedding of each place: the weighted mean of unit rows, so not itself one. Its ``scales`` are
        the edges of the windows that were embedded, its ``windows`` the places of patches.

    Raises:
        RasterError: If the scene is damaged.
        InputError: If the model embeds no patches or the scene is smaller than they are many.
        BundleError: If the bundle has no dense graph.
        ParityError: If the patch embeddings fell below their gate.
    """
    dense = refuse_without_patches(model)
    grid = model.spec.patch_grid
    edges = dense_edges(scene.height, scene.width, grid, scales)
    valid = scene.valid_map(*fusion_grid_shape(scene.height, scene.width))
    levels = [
        _showing(dense_windows(scene.height, scene.width, edge=edge, grid=grid), valid, scene)
        for edge in edges
    ]
    total, done = sum(map(len, levels)), 0
    places: list[Window] = []
    rows = [np.empty((0, model.spec.embed_dim), np.float32)]
    for windows in (level for level in levels if level):
        lattice = patch_lattice(windows, grid)
        sums = np.zeros((len(lattice.windows), model.spec.embed_dim), np.float32)
        for numbers, patches in _patches(model, dense, scene, windows, batch_size):
            _add(sums, lattice, numbers, patches)
            done += len(numbers)
            if progress is not None:
                progress(done, total)
        totals = np.bincount(lattice.place_of.reshape(-1), np.tile(lattice.weights, len(windows)))
        sums /= np.asarray(totals, np.float32)[:, None]
        places += lattice.windows
        rows.append(sums)
    return _of_valid_places(places, np.concatenate(rows), valid, scene, edges)


def _showing(windows: list[Window], valid: NDArray[np.bool_] | None, scene: Scene) -> list[Window]:
    shares = valid_shares(windows, valid, height=scene.height, width=scene.width)
    return [window for window, share in zip(windows, shares, strict=True) if share > 0]


def _patches(
    model: SceneModel, dense: DenseModel, scene: Scene, windows: Sequence[Window], batch_size: int
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Numbers of windows and their (n, P, D) patches, from top to bottom."""
    from lrsclip_rt.image_stream import stream_pixels

    cuts = windows_from_strips(scene, windows, fill=True)
    for batch in stream_pixels(cuts, model.spec.pixel_spec, batch_size=batch_size):
        for _, error in batch.failures:
            raise error
        yield batch.keys, dense.dense_pixels(batch.pixels)


def _add(
    sums: NDArray[np.float32], lattice: PatchLattice, numbers: Sequence[int], patches: NDArray[np.float32]
) -> None:
    # One window at a time: its patches lie in different places, those of two windows may not.
    for number, rows in zip(numbers, patches, strict=True):
        sums[lattice.place_of[number]] += lattice.weights[:, None] * rows


def _of_valid_places(
    places: Sequence[Window],
    rows: NDArray[np.float32],
    valid: NDArray[np.bool_] | None,
    scene: Scene,
    edges: tuple[int, ...],
) -> SceneEmbedding:
    """Leave out the places that show nothing, of windows that show something elsewhere."""
    shares = valid_shares(places, valid, height=scene.height, width=scene.width)
    kept = np.flatnonzero(shares > 0)
    return SceneEmbedding(
        tuple(places[number] for number in kept.tolist()),
        rows if len(kept) == len(rows) else rows[kept],
        scene.height,
        scene.width,
        "dense",
        edges,
        shares[kept],
    )
