"""Recipes for the training samples: real pairs, rendered tiles and scenes, mosaics of real pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lrsclip_rt.errors import InputError
from lrsclip_train.augment import augment
from lrsclip_train.features import Sample, View
from lrsclip_train.mosaics import LAYOUTS, make_mosaic

__all__ = ["Pair", "mosaic_views", "read_pairs", "real_views", "rendered_views"]

_MOSAIC_CELL = 150


@dataclass(frozen=True, slots=True)
class Pair:
    """A real image and its captions.

    Attributes:
        path: Image file.
        key: Path relative to the data set.
        category: Class name, or empty.
        shorts: Distinct short captions.
        long: Long caption, or empty.
    """

    path: Path
    key: str
    category: str
    shorts: tuple[str, ...]
    long: str


def read_pairs(folder: Path, split: str) -> tuple[Pair, ...]:
    """Read the pairs of one split from ``folder/pairs.jsonl``.

    Raises:
        InputError: If the file is missing or a line lacks a field.
    """
    listing = folder / "pairs.jsonl"
    if not listing.is_file():
        raise InputError(f"{folder} has no pairs.jsonl; expected lines with image, split, short and long")
    pairs = []
    with listing.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if row["split"] == split:
                    shorts = tuple(dict.fromkeys(row["short"]))
                    key = row["image"]
                    pairs.append(Pair(folder / key, key, row.get("class", ""), shorts, row.get("long", "")))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{listing}, line {number}: cannot be read ({error!r})") from error
    return tuple(pairs)


def real_views(pairs: Sequence[Pair], *, views: int, size: int, seed: int) -> Iterator[Callable[[], View]]:
    """The plain centre crop of each image and ``views - 1`` augmented ones."""

    def recipe(index: int, pair: Pair) -> View:
        rng = np.random.default_rng((seed, index))
        with Image.open(pair.path) as opened:
            image = opened.convert("RGB")
        images = [plain_view(image, size)]
        images += [augment(image, rng, size=size) for _ in range(views - 1)]
        return View(Sample(pair.key, "aid", pair.category, pair.shorts, pair.long), tuple(images))

    for index, pair in enumerate(pairs):
        yield lambda index=index, pair=pair: recipe(index, pair)  # type: ignore[misc]


def rendered_views(seeds: Sequence[int], *, size: int) -> Iterator[Callable[[], View]]:
    """One rendered tile for each seed, its class taken in turn."""
    from lrsclip_rt.rendering import CLASSES, render_tile

    def recipe(seed: int) -> View:
        name = CLASSES[seed % len(CLASSES)]
        scene = render_tile(name, seed, size=size)
        sample = Sample(f"tile-{name}-{seed}", "tile", name, (scene.short,), scene.long)
        return View(sample, (Image.fromarray(scene.pixels),))

    for seed in seeds:
        yield lambda seed=seed: recipe(seed)  # type: ignore[misc]


def mosaic_views(pairs: Sequence[Pair], count: int, *, size: int, seed: int) -> Iterator[Callable[[], View]]:
    """Mosaics of randomly chosen pairs; their long text describes each cell, they have no short one."""

    def recipe(index: int) -> View:
        rng = np.random.default_rng((seed, 1, index))
        rows, cols = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
        members = rng.choice(len(pairs), rows * cols, replace=False)
        images, captions = [], []
        for member in members:
            with Image.open(pairs[member].path) as opened:
                image = opened.convert("RGB")
            images.append(image)
            captions.append(pairs[member].shorts[int(rng.integers(len(pairs[member].shorts)))])
        mosaic = make_mosaic(images, captions, [int(m) for m in members], rows, cols, cell=_MOSAIC_CELL)
        picture = Image.fromarray(mosaic.pixels).resize((size, size), Image.Resampling.BICUBIC)
        return View(Sample(f"mosaic-{index}", "mosaic", "", (), mosaic.text), (picture,))

    for index in range(count):
        yield lambda index=index: recipe(index)  # type: ignore[misc]


def plain_view(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to ``size``, centre crop, as the runtime does."""
    scale = size / min(image.size)
    width, height = max(size, int(image.width * scale)), max(size, int(image.height * scale))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
