"""How much of the encoder's own throughput does indexing reach?

    python benchmarks/indexing.py                                # rendered tiles, the built-in model
    python benchmarks/indexing.py --data ../shared/data/aid_rsicd --rounds 5 --record

Two inputs: a tiled GeoTIFF, cut into tiles of 256 px with overlap 0.25, and a folder of small JPEG files.
"encoder" embeds the same windows from memory, already decoded: resize, normalise, model. "index" is
``index_sources`` on the files: hash, read, decode, embed, write, commit; each round into a new archive.
"model alone" is the image tower on preprocessed pixels, for orientation. First the rows of an archive are
held against embeddings of the windows, then all take turns. Ratios are of medians. Peak memory is that of a
process that does nothing but index the input once.

``--data`` takes the pictures of a folder with pairs.jsonl; otherwise tiles are rendered. Prints a table, then
the record; ``--record`` also appends it to benchmarks/results/<device>/indexing.jsonl.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.benchmarking import BenchRow, append_record, interleaved_seconds, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.pixels import pixels_from_array
from lrsclip_rt.raster import open_scene
from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, render_tile
from lrsclip_rt.tiles import tile_grid

RESULTS = Path(__file__).resolve().parent / "results"
TILE, OVERLAP = 256, 0.25
CELL = 250
"""Edge of a picture within the scene [px]."""
TARGET = 0.9
COSINE_TOLERANCE = 1e-3
# Linux counts the parent's memory of the time of the fork into ru_maxrss, but not into VmHWM.
INDEX_ALONE = """
import sys
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.embedder import load
bundle, precision, backend, threads, source, archive = sys.argv[1:]
threads = int(threads) if threads else None
model = load(bundle or None, precision=precision or None, backend=backend, threads=threads)
index_sources(archive, [source], model)
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024)
"""
SETTINGS = ("side", "jpegs", "jpeg_px", "rounds", "seed")


@dataclass(frozen=True)
class Case:
    """An input and the windows that it holds.

    Attributes:
        name: For the table.
        source: What is indexed.
        windows: (h, w, 3) uint8 of every row, in the order of the archive.
    """

    name: str
    source: Path
    windows: Sequence[NDArray[np.uint8]]


def pictures(data: Path | None, size: int, seed: int) -> Iterator[Image.Image]:
    """Endless RGB pictures of ``size`` px; of a data set of n pictures only the first n differ."""
    if data is not None:
        pairs = pair_set_from_folder(data)
        items = [pairs.items[i] for i in np.random.default_rng(seed).permutation(len(pairs.items))]
        while True:
            for item in items:
                yield rgb_from_source(pairs.image_path(item)).resize((size, size), Image.Resampling.BICUBIC)
    number = 0
    while True:
        name = CLASSES[number % len(CLASSES)]
        yield Image.fromarray(render_tile(name, TEST_SEEDS[0] + number // len(CLASSES), size=size).pixels)
        number += 1


def write_scene(path: Path, side: int, images: Iterator[Image.Image]) -> None:
    """A tiled, deflated GeoTIFF of ``side`` px, written in strips."""
    import rasterio

    profile: dict[str, Any] = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    profile |= {"photometric": "RGB", "crs": "EPSG:32650"}
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
    with rasterio.open(path, "w", transform=transform, **profile) as dataset:
        for top in range(0, side, CELL):
            strip = np.concatenate([np.asarray(image) for image in islice(images, -(-side // CELL))], axis=1)
            part = strip[: min(CELL, side - top), :side].transpose(2, 0, 1)
            window = rasterio.windows.Window(0, top, side, part.shape[1])
            dataset.write(part, window=window)


def scene_case(folder: Path, arguments: argparse.Namespace) -> Case:
    path = folder / "scene.tif"
    write_scene(path, arguments.side, pictures(arguments.data, CELL, arguments.seed))
    grid = tile_grid(arguments.side, arguments.side, size=TILE, overlap=OVERLAP)
    with open_scene(path) as scene:
        windows = [scene.read(window) for window in grid]
    return Case(f"GeoTIFF {arguments.side} px", path, windows)


def jpeg_case(folder: Path, arguments: argparse.Namespace) -> Case:
    target = folder / "jpegs"
    target.mkdir()
    images = pictures(arguments.data, arguments.jpeg_px, arguments.seed)
    for number, image in enumerate(islice(images, arguments.jpegs)):
        # A comment of its own makes each file another content, also where the pictures repeat.
        image.save(target / f"{number:06}.jpg", quality=90, comment=f"{number}".encode())
    windows = [np.asarray(rgb_from_source(path)) for path in sorted(target.iterdir())]
    return Case(f"JPEG files of {arguments.jpeg_px} px", target, windows)


def check_rows(model: Embedder, case: Case, folder: Path) -> float:
    """Index once; the least cosine of the archive's rows with embeddings of the windows."""
    index_sources(folder, [case.source], model)
    expected = model.embed_images(list(case.windows))
    with Archive.open(folder) as archive:
        found = np.concatenate([segment.f16 for segment in archive.mapped_segments]).astype(np.float32)
    if found.shape != expected.shape:
        sys.exit(f"{case.name}: the archive holds {found.shape}, expected {expected.shape}")
    least = float(np.sum(found * expected, axis=1).min())
    if least < 1 - COSINE_TOLERANCE:
        sys.exit(f"{case.name}: a row has cosine {least:.6f} with its window's embedding; nothing was timed")
    return least


def measure(model: Embedder, case: Case, work: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    least = check_rows(model, case, work / "checked")

    def encoder(_: int) -> None:
        for _batch in model.stream_images(enumerate(case.windows)):
            pass

    def index(number: int) -> None:
        folder = work / f"archive{number}"
        report = index_sources(folder, [case.source], model)
        if report.rows != len(case.windows) or report.failures:
            sys.exit(f"{case.name}: indexed {report.rows} of {len(case.windows)} rows, {report.failures}")

    sample = np.stack([pixels_from_array(array, model.spec.pixel_spec) for array in case.windows[:256]])
    contenders = {"encoder": encoder, "index": index, "model alone": lambda _: model.embed_pixels(sample)}
    seconds = interleaved_seconds(contenders, rounds=arguments.rounds, warm_up=1)
    rows = []
    for name, times in seconds.items():
        count = len(sample) if name == "model alone" else len(case.windows)
        row = BenchRow.of(case.name, name, times, batch=count)
        rows.append({**{field: getattr(row, field) for field in BenchRow.__slots__}})
    share = median(seconds["encoder"]) / median(seconds["index"])
    peak = peak_of_indexing(case.source, work / "peak", arguments)
    verdict = {"what": "verdict", "case": case.name, "share_of_encoder": share, "target": TARGET}
    verdict |= {"reached": share >= TARGET, "peak_rss_bytes": peak, "least_cosine": least}
    return [*rows, verdict]


def peak_of_indexing(source: Path, archive: Path, arguments: argparse.Namespace) -> int:
    """Largest resident memory of a process that indexes ``source`` [bytes]."""
    given = (arguments.bundle or "", arguments.precision or "", arguments.backend, arguments.threads or "")
    command = [sys.executable, "-c", INDEX_ALONE, *map(str, given), str(source), str(archive)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-b", "--bundle", type=Path, help="default: the built-in bundle")
    parser.add_argument("--precision", help="default: the bundle's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--data", type=Path, help="folder with pairs.jsonl; default rendered tiles")
    parser.add_argument("--side", type=int, default=10_000, help="of the GeoTIFF [px]")
    parser.add_argument("--jpegs", type=int, default=2_000)
    parser.add_argument("--jpeg-px", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the order of --data")
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    model = load(
        arguments.bundle, backend=arguments.backend, precision=arguments.precision, threads=arguments.threads
    )
    results = []
    with tempfile.TemporaryDirectory(prefix="indexing.") as folder:
        for number, make in enumerate((scene_case, jpeg_case)):
            work = Path(folder) / str(number)
            work.mkdir()
            case = make(work, arguments)
            rows = measure(model, case, work, arguments)
            print_table(case, rows)
            results += rows
            shutil.rmtree(work)
    settings = {
        "model": model.spec.name,
        "identity": model.identity,
        "precision": model.precision,
        "backend": model.backend,
        "pictures": "rendered" if arguments.data is None else arguments.data.resolve().name,
        "tile": TILE,
        "overlap": OVERLAP,
        **{name: getattr(arguments, name) for name in SETTINGS},
    }
    threads = arguments.threads or available_cpus()
    record = make_record("indexing", threads=threads, settings=settings, results=results)
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def print_table(case: Case, rows: Sequence[dict[str, Any]]) -> None:
    verdict = rows[-1]
    print(f"\n{case.name}, {len(case.windows)} rows")
    for row in rows[:-1]:
        print(f"  {row['contender']:12} {row['per_second']:8.1f} /s   p50 {row['p50_ms']:10.1f} ms")
    print(
        f"  index reaches {100 * verdict['share_of_encoder']:.1f} % of the encoder "
        f"(target {100 * TARGET:.0f} %), peak {verdict['peak_rss_bytes'] / 2**20:.0f} MiB, "
        f"least cosine {verdict['least_cosine']:.6f}"
    )


if __name__ == "__main__":
    main()
