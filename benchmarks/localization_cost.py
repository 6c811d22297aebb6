"""What does localization cost beside the encoder, and how much is that less than the plain way?

    python benchmarks/localization_cost.py                                  # the built-in model, 2000 px
    python benchmarks/localization_cost.py -b BUNDLE --size 10000x10000 --size 18000x36000 --record

Scenes are generated: rows x columns of rendered tiles in a tiled GeoTIFF. For each size and mode:

- the whole call, and the encoder alone on the same windows as arrays that the model takes;
- scoring, fusing and finding regions of a further text;
- the resident memory of a process that does nothing else.

The plain way stands beside it in selo mode, as published: crop every window and save it as a JPEG, embed the
files, then add each score to every pixel of its window and divide pixel by pixel. It is left out above
``--plain-limit`` windows. Its division is timed on some rows and scaled; on these rows its map is compared
with ours, which must agree. Prints a table, then the record.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.localization import Localization, localize_scene
from lrsclip_rt.localization.asking import ask
from lrsclip_rt.localization.cubic import resize_cubic
from lrsclip_rt.localization.pipeline import localize_embedding
from lrsclip_rt.localization.windows import SELO_INPUT_SIZE
from lrsclip_rt.raster import Scene, open_scene
from lrsclip_rt.raster_gdal import gdal_environment, import_rasterio
from lrsclip_rt.rendering import CLASSES, render_tile
from lrsclip_rt.tiles import Window

RESULTS = Path(__file__).resolve().parent / "results"
TILE = 256
TEXTS = ["a harbour with ships", "white storage tanks beside a road"]
FURTHER = ["a river with a bridge", "a dense residential area", "a forest", "an airport with a long runway"]
LOOP_ROWS = 64
"""Rows of the plain pixel loop that are timed."""

MEMORY = """
import resource, sys
import lrsclip_rt as lrs
from pathlib import Path
bundle = None if sys.argv[2] == "-" else Path(sys.argv[2])
model = lrs.load(bundle, backend=sys.argv[4], precision=None if sys.argv[5] == "-" else sys.argv[5])
lrs.localize(model, sys.argv[1], ["a harbour with ships"], mode=sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@dataclass(frozen=True)
class Plain:
    """What the plain way took [s].

    Attributes:
        crop: Cropping and saving the windows.
        encode: Reading them again and embedding.
        fuse: Adding up and dividing, pixel by pixel.
        worst: Largest difference of its map from ours, where it was computed.
    """

    crop: float
    encode: float
    fuse: float
    worst: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-b", "--bundle", type=Path, help="default: the built-in bundle")
    parser.add_argument("--precision", help="default: the bundle's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--size", action="append", help="HEIGHTxWIDTH [px], repeats; default: 2000x2000")
    parser.add_argument("--plain-limit", type=int, default=5000, help="windows of the plain way at most")
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sizes = [sides_from_text(text) for text in arguments.size or ["2000x2000"]]

    model = load(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    model.embed_images([np.zeros((TILE, TILE, 3), np.uint8)] * 32)  # first runs are slower
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for height, width in sizes:
            path = write_scene(Path(scratch) / f"{height}x{width}.tif", height, width)
            for mode in ("fast", "selo"):
                rows.append(measured(model, path, mode, arguments, Path(scratch)))
                print_row(rows[-1])
    record = make_record(
        "localization_cost",
        threads=arguments.threads or available_cpus(),
        settings={
            "model": model.spec.name,
            "identity": model.identity,
            "precision": model.precision,
            "backend": model.backend,
            "texts": len(TEXTS),
            "plain_limit": arguments.plain_limit,
        },
        results=rows,
    )
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def sides_from_text(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def write_scene(path: Path, height: int, width: int) -> Path:
    """A tiled GeoTIFF laid out from rendered tiles, a few hundred different ones."""
    rasterio = import_rasterio()
    tiles = [render_tile(name, seed, size=TILE).pixels for name in CLASSES for seed in range(8)]
    across = -(-width // TILE)
    profile = {
        "driver": "GTiff",
        "count": 3,
        "dtype": "uint8",
        "height": height,
        "width": width,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "compress": "jpeg",
        "photometric": "ycbcr",
        "crs": "EPSG:32650",
        "transform": rasterio.Affine(0.5, 0, 500000, 0, -0.5, 4000000),
    }
    with gdal_environment(), rasterio.open(path, "w", **profile) as target:
        for index, top in enumerate(range(0, height, TILE)):
            numbers = [(index * across * 7 + col * 11) % len(tiles) for col in range(across)]
            strip = np.concatenate([tiles[number] for number in numbers], axis=1)[: height - top, :width]
            bottom = top + len(strip)
            target.write(strip.transpose(2, 0, 1), window=((top, bottom), (0, width)))
    return path


def measured(
    model: Embedder, path: Path, mode: str, arguments: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    """One scene in one mode."""
    with open_scene(path) as scene:
        start = time.perf_counter()
        found = localize_scene(model, scene, TEXTS, mode=mode)
        whole = time.perf_counter() - start
        encoder = encoder_seconds(model, scene, found)
        further = further_ms(model, scene, found, mode)
        plain = None
        if mode == "selo" and len(found.embedding) <= arguments.plain_limit:
            plain = plain_way(model, scene, found, scratch)
        sides = [scene.height, scene.width]
    row: dict[str, Any] = {
        "size": sides,
        "mode": mode,
        "windows": len(found.embedding),
        "whole_s": whole,
        "encoder_s": encoder,
        "rest_share": (whole - encoder) / whole,
        "further_text_ms": further,
        "memory_mib": memory_mib(path, mode, arguments),
    }
    if plain is not None:
        rest = plain.crop + plain.fuse
        row["plain"] = {
            "crop_s": plain.crop,
            "encode_s": plain.encode,
            "fuse_s": plain.fuse,
            "fuse_rows_timed": LOOP_ROWS,
            "rest_ratio": rest / max(whole - encoder, 1e-9),
            "worst_difference": plain.worst,
        }
    return row


def encoder_seconds(model: Embedder, scene: Scene, found: Localization) -> float:
    """The encoder alone: arrays of its own input size, as many as the call embedded."""
    size = model.spec.image_size
    batch = np.zeros((32, 3, size, size), np.float32)
    count = len(found.embedding)
    start = time.perf_counter()
    for first in range(0, count, 32):
        model.embed_pixels(batch[: min(32, count - first)])
    return time.perf_counter() - start


def further_ms(model: Embedder, scene: Scene, found: Localization, mode: str) -> float:
    """Median time of one more text on what is embedded, its text tower left out [ms]."""
    asked = [ask(model, [text], templates=mode != "selo") for text in FURTHER]
    return 1000 * statistics.median(
        seconds(lambda: localize_embedding(found.embedding, scene, [text], one))  # noqa: B023
        for text, one in zip(FURTHER, asked, strict=True)
    )


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def plain_way(model: Embedder, scene: Scene, found: Localization, scratch: Path) -> Plain:
    """Crop, save, read, embed, then loop over pixels, for one text."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    windows = found.embedding.windows
    start = time.perf_counter()
    files = [saved_crop(scene, window, folder / f"{n}.jpg") for n, window in enumerate(windows)]
    cropped = time.perf_counter()
    rows = np.concatenate(
        [model.embed_images(files[first : first + 32]) for first in range(0, len(files), 32)]
    )
    encoded = time.perf_counter()
    scores = found.embedding.scores(model.embed_texts(TEXTS[:1]))[:, 0]
    total, count = np.zeros((scene.height, scene.width)), np.zeros((scene.height, scene.width))
    summing = time.perf_counter()
    for window, score in zip(windows, scores, strict=True):
        area = np.s_[
            window.row_off : window.row_off + window.height, window.col_off : window.col_off + window.width
        ]
        total[area] += score
        count[area] += 1
    summed = time.perf_counter() - summing
    timed = min(LOOP_ROWS, scene.height)
    looping = time.perf_counter()
    means = divided_by_pixels(total, count, timed)
    looped = (time.perf_counter() - looping) * scene.height / timed
    assert found.cells is not None
    assert len(rows) == len(windows)
    ours = found.cells.at_pixels(0, np.arange(timed), np.arange(scene.width))
    worst = float(np.abs(means - ours).max())
    if worst > 1e-6:
        raise SystemExit(f"the maps of both ways differ by {worst:g}; expected the same")
    return Plain(
        crop=cropped - start,
        encode=encoded - cropped,
        fuse=summed + looped,
        worst=worst,
    )


def saved_crop(scene: Scene, window: Window, path: Path) -> Path:
    pixels = resize_cubic(scene.read(window, fill=False), SELO_INPUT_SIZE, SELO_INPUT_SIZE)
    Image.fromarray(pixels).save(path, quality=95)
    return path


def divided_by_pixels(
    total: NDArray[np.float64], count: NDArray[np.float64], rows: int
) -> NDArray[np.float64]:
    """The division as published: one pixel after the other."""
    means = np.zeros((rows, total.shape[1]))
    for row in range(rows):
        for col in range(total.shape[1]):
            means[row, col] = total[row, col] / count[row, col]
    return means


def memory_mib(path: Path, mode: str, arguments: argparse.Namespace) -> float:
    """Peak resident memory of a process of its own."""
    command: Sequence[str] = [
        sys.executable,
        "-c",
        MEMORY,
        str(path),
        str(arguments.bundle or "-"),
        mode,
        arguments.backend,
        arguments.precision or "-",
    ]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_row(row: dict[str, Any]) -> None:
    height, width = row["size"]
    print(
        f"{height:6} x {width:<6} {row['mode']:5} {row['windows']:6} windows  whole {row['whole_s']:8.2f} s  "
        f"encoder {row['encoder_s']:8.2f} s  rest {100 * row['rest_share']:5.1f} %  "
        f"further text {row['further_text_ms']:6.1f} ms  memory {row['memory_mib']:6.0f} MiB",
        flush=True,
    )
    if "plain" in row:
        plain = row["plain"]
        print(
            f"{'':16} plain crop {plain['crop_s']:.2f} s, encode {plain['encode_s']:.2f} s, "
            f"fuse {plain['fuse_s']:.2f} s: {plain['rest_ratio']:.1f}x the rest of ours",
            flush=True,
        )


if __name__ == "__main__":
    main()
