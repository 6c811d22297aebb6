"""Folders of small rendered tiles, as a person would pass them for a calibration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from lrsclip_rt.rendering import CLASSES, render_tile

FIRST_SEED = 3_000_100
LONG = " ".join(f"house number {n} has a red roof" for n in range(14))


def write_tiles(folder: Path, count: int = 70) -> Path:
    """``count`` distinct tiles of 40 px: one of each class, turned and mirrored."""
    tiles = [render_tile(name, FIRST_SEED, size=40).pixels for name in CLASSES]
    for index in range(count):
        tile, turn = tiles[index % len(tiles)], index // len(tiles)
        turned = np.rot90(tile if turn < 4 else tile[:, ::-1], turn % 4)
        Image.fromarray(np.ascontiguousarray(turned)).save(folder / f"{index:03}.png")
    return folder


def write_pairs(tiles: Path, folder: Path, **changes: object) -> Path:
    """The tiles as a data set; the first five are of another split."""
    shutil.copytree(tiles, folder / "images")
    lines = []
    for index, path in enumerate(sorted((folder / "images").iterdir())):
        line = {"image": f"images/{path.name}", "short": [f"caption {index}"], "long": f"{index}: {LONG}"}
        lines.append({**line, "split": "val" if index < 5 else "train", **changes})
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder
