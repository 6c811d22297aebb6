"""The files that README and docs speak of, small and rendered: images, scenes, data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, render_scene, render_tile

PLACE = [[3.0, 50.0], [8.0, 50.0], [8.0, 54.0], [3.0, 54.0], [3.0, 50.0]]
"""Holds every scene."""
SCENES = ("scene.tif", "harbour.tif", "scenes/a.tif", "scenes/b.tif", "scenes/2019/old.tif")
FOLDERS = ("images", "incoming", "big", "my_images")

RUN = """
run = "runs/harbours"
steps = 1
batch = 8

[model]
architecture = "mini"

[data]
train = ["data/pairs"]
workers = 0
"""


def fill(folder: Path) -> None:
    """Write everything but bundles and archives below ``folder``."""
    for number, name in enumerate(FOLDERS):
        _write_images(folder / name, first=4 * number)
    for number, name in enumerate(SCENES):
        write_scene(folder / name, seed=number)
    (folder / "field.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [PLACE]}))
    _write_item(folder / "catalog.json")
    for name in ("aid_rsicd", "pairs"):
        _write_pairs(folder / "data" / name)
    for name in ("rsscn7_dev", "labelled"):
        _write_labelled(folder / "data" / name)
    _write_annotated(folder / "data" / "scenes")
    (folder / "run.toml").write_text(RUN)


def write_scene(path: Path, *, seed: int) -> None:
    """A rendered scene of 512 x 384 px with a place in UTM."""
    rasterio = pytest.importorskip("rasterio", reason="GeoTIFFs are written with rasterio")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = render_scene(
        TEST_SEEDS[100 + seed], height=384, width=512, classes=["harbour", "storage_tanks"]
    ).pixels
    place = rasterio.Affine(0.5, 0, 600_000 + 1_000 * seed, 0, -0.5, 5_760_000)
    profile = {"driver": "GTiff", "count": 3, "height": 384, "width": 512, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32631", transform=place, **profile) as scene:
        scene.write(pixels.transpose(2, 0, 1))


def _tile(index: int, size: int = 128) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = render_tile(
        CLASSES[index % len(CLASSES)], TEST_SEEDS[index], size=size
    ).pixels
    return pixels


def _write_images(folder: Path, *, first: int) -> None:
    folder.mkdir(parents=True)
    for index, letter in enumerate("abcd"):
        Image.fromarray(_tile(first + index)).save(folder / f"{letter}.jpg", quality=90)


def _write_item(path: Path) -> None:
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "one",
        "geometry": None,
        "properties": {"datetime": "2024-05-20T10:00:00Z", "platform": "sentinel-2a", "eo:cloud_cover": 12.5},
        "assets": {"visual": {"href": "./scenes/a.tif", "roles": ["visual"]}},
        "links": [],
    }
    path.write_text(json.dumps(item))


def _write_pairs(folder: Path) -> None:
    """As many training images as a calibration takes, and some of another split with three captions each."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(72):
        tile = render_tile(CLASSES[index % len(CLASSES)], TEST_SEEDS[index], size=96)
        name = f"images/{index:02}.jpg"
        Image.fromarray(tile.pixels).save(folder / name, quality=90)
        short = [tile.short, f"{tile.short} seen from above", f"picture {index} of {tile.short}"]
        line = {"image": name, "class": CLASSES[index % len(CLASSES)], "short": short, "long": tile.long}
        lines.append(json.dumps({**line, "split": "train" if index < 64 else "val"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))


def _write_labelled(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    lines = ["image,label"]
    for index in range(8):
        Image.fromarray(_tile(240 + index, 96)).save(folder / f"images/{index}.jpg")
        lines.append(f"images/{index}.jpg,{CLASSES[(240 + index) % len(CLASSES)]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    phrases = {name: name.replace("_", " ") for name in CLASSES}
    classes = {"classes": list(CLASSES), "prompt_phrases": phrases, "templates": ["an aerial image of {}"]}
    (folder / "classes.json").write_text(json.dumps(classes))


def _write_annotated(folder: Path) -> None:
    folder.mkdir(parents=True)
    scene = render_scene(TEST_SEEDS[120], height=320, width=400, classes=["harbour", "storage_tanks"])
    Image.fromarray(scene.pixels).save(folder / "harbour.png")
    outline = [[40, 40], [200, 40], [200, 180], [40, 180]]
    entry = {"caption": "a harbour with many ships", "jpg_name": "harbour.png", "points": [outline]}
    (folder / "anno.json").write_text(json.dumps([entry]))
