"""Batches: cached features, a short and a long text for each, and which pairs are true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lrsclip_rt.tokenizer import Tokenizer
from lrsclip_train.config import TrainConfig
from lrsclip_train.features import FeatureCache, Sample

__all__ = ["PROMPTS", "Batch", "Batcher", "Texts", "all_texts"]

PROMPTS = (
    "a satellite photo of {}.",
    "a satellite image of {}.",
    "an aerial image of {}.",
    "{}.",
    "a photo of {}.",
)
"""Templates that turn a class name into a caption."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """One branch's texts of a batch.

    Attributes:
        members: (M,) rows of the batch's features that have a text in this branch.
        tokens: (M, T) token ids, trimmed to the longest.
        positive: (M, M) bool, image i owns text j.
        ignore: (M, M) bool, neither positive nor negative.
    """

    members: torch.Tensor
    tokens: torch.Tensor
    positive: torch.Tensor
    ignore: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """(N, 320, H, W) float32 features and both branches' texts."""

    features: torch.Tensor
    short: Texts
    long: Texts


def readable(category: str) -> str:
    """``StorageTanks`` and ``storage_tanks`` -> ``storage tanks``.

    Example:
        >>> readable("DenseResidential"), readable("sports_ground")
        ('dense residential', 'sports ground')
    """
    spaced = "".join(f" {c}" if c.isupper() else c for c in category)
    return spaced.replace("_", " ").strip().lower()


def all_texts(caches: Sequence[FeatureCache]) -> list[str]:
    """Every text that training can show, to know which tokens occur."""
    texts: dict[str, None] = {}
    for cache in caches:
        for sample in cache.samples:
            texts.update(dict.fromkeys(sample.shorts))
            texts.setdefault(sample.long)
            for prompt in PROMPTS:
                texts.setdefault(prompt.format(readable(sample.category)))
    return [text for text in texts if text]


class Batcher:
    """Draws batch ``step`` of a run; the same step always gives the same batch."""

    def __init__(
        self, config: TrainConfig, real: FeatureCache, rendered: FeatureCache, mosaics: FeatureCache
    ) -> None:
        self.config = config
        self.caches = (real, rendered, mosaics)
        self.tokenizer = Tokenizer()
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def batch(self, step: int, *, context_length: int) -> Batch:
        """Draw the batch of ``step`` with texts cut at ``context_length`` tokens."""
        rng = np.random.default_rng((self.config.seed, 2, step))
        size = self.config.batch
        n_rendered, n_mosaics = (
            round(size * self.config.rendered_share),
            round(size * self.config.mosaic_share),
        )
        samples: list[Sample] = []
        features: list[NDArray[np.float16]] = []
        for cache, count in zip(
            self.caches, (size - n_rendered - n_mosaics, n_rendered, n_mosaics), strict=True
        ):
            for index in self._epoch_order(len(cache.samples), step, count):
                sample = cache.samples[index]
                samples.append(sample)
                features.append(cache.features[sample.rows[0] + int(rng.integers(sample.rows[1]))])
        return Batch(
            torch.from_numpy(np.stack(features).astype(np.float32)),
            self._short(samples, rng, context_length),
            self._long(samples, context_length, rng),
        )

    def _epoch_order(self, length: int, step: int, count: int) -> list[int]:
        """Every sample once an epoch, in an order that depends on the epoch and the seed alone."""
        chosen = []
        for position in range(step * count, (step + 1) * count):
            epoch, offset = divmod(position, length)
            chosen.append(int(self._permutation(length, epoch)[offset]))
        return chosen

    def _permutation(self, length: int, epoch: int) -> NDArray[np.int64]:
        key = (length, epoch)
        if key not in self._orders:
            if len(self._orders) > 8:
                self._orders.clear()
            rng = np.random.default_rng((self.config.seed, 3, length, epoch))
            self._orders[key] = rng.permutation(length)
        return self._orders[key]

    def _short(self, samples: Sequence[Sample], rng: np.random.Generator, context_length: int) -> Texts:
        members = [i for i, sample in enumerate(samples) if sample.shorts]
        chosen = [samples[i] for i in members]
        n = len(chosen)
        texts, by_category = [], np.zeros(n, bool)
        for row, sample in enumerate(chosen):
            by_category[row] = bool(sample.category) and rng.random() < self.config.category_share
            if by_category[row]:
                texts.append(PROMPTS[int(rng.integers(len(PROMPTS)))].format(readable(sample.category)))
            else:
                texts.append(sample.shorts[int(rng.integers(len(sample.shorts)))])
        positive = np.eye(n, dtype=bool)
        ignore = np.zeros((n, n), bool)
        for j, text in enumerate(texts):
            for i, sample in enumerate(chosen):
                if i == j:
                    continue
                if (by_category[j] and sample.category == chosen[j].category) or text in sample.shorts:
                    positive[i, j] = True
                elif _alike(sample, chosen[j]):
                    ignore[i, j] = True
        shown = [text if by_category[row] else self._thinned(text, rng) for row, text in enumerate(texts)]
        return self._texts(members, shown, positive, ignore, context_length)

    def _long(self, samples: Sequence[Sample], context_length: int, rng: np.random.Generator) -> Texts:
        members = [i for i, sample in enumerate(samples) if self._shows_long(sample, rng)]
        texts = [samples[i].long for i in members]
        positive = np.array([[a == b for b in texts] for a in texts]).reshape(len(texts), len(texts))
        return self._texts(members, texts, positive, np.zeros_like(positive), context_length)

    def _shows_long(self, sample: Sample, rng: np.random.Generator) -> bool:
        """Mosaics always; of the rest a share, and never a text that only repeats the one short caption."""
        if not sample.long or sample.source == "mosaic":
            return bool(sample.long)
        says_more = sample.source == "tile" or len(sample.shorts) > 1
        return says_more and bool(rng.random() < self.config.long_share)

    def _thinned(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        kept = [word for word in words if rng.random() >= self.config.word_drop]
        return " ".join(kept) or text

    def _texts(
        self,
        members: Sequence[int],
        texts: Sequence[str],
        positive: NDArray[np.bool_],
        ignore: NDArray[np.bool_],
        context_length: int,
    ) -> Texts:
        tokens = torch.from_numpy(self.tokenizer.encode(list(texts))).long()
        longest = int(tokens.argmax(dim=1).max()) + 1
        if longest > context_length:
            tokens = tokens[:, :context_length].clone()
            cut = tokens.max(dim=1).values < 49407
            tokens[cut, -1] = 49407
            longest = context_length
        return Texts(
            torch.tensor(list(members)),
            tokens[:, :longest],
            torch.from_numpy(positive),
            torch.from_numpy(ignore),
        )


def _alike(a: Sample, b: Sample) -> bool:
    """Pairs that may well be true although nobody said so: the same rendered class, or a real twin of it."""
    if a.source == "tile" and b.source == "tile":
        return a.category == b.category
    if a.source == "tile":
        return b.category in _SAME.get(a.category, ())
    if b.source == "tile":
        return a.category in _SAME.get(b.category, ())
    return False
