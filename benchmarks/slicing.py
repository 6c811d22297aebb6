"""The same windows of one scene by sahi's slices and by our localization: what does the rest cost?

    python benchmarks/slicing.py                   # needs sahi; benchmarks/peers.py makes an environment
    python benchmarks/slicing.py --side 4000 --record

The scene is made of rendered tiles. sahi cuts it into slices of 256 px without overlap, as its sliced
prediction does; each slice goes through the image tower alone ("one by one", its way) or 32 together; the
scores are painted into a map of the scene's size. Ours is `localize` in fast mode, coarse windows only: the
same windows and model. The embeddings are compared first. Prints a table, then the record.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# A script finds what lies beside it; the package of this checkout is known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lrsclip_rt.benchmarking import BenchRow, append_record, interleaved_seconds, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.localization import FastOptions, Localization, localize_scene
from lrsclip_rt.raster import open_scene
from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, render_tile

RESULTS = Path(__file__).resolve().parent / "results"
TILE = 256
TEXTS = ["a harbour with ships", "white storage tanks beside a road"]
LEAST_COSINE = 0.999
"""Of the same window by both ways: ours reads it at once in the model's size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-b", "--bundle", type=Path, help="default: the built-in bundle")
    parser.add_argument("--precision", help="default: the bundle's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--side", type=int, default=2048, help="of the scene [px]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.side < TILE or arguments.rounds < 1:
        parser.error(f"--side must be at least {TILE} and --rounds at least 1")
    model = load(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    with tempfile.TemporaryDirectory(prefix="slicing.") as folder:
        path = write_scene(Path(folder) / "scene.png", arguments.side)
        least, windows = checked(model, path)
        runs: dict[str, Callable[[int], object]] = {
            "sahi, one by one": lambda _: by_slices(model, path, batch=1),
            "sahi, 32 together": lambda _: by_slices(model, path, batch=32),
            "lrsclip": lambda _: ours(model, path),
        }
        pixels = np.zeros((windows, 3, model.spec.image_size, model.spec.image_size), np.float32)
        runs["encoder alone"] = lambda _: [
            model.embed_pixels(pixels[i : i + 32]) for i in range(0, windows, 32)
        ]
        seconds = interleaved_seconds(runs, rounds=arguments.rounds)
    rows = [BenchRow.of("scene to maps", name, times, batch=windows) for name, times in seconds.items()]
    for row in rows:
        print(f"{row.contender:18} {row.p50_ms / 1000:8.2f} s   {row.per_second:8.1f} windows/s")
    settings = {
        "model": model.spec.name,
        "precision": model.precision,
        "backend": model.backend,
        "side": arguments.side,
        "windows": windows,
        "texts": len(TEXTS),
        "rounds": arguments.rounds,
        "sahi": version("sahi"),
    }
    results: list[Any] = [{"what": "least cosine of a window", "found": least}, *rows]
    record = make_record("slicing", threads=arguments.threads, settings=settings, results=results)
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def write_scene(path: Path, side: int) -> Path:
    """Rendered tiles beside each other, cut to a square."""
    tiles = [render_tile(name, TEST_SEEDS[i], size=TILE).pixels for i, name in enumerate(CLASSES)]
    across = -(-side // TILE)
    rows = [
        np.concatenate([tiles[(row * 7 + col) % len(tiles)] for col in range(across)], axis=1)
        for row in range(across)
    ]
    Image.fromarray(np.concatenate(rows)[:side, :side]).save(path)
    return path


def slices(path: Path) -> tuple[list[NDArray[np.uint8]], list[tuple[int, int]]]:
    """sahi's slices of a file, and their upper left corners as column and row."""
    from sahi.slicing import slice_image

    options: dict[str, Any] = {"overlap_height_ratio": 0.0, "overlap_width_ratio": 0.0}
    cut = slice_image(str(path), slice_height=TILE, slice_width=TILE, **options)
    return list(cut.images), [(int(x), int(y)) for x, y in cut.starting_pixels]


def by_slices(model: Embedder, path: Path, *, batch: int) -> NDArray[np.float32]:
    """Maps of the scene's size, ``(T, H, W)``: each slice's score in its place."""
    images, corners = slices(path)
    texts = model.embed_texts(TEXTS)
    parts = [model.embed_images(images[i : i + batch]) for i in range(0, len(images), batch)]
    scores = np.concatenate(parts) @ texts.T
    height = max(y for _, y in corners) + TILE
    width = max(x for x, _ in corners) + TILE
    total = np.zeros((len(TEXTS), height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    for (x, y), row in zip(corners, scores, strict=True):
        total[:, y : y + TILE, x : x + TILE] += row[:, None, None]
        count[y : y + TILE, x : x + TILE] += 1
    maps: NDArray[np.float32] = total / count
    return maps


def ours(model: Embedder, path: Path) -> Localization:
    """The coarse windows of the fast mode and no finer ones."""
    with open_scene(path) as scene:
        return localize_scene(model, scene, TEXTS, fast=FastOptions(refine=0.0))


def checked(model: Embedder, path: Path) -> tuple[float, int]:
    """The least cosine of a window by both ways, and how many there are."""
    images, corners = slices(path)
    theirs = dict(zip(corners, model.embed_images(images), strict=True))
    embedding = ours(model, path).embedding
    places = [(window.col_off, window.row_off) for window in embedding.windows]
    mine = dict(zip(places, embedding.embeddings, strict=True))
    if mine.keys() != theirs.keys():
        sys.exit(f"sahi has {len(theirs)} windows, ours are {len(mine)}; nothing was timed")
    least = min(float(mine[corner] @ theirs[corner]) for corner in mine)
    if least < LEAST_COSINE:
        sys.exit(f"a window has cosine {least:.5f} by both ways, expected {LEAST_COSINE}; nothing was timed")
    return least, len(mine)


if __name__ == "__main__":
    main()
