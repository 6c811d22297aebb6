"""From a run's config to what it reads: decoded images, or features of them that are computed once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from lrsclip_rt.datasets import PairSet, pair_set_from_folder
from lrsclip_rt.errors import InputError
from lrsclip_train.config import DataConfig, TrainConfig
from lrsclip_train.features import FeatureCache, View, build_cache, stem_front
from lrsclip_train.generated import GeneratedPairs, generate
from lrsclip_train.model import ARCHITECTURES, MINI
from lrsclip_train.pair_sources import (
    FolderPairs,
    JoinedPairs,
    PairSource,
    data_files_from_spec,
    pair_source_from,
)
from lrsclip_train.samples import mosaic_views, real_views, scene_views, tile_views
from lrsclip_train.sources import CachedSource, ImageSource, PixelSource, augmentation_of
from lrsclip_train.stem import MobileNetV2Stem, load_mobilenetv2

__all__ = ["data_parts", "prepare"]

Advance = Callable[[str, int], None]
_Recipes = Iterator[Callable[[], View]]


def prepare(
    config: TrainConfig, advance: Advance = lambda part, n: None
) -> tuple[list[ImageSource], ImageSource | None]:
    """Open what a run reads, making what is missing.

    Args:
        config: Of the run.
        advance: Called with the name of a part and the number of images just made of it.

    Returns:
        Training pairs, mosaics, tiles and scenes; and the validation pairs, None if there are none.

    Raises:
        InputError: If data are missing or do not fit the config.
    """
    return _cached(config, advance) if config.data.cached_views else _decoded(config, advance)


def data_parts(data: DataConfig) -> list[tuple[str, str | None]]:
    """What a run reads from disk, the validation pairs last: the place, and the split, None for shards.

    Raises:
        InputError: If nothing usable is found at a place, or the validation pairs are shards.
    """
    folders = [isinstance(data_files_from_spec(spec), Path) for spec in data.train]
    parts: list[tuple[str, str | None]] = [
        (spec, data.train_split if folder else None) for spec, folder in zip(data.train, folders, strict=True)
    ]
    if data.val and not isinstance(data_files_from_spec(data.val), Path):
        raise InputError(f"data.val is {data.val}, which are shards; name a folder with pairs.jsonl")
    if data.val or folders[0]:
        parts.append((data.val or data.train[0], data.val_split))
    return parts


def _cached(config: TrainConfig, advance: Advance) -> tuple[list[ImageSource], ImageSource | None]:
    data, size = config.data, MINI.image_size
    if len(data.train) != 1 or not Path(data.train[0]).is_dir():
        raise InputError(f"data.cached_views reads one folder with pairs.jsonl, got {', '.join(data.train)}")
    train = pair_set_from_folder(data.train[0], split=data.train_split)
    val = pair_set_from_folder(data.val or data.train[0], split=data.val_split)
    augmentation = augmentation_of(data.augment)
    views = real_views(
        train,
        views=data.cached_views,
        size=size,
        seed=data.cache_seed,
        augmentation=augmentation,
        keep_upright=data.augment.upright,
    )
    plain = real_views(val, views=1, size=size, seed=0, augmentation=augmentation, keep_upright=True)
    recipes = {"real": views, **_made(config, train, size), "val": plain}
    home = Path(data.cache or Path(config.run) / "cache")
    caches = []
    for part, views in recipes.items():
        folder = home / part
        if not (folder / "cache.json").is_file():
            stem = MobileNetV2Stem()
            load_mobilenetv2(stem, Path(config.model.stem_weights))
            front = stem_front(stem, size=size, runner=data.cache_runner)
            build_cache(folder, views, front, size=size, advance=partial(advance, part))
        caches.append(CachedSource(FeatureCache.open(folder)))
    return list(caches[:-1]), caches[-1]


def _decoded(config: TrainConfig, advance: Advance) -> tuple[list[ImageSource], ImageSource | None]:
    data = config.data
    home = Path(data.cache or Path(config.run) / "cache")
    parts = data_parts(data)
    opened: list[PairSource] = [
        pair_source_from(spec, split=split, cache=home / "shards") for spec, split in parts[: len(data.train)]
    ]
    folders = [source.pairs for source in opened if isinstance(source, FolderPairs)]
    if data.mosaics and not folders:
        raise InputError("mosaics are made of the images of a folder with pairs.jsonl, not of shards")
    sources: list[ImageSource] = [PixelSource(opened[0] if len(opened) == 1 else JoinedPairs(opened))]
    wanted = {"mosaics": data.mosaics, "tiles": data.tiles, "scenes": data.scenes}
    size = _image_size(config) if any(wanted.values()) else 0
    for part, views in _made(config, folders[0] if folders else None, size).items():
        generate(home / part, views, advance=partial(advance, part))
        made = GeneratedPairs(home / part)
        if len(made) != wanted[part]:
            raise InputError(
                f"{home / part} holds {len(made)} images, data.{part} is {wanted[part]}; "
                "delete the folder to have them made anew"
            )
        sources.append(PixelSource(made, samples=made.samples))
    if len(parts) == len(data.train):
        return sources, None
    val, split = parts[-1]
    return sources, PixelSource(pair_source_from(val, split=split))


def _image_size(config: TrainConfig) -> int:
    """Edge of the model's input [px]."""
    if config.model.init:
        from lrsclip_train.checkpoints import read_checkpoint

        model = config.model
        return read_checkpoint(model.init, keep=model.keep, ratio=model.ratio).config.image_size
    if config.model.architecture not in ARCHITECTURES:
        raise InputError(
            f"unknown architecture {config.model.architecture!r}; known are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[config.model.architecture].image_size


def _made(config: TrainConfig, train: PairSet | None, size: int) -> dict[str, _Recipes]:
    """Mosaics of the training images, rendered tiles and scenes."""
    from lrsclip_rt.rendering import TRAIN_SEEDS

    data = config.data
    seeds: Sequence[int] = list(itertools.islice(TRAIN_SEEDS, data.tiles + data.scenes))
    none: _Recipes = iter(())
    return {
        "mosaics": none
        if train is None
        else mosaic_views(train, data.mosaics, size=size, seed=data.cache_seed),
        "tiles": tile_views(seeds[: data.tiles], size=size),
        "scenes": scene_views(seeds[data.tiles :], size=size),
    }
