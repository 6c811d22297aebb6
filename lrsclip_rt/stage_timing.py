"""Time each stage alone: decode, resize, tower, search, fuse. Together they say where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.benchmarking import BenchRow, interleaved_seconds
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from lrsclip_rt.archive.segments import Segment
    from lrsclip_rt.embedder import Embedder

__all__ = ["FUSED_SIDE", "SEARCHED_ROWS", "time_stages"]

SEARCHED_ROWS = 50_000
"""Rows of the timed search: up to so many an archive scores every row."""
FUSED_SIDE = 4096
"""Edge of the scene whose map is fused [px]."""

_HITS = 10
_WINDOW = 128


def time_stages(
    models: Mapping[str, Embedder],
    paths: Sequence[Path],
    *,
    batch: int,
    rounds: int,
    rows: int = SEARCHED_ROWS,
) -> list[BenchRow]:
    """Time the stages of image files to embeddings, and of a text row to hits and to a heat map.

    Decoding, resizing, searching and fusing are the same for every precision and run on the CPU, on one
    thread but for the products of NumPy; the contender names what does it.

    Args:
        models: By name; the towers are timed for each.
        paths: Image files to decode; all are kept in memory, decoded.
        batch: Images of a run of the tower.
        rounds: Timed rounds.
        rows: Rows that are searched.

    Returns:
        Rows ``stage: decode``, ``resize`` and ``tower`` with the number of images as ``batch``, then
        ``search`` (one query, ten hits) and ``fuse`` (one text, a square scene of ``FUSED_SIDE``).

    Raises:
        InputError: If there are no files or no models, or one cannot be read.
    """
    if not paths or not models:
        raise InputError(f"got {len(paths)} files and {len(models)} models to time, expected one at least")
    from lrsclip_rt.images import rgb_from_source
    from lrsclip_rt.pixels import pixels_from_image

    spec = next(iter(models.values())).spec
    decoded = [rgb_from_source(path) for path in paths]
    pixels = np.stack([pixels_from_image(image, spec.pixel_spec) for image in decoded])
    generator = np.random.default_rng(0)
    found = _timed("decode", {"pillow": lambda: list(map(rgb_from_source, paths))}, rounds, len(paths))
    resize = {"pillow": lambda: [pixels_from_image(image, spec.pixel_spec) for image in decoded]}
    found += _timed("resize", resize, rounds, len(paths))
    towers = {name: _tower_run(model, pixels, batch) for name, model in models.items()}
    found += _timed("tower", towers, rounds, len(paths))
    found += _timed("search", {"numpy": _search_run(generator, rows, spec.embed_dim)}, rounds, 1)
    return found + _timed("fuse", {"numpy": _fuse_run(generator)}, rounds, 1)


def _timed(stage: str, runs: Mapping[str, Callable[[], object]], rounds: int, batch: int) -> list[BenchRow]:
    def ignoring_the_round(run: Callable[[], object]) -> Callable[[int], object]:
        return lambda _: run()

    calls = {name: ignoring_the_round(run) for name, run in runs.items()}
    seconds = interleaved_seconds(calls, rounds=rounds)
    return [BenchRow.of(f"stage: {stage}", name, times, batch=batch) for name, times in seconds.items()]


def _tower_run(model: Embedder, pixels: NDArray[np.float32], batch: int) -> Callable[[], object]:
    return lambda: [model.embed_pixels(pixels[i : i + batch]) for i in range(0, len(pixels), batch)]


def _search_run(generator: np.random.Generator, rows: int, dim: int) -> Callable[[], object]:
    """The archive's exact search over rows in memory."""
    from lrsclip_rt.archive.scanning import best_rows

    vectors = generator.standard_normal((rows, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    segment, query = _segment(vectors.astype(np.float16)), vectors[:1]
    return lambda: best_rows([segment], query, _HITS)


def _segment(vectors: NDArray[np.float16]) -> Segment:
    """Rows without a place or a time, which a search without a filter never reads."""
    from lrsclip_rt.archive.records import Producer, SegmentRecord
    from lrsclip_rt.archive.segments import Segment

    rows = len(vectors)
    whole, places = np.zeros(rows, np.int64), np.zeros((rows, 4), np.float64)
    return Segment(
        SegmentRecord(number=1, base=0, rows=rows, producer=Producer("fp32", "none")),
        f16=vectors,
        i8=np.zeros(vectors.shape, np.int8),
        scale=np.zeros(rows, np.float32),
        box=places,
        time=whole,
        source=whole,
        level=np.zeros(rows, np.int32),
    )


def _fuse_run(generator: np.random.Generator) -> Callable[[], object]:
    """The fusion of one text's scores over windows side by side."""
    from lrsclip_rt.localization.fusion import fusion_grid_shape
    from lrsclip_rt.localization.hann_fusion import hann_fusion
    from lrsclip_rt.tiles import tile_grid

    windows = tile_grid(FUSED_SIDE, FUSED_SIDE, size=_WINDOW)
    rows, cols = fusion_grid_shape(FUSED_SIDE, FUSED_SIDE)
    fusion = hann_fusion(windows, height=FUSED_SIDE, width=FUSED_SIDE, rows=rows, cols=cols)
    scores = generator.standard_normal(len(windows)).astype(np.float32)
    return lambda: fusion.fuse(scores)
