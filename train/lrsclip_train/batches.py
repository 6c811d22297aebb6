"""What a step shows: which images, their short and long texts, and which pairs are true.

A plan holds names and words, no pixels. It is a function of the seed and the step alone, so a resumed
run goes on where the killed one was, and every process of a run draws the same plan and computes
its own part of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_train.config import TrainConfig
from lrsclip_train.details import excerpts, swapped_places
from lrsclip_train.texts import PROMPTS, phrases

__all__ = ["BatchPlan", "DetailsPlan", "Draw", "Planner", "TextSample", "TextsPlan", "alike"]


class TextSample(Protocol):
    """What a plan needs to know of an image: everything but its pixels."""

    @property
    def key(self) -> str:
        """Unique name."""

    @property
    def source(self) -> str:
        """``real``, ``tile``, ``scene`` or ``mosaic``."""

    @property
    def category(self) -> str:
        """Class name, or empty."""

    @property
    def shorts(self) -> tuple[str, ...]:
        """Distinct short captions."""

    @property
    def long(self) -> str:
        """Long text, or empty."""

    @property
    def wrong(self) -> tuple[str, ...]:
        """Long texts that are untrue of the image by one detail."""


_MOSAICS, _TILES, _SCENES = 1, 2, 3
"""Places of the made images among a run's sources."""

# Rendered class -> real classes whose images it also describes; such pairs are no negatives.
_SAME = {
    "farmland": ("Farmland",),
    "forest": ("Forest",),
    "river": ("River",),
    "harbour": ("Port",),
    "airport": ("Airport",),
    "storage_tanks": ("StorageTanks",),
    "residential": ("DenseResidential", "MediumResidential", "SparseResidential"),
    "road": ("Viaduct", "Bridge"),
    "beach": ("Beach",),
    "sports_ground": ("Playground", "Stadium"),
    "parking_lot": ("Parking",),
    "desert": ("Desert",),
    "bare_land": ("BareLand", "Desert"),
    "pond": ("Pond",),
    "industrial": ("Industrial",),
    "mountain": ("Mountain",),
    "railway": ("RailwayStation",),
    "bridge": ("Bridge", "Viaduct"),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """One image of a step: its source, its index there, and a number that chooses its view."""

    source: int
    index: int
    view: int


@dataclass(frozen=True, slots=True, eq=False)
class TextsPlan:
    """One branch of a step.

    Attributes:
        members: Rows of the batch that show a text here, ascending.
        texts: Their texts, then the hard negatives, which belong to no image.
        unthinned: The members' texts before words were left out.
        wrong_of: For each hard negative, the place in ``members`` whose text it contradicts.
        positive: (members, texts) bool, image i owns text j.
        ignore: (members, texts) bool, neither positive nor negative.
    """

    members: tuple[int, ...]
    texts: tuple[str, ...]
    unthinned: tuple[str, ...]
    wrong_of: tuple[int, ...]
    positive: NDArray[np.bool_]
    ignore: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class DetailsPlan:
    """Made images, each with an excerpt of its long text and the same with a detail wrong."""

    draws: tuple[Draw, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """A step: its images, their names, and both branches; a branch without weight is None."""

    draws: tuple[Draw, ...]
    keys: tuple[str, ...]
    short: TextsPlan | None
    long: TextsPlan | None
    details: DetailsPlan | None = None


class Planner:
    """Draws the plan of any step.

    Args:
        config: Shares, seed and batch size.
        sources: Samples of each source: the training pairs, then mosaics, tiles and scenes.

    Raises:
        InputError: If a source with a share of the batch is empty.
    """

    def __init__(self, config: TrainConfig, sources: Sequence[Sequence[TextSample]]) -> None:
        self.config = config
        self.sources = sources
        data = config.data
        counts = [round(config.batch * s) for s in (data.mosaic_share, data.tile_share, data.scene_share)]
        self.counts = (config.batch - sum(counts), *counts)
        for name, samples, count in zip(
            ("training pairs", "mosaics", "tiles", "scenes"), sources, self.counts, strict=True
        ):
            if count and not samples:
                raise InputError(
                    f"{count} of {config.batch} images of a batch are {name}, but there are none"
                )
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        rendered = len(sources[_TILES]) + len(sources[_SCENES])
        mosaics = data.details // 5 if sources[_MOSAICS] else 0
        self.detail_counts = (mosaics, data.details - mosaics)
        if self.detail_counts[0] > len(sources[_MOSAICS]) or self.detail_counts[1] > rendered:
            raise InputError(
                f"data.details is {data.details}, but there are {len(sources[_MOSAICS])} mosaics and "
                f"{rendered} rendered images; raise data.tiles and data.scenes"
            )

    def plan(
        self, step: int, *, short: bool = True, long: bool = True, without: Collection[tuple[int, int]] = ()
    ) -> BatchPlan:
        """The plan of ``step``.

        Args:
            step: 0 for the first.
            short: Whether the short branch counts at this step.
            long: Whether the long branch counts at this step.
            without: ``(source, index)`` of images that cannot be read; the next readable one stands in.
        """
        draws = self.draws(step, without=without)
        samples = [self.sources[draw.source][draw.index] for draw in draws]
        return BatchPlan(
            draws,
            tuple(sample.key for sample in samples),
            self._short(samples, np.random.default_rng((self.config.seed, 5, step))) if short else None,
            self._long(samples, np.random.default_rng((self.config.seed, 6, step))) if long else None,
            self._details(step, without) if self.config.data.details else None,
        )

    def draws(self, step: int, *, without: Collection[tuple[int, int]] = ()) -> tuple[Draw, ...]:
        """The images of ``step`` alone."""
        rng = np.random.default_rng((self.config.seed, 2, step))
        draws: list[Draw] = []
        for source, count in enumerate(self.counts):
            for index in self._epoch_order(source, step, count):
                draws.append(Draw(source, self._readable(source, index, without), int(rng.integers(1 << 31))))
        # Every process of a run gets its share of each source.
        order = np.random.default_rng((self.config.seed, 7, step)).permutation(len(draws))
        return tuple(draws[place] for place in order)

    def detail_draws(self, step: int, *, without: Collection[tuple[int, int]] = ()) -> tuple[Draw, ...]:
        """The made images of ``step`` whose details are compared; no image twice in a step."""
        rng = np.random.default_rng((self.config.seed, 8, step))
        tiles = len(self.sources[_TILES])
        mosaics, rendered = self.detail_counts
        places = [(_MOSAICS, int(row)) for row in _chosen(rng, len(self.sources[_MOSAICS]), mosaics)]
        for row in _chosen(rng, tiles + len(self.sources[_SCENES]), rendered):
            places.append((_TILES, int(row)) if row < tiles else (_SCENES, int(row) - tiles))
        draws = [Draw(source, self._readable(source, index, without), 0) for source, index in places]
        return tuple(draws[place] for place in rng.permutation(len(draws)))

    def _details(self, step: int, without: Collection[tuple[int, int]]) -> DetailsPlan:
        rng = np.random.default_rng((self.config.seed, 9, step))
        draws = self.detail_draws(step, without=without)
        pairs = []
        for draw in draws:
            sample = self.sources[draw.source][draw.index]
            if sample.wrong:
                wrong = sample.wrong[int(rng.integers(len(sample.wrong)))]
            else:
                wrong = swapped_places(sample.long, rng)
            pairs.append(excerpts(sample.long, wrong, rng))
        return DetailsPlan(draws, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))

    def _readable(self, source: int, index: int, without: Collection[tuple[int, int]]) -> int:
        length = len(self.sources[source])
        for step in range(length):
            other = (index + step) % length
            if (source, other) not in without:
                return other
        raise InputError("not one image of a source can be read; see --check-data")

    def _epoch_order(self, source: int, step: int, count: int) -> list[int]:
        """Every sample once an epoch, in an order that depends on the epoch and the seed alone."""
        length = len(self.sources[source])
        places = (divmod(position, length) for position in range(step * count, (step + 1) * count))
        return [int(self._permutation(source, epoch)[offset]) for epoch, offset in places]

    def _permutation(self, source: int, epoch: int) -> NDArray[np.int64]:
        key = (source, epoch)
        if key not in self._orders:
            if len(self._orders) > 8:
                self._orders.clear()
            rng = np.random.default_rng((self.config.seed, 3, source, epoch))
            self._orders[key] = rng.permutation(len(self.sources[source]))
        return self._orders[key]

    def _short(self, samples: Sequence[TextSample], rng: np.random.Generator) -> TextsPlan | None:
        members = [row for row, sample in enumerate(samples) if sample.shorts]
        own = [samples[row] for row in members]
        shown: list[str] = []
        prompted = np.zeros(len(own), bool)
        for place, sample in enumerate(own):
            prompted[place] = bool(sample.category) and rng.random() < self.config.data.category_share
            if prompted[place]:
                said = phrases(sample.category)
                phrase = said[int(rng.integers(len(said)))]
                shown.append(PROMPTS[int(rng.integers(len(PROMPTS)))].format(phrase))
            else:
                shown.append(sample.shorts[int(rng.integers(len(sample.shorts)))])
        positive = np.eye(len(own), dtype=bool)
        ignore = np.zeros_like(positive)
        if self.config.loss.multi_positive:
            positive |= _owned(own, shown)
            categories = np.array([sample.category for sample in own])
            positive |= prompted[None, :] & (categories[:, None] == categories[None, :])
            ignore = alike(own) & ~positive
        texts = [text if prompted[place] else self._thinned(text, rng) for place, text in enumerate(shown)]
        if not members:
            return None
        return TextsPlan(tuple(members), tuple(texts), tuple(shown), (), positive, ignore)

    def _long(self, samples: Sequence[TextSample], rng: np.random.Generator) -> TextsPlan | None:
        members = [row for row, sample in enumerate(samples) if self._shows_long(sample, rng)]
        own = [samples[row] for row in members]
        texts = [sample.long for sample in own]
        wrong_of, wrong = [], []
        for place, sample in enumerate(own):
            if sample.wrong and rng.random() < self.config.data.hard_negatives:
                wrong_of.append(place)
                wrong.append(sample.wrong[int(rng.integers(len(sample.wrong)))])
        same = np.array([[a == b for b in texts] for a in texts], bool).reshape(len(own), len(own))
        positive = np.zeros((len(own), len(texts) + len(wrong)), bool)
        positive[:, : len(texts)] = same if self.config.loss.multi_positive else np.eye(len(own), dtype=bool)
        if not members:
            return None
        return TextsPlan(
            tuple(members), (*texts, *wrong), tuple(texts), tuple(wrong_of), positive, np.zeros_like(positive)
        )

    def _shows_long(self, sample: TextSample, rng: np.random.Generator) -> bool:
        """Mosaics and scenes always; of the rest a share, and no text that only repeats the one caption."""
        if not sample.long or sample.source in ("mosaic", "scene"):
            return bool(sample.long)
        says_more = sample.source == "tile" or sample.shorts != (sample.long,)
        return says_more and bool(rng.random() < self.config.data.long_share)

    def _thinned(self, text: str, rng: np.random.Generator) -> str:
        if not self.config.data.word_drop:
            return text
        kept = [word for word in text.split() if rng.random() >= self.config.data.word_drop]
        return " ".join(kept) or text


def _chosen(rng: np.random.Generator, length: int, count: int) -> NDArray[np.int64]:
    """``count`` different numbers below ``length``."""
    return rng.choice(length, count, replace=False) if count else np.zeros(0, np.int64)


def _owned(own: Sequence[TextSample], shown: Sequence[str]) -> NDArray[np.bool_]:
    """(N, N) bool, text j is one of image i's captions."""
    places: dict[str, list[int]] = {}
    for place, text in enumerate(shown):
        places.setdefault(text, []).append(place)
    owned = np.zeros((len(own), len(shown)), bool)
    for row, sample in enumerate(own):
        for caption in sample.shorts:
            owned[row, places.get(caption, [])] = True
    return owned


def alike(own: Sequence[TextSample]) -> NDArray[np.bool_]:
    """(N, N) bool: pairs that may well be true although nobody said so.

    Two tiles of one rendered class, or a tile and a real image of the class that it depicts.
    """
    classes = {name: number for number, name in enumerate(_SAME)}
    shows = np.zeros((len(own), len(classes)), np.float32)
    fits = np.zeros_like(shows)
    for row, sample in enumerate(own):
        if sample.source == "tile":
            shows[row, classes[sample.category]] = 1
        else:
            fits[row, [classes[name] for name, real in _SAME.items() if sample.category in real]] = 1
    common: NDArray[np.bool_] = (shows @ (shows + fits).T + fits @ shows.T) > 0
    return common
