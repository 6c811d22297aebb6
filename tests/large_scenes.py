"""Scenes for tests: large georeferenced ones, made strip by strip and small on disk, and a patchwork."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, render_tile

CELL = 250
TRANSFORM = (0.5, 0.0, 398_000.0, 0.0, -0.5, 5_790_000.0)
CRS = "EPSG:32633"


def write_cog(path: Path, *, height: int, width: int) -> Path:
    """An RGB COG of rendered tiles: JPEG in blocks of 512 px, with overviews, 0.5 m in UTM zone 33."""
    import rasterio
    import rasterio.shutil

    plain = path.with_suffix(".plain.tif")
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 3,
        "dtype": "uint8",
    }
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    profile |= {"photometric": "RGB", "crs": CRS, "transform": rasterio.Affine(*TRANSFORM)}
    strips = [_strip(width, row) for row in range(2)]
    with rasterio.open(plain, "w", **profile) as dataset:
        for number, top in enumerate(range(0, height, CELL)):
            rows = min(CELL, height - top)
            window = rasterio.windows.Window(0, top, width, rows)
            dataset.write(strips[number % len(strips)][:, :rows], window=window)
    rasterio.shutil.copy(
        plain, path, driver="COG", compress="JPEG", quality=75, blocksize=512, overview_resampling="nearest"
    )
    plain.unlink()
    return path


def _strip(width: int, row: int) -> NDArray[np.uint8]:
    """(3, CELL, width): rendered tiles of some classes, again and again."""
    tiles = [render_tile(name, TEST_SEEDS[0] + row, size=CELL).pixels for name in CLASSES[row::6]]
    once = np.concatenate(tiles, axis=1)
    return np.ascontiguousarray(
        np.tile(once, (1, -(-width // once.shape[1]), 1))[:, :width].transpose(2, 0, 1)
    )


def patchwork(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Fields of 64 px in all colours."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 64), -(-width // 64), 3), dtype=np.uint8)
    return np.repeat(np.repeat(blocks, 64, axis=0), 64, axis=1)[:height, :width]
