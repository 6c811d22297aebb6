"""Where the images of a run come from: features that were computed once, or pixels decoded at each step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError, TrainingError
from lrsclip_rt.pixels import CLIP_MEAN, CLIP_STD, PixelSpec, pixels_from_image
from lrsclip_train.augment import Augmentation
from lrsclip_train.batches import BatchPlan, Draw, Planner, TextSample
from lrsclip_train.config import AugmentConfig, TrainConfig
from lrsclip_train.features import FeatureCache, Sample
from lrsclip_train.gathering import World, gather_plain
from lrsclip_train.image_loading import ImageLoader
from lrsclip_train.model import ClipConfig
from lrsclip_train.pair_sources import JoinedPairs, PairSource

__all__ = [
    "CachedSource",
    "ImageSource",
    "PixelSource",
    "Reading",
    "augmentation_of",
    "pixel_spec",
    "plain_batches",
]

_log = logging.getLogger(__name__)


class ImageSource(Protocol):
    """Images with texts."""

    @property
    def samples(self) -> Sequence[TextSample]:
        """What is known of each image but its pixels."""


class CachedSource:
    """Images as the features of a few augmented views of each."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache

    @property
    def samples(self) -> Sequence[TextSample]:
        """The cache's samples."""
        return self.cache.samples

    def features(self, index: int, view: int) -> NDArray[np.float16]:
        """(C, H, W) features of a view; ``view`` is any number and chooses one of them."""
        first, views = self.cache.samples[index].rows
        row: NDArray[np.float16] = self.cache.features[first + view % views]
        return row


class PixelSource:
    """Images that are decoded whenever they are shown.

    Args:
        pairs: Gives the images.
        samples: What is known of them, if it is more than their captions and class.
    """

    def __init__(self, pairs: PairSource, *, samples: Sequence[TextSample] | None = None) -> None:
        self.pairs = pairs
        self._samples: Sequence[TextSample] = _Samples(pairs) if samples is None else samples

    @property
    def samples(self) -> Sequence[TextSample]:
        """The pairs' texts; read when asked for."""
        return self._samples


class _Samples(Sequence[TextSample]):
    def __init__(self, pairs: PairSource) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        pair = self.pairs[index]
        return Sample(pair.key, "real", pair.category, tuple(dict.fromkeys(pair.shorts)), pair.long)


def augmentation_of(config: AugmentConfig) -> Augmentation:
    """The options of a run's config as what is done to an image."""
    return Augmentation(
        crop_area=(config.smallest_area, 1.0),
        zoom_out=config.zoom_out,
        turns=config.turns,
        mirror=0.5 if config.turns else 0.0,
        brightness=0.3 * config.colour,
        contrast=0.3 * config.colour,
        saturation=0.4 * config.colour,
        blur=config.blur,
        jpeg=config.jpeg,
    )


class Reading:
    """The images of each step, as this process's part of the plan needs them; a context manager.

    Args:
        config: Of the run.
        sources: All cached, or none.
        planner: Draws the plans.
        world: The processes.
        spec: Of the model's input.
        broken: ``(source, index)`` of images that could not be read; grows.
    """

    def __init__(
        self,
        config: TrainConfig,
        sources: Sequence[ImageSource],
        planner: Planner,
        world: World,
        *,
        spec: PixelSpec,
        broken: set[tuple[int, int]],
    ) -> None:
        for count, name in ((config.batch, "a batch"), (config.data.details, "data.details")):
            if count % world.size:
                raise InputError(f"{name} of {count} cannot be shared out to {world.size} processes evenly")
        self.config, self.sources, self.planner, self.world = config, sources, planner, world
        self.broken = broken
        self._share = config.batch // world.size
        self._loader: ImageLoader | None = None
        pixels = [source.pairs for source in sources if isinstance(source, PixelSource)]
        if pixels:
            self._joined = JoinedPairs(pixels)
            self._loader = ImageLoader(
                self._joined,
                workers=config.data.workers,
                augmentation=augmentation_of(config.data.augment),
                size=spec.size,
                mean=spec.mean,
                std=spec.std,
                seed=config.seed * 1_000,
                keep_upright=config.data.augment.upright,
                upcoming=self._upcoming,
                # As in one process with the whole batch.
                offset=world.rank * self._share,
            )

    def __enter__(self) -> Reading:
        if self._loader is not None:
            self._loader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loader is not None:
            self._loader.close()

    def batch(self, step: int, *, short: bool, long: bool) -> tuple[BatchPlan, torch.Tensor]:
        """The plan of ``step``, and this process's images in its order, those of its details last.

        An image that cannot be read is left out for good, and the step is planned anew without it.

        Raises:
            TrainingError: If more images are broken than the config allows.
        """
        while True:
            if self._loader is None:
                own = self._own_draws(step)
                images = torch.from_numpy(np.stack([self._features(d) for d in own]).astype(np.float32))
                break
            loaded = self._loader.load(step, self._indices(step))
            images = loaded.pixels
            for key, reason in loaded.failures:
                _log.warning("%s is left out from step %d on: %s", key, step, reason)
            if not self._leave_out(self._indices(step), loaded.ok):
                break
        plan = self.planner.plan(step, short=short, long=long, without=self.broken)
        return plan, images.to(self.world.device)

    def _own_draws(self, step: int) -> list[Draw]:
        """This process's part of the batch, then of the images whose details are compared."""
        rank, size = self.world.rank, self.world.size
        own: list[Draw] = []
        for draws in (
            self.planner.draws(step, without=self.broken),
            self.planner.detail_draws(step, without=self.broken),
        ):
            share = len(draws) // size
            own.extend(draws[rank * share : (rank + 1) * share])
        return own

    def _features(self, draw: Draw) -> NDArray[np.float16]:
        source = self.sources[draw.source]
        assert isinstance(source, CachedSource)
        return source.features(draw.index, draw.view)

    def _indices(self, step: int) -> list[int]:
        own = self._own_draws(step)
        return [self._joined.starts[draw.source] + draw.index for draw in own]

    def _upcoming(self, step: int) -> list[int]:
        return self._indices(step) if step < self.config.steps else []

    def _leave_out(self, indices: Sequence[int], ok: torch.Tensor) -> bool:
        """Note what any process could not read; True if there was something."""
        failed = torch.where(ok, -1, torch.tensor(list(indices)))
        everyones = gather_plain(failed.to(self.world.device), self.world).tolist()
        found = {self._joined.place(index) for index in everyones if index >= 0}
        if not found:
            return False
        self.broken |= found
        most = self.config.data.broken * len(self._joined)
        if len(self.broken) > most:
            assert self._loader is not None
            key, reason = next(iter(self._loader.failures.items()), ("an image of another process", ""))
            raise TrainingError(
                f"{len(self.broken)} of {len(self._joined)} images cannot be read, more than data.broken "
                f"({self.config.data.broken:g}) allows; the first is {key}: {reason}. "
                "See lrsclip train --check-data"
            )
        assert self._loader is not None
        self._loader.forget_ahead()
        return True


def plain_batches(source: ImageSource, spec: PixelSpec, *, rows: int = 256) -> Iterator[torch.Tensor]:
    """Unchanged views of all images, as the runtime sees them: (rows, ...) tensors in order.

    Raises:
        ImageError: If an image cannot be read: validation needs all of them.
    """
    for start in range(0, len(source.samples), rows):
        part = range(start, min(start + rows, len(source.samples)))
        if isinstance(source, CachedSource):
            views = [source.features(index, 0).astype(np.float32) for index in part]
        else:
            assert isinstance(source, PixelSource)
            views = [pixels_from_image(source.pairs.image(index), spec) for index in part]
        yield torch.from_numpy(np.stack(views))


def pixel_spec(config: ClipConfig) -> PixelSpec:
    """What the model's input looks like: CLIP's means, or [-1, 1] for the stem."""
    if config.stem == "none":
        return PixelSpec(config.image_size, CLIP_MEAN, CLIP_STD)
    return PixelSpec(config.image_size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
