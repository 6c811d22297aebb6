"""The models of localization_cost.py, and one whose encoder costs nothing."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backend_measuring import measure
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import InputError
from lrsclip_rt.image_stream import EmbeddedBatch, stream_pixels

__all__ = ["LimitedModel", "bundle_by_name", "fastest"]

BUILT_IN = "mini"
RANDOM = "vit-b-16"
PRECISIONS = ("fp32", "int8", "int8-cpu")
_ROWS = 64
"""Different embeddings at least, so that maps are not constant."""


class LimitedModel:
    """A model that really embeds the first windows only; the others get the rows of those in turn.

    Reading, cutting, resizing and normalising are done for all. With a limit of 0 what is left is the cost of
    everything but the encoder, without any of it hidden behind the encoder's work. A text is embedded once.
    """

    def __init__(self, model: Embedder, limit: int) -> None:
        self.bundle = model.bundle
        self._model, self._limit = model, limit
        rows = np.random.default_rng(0).normal(size=(max(_ROWS, limit), model.dim)).astype(np.float32)
        self._rows: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._texts: dict[str, NDArray[np.float32]] = {}

    @property
    def spec(self) -> Any:
        return self._model.spec

    def embed_texts(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        rows = [texts] if isinstance(texts, str) else list(texts)
        if fresh := [text for text in dict.fromkeys(rows) if text not in self._texts]:
            self._texts.update(zip(fresh, self._model.embed_texts(fresh), strict=True))
        return np.stack([self._texts[text] for text in rows])

    def stream_images(self, items: Any, *, batch_size: int = 32) -> Iterator[EmbeddedBatch[Any]]:
        seen = 0
        for batch in stream_pixels(items, self.spec.pixel_spec, batch_size=batch_size):
            numbers = (seen + np.arange(len(batch.keys))) % len(self._rows)
            if seen < self._limit:
                self._rows[numbers] = self._model.embed_pixels(batch.pixels)
            seen += len(batch.keys)
            yield EmbeddedBatch(keys=batch.keys, embeddings=self._rows[numbers], failures=batch.failures)


def bundle_by_name(name: str, folder: Path, data: Path | None) -> Path | None:
    """A bundle folder; None for the built-in one. A ViT-B/16 of random weights is written on demand.

    Args:
        name: "mini", "vit-b-16" or a folder.
        folder: Where a bundle may be written.
        data: Folder with ``pairs.jsonl``, to calibrate its int8 on; rendered tiles by default.

    Raises:
        InputError: If the data are too few to calibrate on.
        BundleError: If there is no bundle of that name.
    """
    if name == BUILT_IN:
        return None
    if name != RANDOM:
        return Bundle.open(name).path
    # PyTorch and the weights take memory that a process of its own gives back.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_write_random, folder, data).result()


def _write_random(folder: Path, data: Path | None) -> Path:
    import torch

    from benchmarks.side_by_side.preparation import write_rendered_pairs
    from benchmarks.side_by_side.weights import CONFIGS, random_state
    from lrsclip_export.exporting import export_bundle

    checkpoint, out = folder / f"{RANDOM}.pt", folder / RANDOM
    torch.save(random_state(CONFIGS[RANDOM]), checkpoint)
    seen = write_rendered_pairs(folder / "rendered", 0) if data is None else data
    export_bundle(checkpoint, out, precisions=PRECISIONS, calibration=seen, allow_failed=True)
    checkpoint.unlink()
    return out


def fastest(bundle: Path | None, *, threads: int | None) -> Embedder:
    """The backend and precision whose image tower was fastest here, of those within their gate.

    Raises:
        InputError: If none could be timed.
    """
    timings = measure(Bundle.open(bundle), threads=threads).timings
    timed = [timing for timing in timings if timing.image_ms is not None]
    if not timed:
        raise InputError(f"nothing runs the image tower: {[timing.reason for timing in timings]}")
    best = min(timed, key=lambda timing: timing.image_ms or 0.0)
    return load(bundle, backend=best.backend, precision=best.precision, threads=threads)
