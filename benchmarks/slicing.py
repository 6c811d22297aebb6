"""The same windows of one scene by sahi's slices and by our localization: what does the rest cost?

    python benchmarks/slicing.py                   # needs sahi; benchmarks/peers.py makes an environment
    python benchmarks/slicing.py --side 4000 --record

The scene is made of rendered tiles. From its file to a score of every window and text: sahi cuts it into
slices of 256 px without overlap, as its sliced prediction does; each slice goes through the image tower alone
("one by one", its way) or 32 together. Ours embeds the coarse windows of the fast mode and no finer ones,
which are the same. Model, precision, threads and preprocessing are the same too, and the texts are embedded
before; "encoder alone" has the pixels of all windows at hand. To maps: ours again, with what sahi has not:
texts in their templates, the background, presence, one smooth map a text, its peak and regions.

The scores of both ways are compared first. Prints a table, then the record.
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
from lrsclip_rt.localization.fast_embedding import embed_pyramid
from lrsclip_rt.raster import open_scene
from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, render_tile

RESULTS = Path(__file__).resolve().parent / "results"
TILE, BATCH = 256, 32
SCORES, MAPS = "scene to scores", "scene to maps"
TEXTS = ["a harbour with ships", "white storage tanks beside a road"]
COARSE = FastOptions(scales=(TILE,), refine=0.0)
MOST_DIFFERENCE = 1e-4
"""Of two scores of the same window: the pixels are equal, and sums of other batches differ by rounding."""

Corner = tuple[int, int]
"""Column and row of a window's upper left pixel."""


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
        text_cache=0,  # maps are made from texts, not from remembered ones
    )
    texts = model.embed_texts(TEXTS)
    with tempfile.TemporaryDirectory(prefix="slicing.") as folder:
        path = write_scene(Path(folder) / "scene.png", arguments.side)
        difference, windows = checked(model, path, texts)
        pixels = np.zeros((windows, 3, model.spec.image_size, model.spec.image_size), np.float32)
        runs: dict[tuple[str, str], Callable[[int], object]] = {
            (SCORES, "sahi, one by one"): lambda _: by_slices(model, path, texts, batch=1),
            (SCORES, "sahi, 32 together"): lambda _: by_slices(model, path, texts, batch=BATCH),
            (SCORES, "lrsclip"): lambda _: by_windows(model, path, texts),
            (SCORES, "encoder alone"): lambda _: [
                model.embed_pixels(pixels[i : i + BATCH]) for i in range(0, windows, BATCH)
            ],
            (MAPS, "lrsclip"): lambda _: maps(model, path),
        }
        named = {f"{what}: {who}": run for (what, who), run in runs.items()}
        seconds = interleaved_seconds(named, rounds=arguments.rounds)
    rows = [
        BenchRow.of(what, who, times, batch=windows)
        for (what, who), times in zip(runs, seconds.values(), strict=True)
    ]
    for row in rows:
        print(
            f"{row.what:15} {row.contender:18} {row.p50_ms / 1000:8.2f} s   {row.per_second:8.1f} windows/s"
        )
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
    results: list[Any] = [{"what": "largest difference of a score", "found": difference}, *rows]
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


def slices(path: Path) -> tuple[list[NDArray[np.uint8]], list[Corner]]:
    """sahi's slices of a file, and their corners."""
    from sahi.slicing import slice_image

    options: dict[str, Any] = {"overlap_height_ratio": 0.0, "overlap_width_ratio": 0.0}
    cut = slice_image(str(path), slice_height=TILE, slice_width=TILE, **options)
    return list(cut.images), [(int(x), int(y)) for x, y in cut.starting_pixels]


def by_slices(
    model: Embedder, path: Path, texts: NDArray[np.float32], *, batch: int
) -> dict[Corner, NDArray[np.float32]]:
    """The (T,) scores of every slice."""
    images, corners = slices(path)
    parts = [model.embed_images(images[i : i + batch]) for i in range(0, len(images), batch)]
    return dict(zip(corners, np.concatenate(parts) @ texts.T, strict=True))


def by_windows(model: Embedder, path: Path, texts: NDArray[np.float32]) -> dict[Corner, NDArray[np.float32]]:
    """The (T,) scores of every coarse window."""
    with open_scene(path) as scene:
        embedding = embed_pyramid(model, scene, texts, options=COARSE, batch_size=BATCH)
    corners = [(window.col_off, window.row_off) for window in embedding.windows]
    return dict(zip(corners, embedding.scores(texts), strict=True))


def maps(model: Embedder, path: Path) -> Localization:
    """The maps and regions that the coarse windows give."""
    with open_scene(path) as scene:
        return localize_scene(model, scene, TEXTS, fast=COARSE, batch_size=BATCH)


def checked(model: Embedder, path: Path, texts: NDArray[np.float32]) -> tuple[float, int]:
    """The largest difference between the scores of both ways, and how many windows there are."""
    theirs, mine = by_slices(model, path, texts, batch=BATCH), by_windows(model, path, texts)
    if mine.keys() != theirs.keys():
        sys.exit(f"sahi has {len(theirs)} windows, ours are {len(mine)}; nothing was timed")
    if len(maps(model, path).embedding) != len(mine):
        sys.exit(f"the maps are of other windows than the {len(mine)} scores; nothing was timed")
    most = max(float(np.abs(mine[corner] - theirs[corner]).max()) for corner in mine)
    if most > MOST_DIFFERENCE:
        sys.exit(f"scores differ by {most:.5f}, expected {MOST_DIFFERENCE} at most; nothing was timed")
    return most, len(mine)


if __name__ == "__main__":
    main()
