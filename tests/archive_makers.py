"""Archives of random unit rows, made through the writer alone; run as a script, a writer that can be killed.

``python archive_makers.py FOLDER SOURCES`` writes sources one by one and prints the rows of the archive
after every commit. Rows depend on the source and the tile only, so whoever reads the archive knows what
they must be.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive, ArchiveWriter, ContentRecord, Location, ModelRecord, NewTile, Producer
from lrsclip_rt.tiles import Window, tile_grid

DIM = 16
MODEL = ModelRecord("ab" * 32, "made", DIM)
FP32 = Producer("fp32", "onnxruntime")


def unit_rows(count: int, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def content(number: int, **changes: object) -> ContentRecord:
    values: dict[str, object] = {"width": 640, "height": 448, **changes}
    return ContentRecord(hashlib.sha256(str(number).encode()).hexdigest(), 1000 + number, **values)  # type: ignore[arg-type]


def grid(number: int, *, step_deg: float = 0.01, time_us: int | None = 0) -> list[NewTile]:
    """Six tiles of 256 px, each with a box and a square footprint, near longitude ``number``."""
    tiles = []
    for window in tile_grid(448, 640, size=256, overlap=0.25):
        west, north = number + window.col_off * step_deg / 256, -window.row_off * step_deg / 256
        bbox = (west, north - step_deg, west + step_deg, north)
        tiles.append(NewTile(256, window, bbox, (square(bbox),), time_us, 0.0))
    return tiles


def square(bbox: tuple[float, float, float, float]) -> tuple[tuple[float, float], ...]:
    west, south, east, north = bbox
    return (west, south), (east, south), (east, north), (west, north), (west, south)


def whole(width: int = 640, height: int = 448) -> NewTile:
    return NewTile(0, Window(0, 0, width, height))


def write(path: Path, sources: range = range(3), **options: int) -> Path:
    """An archive of ``sources`` with six rows each, committed one by one."""
    with ArchiveWriter(path, MODEL, FP32, **options) as writer:
        for number in sources:
            add(writer, number)
            writer.commit()
    return path


def add(writer: ArchiveWriter, number: int) -> int:
    source = writer.add_source(content(number))
    writer.add_location(source, Location("/data/scenes", f"{number:03d}.tif", 5))
    tiles, rows = grid(number), unit_rows(6, number)
    for start in range(0, 6, 2):
        writer.append(source, tiles[start : start + 2], rows[start : start + 2])
    writer.finish_grid(source, level=256, overlap=0.25, windows=6, skipped=0)
    return source


def contents(archive: Archive) -> dict[str, bytes]:
    """The float16 row of every tile id; every living row has a tile and no dead one has."""
    tiles = archive.catalog.tiles(range(sum(s.rows for s in archive.segments)), archive.segments)
    assert len(tiles) == len(archive)
    rows = archive.vectors(list(tiles.values())).astype(np.float16)
    found = {tile.id: row.tobytes() for tile, row in zip(tiles.values(), rows, strict=True)}
    assert len(found) == len(tiles), "no tile is there twice"
    return found


def expected_contents(sources: range) -> dict[str, bytes]:
    from lrsclip_rt.archive import tile_id

    expected = {}
    for number in sources:
        for tile, row in zip(grid(number), unit_rows(6, number), strict=True):
            identifier = tile_id(content(number).content_sha256, tile.level, tile.window)
            expected[identifier] = row.astype(np.float16).tobytes()
    return expected


def main() -> None:
    folder, sources = Path(sys.argv[1]), int(sys.argv[2])
    with ArchiveWriter(folder, MODEL, FP32, segment_rows=50, block_rows=8) as writer:
        for number in range(sources):
            add(writer, number)
            if number % 3 == 2 or number == sources - 1:
                print(writer.commit(), flush=True)


if __name__ == "__main__":
    main()
