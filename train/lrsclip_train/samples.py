"""Recipes for the training samples: real pairs, rendered tiles and scenes, mosaics of real pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lrsclip_rt.datasets import CaptionedImage, PairSet
from lrsclip_rt.errors import InputError
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.pixels import cropped_from_image
from lrsclip_train.augment import Augmentation, orientation_bound
from lrsclip_train.features import Sample, View
from lrsclip_train.mosaics import LAYOUTS, make_mosaic

__all__ = ["mosaic_views", "plain_view", "real_views", "scene_views", "tile_views"]

if TYPE_CHECKING:
    from lrsclip_rt.rendering import RenderedScene

_MOSAIC_CELL = 150
_CONTRADICTIONS = 8


def real_views(
    pairs: PairSet,
    *,
    views: int,
    size: int,
    seed: int,
    augmentation: Augmentation,
    keep_upright: bool,
) -> Iterator[Callable[[], View]]:
    """The plain centre crop of each image and ``views - 1`` augmented ones."""

    def recipe(index: int, pair: CaptionedImage) -> View:
        rng = np.random.default_rng((seed, index))
        image = _opened(pairs, pair)
        images = [plain_view(image, size)]
        upright = keep_upright and any(map(orientation_bound, (*pair.short, pair.long or "")))
        images += [augmentation.apply(image, rng, size, upright=upright) for _ in range(views - 1)]
        sample = Sample(pair.image, "real", pair.category, _distinct(pair.short), pair.long or "")
        return View(sample, tuple(images))

    for index, pair in enumerate(pairs.items):
        yield lambda index=index, pair=pair: recipe(index, pair)  # type: ignore[misc]


def tile_views(seeds: Sequence[int], *, size: int) -> Iterator[Callable[[], View]]:
    """One rendered tile for each seed, its class taken in turn."""
    from lrsclip_rt.rendering import CLASSES, render_tile

    def recipe(seed: int) -> View:
        name = CLASSES[seed % len(CLASSES)]
        scene = render_tile(name, seed, size=size)
        sample = Sample(f"tile-{name}-{seed}", "tile", name, (scene.short,), scene.long, _wrong(scene))
        return View(sample, (Image.fromarray(scene.pixels),))

    for seed in seeds:
        yield lambda seed=seed: recipe(seed)  # type: ignore[misc]


def scene_views(seeds: Sequence[int], *, size: int) -> Iterator[Callable[[], View]]:
    """Rendered scenes of several objects, half of them of two to four and half of eight or nine."""
    from lrsclip_rt.rendering import CLASSES, render_scene

    def recipe(seed: int) -> View:
        rng = np.random.default_rng((seed, 4))
        few = rng.random() < 0.5
        classes = [str(name) for name in rng.choice(CLASSES, int(rng.integers(2, 5)), replace=False)]
        edge = 2 * size
        scene = render_scene(seed, height=edge, width=edge, classes=classes if few else None)
        sample = Sample(f"scene-{seed}", "scene", "", (scene.short,), scene.long, _wrong(scene))
        return View(sample, (plain_view(Image.fromarray(scene.pixels), size),))

    for seed in seeds:
        yield lambda seed=seed: recipe(seed)  # type: ignore[misc]


def _wrong(scene: RenderedScene) -> tuple[str, ...]:
    """The scene's description with one detail changed, one text a change."""
    from lrsclip_rt.rendering import contradiction

    return tuple(contradiction(scene, index).text for index in range(_CONTRADICTIONS))


def mosaic_views(pairs: PairSet, count: int, *, size: int, seed: int) -> Iterator[Callable[[], View]]:
    """Mosaics of randomly chosen pairs; their long text describes each cell, they have no short one.

    Raises:
        InputError: If there are fewer pairs than the largest mosaic has cells; when the first is asked for.
    """
    largest = max(rows * cols for rows, cols in LAYOUTS)
    if count and len(pairs) < largest:
        raise InputError(
            f"a mosaic takes up to {largest} images, {pairs.root} has {len(pairs)}; set data.mosaics = 0"
        )

    def recipe(index: int) -> View:
        rng = np.random.default_rng((seed, 1, index))
        rows, cols = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
        members = rng.choice(len(pairs), rows * cols, replace=False)
        images, captions = [], []
        for member in members:
            item = pairs.items[member]
            shorts = _distinct(item.short) or (item.long or "",)
            images.append(_opened(pairs, item))
            captions.append(shorts[int(rng.integers(len(shorts)))])
        mosaic = make_mosaic(images, captions, [int(m) for m in members], rows, cols, cell=_MOSAIC_CELL)
        picture = Image.fromarray(mosaic.pixels).resize((size, size), Image.Resampling.BICUBIC)
        return View(Sample(f"mosaic-{index}", "mosaic", "", (), mosaic.text), (picture,))

    for index in range(count):
        yield lambda index=index: recipe(index)  # type: ignore[misc]


def _distinct(captions: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(captions))


def plain_view(image: Image.Image, size: int) -> Image.Image:
    """What the runtime sees of an RGB image: shorter side to ``size``, centre crop."""
    return Image.fromarray(cropped_from_image(image, size))


def _opened(pairs: PairSet, item: CaptionedImage) -> Image.Image:
    return rgb_from_source(pairs.image_path(item))
