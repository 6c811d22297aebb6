"""Time one bundle at several precisions: image tower, text queries, image files to embeddings.

Nothing is timed before its answers were held against fp32 on the bundle's own probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.benchmarking import BenchRow, interleaved_seconds
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.energy import EnergyMeter
    from lrsclip_rt.parity import ParityReport
    from lrsclip_rt.tokenizer import Tokenizer

__all__ = [
    "LONG_QUERY_TOKENS",
    "SHORT_QUERY_TOKENS",
    "energy_of_images",
    "probe_parity",
    "query_of_tokens",
    "time_files",
    "time_image_tower",
    "time_text",
    "write_jpegs",
]

SHORT_QUERY_TOKENS = 12
LONG_QUERY_TOKENS = 200
"""Lengths of the two timed queries, with the start and end tokens."""

# Each is one token, so that a query of T tokens is T - 2 of them.
_WORDS = [
    "airport",
    "beach",
    "boat",
    "bridge",
    "building",
    "car",
    "field",
    "forest",
    "green",
    "grey",
    "harbor",
    "house",
    "lake",
    "road",
    "ship",
    "tree",
]


def probe_parity(model: Embedder) -> ParityReport:
    """Hold ``model`` against the fp32 embeddings that its bundle stores.

    Raises:
        BundleError: If the bundle has no probe, or the probe is damaged.
    """
    from lrsclip_rt.parity import Embeddings, compare
    from lrsclip_rt.probe import probe_from_bundle

    probe = probe_from_bundle(model.bundle)
    reference = Embeddings(probe.image_embeddings, probe.text_embeddings)
    mine = Embeddings(model.embed_images(list(probe.images)), model.embed_texts(probe.texts))
    return compare(reference, mine, precision=model.precision, gate=model.bundle.gate(model.precision))


def time_image_tower(models: Mapping[str, Embedder], *, batch: int, rounds: int) -> list[BenchRow]:
    """Time the image tower alone on random pixels."""
    generator = np.random.default_rng(0)
    pixels = {
        name: generator.standard_normal((batch, 3, model.spec.image_size, model.spec.image_size)).astype(
            np.float32
        )
        for name, model in models.items()
    }
    runs = {name: _image_run(model, pixels[name]) for name, model in models.items()}
    return _rows("image tower", runs, rounds=rounds, batch=batch)


def time_text(models: Mapping[str, Embedder], *, tokens: int, rounds: int, batch: int = 1) -> list[BenchRow]:
    """Time text queries of ``tokens`` tokens, ``batch`` different ones at once, tokenising included."""
    runs = {
        name: _text_run(model, [query_of_tokens(model.tokenizer, tokens, seed=seed) for seed in range(batch)])
        for name, model in models.items()
    }
    return _rows(f"text query, {tokens} tokens", runs, rounds=rounds, batch=batch)


def time_files(
    models: Mapping[str, Embedder], paths: Sequence[Path], *, batch: int, rounds: int
) -> list[BenchRow]:
    """Time image files to embeddings: reading, decoding, resizing and the tower.

    Raises:
        InputError: If there are no files, or one cannot be read.
    """
    if not paths:
        raise InputError("no image files to time, expected at least one")
    runs = {name: _files_run(model, paths, batch) for name, model in models.items()}
    return _rows("files to embeddings", runs, rounds=rounds, batch=len(paths))


def energy_of_images(
    model: Embedder, meter: EnergyMeter, *, batch: int, seconds: float = 3.0
) -> dict[str, Any]:
    """Run the image tower on random pixels for some seconds, and count what it takes.

    Args:
        model: The model.
        meter: What is read.
        batch: Images of a run.
        seconds: At least so long: counters are renewed a few times a second.

    Returns:
        ``{"what", "batch", "images", "joules_an_image", "watts", "source"}``.
    """
    from lrsclip_rt.energy import measured_energy

    size = model.spec.image_size
    pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    model.embed_pixels(pixels)
    runs = 0

    def work() -> None:
        nonlocal runs
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            model.embed_pixels(pixels)
            runs += 1

    found = measured_energy(meter, work)
    return {
        "what": "energy of an image, pixels from the host",
        "batch": batch,
        "images": runs * batch,
        "joules_an_image": found.joules / (runs * batch),
        "watts": found.watts,
        "source": found.source,
    }


def query_of_tokens(tokenizer: Tokenizer, tokens: int, *, seed: int) -> str:
    """A made-up query that encodes to ``tokens`` tokens.

    Raises:
        InputError: If ``tokens`` is below 3 or beyond the context.
    """
    if tokens < 3:
        raise InputError(f"a query has a start, an end and at least one word: 3 tokens, got {tokens}")
    words = np.random.default_rng(seed).choice(_WORDS, tokens - 2)
    query = " ".join(words)
    encoded = tokenizer.encode_batch([query])
    if bool(encoded.cut[0]) or int(encoded.eot[0]) + 1 != tokens:
        raise InputError(f"{tokens} tokens were asked for, the made-up query has {int(encoded.eot[0]) + 1}")
    return query


def write_jpegs(
    folder: Path, number: int, *, width: int = 600, height: int = 450, seed: int = 0
) -> list[Path]:
    """Write made-up JPEGs of smooth colours with grain, about as large as photographs of that size.

    Args:
        folder: An existing folder.
        number: How many.
        width: Columns [px].
        height: Rows [px].
        seed: The same seed writes the same pictures.
    """
    from PIL import Image

    generator = np.random.default_rng(seed)
    paths = []
    for index in range(number):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = generator.integers(-12, 13, smooth.shape, dtype=np.int16)
        paths.append(folder / f"{index:05d}.jpg")
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def _rows(
    what: str, runs: Mapping[str, Callable[[int], object]], *, rounds: int, batch: int
) -> list[BenchRow]:
    seconds = interleaved_seconds(runs, rounds=rounds)
    return [BenchRow.of(what, name, times, batch=batch) for name, times in seconds.items()]


def _image_run(model: Embedder, pixels: NDArray[np.float32]) -> Callable[[int], object]:
    return lambda _: model.embed_pixels(pixels)


def _text_run(model: Embedder, queries: Sequence[str]) -> Callable[[int], object]:
    # Not embed_texts: the model remembers recent queries, and a second round would time its memory.
    return lambda _: model.embed_tokens(model.tokenizer.encode_batch(queries))


def _files_run(model: Embedder, paths: Sequence[Path], batch: int) -> Callable[[int], object]:
    def run(_: int) -> object:
        done = 0
        for part in model.stream_images(((path, path) for path in paths), batch_size=batch):
            if part.failures:
                path, error = part.failures[0]
                raise InputError(f"{path} cannot be timed: {error}")
            done += len(part.keys)
        return done

    return run
