"""From a run's config to its feature caches: ``train`` and ``val``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_train.config import TrainConfig
from lrsclip_train.features import FeatureCache, build_cache, stem_front
from lrsclip_train.model import MINI
from lrsclip_train.samples import mosaic_views, real_views, rendered_views
from lrsclip_train.stem import MobileNetV2Stem, load_mobilenetv2

__all__ = ["prepare"]


def prepare(
    config: TrainConfig, advance: Callable[[str, int], None] = lambda part, n: None
) -> list[FeatureCache]:
    """Open the caches of a run, computing those that are missing.

    Returns:
        Caches of the training pairs, the rendered tiles, the mosaics and the val pairs.
    """
    from lrsclip_rt.rendering import TRAIN_SEEDS

    size = MINI.image_size
    train, val = (pair_set_from_folder(config.data, split=split) for split in ("train", "val"))
    seeds = list(itertools.islice(TRAIN_SEEDS, config.rendered))
    recipes = {
        "real": real_views(train, views=config.views, size=size, seed=config.seed),
        "rendered": rendered_views(seeds, size=size),
        "mosaics": mosaic_views(train, config.mosaics, size=size, seed=config.seed),
        "val": real_views(val, views=1, size=size, seed=config.seed),
    }
    caches = []
    for part, views in recipes.items():
        folder = Path(config.run) / "cache" / part
        if not (folder / "cache.json").is_file():
            stem = MobileNetV2Stem()
            load_mobilenetv2(stem, Path(config.stem_weights))
            front = stem_front(stem, size=size, runner=config.cache_runner)
            build_cache(folder, views, front, size=size, advance=partial(advance, part))
        caches.append(FeatureCache.open(folder))
    return caches
