"""What does localization cost beside the encoder, and how much is that less than the plain way?

    python benchmarks/localization_cost.py --data DATA --record             # mini and a ViT-B/16, three sizes
    python benchmarks/localization_cost.py -b mini -b BUNDLE --size 2000x2000

Without ``-b`` the built-in model and a ViT-B/16 of random weights are measured, the latter written anew and
its int8 calibrated on DATA (``pairs.jsonl``; rendered tiles by default). Each runs at the backend and
precision whose image tower was fastest here, of those within their gate. Scenes are generated: rendered tiles
in a tiled GeoTIFF. For each size and mode:

- ``whole_s``: the call as people make it, and ``encoder_s``: its windows as arrays that the model takes,
  timed on some before and after the call and scaled to all;
- ``rest_s``: the same call where the encoder answers at once, so that nothing hides behind its work;
- score and fusion of a further text (``further_text_ms``), and with regions and presence
  (``described_text_ms``), text tower left out;
- the peak of resident memory of a process that does nothing else (Linux). It embeds some windows and answers
  the rest with the same rows.

A call with more windows than ``--embed-limit`` is not made: ``whole_s`` is null there, and ``rest_share`` is
``rest_s`` over the sum of it and ``encoder_s``, which is an upper bound: elsewhere it is the share of the
whole that the encoder does not account for.

Beside selo mode stands the map of the published program, made both ways from an unopened file
(localization_plain.py); both give the same pixels, and the encoders are left out of both. That program starts
anew for every text: ``ratio`` is for three, as its test set asks 59 queries of 22 scenes, 2.7 a scene, and
``ratio_one_text`` for one. It is left out where its sums would not fit, above ``--plain-limit`` pixels.
Prints a table, then the record.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A script finds what lies beside it; the modules of this one are known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.localization_models import LimitedModel, bundle_by_name, fastest
from benchmarks.localization_plain import map_beside_plain
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.localization import Localization, localize_scene
from lrsclip_rt.localization.asking import ask
from lrsclip_rt.localization.fast_embedding import pyramid_fusion
from lrsclip_rt.localization.fusion import cell_means, fusion_grid_shape
from lrsclip_rt.localization.pipeline import localize_embedding
from lrsclip_rt.raster import Scene, open_scene
from lrsclip_rt.raster_gdal import gdal_environment, import_rasterio
from lrsclip_rt.rendering import CLASSES, render_tile

RESULTS = Path(__file__).resolve().parent / "results"
TILE = 256
SIZES = ("2000x2000", "10000x10000", "18000x36000")
TEXTS = ["a harbour with ships", "white storage tanks beside a road"]
FURTHER = ["a river with a bridge", "a dense residential area", "a forest", "an airport with a long runway"]
PUBLISHED_TEXTS = 3
ENCODER_WINDOWS = 256
"""Windows on which the encoder alone is timed, before a call and again after it, at most."""
ENCODER_S = 10.0
"""No more runs of it begin after so long [s]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-b", "--bundle", action="append", help="mini, vit-b-16 or a folder; repeats")
    parser.add_argument("--data", type=Path, help="folder with pairs.jsonl for the int8 of vit-b-16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--size", action="append", help="HEIGHTxWIDTH [px], repeats")
    parser.add_argument("--embed-limit", type=int, default=5000, help="windows of a call that is made")
    parser.add_argument("--plain-limit", type=int, default=10**8, help="pixels of the plain way at most")
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of is not None:
        print_memory(arguments)
        return

    rows: list[dict[str, Any]] = []
    models: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="localization.") as scratch:
        scenes = [scene_from_size(Path(scratch), text) for text in arguments.size or SIZES]
        for name in arguments.bundle or ["mini", "vit-b-16"]:
            bundle = bundle_by_name(name, Path(scratch), arguments.data)
            model = fastest(bundle, threads=arguments.threads)
            models.append(
                {
                    "model": name if bundle is None else model.spec.architecture,
                    "identity": model.identity,
                    "precision": model.precision,
                    "backend": model.backend,
                }
            )
            print(f"{models[-1]['model']} at {model.precision} on {model.backend}", flush=True)
            for path in scenes:
                for mode in ("fast", "selo"):
                    row = {"model": models[-1]["model"], **measured(model, path, mode, arguments)}
                    row["memory_mib"] = memory_mib(bundle, model, path, mode, arguments)
                    rows.append(row)
                    print_row(row)
    record = make_record(
        "localization_cost",
        threads=arguments.threads or available_cpus(),
        settings={
            "models": models,
            "texts": len(TEXTS),
            "embed_limit": arguments.embed_limit,
            "plain_limit": arguments.plain_limit,
            "encoder_windows": 2 * ENCODER_WINDOWS,
        },
        results=rows,
    )
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def scene_from_size(folder: Path, text: str) -> Path:
    height, _, width = text.partition("x")
    return write_scene(folder / f"{text}.tif", int(height), int(width))


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


def measured(model: Embedder, path: Path, mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One scene in one mode."""
    with open_scene(path) as scene:
        left_out = LimitedModel(model, 0)
        ask(left_out, TEXTS, templates=mode != "selo")  # the text tower is an encoder too
        start = time.perf_counter()
        found = localize_scene(left_out, scene, TEXTS, mode=mode)
        rest = time.perf_counter() - start
        whole, before = None, seconds_a_window(model)
        if len(found.embedding) <= arguments.embed_limit:
            start = time.perf_counter()
            found = localize_scene(model, scene, TEXTS, mode=mode)
            whole = time.perf_counter() - start
        encoder = (before + seconds_a_window(model)) / 2 * len(found.embedding)
        row: dict[str, Any] = {
            "size": [scene.height, scene.width],
            "mode": mode,
            "windows": len(found.embedding),
            "whole_s": whole,
            "encoder_s": encoder,
            "rest_s": rest,
            "rest_share": rest / (rest + encoder) if whole is None else (whole - encoder) / whole,
            **further(model, scene, found),
        }
        compared = mode == "selo" and scene.height * scene.width <= arguments.plain_limit
    if compared:
        row["published_map"] = map_beside_plain(model, path, [*TEXTS, *FURTHER][:PUBLISHED_TEXTS])
    return row


def seconds_a_window(model: Embedder) -> float:
    """The encoder alone on arrays of its own input size [s]."""
    size = model.spec.image_size
    batch = np.zeros((32, 3, size, size), np.float32)
    model.embed_pixels(batch)  # first runs are slower
    runs, start = 0, time.perf_counter()
    while runs * len(batch) < ENCODER_WINDOWS and time.perf_counter() - start < ENCODER_S:
        model.embed_pixels(batch)
        runs += 1
    return (time.perf_counter() - start) / (runs * len(batch))


def further(model: Embedder, scene: Scene, found: Localization) -> dict[str, float]:
    """Medians of one more text on what is embedded, its text tower left out [ms]."""
    embedding = found.embedding
    asked = [ask(model, [text], templates=embedding.mode != "selo") for text in FURTHER]
    rows, cols = fusion_grid_shape(scene.height, scene.width)
    sides = {"height": scene.height, "width": scene.width}
    fused: Callable[[NDArray[np.float32]], object]
    if embedding.mode == "selo":

        def fused(row: NDArray[np.float32]) -> object:
            return cell_means(embedding.windows, embedding.scores(row), **sides).on_grid(0, rows, cols)
    else:
        fusion = pyramid_fusion(embedding, rows, cols)  # once a call

        def fused(row: NDArray[np.float32]) -> object:
            return fusion.fuse(embedding.scores(row)[:, 0])

    described = [
        seconds(lambda: localize_embedding(embedding, scene, [text], one))  # noqa: B023
        for text, one in zip(FURTHER, asked, strict=True)
    ]
    plain = [seconds(lambda: fused(one.rows)) for one in asked]  # noqa: B023
    return {
        "further_text_ms": 1000 * statistics.median(plain),
        "described_text_ms": 1000 * statistics.median(described),
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def memory_mib(
    bundle: Path | None, model: Embedder, path: Path, mode: str, arguments: argparse.Namespace
) -> float:
    """Peak resident memory of a process of its own."""
    command = [sys.executable, __file__, "--memory-of", str(path), mode, model.backend, model.precision]
    command += ["-b", "mini" if bundle is None else str(bundle)]
    command += ["--embed-limit", str(min(ENCODER_WINDOWS, arguments.embed_limit))]
    command += [] if arguments.threads is None else ["--threads", str(arguments.threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_memory(arguments: argparse.Namespace) -> None:
    """What that process does."""
    path, mode, backend, precision = arguments.memory_of
    bundle = bundle_by_name(arguments.bundle[0], Path(path).parent, None)
    model = load(bundle, backend=backend, precision=precision, threads=arguments.threads)
    with open_scene(Path(path)) as scene:
        localize_scene(LimitedModel(model, arguments.embed_limit), scene, TEXTS[:1], mode=mode)
    # getrusage would count the process that this one was started from.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)


def print_row(row: dict[str, Any]) -> None:
    height, width = row["size"]
    whole = "not made" if row["whole_s"] is None else f"{row['whole_s']:.2f} s"
    print(
        f"{height:6} x {width:<6} {row['mode']:5} {row['windows']:6} windows  whole {whole:>9}  encoder "
        f"{row['encoder_s']:8.2f} s  rest {row['rest_s']:7.2f} s, {100 * row['rest_share']:5.1f} %  "
        f"further text {row['further_text_ms']:6.1f} ms, described {row['described_text_ms']:6.1f}  memory "
        f"{row['memory_mib']:5.0f} MiB",
        flush=True,
    )
    if "published_map" in row:
        both = row["published_map"]
        parts = ", ".join(f"{part} {value:.2f} s" for part, value in both["plain"].items())
        print(f"{'':16} {PUBLISHED_TEXTS} published maps {both['map_s']:.2f} s; plain, one: {parts}")
        print(f"{'':16} {both['ratio']:.1f}x; one text {both['ratio_one_text']:.1f}x", flush=True)


if __name__ == "__main__":
    main()
